//! Leases and the habits of their targets: parallel requests, idle connections, restarts, rights
//! that are missing, and errors that say why. S3 to S10.

use std::time::Duration;

use serde_json::{Value, json};
use sundew_proto::v1::Lease;
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::postgres::{PASSWORD, Postgres};
use sundew_tests::redis::Redis;
use sundew_tests::until;
use sundew_tests::world::World;
use tokio::task::JoinSet;

use crate::leases::{SCOPES, gone, lease, put_engine, works};

/// An agent whose tasks go on for a minute without it.
pub(crate) async fn patient(world: &World, broker: &Broker) -> Caller {
    let registration = json!({ "scopes": ["secret:db/*", "secret:cache/*", "exec:git"], "attendance_grace": "60s" });
    world.register(broker, "/agent", registration).await;
    world.caller(broker, "/agent")
}

/// Asserts that a broker refused nothing for such a reason.
fn assert_never_refused(broker: &Broker, reason: &str) {
    let refused = broker.journal().into_iter().find(|record| {
        record.event == "refused" && format!("{:?}", record.fields).contains(reason)
    });
    assert!(refused.is_none(), "{refused:?}");
}

/// An engine for a Redis, with one role.
fn cache(target: &Redis) -> Value {
    json!({
        "name": "cache/main",
        "target": { "kind": "redis", "host": "127.0.0.1", "port": target.port() },
        "roles": { "reader": { "grants": ["~app:*", "+get", "+ping"] } },
    })
}

fn answers(lease: &Lease) -> bool {
    let client = redis::Client::open(lease.url.as_str()).expect("url");
    client
        .get_connection()
        .is_ok_and(|mut connection| redis::cmd("PING").query::<String>(&mut connection).is_ok())
}

fn users(target: &Redis) -> Vec<String> {
    let mut connection = target.connection();
    let users = redis::cmd("ACL").arg("USERS").query(&mut connection);
    users.expect("users")
}

/// S3: whoever asks at the same time, at one broker or at two, gets the same credential, and it
/// lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_parallel_requests_do_not_destroy_what_was_handed_out() {
    let postgres = Postgres::start().await;
    let world = World::redis();
    let (broker, second) = (world.broker().await, world.broker().await);
    let here = patient(&world, &broker).await;
    let there = world.caller_with(&second, here.svid.clone().expect("SVID"));
    let mut engine = postgres.engine("db/app");
    engine["max_connections"] = json!(16);
    put_engine(&world.operator(&broker), &engine, PASSWORD)
        .await
        .expect("engine");
    let (mut asked, mut handed_out) = (JoinSet::new(), Vec::new());
    for _ in 0..3 {
        let begun = here.begin(&world.issuer, "/agent", SCOPES).await;
        let task = begun.expect("task").task;
        for n in 0..10 {
            let caller = if n % 2 == 0 { &here } else { &there }.clone();
            let task = task.clone();
            asked.spawn(async move { lease(&caller, &task, "db/app/readonly").await });
        }
        while let Some(answer) = asked.join_next().await {
            handed_out.push(answer.expect("task").expect("lease"));
        }
    }
    // What a broker took for a failure was removed two seconds later.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for broker in [&broker, &second] {
        assert_never_refused(broker, "target");
        let removed = broker.journal();
        assert!(removed.iter().all(|record| record.event != "lease_removed"));
    }
    for lease in &handed_out {
        assert!(works(&postgres, lease).await, "{}", lease.username);
    }
    assert_eq!(postgres.roles().await.len(), 3);
}

/// S4: grants on the same schema meet at one row of the catalog.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_concurrent_grants_on_one_object_all_succeed() {
    let postgres = Postgres::start().await;
    let world = World::embedded();
    let broker = world.broker().await;
    let caller = patient(&world, &broker).await;
    let mut engine = postgres.engine("db/app");
    engine["max_connections"] = json!(12);
    put_engine(&world.operator(&broker), &engine, PASSWORD)
        .await
        .expect("engine");
    let (mut asked, mut tasks) = (JoinSet::new(), Vec::new());
    for _ in 0..24 {
        let begun = caller.begin(&world.issuer, "/agent", SCOPES).await;
        tasks.push(begun.expect("task").task);
    }
    for task in tasks {
        let caller = caller.clone();
        asked.spawn(async move { lease(&caller, &task, "db/app/owner").await });
    }
    while let Some(answer) = asked.join_next().await {
        answer.expect("task").expect("lease");
    }
    assert_never_refused(&broker, "target");
}

/// S5: an administrator without `pg_signal_backend` ends the sessions of its leases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_sessions_end_without_the_right_to_end_those_of_others() {
    let postgres = Postgres::start().await;
    let superuser = postgres.superuser().await;
    let revoked = superuser.batch_execute("REVOKE pg_signal_backend FROM admin");
    revoked.await.expect("revoked");
    let world = World::embedded();
    let broker = world.broker().await;
    let caller = patient(&world, &broker).await;
    put_engine(
        &world.operator(&broker),
        &postgres.engine("db/app"),
        PASSWORD,
    )
    .await
    .expect("engine");
    let begun = caller.begin(&world.issuer, "/agent", SCOPES).await;
    let task = begun.expect("task").task;
    let made = lease(&caller, &task, "db/app/readonly")
        .await
        .expect("lease");
    let session = postgres.client(&made.username, &made.password, "app");
    let session = session.await.expect("session");
    caller.complete(&task).await.expect("completed");
    gone(&postgres).await;
    assert!(session.query_one("SELECT 1", &[]).await.is_err());
}

/// S5, S10: an engine is taken when a lease of each role was made, used and removed; else the
/// operator hears which step failed, what the target said of it in full, and what it takes.
#[tokio::test]
async fn s5_an_engine_proves_the_whole_life_of_a_lease_before_it_is_taken() {
    let postgres = Postgres::start().await;
    let world = World::embedded();
    let broker = world.broker().await;
    let operator = world.operator(&broker);
    for (grant, parts) in [
        (
            "GRANT nobody TO {{name}}",
            &["could not be made", "does not exist", "right to grant"][..],
        ),
        (
            "ALTER ROLE {{name}} NOLOGIN",
            &["could not log in", "right to connect"],
        ),
        (
            "DO $$ BEGIN RAISE 'not today' USING DETAIL = 'since ' || repeat('x', 5000); END $$",
            &["could not be made", "not today", "since xxx"],
        ),
    ] {
        let mut engine = postgres.engine("db/app");
        engine["roles"]["readonly"]["grants"] = json!([grant]);
        let refused = put_engine(&operator, &engine, PASSWORD).await;
        let refused = refused.expect_err(grant);
        let told = refused.message();
        for part in [&["the target was tried", "role readonly"], parts].concat() {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(told.len() < 900, "{} bytes", told.len());
    }
    assert!(postgres.roles().await.is_empty(), "trials leave nothing");
    let taken = put_engine(&operator, &postgres.engine("db/app"), PASSWORD).await;
    assert_eq!(taken.as_deref().ok(), Some("created"));
    assert!(postgres.roles().await.is_empty(), "trials leave nothing");
}

/// The scopes of both engines.
const BOTH_SCOPES: &[&str] = &["secret:cache/*", "secret:db/*"];

/// Puts an engine for a Redis, and one for a PostgreSQL.
async fn put_both_engines(operator: &Caller, target: &Redis, postgres: &Postgres) {
    put_engine(operator, &cache(target), "")
        .await
        .expect("engine");
    put_engine(operator, &postgres.engine("db/app"), PASSWORD)
        .await
        .expect("engine");
}

/// S6: the target closes connections that are idle, and the next lease does not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s6_the_first_lease_after_a_closed_connection_works() {
    let (target, postgres) = (Redis::start(), Postgres::start().await);
    let world = World::embedded();
    let broker = world.broker().await;
    let caller = patient(&world, &broker).await;
    put_both_engines(&world.operator(&broker), &target, &postgres).await;
    let scopes = BOTH_SCOPES;
    for round in 0..3 {
        let begun = caller.begin(&world.issuer, "/agent", scopes).await;
        let task = begun.expect("task").task;
        redis::cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
            .exec(&mut target.connection())
            .expect("killed");
        let superuser = postgres.superuser().await;
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'admin'";
        superuser.execute(kill, &[]).await.expect("killed");
        for name in ["cache/main/reader", "db/app/readonly"] {
            let answer = lease(&caller, &task, name).await;
            assert!(answer.is_ok(), "round {round}: {name}: {answer:?}");
        }
        caller.complete(&task).await.expect("completed");
    }
    assert_never_refused(&broker, "target");
}

/// S7: users that somebody saved to the file of users while a lease lived do not come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_a_removed_user_does_not_come_back_with_the_targets_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("users.acl");
    std::fs::write(&file, "user default on nopass ~* &* +@all\n").expect("file");
    let mut target = Redis::with(&["--aclfile", &file.display().to_string()]);
    let world = World::embedded();
    let broker = world.broker().await;
    let caller = patient(&world, &broker).await;
    put_engine(&world.operator(&broker), &cache(&target), "")
        .await
        .expect("engine");
    let begun = caller
        .begin(&world.issuer, "/agent", &["secret:cache/*"])
        .await;
    let task = begun.expect("task").task;
    let made = lease(&caller, &task, "cache/main/reader")
        .await
        .expect("lease");
    let saved = redis::cmd("ACL").arg("SAVE").exec(&mut target.connection());
    saved.expect("saved");
    let text = std::fs::read_to_string(&file).expect("file");
    assert!(text.contains(&made.username));
    caller.complete(&task).await.expect("completed");
    until("the user is gone from the file, too", || async {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        users(&target) == ["default"] && !text.contains(&made.username)
    })
    .await;
    target.kill();
    target.up();
    assert!(users(&target) == ["default"] && !answers(&made));
}

/// S8: a target that came back without its users gets the credential anew when it is asked for
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s8_what_a_target_has_forgotten_is_made_anew() {
    let (mut target, postgres) = (Redis::start(), Postgres::start().await);
    let world = World::embedded();
    let broker = world.broker().await;
    let caller = patient(&world, &broker).await;
    put_both_engines(&world.operator(&broker), &target, &postgres).await;
    let scopes = BOTH_SCOPES;
    let begun = caller.begin(&world.issuer, "/agent", scopes).await;
    let task = begun.expect("task").task;
    for name in ["cache/main/reader", "db/app/readonly"] {
        lease(&caller, &task, name).await.expect("lease");
    }
    target.kill();
    target.up();
    let superuser = postgres.superuser().await;
    let [role] = &postgres.roles().await[..] else {
        panic!("one role");
    };
    let dropped = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    superuser.batch_execute(&dropped).await.expect("dropped");
    let again = lease(&caller, &task, "cache/main/reader")
        .await
        .expect("lease");
    assert!(answers(&again));
    let again = lease(&caller, &task, "db/app/readonly")
        .await
        .expect("lease");
    assert!(works(&postgres, &again).await);
}

/// S11: a target that is back shows as reachable at every broker that saw it fail, whether or not
/// that broker has anything to do there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s11_a_target_that_is_back_is_called_unreachable_by_nobody() {
    let mut target = Redis::start();
    let world = World::redis();
    let (broker, second) = (world.broker().await, world.broker().await);
    let here = patient(&world, &broker).await;
    let there = world.caller_with(&second, here.svid.clone().expect("SVID"));
    put_engine(&world.operator(&broker), &cache(&target), "")
        .await
        .expect("engine");
    let scopes = &["secret:cache/*"];
    let begun = here.begin(&world.issuer, "/agent", scopes).await;
    let task = begun.expect("task").task;
    lease(&there, &task, "cache/main/reader")
        .await
        .expect("lease");
    target.kill();
    assert!(lease(&there, &task, "cache/main/reader").await.is_err());
    let (_, told) = second.http("/readyz").await.expect("health");
    assert!(told.contains("cache/main"), "{told}");
    target.up();
    until("nobody calls it unreachable", || async {
        let told = [broker.http("/readyz").await, second.http("/readyz").await];
        told.into_iter()
            .all(|told| told.is_some_and(|(_, text)| !text.contains("cache/main")))
    })
    .await;
}
