//! Who is waited for: faults that the field showed (L1, L6).

use std::time::Duration;

use sundew_broker::store::redis::RedisStore;
use sundew_core::store::Store as _;
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::proxy::Proxy;
use sundew_tests::redis::settings;
use sundew_tests::until;
use sundew_tests::world::World;

use crate::replicas::agent;

/// A broker beside Redis, and one that reaches it through a proxy and has these settings.
pub(crate) async fn near_and_far(world: &World, change: (&str, &str)) -> (Broker, Proxy, Broker) {
    let near = world.broker().await;
    let proxy = Proxy::start(world.redis.as_ref().expect("redis").port()).await;
    let far = world
        .broker_by_with(&format!("redis://127.0.0.1:{}", proxy.port()), change)
        .await;
    (near, proxy, far)
}

/// A task whose token is active at both brokers, from their memory.
pub(crate) async fn known_at_both(world: &World, caller: &Caller, servers: &[Caller; 2]) -> Begun {
    let begun = caller
        .begin(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("task");
    for server in servers {
        until("active, and known from now on", || async {
            server.active(&begun.token, &caller.thumbprint()).await.ok() == Some(true)
        })
        .await;
    }
    begun
}

/// L1: a broker that starts tries the store, and that changes nothing for those that run: whoever is
/// cut off is waited for all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_broker_that_starts_takes_nobody_off_the_list_of_brokers() {
    let world = World::redis();
    let (near, proxy, far) = near_and_far(&world, ("", "")).await;
    let caller = agent(&world, &near).await;
    let servers = [world.operator(&near), world.operator(&far)];
    let begun = known_at_both(&world, &caller, &servers).await;
    let url = world.redis.as_ref().expect("redis").url();
    let starting = RedisStore::new(settings(&url, Duration::from_secs(2)));
    proxy.cut(true);
    starting.check().await.expect("a store that can be used");
    caller.complete(&begun.task).await.expect("ended");
    assert_ne!(
        servers[1]
            .active(&begun.token, &caller.thumbprint())
            .await
            .ok(),
        Some(true),
        "after the ending was answered"
    );
}

/// L6: a broker with a longer freshness bound is waited for as long as its own bound lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_an_ending_waits_for_the_longest_bound_of_all_brokers() {
    let world = World::redis();
    let (near, proxy, far) =
        near_and_far(&world, ("freshness = \"400ms\"", "freshness = \"3s\"")).await;
    let caller = agent(&world, &near).await;
    let servers = [world.operator(&near), world.operator(&far)];
    let begun = known_at_both(&world, &caller, &servers).await;
    proxy.cut(true);
    for _ in 0..6 {
        if is_ended_and_not_active(&caller, &servers[1], &begun).await {
            return;
        }
    }
    panic!("the ending was never answered");
}

/// Completes a task, and says whether that was answered. After the answer, a broker that was cut off
/// does not say "active".
pub(crate) async fn is_ended_and_not_active(
    caller: &Caller,
    cut_off: &Caller,
    begun: &Begun,
) -> bool {
    let answered = caller.complete(&begun.task).await.is_ok();
    let active = cut_off.active(&begun.token, &caller.thumbprint()).await;
    assert!(
        !(answered && active.ok() == Some(true)),
        "answered, and active at a broker"
    );
    answered
}
