//! Secrets that are made for a task in another system, and are certainly gone from there: AC-61,
//! T54, T58, T59.

use std::time::Duration;

use serde_json::{Value, json};
use sundew_proto::v1::{
    Effect, GetSecretRequest, Lease, ListLeasesRequest, ListLeasesResponse, PutEngineRequest,
    Selector,
};
use sundew_tests::broker::{Broker, World};
use sundew_tests::calls::{Caller, of_workload};
use sundew_tests::postgres::{PASSWORD, Postgres};
use sundew_tests::redis::Redis;
use sundew_tests::until;
use tonic::{Code, Status};

const SCOPES: &[&str] = &["secret:db/*", "exec:git"];

async fn put_engine(operator: &Caller, document: &Value, password: &str) -> Result<String, Status> {
    let request = PutEngineRequest {
        document: document.to_string(),
        password: password.as_bytes().to_vec(),
        unchecked: false,
    };
    Ok(operator
        .registry()
        .put_engine(request)
        .await?
        .into_inner()
        .action)
}

/// A lease, asked for again while the broker says that it cannot answer now, as the SDK does.
async fn lease(caller: &Caller, task: &str, name: &str) -> Result<Lease, Status> {
    let mut tries = 0;
    let answer = loop {
        let request = GetSecretRequest {
            task_id: task.to_owned(),
            name: name.to_owned(),
            ..GetSecretRequest::default()
        };
        match caller.agent().get_secret(request).await {
            Ok(answer) => break answer.into_inner(),
            Err(status) if status.code() == Code::Unavailable && tries < 30 => {
                tokio::time::sleep(Duration::from_millis(100)).await
            }
            Err(status) => return Err(status),
        }
        tries += 1;
    };
    let lease = answer.lease.expect("a lease");
    assert_eq!(answer.value, lease.url.as_bytes());
    Ok(lease)
}

async fn leases(operator: &Caller) -> ListLeasesResponse {
    operator
        .response()
        .list_leases(ListLeasesRequest::default())
        .await
        .expect("leases")
        .into_inner()
}

async fn agent(world: &World, broker: &Broker) -> Caller {
    world.register(broker, "/agent", json!({ "scopes": ["secret:db/*", "secret:cache/*", "exec:git"], "attendance_grace": "3s" })).await;
    world.caller(broker, "/agent")
}

async fn works(postgres: &Postgres, lease: &Lease) -> bool {
    match postgres
        .client(&lease.username, &lease.password, "app")
        .await
    {
        Ok(client) => client
            .query_one("SELECT id FROM things", &[])
            .await
            .is_ok_and(|row| row.get::<_, i32>(0) == 7),
        Err(_) => false,
    }
}

async fn gone(postgres: &Postgres) {
    until("every role is gone from the database", || async {
        postgres.roles().await.is_empty()
    })
    .await;
}

/// Over TLS the server must be the one that the engine's CA vouches for; the administrator's
/// password goes to nobody else.
#[tokio::test]
async fn a_database_over_tls_is_the_one_that_its_ca_vouches_for() {
    use sundew_tests::pki::{Ca, leaf, pem};
    let (ca, evil, folder) = (
        Ca::new("database.example"),
        Ca::new("database.example"),
        tempfile::tempdir().expect("folder"),
    );
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("mode");
    let mut params = leaf(&[]);
    params.subject_alt_names = vec![rcgen::SanType::IpAddress(std::net::IpAddr::from([
        127, 0, 0, 1,
    ]))];
    let postgres = Postgres::with_tls(&ca.sign(params), &folder.path().join("tls")).await;
    let world = World::embedded();
    let broker = world.broker().await;
    let (caller, operator) = (agent(&world, &broker).await, world.operator(&broker));
    let engine = |ca: &Ca, host: &str| {
        let mut engine = postgres.engine("db/app");
        (engine["target"]["ca"], engine["target"]["host"]) =
            (json!(pem("CERTIFICATE", &ca.certificate)), json!(host));
        engine
    };
    for (what, engine) in [
        ("another CA", engine(&evil, "127.0.0.1")),
        ("another name", engine(&ca, "localhost")),
    ] {
        let refused = put_engine(&operator, &engine, PASSWORD)
            .await
            .expect_err(what);
        assert!(
            refused.message().contains("the target was tried"),
            "{what}: {refused}"
        );
    }
    put_engine(&operator, &engine(&ca, "127.0.0.1"), PASSWORD)
        .await
        .expect("engine");
    let begun = caller
        .begin(&world.issuer, "/agent", SCOPES)
        .await
        .expect("task");
    let made = lease(&caller, &begun.task, "db/app/readonly")
        .await
        .expect("lease");
    assert!(works(&postgres, &made).await);
    let superuser = postgres.superuser().await;
    let statement = "SELECT count(*), count(*) FILTER (WHERE ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'admin'";
    let row = superuser.query_one(statement, &[]).await.expect("sessions");
    let (all, over_tls): (i64, i64) = (row.get(0), row.get(1));
    assert!(
        all > 0 && all == over_tls,
        "{over_tls} of {all} sessions of the administrator are over TLS"
    );
    caller.complete(&begun.task).await.expect("completed");
    gone(&postgres).await;
}

/// AC-61: a role in the real database for as long as the task lives, whatever ends it; its sessions
/// end with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ac_61_a_role_lives_as_long_as_its_task_and_so_do_its_sessions() {
    let postgres = Postgres::start().await;
    for world in World::both() {
        let broker = world.broker().await;
        let second = if world.redis.is_some() {
            Some(world.broker().await)
        } else {
            None
        };
        let caller = agent(&world, &broker).await;
        let operator = world.operator(&broker);
        assert_eq!(
            put_engine(&operator, &postgres.engine("db/app"), PASSWORD)
                .await
                .as_deref()
                .ok(),
            Some("created")
        );
        assert_eq!(
            put_engine(&operator, &postgres.engine("db/app"), "")
                .await
                .as_deref()
                .ok(),
            Some("unchanged")
        );
        let elsewhere = world.caller_with(
            second.as_ref().unwrap_or(&broker),
            caller.svid.clone().expect("SVID"),
        );
        for how in ["completed", "time", "attendance", "revoked", "its scope"] {
            let mut request = caller
                .request(&world.issuer, "/agent", SCOPES)
                .await
                .expect("request");
            request.ttl_ms = if how == "time" { 4000 } else { 60_000 };
            // A broker that has just started gives agents time to come back.
            let begun = caller.send(request).await.expect("task");
            let made = lease(&elsewhere, &begun.task, "db/app/readonly")
                .await
                .expect("lease");
            assert!(works(&postgres, &made).await, "{how}");
            assert!(
                made.url.starts_with("postgresql://sdw_") && made.url.ends_with("/app"),
                "{how}"
            );
            assert_eq!(
                lease(&caller, &begun.task, "db/app/readonly")
                    .await
                    .expect("again")
                    .username,
                made.username,
                "asked again it is the same"
            );
            assert_eq!(
                lease(&caller, &begun.task, "db/app/nothing")
                    .await
                    .expect_err("no such role")
                    .code(),
                Code::PermissionDenied
            );
            let expires: Option<std::time::SystemTime> = {
                let row = postgres
                    .superuser()
                    .await
                    .query_one(
                        "SELECT rolvaliduntil FROM pg_roles WHERE rolname = $1",
                        &[&made.username],
                    )
                    .await;
                row.expect("role").get(0)
            };
            let expires = expires
                .expect("VALID UNTIL")
                .duration_since(std::time::UNIX_EPOCH)
                .expect("time")
                .as_millis();
            assert_eq!(
                i64::try_from(expires).ok(),
                Some(made.expires_at_ms),
                "the backstop"
            );
            let session = postgres
                .client(&made.username, &made.password, "app")
                .await
                .expect("session");
            match how {
                "completed" => drop(caller.complete(&begun.task).await.expect("completed")),
                "revoked" => {
                    let preview = operator
                        .preview(of_workload("/agent"))
                        .await
                        .expect("preview");
                    assert_eq!((preview.tasks, preview.leases), (1, 1));
                    let answer = operator
                        .revoke(of_workload("/agent"))
                        .await
                        .expect("revoked");
                    let status = operator
                        .cleaned_up(&answer.revocation_id)
                        .await
                        .expect("status");
                    assert_eq!(
                        (status.tasks, status.leases, status.leases_left, status.done),
                        (1, 1, 0, true)
                    );
                }
                "its scope" => {
                    let scope = Selector {
                        secret: "db/app/readonly".to_owned(),
                        ..Selector::default()
                    };
                    drop(
                        operator
                            .respond(scope, Effect::Revoke)
                            .await
                            .expect("revoked"),
                    );
                }
                _ => {}
            }
            gone(&postgres).await;
            assert!(
                session.query_one("SELECT 1", &[]).await.is_err(),
                "{how}: the session has ended too"
            );
            assert!(!works(&postgres, &made).await);
            until("nothing is left to do", || async {
                leases(&operator).await.total == 0
            })
            .await;
        }
        let journal = broker.journal();
        assert!(!format!("{journal:?}").contains(PASSWORD));
        assert!(
            !postgres.log().contains("PASSWORD E'SCRAM") || !postgres.log().contains("sdw_secret"),
            "P9"
        );
        let request = sundew_proto::v1::DeleteEngineRequest {
            name: "db/app".to_owned(),
        };
        operator
            .registry()
            .delete_engine(request)
            .await
            .expect("an engine without leases can go");
    }
}

/// P9: the password of a role is in no statement that the server logs, and in nothing that Sundew
/// writes.
#[tokio::test]
async fn a_leases_password_is_in_no_log_and_no_store() {
    let postgres = Postgres::start().await;
    let world = World::redis();
    let broker = world.broker().await;
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
    let made = lease(&caller, &begun.task, "db/app/readonly")
        .await
        .expect("lease");
    assert!(postgres.log().contains(&made.username) && !postgres.log().contains(&made.password));
    assert!(
        !broker.output().contains(&made.password)
            && !format!("{:?}", broker.journal()).contains(&made.password)
    );
    let mut connection = world.redis.as_ref().expect("redis").connection();
    for key in redis::cmd("KEYS")
        .arg("*")
        .query::<Vec<String>>(&mut connection)
        .expect("keys")
    {
        let dump: Vec<u8> = redis::cmd("DUMP")
            .arg(&key)
            .query(&mut connection)
            .expect("dump");
        let text = String::from_utf8_lossy(&dump);
        assert!(
            !text.contains(&made.password) && !text.contains(PASSWORD),
            "{key}"
        );
    }
}

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
    let (_, metrics) = broker.http("/metrics").await.expect("metrics");
    assert!(metrics.contains("sundew_leases_due"), "{metrics}");
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

/// The second engine: a user in a real Redis.
#[tokio::test]
async fn a_redis_user_lives_as_long_as_its_task() {
    let target = Redis::start();
    let world = World::embedded();
    let broker = world.broker().await;
    let caller = agent(&world, &broker).await;
    let operator = world.operator(&broker);
    let engine = |grants: &[&str]| {
        json!({
            "name": "cache/main", "target": { "kind": "redis", "host": "127.0.0.1", "port": target.port() },
            "roles": { "reader": { "grants": grants } },
        })
    };
    for bad in [
        &["nopass"][..],
        &[">secret"],
        &["on"],
        &["#00"],
        &["allkeys"],
    ] {
        assert_eq!(
            put_engine(&operator, &engine(bad), "")
                .await
                .expect_err("refused")
                .code(),
            Code::InvalidArgument,
            "{bad:?}"
        );
    }
    put_engine(&operator, &engine(&["~app:*", "+get", "+ping"]), "")
        .await
        .expect("engine");
    let begun = caller
        .begin(&world.issuer, "/agent", &["secret:cache/*"])
        .await
        .expect("task");
    let made = lease(&caller, &begun.task, "cache/main/reader")
        .await
        .expect("lease");
    let client = redis::Client::open(made.url.as_str()).expect("url");
    let mut connection = client.get_connection().expect("connection");
    assert!(
        redis::cmd("GET")
            .arg("app:x")
            .query::<Option<String>>(&mut connection)
            .is_ok()
    );
    assert!(
        redis::cmd("GET")
            .arg("other")
            .query::<Option<String>>(&mut connection)
            .is_err()
    );
    assert!(
        redis::cmd("SET")
            .arg("app:x")
            .arg("1")
            .query::<()>(&mut connection)
            .is_err()
    );
    caller.complete(&begun.task).await.expect("completed");
    until("the session and the user are gone", || {
        let dead = redis::cmd("PING").query::<String>(&mut connection).is_err()
            && client.get_connection().is_err();
        async move { dead }
    })
    .await;
    let users: Vec<String> = redis::cmd("ACL")
        .arg("USERS")
        .query(&mut target.connection())
        .expect("users");
    assert_eq!(users, ["default"]);
}

/// What is wrong with an engine is said, and changes nothing.
#[tokio::test]
async fn an_engine_that_cannot_work_is_refused() {
    let postgres = Postgres::start().await;
    let world = World::embedded();
    let broker = world.broker().await;
    let operator = world.operator(&broker);
    let good = postgres.engine("db/app");
    let with = |path: &str, value: Value| {
        let mut document = good.clone();
        *document.pointer_mut(path).expect("path") = value;
        document
    };
    for (what, document, password) in [
        ("password", good.clone(), "wrong"),
        ("name", with("/name", json!("db/*")), PASSWORD),
        (
            "host elsewhere without TLS",
            with("/target/host", json!("db.example.org")),
            PASSWORD,
        ),
        ("port", with("/target/port", json!(1)), PASSWORD),
        ("kind", with("/target/kind", json!("oracle")), PASSWORD),
        ("roles", with("/roles", json!({})), PASSWORD),
        (
            "no CREATEROLE",
            with("/target/username", json!("reader")),
            PASSWORD,
        ),
    ] {
        assert_eq!(
            put_engine(&operator, &document, password)
                .await
                .expect_err(what)
                .code(),
            Code::InvalidArgument,
            "{what}"
        );
    }
    let engines = operator
        .registry()
        .list_engines(sundew_proto::v1::ListEnginesRequest {})
        .await
        .expect("engines")
        .into_inner()
        .engines;
    assert!(engines.is_empty());
    let agent = world.caller(&broker, "/agent");
    assert_eq!(
        put_engine(&agent, &good, PASSWORD)
            .await
            .expect_err("role")
            .code(),
        Code::PermissionDenied
    );
}
