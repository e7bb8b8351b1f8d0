//! Several brokers; Redis with replicas: Sentinel, Cluster, failover, a deposed primary: AC-34,
//! AC-45 to AC-47, AC-81 to AC-83, T57, T67.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use sundew_proto::v1::Selector;
use sundew_tests::broker::{Broker, DOMAIN, World};
use sundew_tests::calls::{Begun, Caller, of_task, of_workload};
use sundew_tests::proxy::Proxy;
use sundew_tests::redis::Redis;
use sundew_tests::replicated::{Cluster, Sentinels, info};
use sundew_tests::until;

async fn agent(world: &World, broker: &Broker) -> Caller {
    world
        .register(
            broker,
            "/agent",
            json!({ "max_tasks": 10_000, "attendance_grace": "10m" }),
        )
        .await;
    world.caller(broker, "/agent")
}

/// A broker beside Redis, and one that reaches it through a proxy.
async fn near_and_far(world: &World) -> (Broker, Proxy, Broker) {
    let near = world.broker().await;
    let proxy = Proxy::start(world.redis.as_ref().expect("redis").port()).await;
    let far = world
        .broker_by(&format!("redis://127.0.0.1:{}", proxy.port()))
        .await;
    (near, proxy, far)
}

/// What a broker says of a token, which may be nothing for at most 30 s since then.
async fn an_answer(broker: &Caller, token: &str, presenter: &[u8], since: Instant) -> bool {
    loop {
        match broker.active(token, presenter).await {
            Ok(active) => return active,
            Err(error) => assert!(
                since.elapsed() < Duration::from_secs(30),
                "a broker does not answer: {error}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks all brokers about tokens that are dead until each has said so; one "active" ends it.
/// Answers how long that took.
async fn all_refused(brokers: &[Caller], dead: &[Begun], presenter: &[u8]) -> Duration {
    let began = Instant::now();
    for (n, broker) in brokers.iter().enumerate() {
        for begun in dead {
            let active = an_answer(broker, &begun.token, presenter, began).await;
            assert!(
                !active,
                "broker {n} said active of {} after {:?}",
                begun.task,
                began.elapsed()
            );
        }
    }
    began.elapsed()
}

/// AC-46, T57: what was acknowledged survives the primary's kill right after, with one and with two
/// replicas; brokers go on by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ac_46_an_ending_survives_the_failover_right_after_it() {
    for replicas in [2, 1] {
        let mut group = Sentinels::start(replicas);
        let world = World::with_store(&group.url(), replicas);
        let brokers = [world.broker().await, world.broker().await];
        let caller = agent(&world, &brokers[0]).await;
        let servers = [world.operator(&brokers[0]), world.operator(&brokers[1])];
        let mut dead = Vec::new();
        for _ in 0..20 {
            let begun = caller
                .begin(&world.issuer, "/agent", &["exec:git"])
                .await
                .expect("task");
            for server in &servers {
                assert_eq!(
                    server.active(&begun.token, &caller.thumbprint()).await.ok(),
                    Some(true),
                    "caches are warm"
                );
            }
            dead.push(begun);
        }
        for begun in &dead[..10] {
            caller.complete(&begun.task).await.expect("completed");
        }
        servers[1]
            .revoke(of_workload("/agent"))
            .await
            .expect("revoked");
        let old = group.primary();
        group.nodes[old].kill();
        if replicas == 1 {
            // One of two nodes is no majority: nothing is answered until the other is back.
            group.failed_over(old).await;
            until("unavailable", || async {
                servers[0]
                    .active(&dead[0].token, &caller.thumbprint())
                    .await
                    .is_err()
            })
            .await;
            group.nodes[old].up();
        } else {
            let promoted = Instant::now();
            let new = group.failed_over(old).await;
            println!("elected after {:?}: node {new}", promoted.elapsed());
        }
        let took = all_refused(&servers, &dead, &caller.thumbprint()).await;
        println!("{replicas} replicas: answering again after {took:?}");
        let again = world.caller_with(&brokers[1], caller.svid.clone().expect("SVID"));
        until("new tasks", || async {
            again
                .begin(&world.issuer, "/agent", &["exec:git"])
                .await
                .is_ok()
        })
        .await;
        all_refused(&servers, &dead, &caller.thumbprint()).await;
        let late = world.broker().await;
        all_refused(&[world.operator(&late)], &dead, &caller.thumbprint()).await;
    }
}

/// A primary that stood still while it was deposed, and wakes up: it renews nobody's view.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_was_frozen_and_deposed_gives_no_false_answer_when_it_wakes() {
    let group = Sentinels::start(2);
    let world = World::with_store(&group.url(), 2);
    let brokers = [world.broker().await, world.broker().await];
    let caller = agent(&world, &brokers[0]).await;
    let servers = [world.operator(&brokers[0]), world.operator(&brokers[1])];
    let mut dead = Vec::new();
    for _ in 0..5 {
        dead.push(
            caller
                .begin(&world.issuer, "/agent", &["exec:git"])
                .await
                .expect("task"),
        );
    }
    let old = group.primary();
    group.nodes[old].signal(Signal::STOP);
    group.failed_over(old).await;
    until("the new primary is used", || async {
        servers[0].revoke(of_workload("/agent")).await.is_ok()
    })
    .await;
    group.nodes[old].signal(Signal::CONT);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        for server in &servers {
            for begun in &dead {
                assert_ne!(
                    server.active(&begun.token, &caller.thumbprint()).await.ok(),
                    Some(true)
                );
            }
        }
    }
    all_refused(&servers, &dead, &caller.thumbprint()).await;
}

/// A broker that is cut off together with a deposed primary turns stale within the bound, though
/// that primary answers it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_on_the_wrong_side_with_a_deposed_primary_turns_stale() {
    let primary = Redis::start();
    let replica = Redis::with(&[
        "--replicaof",
        "127.0.0.1",
        &primary.port().to_string(),
        "--repl-diskless-sync-delay",
        "0",
    ]);
    until("in step", || async {
        info(&replica, "master_link_status") == "up" && info(&primary, "connected_slaves") == "1"
    })
    .await;
    let world = World::with_store(&primary.url(), 1);
    let cut_off = world.broker().await;
    let caller = agent(&world, &cut_off).await;
    let begun = caller
        .begin(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("task");
    let there = world.operator(&cut_off);
    assert_eq!(
        there.active(&begun.token, &caller.thumbprint()).await.ok(),
        Some(true)
    );
    // What a failover does on the other side of a partition.
    redis::cmd("REPLICAOF")
        .arg("NO")
        .arg("ONE")
        .exec(&mut replica.connection())
        .expect("promoted");
    let began = Instant::now();
    until("stale", || async {
        there
            .active(&begun.token, &caller.thumbprint())
            .await
            .is_err()
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_millis(1500),
        "{:?}",
        began.elapsed()
    );
    until("and says why", || async {
        cut_off
            .http("/readyz")
            .await
            .is_some_and(|(status, text)| status == 503 && text.contains("0 of 1 replicas"))
    })
    .await;
    assert!(
        caller.complete(&begun.task).await.is_err(),
        "nothing is acknowledged there"
    );
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
    let (stop, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let work: Vec<_> = (0..8)
        .map(|_| {
            let (there, world, stop, count) = (
                there.clone(),
                Arc::clone(&world),
                Arc::clone(&stop),
                Arc::clone(&count),
            );
            tokio::spawn(async move {
                let mut issued = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    if let Ok(begun) = there.begin(&world.issuer, "/agent", &["exec:git"]).await {
                        issued.push((asked, Instant::now(), begun.token));
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
                issued
            })
        })
        .collect();
    until("tasks begin", || async {
        count.load(Ordering::Relaxed) >= 8
    })
    .await;
    let rule = Selector {
        spiffe_path_prefix: format!("spiffe://{DOMAIN}/agent"),
        ..Selector::default()
    };
    let servers = [world.operator(&near), world.operator(&far)];
    let called = Instant::now();
    servers[0].revoke(rule).await.expect("revoked");
    let (answered, so_far) = (Instant::now(), count.load(Ordering::Relaxed));
    // More than can have been on their way.
    until("tasks begin after it", || async {
        count.load(Ordering::Relaxed) >= so_far + 16
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    proxy.slow(Duration::ZERO);
    let (asking, mut before, mut after) = (Instant::now(), 0, 0);
    for each in work {
        for (asked, got, token) in each.await.expect("work") {
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

/// AC-83 and failover on a Cluster of three primaries with replicas.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_works_and_survives_the_loss_of_the_logs_primary() {
    let mut cluster = Cluster::start();
    let world = World::with_store(&cluster.url(), 1);
    let brokers = [world.broker().await, world.broker().await];
    let caller = agent(&world, &brokers[0]).await;
    let servers = [world.operator(&brokers[0]), world.operator(&brokers[1])];
    servers[0].put_secret("app/key", "s3cr3t").await;
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let begun = caller
            .begin(&world.issuer, "/agent", &["secret:app/key", "exec:git"])
            .await
            .expect("task");
        caller.mint(&begun.task).await.expect("token");
        assert_eq!(
            caller.secret(&begun.task, "app/key").await.as_deref().ok(),
            Some("s3cr3t")
        );
        assert_eq!(
            servers[1]
                .active(&begun.token, &caller.thumbprint())
                .await
                .ok(),
            Some(true)
        );
        tasks.push(begun);
    }
    let live = tasks.split_off(10);
    for begun in &tasks {
        caller.complete(&begun.task).await.expect("completed");
        assert_eq!(
            servers[1]
                .active(&begun.token, &caller.thumbprint())
                .await
                .ok(),
            Some(false)
        );
    }
    let preview = servers[1]
        .preview(of_workload("/agent"))
        .await
        .expect("preview");
    assert_eq!((preview.tasks, preview.tokens), (10, 20));
    let old = cluster.primary_of_log();
    cluster.nodes[old].kill();
    let began = Instant::now();
    until("the replica is promoted", || async {
        info(&cluster.nodes[old + 3], "role") == "master"
    })
    .await;
    // Its only replica is gone, so no majority: nothing is answered until a node is back.
    all_not_active(&servers, &tasks, &caller).await;
    cluster.nodes[old].up();
    let took = all_refused(&servers, &tasks, &caller.thumbprint()).await;
    println!(
        "cluster: answering again after {took:?}, {:?} after the kill",
        began.elapsed()
    );
    for begun in &live {
        until("what lived lives", || async {
            servers[0]
                .active(&begun.token, &caller.thumbprint())
                .await
                .ok()
                == Some(true)
        })
        .await;
    }
    let answer = servers[1]
        .revoke(of_workload("/agent"))
        .await
        .expect("revoked");
    all_refused(&servers, &live, &caller.thumbprint()).await;
    let status = servers[0]
        .cleaned_up(&answer.revocation_id)
        .await
        .expect("status");
    assert_eq!((status.tasks, status.tokens), (10, 20));
}

async fn all_not_active(servers: &[Caller], dead: &[Begun], caller: &Caller) {
    for server in servers {
        for begun in dead {
            assert_ne!(
                server.active(&begun.token, &caller.thumbprint()).await.ok(),
                Some(true)
            );
        }
    }
}

/// AC-86: a primary with more replicas than the configuration says is refused at start: its
/// majority would be counted wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_configured_replicas_are_refused() {
    let group = Sentinels::start(3);
    let world = World::with_store(&group.url(), 1);
    let mut broker = world.prepare("");
    broker.up();
    assert!(!broker.wait().success());
    assert!(
        broker.output().contains("store.replicas"),
        "{}",
        broker.output()
    );
}
