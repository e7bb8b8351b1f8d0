//! Leases when a target, a broker or the store fails: AC-61, T58, T59.

use std::time::{Duration, Instant};

use serde_json::json;
use sundew_proto::v1::{GetSecretRequest, PutEngineRequest};
use sundew_tests::postgres::{PASSWORD, Postgres};
use sundew_tests::until;
use sundew_tests::world::World;
use tokio::task::JoinSet;
use tonic::Code;

use crate::leases::{SCOPES, agent, gone, lease, leases, put_engine};

/// T59: a target that is down while leases end: tried for ever, over a restart of the broker, shown
/// meanwhile, and gone at last. A role that owns things goes too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t59_a_dead_target_is_tried_until_it_is_back_and_holds_up_no_other() {
    let (mut postgres, other) = (Postgres::start().await, Postgres::start().await);
    let world = World::redis();
    let mut broker = world.broker().await;
    let caller = agent(&world, &broker).await;
    let operator = world.operator(&broker);
    put_engine(&operator, &postgres.engine("db/down"), PASSWORD)
        .await
        .expect("engine");
    put_engine(&operator, &other.engine("db/up"), PASSWORD)
        .await
        .expect("engine");
    let begun = caller
        .begin(&world.issuer, "/agent", SCOPES)
        .await
        .expect("task");
    let owner = lease(&caller, &begun.task, "db/down/owner")
        .await
        .expect("lease");
    lease(&caller, &begun.task, "db/up/readonly")
        .await
        .expect("lease");
    let session = postgres
        .client(&owner.username, &owner.password, "app")
        .await
        .expect("session");
    session
        .batch_execute(&format!("CREATE TABLE of_{} (id int)", owner.username))
        .await
        .expect("it owns something");
    postgres.kill();
    caller
        .complete(&begun.task)
        .await
        .expect("completed: the end does not wait for the target");
    gone(&other).await;
    until("the failure is shown", || async {
        let listed = leases(&operator).await;
        listed.total == 1
            && listed.total_due == 1
            && listed.leases[0].failures > 0
            && !listed.leases[0].problem.is_empty()
    })
    .await;
    let (_, health) = broker.http("/readyz").await.expect("health");
    assert!(health.contains("db/down"), "{health}");
    // O3: whether or not the lease is due for another attempt at this moment.
    until(
        "metrics tell of what is overdue, and since when",
        || async {
            let (_, metrics) = broker.http("/metrics").await.expect("metrics");
            let age = "sundew_lease_oldest_overdue_age_seconds{engine=\"db/down\"} ";
            let age = metrics.lines().find_map(|line| line.strip_prefix(age));
            metrics.contains("sundew_leases_overdue{engine=\"db/down\"} 1\n")
                && metrics.contains("sundew_leases_overdue{engine=\"db/up\"} 0\n")
                && age
                    .and_then(|age| age.parse::<f64>().ok())
                    .is_some_and(|age| age > 0.0)
        },
    )
    .await;
    broker.restart().await;
    postgres.up().await;
    tokio::time::timeout(Duration::from_secs(30), async {
        while !postgres.roles().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("gone once the target is back");
    let operator = world.operator(&broker);
    until("nothing is left to do", || async {
        leases(&operator).await.total == 0
    })
    .await;
}

/// AC-61: a database that has no connections to spare.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ac_61_a_target_at_its_limit_of_connections_is_cleaned_up_all_the_same() {
    let postgres = Postgres::with(&["max_connections=9", "superuser_reserved_connections=3"]).await;
    let world = World::embedded();
    let broker = world.broker().await;
    let caller = agent(&world, &broker).await;
    let mut engine = postgres.engine("db/app");
    engine["max_connections"] = json!(8);
    put_engine(&world.operator(&broker), &engine, PASSWORD)
        .await
        .expect("engine");
    let begun = caller
        .begin(&world.issuer, "/agent", SCOPES)
        .await
        .expect("task");
    let mut tasks = vec![begun.task.clone()];
    lease(&caller, &begun.task, "db/app/readonly")
        .await
        .expect("lease");
    for _ in 0..12 {
        let begun = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("task");
        lease(&caller, &begun.task, "db/app/readonly")
            .await
            .expect("lease");
        tasks.push(begun.task);
    }
    let mut held = Vec::new();
    while held.len() < 5 {
        match postgres.client("admin", PASSWORD, "app").await {
            Ok(client) => held.push(client),
            Err(_) => break,
        }
    }
    for task in &tasks {
        caller.complete(task).await.expect("completed");
    }
    gone(&postgres).await;
    drop(held);
}

/// T58: kill -9 between creation and the record of it, and a store that came back empty: orphans
/// are found and removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t58_an_orphan_is_found_by_its_name_after_the_store_lost_everything() {
    let postgres = Postgres::start().await;
    let world = World::redis();
    let mut broker = world.broker().await;
    let caller = agent(&world, &broker).await;
    let engine = postgres.engine("db/app");
    put_engine(&world.operator(&broker), &engine, PASSWORD)
        .await
        .expect("engine");
    let begun = caller
        .begin(&world.issuer, "/agent", SCOPES)
        .await
        .expect("task");
    lease(&caller, &begun.task, "db/app/readonly")
        .await
        .expect("lease");
    postgres
        .superuser()
        .await
        .batch_execute("CREATE ROLE sdw_ffffffff_notours")
        .await
        .expect("role of another installation");
    broker.kill();
    redis::cmd("FLUSHALL")
        .exec(&mut world.redis.as_ref().expect("redis").connection())
        .expect("flush");
    broker.up();
    broker.ready().await;
    assert_eq!(postgres.roles().await.len(), 2);
    put_engine(&world.operator(&broker), &engine, PASSWORD)
        .await
        .expect("engine");
    until("the orphan is gone, and nobody else's role", || async {
        postgres.roles().await == ["sdw_ffffffff_notours"]
    })
    .await;
    assert!(
        broker
            .journal()
            .iter()
            .any(|record| record.event == "orphan_removed")
    );
}

/// A lease that another broker made, and did not live to end, is ended by whoever is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_taken_over_when_its_broker_dies() {
    let postgres = Postgres::start().await;
    let world = World::redis();
    let mut broker = world.broker().await;
    let second = world.broker().await;
    let caller = agent(&world, &broker).await;
    put_engine(
        &world.operator(&broker),
        &postgres.engine("db/app"),
        PASSWORD,
    )
    .await
    .expect("engine");
    let begun = caller
        .begin(&world.issuer, "/agent", SCOPES)
        .await
        .expect("task");
    lease(&caller, &begun.task, "db/app/readonly")
        .await
        .expect("lease");
    broker.kill();
    let there = world.caller_with(&second, caller.svid.clone().expect("SVID"));
    there.complete(&begun.task).await.expect("completed");
    tokio::time::timeout(Duration::from_secs(25), async {
        while !postgres.roles().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("taken over");
}

/// Does something until it is not refused for want of a place; it may be refused a few times.
async fn patiently<T>(attempt: impl AsyncFn() -> Result<T, tonic::Status>) -> T {
    for _ in 0..20 {
        match attempt().await {
            Ok(answer) => return answer,
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the places stay taken");
}

/// A4: a target that accepts and never answers holds up those who ask it for something, for a while,
/// and nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a4_a_target_that_never_answers_holds_up_only_those_who_ask_it() {
    let world = World::embedded();
    let broker = world.broker_with("[limits]\nissuing = 8\n").await;
    let caller = agent(&world, &broker).await;
    world.register(&broker, "/other", json!({})).await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = silent.local_addr().expect("address").port();
    let document = json!({
        "name": "db/silent",
        "target": { "kind": "redis", "host": "127.0.0.1", "port": port },
        "roles": { "reader": { "grants": ["+get"] } },
    });
    let request = PutEngineRequest {
        document: document.to_string(),
        password: b"x".to_vec(),
        unchecked: true,
    };
    let operator = world.operator(&broker);
    let put = operator.registry().put_engine(request).await;
    put.expect("engine");
    let begun = caller
        .begin(&world.issuer, "/agent", SCOPES)
        .await
        .expect("task");
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for _ in 0..100 {
        let request = GetSecretRequest {
            task_id: begun.task.clone(),
            name: "db/silent/reader".to_owned(),
            ..GetSecretRequest::default()
        };
        let mut client = caller.agent();
        asking.spawn(async move { client.get_secret(request).await.expect_err("no answer") });
    }
    // The issuing places are free again as soon as a place at the target was taken. Until all have
    // asked, they may all be taken.
    let other = world.caller(&broker, "/other");
    let task = patiently(async || {
        let request = other.request(&world.issuer, "/other", &["exec:git"]);
        other.send(request.await.expect("request")).await
    });
    let task = task.await.task;
    patiently(async || other.mint(&task).await).await;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    let answers = asking.join_all().await;
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    let busy = |status: &&tonic::Status| status.code() == Code::ResourceExhausted;
    assert!(answers.iter().filter(busy).count() >= 36);
    let rest = answers.iter().filter(|status| !busy(status));
    assert!(
        rest.clone()
            .all(|status| status.code() == Code::Unavailable)
    );
    assert!(rest.count() > 0);
    drop(silent);
}
