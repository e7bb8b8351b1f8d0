//! Brokers that stand still, and clocks that jump: T49, T52, AC-83.

use std::time::{Duration, Instant};

use serde_json::json;
use sundew_proto::v1::{Effect, Selector};
use sundew_tests::broker::Broker;
use sundew_tests::clock::Clock;
use sundew_tests::until;
use sundew_tests::world::World;
use tokio::task::JoinSet;
use tonic::Code;

use crate::ending::{SCOPES, ready};

/// AC-83: a broker that stands still adds one freshness bound and no more, and answers nothing
/// wrong afterwards.
#[tokio::test]
async fn a_frozen_broker_delays_an_ending_by_the_bound_and_wakes_up_stale() {
    let world = World::redis();
    let (broker, caller) = ready(&world).await;
    let frozen = world.broker().await;
    let begun = caller
        .begin(&world.issuer, "/agent", SCOPES)
        .await
        .expect("task");
    let there = world.operator(&frozen);
    assert_eq!(
        there.active(&begun.token, &caller.thumbprint()).await.ok(),
        Some(true)
    );
    frozen.signal(rustix::process::Signal::STOP);
    let began = Instant::now();
    caller.complete(&begun.task).await.expect("completed");
    let took = began.elapsed();
    // The configured bound is 400 ms.
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_millis(1500),
        "{took:?}"
    );
    let waiting = tokio::spawn({
        let (there, token, presenter) = (there.clone(), begun.token.clone(), caller.thumbprint());
        async move { there.active(&token, &presenter).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    frozen.signal(rustix::process::Signal::CONT);
    let answer = waiting.await.expect("call");
    assert!(
        answer.as_ref().is_ok_and(|active| !active)
            || answer.is_err_and(|s| s.code() == Code::Unavailable)
    );
    drop(broker);
}

/// A broker whose wall clock is moved by the clock that is returned.
async fn broker_with_a_clock(world: &World) -> (Broker, Clock) {
    let mut broker = world.prepare("");
    let clock = broker.own_clock();
    broker.up();
    broker.ready().await;
    world.register(&broker, "/agent", json!({})).await;
    (broker, clock)
}

fn of_scope(task: &str) -> Selector {
    Selector {
        task_tree: task.to_owned(),
        scope: "exec:git".to_owned(),
        ..Selector::default()
    }
}

/// L8: what a broker forgets while its clock is ahead would be alive again once the clock is right.
#[tokio::test]
async fn l8_a_clock_that_is_set_forward_for_a_while_revives_nothing() {
    let world = World::redis();
    let (broker, clock) = broker_with_a_clock(&world).await;
    let mut other = world.broker().await;
    let caller = world.caller(&broker, "/agent");
    let servers = [world.operator(&broker), world.operator(&other)];
    let mut begun = Vec::new();
    for _ in 0..8 {
        let task = caller.begin(&world.issuer, "/agent", SCOPES).await;
        begun.push(task.expect("task"));
    }
    for task in &begun {
        let active = servers[0].active(&task.token, &caller.thumbprint()).await;
        assert_eq!(active.ok(), Some(true), "the cache is warm");
    }
    // Longer than any task may live.
    clock.set(3 * 24 * 3600);
    let workers: JoinSet<_> = begun
        .iter()
        .map(|task| {
            let (server, selector) = (servers[1].clone(), of_scope(&task.task));
            async move {
                server
                    .respond(selector, Effect::Revoke)
                    .await
                    .expect("revoked")
            }
        })
        .collect();
    workers.join_all().await;
    // Before it can take away what has died: only the rules say so.
    other.kill();
    // Longer than what can be forgotten waits.
    tokio::time::sleep(Duration::from_secs(6)).await;
    clock.set(0);
    let right = Instant::now();
    let mut answers = 0;
    let least = Duration::from_secs(2);
    while right.elapsed() < least || (answers == 0 && right.elapsed() < 5 * least) {
        for task in &begun {
            let active = servers[0].active(&task.token, &caller.thumbprint()).await;
            answers += usize::from(active.is_ok());
            assert_ne!(active.ok(), Some(true), "{:?}", right.elapsed());
        }
    }
    assert!(answers > 0, "it answers again");
}

/// L8: the window between the setting of the clock and the next heartbeat gives nothing.
#[tokio::test]
async fn l8_a_token_that_has_expired_stays_so_when_the_clock_is_set_back() {
    let world = World::redis();
    let (broker, clock) = broker_with_a_clock(&world).await;
    let caller = world.caller(&broker, "/agent");
    let mut request = caller
        .request(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("request");
    request.ttl_ms = 1500;
    let begun = caller.send(request).await.expect("task");
    until("the token has expired", || async {
        matches!(caller.active(&begun.token, &[]).await, Ok(false))
    })
    .await;
    clock.set(-60);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        let answer = caller.active(&begun.token, &[]).await;
        assert!(!matches!(answer, Ok(true)), "after {:?}", began.elapsed());
    }
}

/// T49, AC-80: the wall clock is moved by an hour while the broker runs: no token is good past its
/// true life.
#[tokio::test]
async fn t49_a_clock_that_jumps_gives_no_token_a_longer_life() {
    for world in World::both() {
        let (broker, clock) = broker_with_a_clock(&world).await;
        let caller = world.caller(&broker, "/agent");
        let begun = caller
            .begin(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("task");
        assert_eq!(caller.active(&begun.token, &[]).await.ok(), Some(true));
        let not_active = || async { !matches!(caller.active(&begun.token, &[]).await, Ok(true)) };
        clock.set(-3600);
        until("an hour back: nothing is answered", || async {
            caller.active(&begun.token, &[]).await.is_err()
        })
        .await;
        for _ in 0..50 {
            assert!(not_active().await);
        }
        clock.set(3600);
        until("an hour ahead", not_active).await;
        for _ in 0..50 {
            assert!(not_active().await);
        }
    }
}

/// T52: a broker that stands still past a token's end does not answer "active" when it goes on, nor
/// give a secret.
#[tokio::test]
async fn t52_a_frozen_broker_releases_nothing_that_has_expired() {
    let world = World::embedded();
    let (broker, caller) = ready(&world).await;
    let mut request = caller
        .request(&world.issuer, "/agent", SCOPES)
        .await
        .expect("request");
    request.ttl_ms = 1500;
    let begun = caller.send(request).await.expect("task");
    assert_eq!(
        caller.secret(&begun.task, "app/key").await.as_deref().ok(),
        Some("s3cr3t")
    );
    broker.signal(rustix::process::Signal::STOP);
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (caller, begun) = (caller.clone(), begun.clone());
            tokio::spawn(async move {
                (
                    caller.secret(&begun.task, "app/key").await.is_ok(),
                    caller.active(&begun.token, &[]).await.ok() == Some(true),
                )
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(2000)).await;
    broker.signal(rustix::process::Signal::CONT);
    for call in calls {
        assert_eq!(call.await.expect("call"), (false, false));
    }
}
