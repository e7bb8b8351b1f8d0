//! Brokers that lag behind the log or are cut off from it: AC-45, AC-47, AC-80.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sundew_proto::v1::Selector;
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::pki::DOMAIN;
use sundew_tests::proxy::Proxy;
use sundew_tests::selectors::of_task;
use sundew_tests::until;
use sundew_tests::world::World;
use tokio::task::JoinHandle;

use crate::replicas::{agent, all_refused, an_answer};

/// A broker beside Redis, and one that reaches it through a proxy.
async fn near_and_far(world: &World) -> (Broker, Proxy, Broker) {
    let near = world.broker().await;
    let proxy = Proxy::start(world.redis.as_ref().expect("redis").port()).await;
    let far = world
        .broker_by(&format!("redis://127.0.0.1:{}", proxy.port()))
        .await;
    (near, proxy, far)
}

/// P4: an emptied store has lost the list of brokers too. A broker that cannot reach it, and does
/// not know, still has a fresh view: others wait for it by the bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_an_emptied_store_does_not_list_is_waited_for() {
    let world = World::redis();
    let redis = world.redis.as_ref().expect("redis");
    let (near, proxy, far) = near_and_far(&world).await;
    let caller = agent(&world, &near).await;
    let servers = [world.operator(&near), world.operator(&far)];
    let begun = caller
        .begin(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("task");
    for server in &servers {
        until("caches are warm", || async {
            server.active(&begun.token, &caller.thumbprint()).await.ok() == Some(true)
        })
        .await;
    }
    proxy.cut(true);
    redis::cmd("FLUSHALL")
        .exec(&mut redis.connection())
        .expect("flush");
    until("noticed", || async {
        near.output()
            .contains("appending what the revocation log has lost")
    })
    .await;
    // Not while it waits for what others may know.
    until("acknowledged", || async {
        servers[0].revoke(of_task(&begun.task)).await.is_ok()
    })
    .await;
    assert_ne!(
        servers[1]
            .active(&begun.token, &caller.thumbprint())
            .await
            .ok(),
        Some(true),
        "after the answer"
    );
    proxy.cut(false);
    all_refused(&servers, &[begun], &caller.thumbprint()).await;
}

/// Agents that begin one task after another at a broker until they are stopped.
struct Beginners {
    work: Vec<JoinHandle<Vec<(Instant, Instant, String)>>>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
}

impl Beginners {
    fn start(world: &Arc<World>, there: &Caller) -> Self {
        let (stop, count) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let work: Vec<_> = (0..8)
            .map(|_| {
                let (there, world, stop, count) = (
                    there.clone(),
                    Arc::clone(world),
                    Arc::clone(&stop),
                    Arc::clone(&count),
                );
                tokio::spawn(async move {
                    let mut issued = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let asked = Instant::now();
                        if let Ok(begun) = there.begin(&world.issuer, "/agent", &["exec:git"]).await
                        {
                            issued.push((asked, Instant::now(), begun.token));
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    issued
                })
            })
            .collect();
        Self { work, stop, count }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Lets no further task begin.
    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for all agents; returns each token with when it was asked for and when it was there.
    async fn issued(self) -> Vec<(Instant, Instant, String)> {
        let mut issued = Vec::new();
        for each in self.work {
            issued.extend(each.await.expect("work"));
        }
        issued
    }
}

/// AC-45: while a broker that lags behind the log begins tasks, a rule lands. What it issued before
/// it can have known of the rule is dead, what was asked of it after the answer lives, and of what
/// lies between both brokers say the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ac_45_what_a_broker_that_lags_issued_without_knowing_of_a_rule_is_dead() {
    const LAG: Duration = Duration::from_millis(60);
    let world = Arc::new(World::redis());
    let (near, proxy, far) = near_and_far(&world).await;
    let caller = agent(&world, &near).await;
    let there = world.caller_with(&far, caller.svid.clone().expect("SVID"));
    proxy.slow(LAG);
    let beginners = Beginners::start(&world, &there);
    until("tasks begin", async || beginners.count() >= 8).await;
    let rule = Selector {
        spiffe_path_prefix: format!("spiffe://{DOMAIN}/agent"),
        ..Selector::default()
    };
    let servers = [world.operator(&near), world.operator(&far)];
    let called = Instant::now();
    servers[0].revoke(rule).await.expect("revoked");
    let (answered, so_far) = (Instant::now(), beginners.count());
    // More than can have been on their way.
    until("tasks begin after it", async || {
        beginners.count() >= so_far + 16
    })
    .await;
    beginners.stop();
    proxy.slow(Duration::ZERO);
    let asking = Instant::now();
    let (mut before, mut after) = (0, 0);
    for (asked, got, token) in beginners.issued().await {
        let mut said = Vec::new();
        for server in &servers {
            said.push(an_answer(server, &token, &caller.thumbprint(), asking).await);
        }
        if got < called + LAG {
            assert_eq!(
                said,
                [false, false],
                "issued {:?} after the call",
                got.saturating_duration_since(called)
            );
            before += 1;
        } else if asked > answered {
            assert_eq!(
                said,
                [true, true],
                "asked for {:?} after the answer",
                asked - answered
            );
            after += 1;
        } else {
            assert_eq!(said[0], said[1], "brokers differ");
        }
    }
    assert!(before > 0 && after > 0, "{before} before, {after} after");
}

/// AC-47, AC-80: the way between one broker and Redis is cut without a word, then slow: that broker
/// refuses within the bound, the others wait for it one bound, and nothing that ended meanwhile is
/// active when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_cut_off_from_redis_refuses_and_delays_others_by_the_bound() {
    let world = World::redis();
    let (near, proxy, far) = near_and_far(&world).await;
    let caller = agent(&world, &near).await;
    let servers = [world.operator(&near), world.operator(&far)];
    let mut dead = Vec::new();
    for round in 0..3 {
        let begun = caller
            .begin(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("task");
        for server in &servers {
            until("caches are warm", || async {
                server.active(&begun.token, &caller.thumbprint()).await.ok() == Some(true)
            })
            .await;
        }
        proxy.cut(true);
        let began = Instant::now();
        caller.complete(&begun.task).await.expect("completed");
        assert!(
            began.elapsed() < Duration::from_millis(1600),
            "round {round}: {:?}",
            began.elapsed()
        );
        assert_ne!(
            servers[1]
                .active(&begun.token, &caller.thumbprint())
                .await
                .ok(),
            Some(true),
            "after the answer"
        );
        until("refused there", || async {
            servers[1]
                .active(&begun.token, &caller.thumbprint())
                .await
                .is_err()
        })
        .await;
        proxy.cut(false);
        dead.push(begun);
        all_refused(&servers, &dead, &caller.thumbprint()).await;
    }
    // Slower than the bound: it never has a fresh view.
    proxy.slow(Duration::from_millis(450));
    until("stale", || async {
        servers[1]
            .active(&dead[0].token, &caller.thumbprint())
            .await
            .is_err()
    })
    .await;
    proxy.slow(Duration::ZERO);
    all_refused(&servers, &dead, &caller.thumbprint()).await;
}
