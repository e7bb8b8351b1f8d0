//! Several brokers; Redis with replicas: Sentinel, Cluster, failover, a deposed primary: AC-34,
//! AC-45 to AC-47, AC-81 to AC-83, T57, T67.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::redis::Redis;
use sundew_tests::replicated::{Cluster, Sentinels, info};
use sundew_tests::selectors::of_workload;
use sundew_tests::until;
use sundew_tests::world::World;

pub(crate) async fn agent(world: &World, broker: &Broker) -> Caller {
    world
        .register(
            broker,
            "/agent",
            json!({ "max_tasks": 10_000, "attendance_grace": "10m" }),
        )
        .await;
    world.caller(broker, "/agent")
}

/// Returns what a broker says of a token. The broker may say nothing for at most 30 s since `since`.
pub(crate) async fn an_answer(
    broker: &Caller,
    token: &str,
    presenter: &[u8],
    since: Instant,
) -> bool {
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
pub(crate) async fn all_refused(brokers: &[Caller], dead: &[Begun], presenter: &[u8]) -> Duration {
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

pub(crate) async fn all_not_active(servers: &[Caller], dead: &[Begun], caller: &Caller) {
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

/// L3: a majority of fewer nodes than there are is none. A replica that comes while brokers run is
/// noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_replicas_that_come_after_the_start_are_counted() {
    let group = Sentinels::start(1);
    let world = World::with_store(&group.url(), 1);
    let broker = world.broker().await;
    let operator = world.operator(&broker);
    let port = group.nodes[0].port().to_string();
    let mut more = Redis::with(&["--replicaof", "127.0.0.1", &port]);
    until("the broker answers nothing", || async {
        let asked = operator.active("no token", &[0; 32]).await;
        asked.is_err() && broker.output().contains("set store.replicas")
    })
    .await;
    more.kill();
    until("the broker answers again", || async {
        operator.active("no token", &[0; 32]).await.is_ok()
    })
    .await;
}
