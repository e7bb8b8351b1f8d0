//! Kinds of engines: what each makes, over which connection, and when one is refused.

use serde_json::{Value, json};
use sundew_tests::postgres::{PASSWORD, Postgres};
use sundew_tests::redis::Redis;
use sundew_tests::until;
use sundew_tests::world::World;
use tonic::Code;

use crate::leases::{SCOPES, agent, gone, lease, put_engine, works};

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
    for (what, engine, cause) in [
        (
            "another CA",
            engine(&evil, "127.0.0.1"),
            "invalid peer certificate: ",
        ),
        (
            "another name",
            engine(&ca, "localhost"),
            "not valid for name",
        ),
    ] {
        let refused = put_engine(&operator, &engine, PASSWORD)
            .await
            .expect_err(what);
        assert!(
            refused.message().contains("the target was tried"),
            "{what}: {refused}"
        );
        // S10: the cause reaches the operator.
        assert!(refused.message().contains(cause), "{what}: {refused}");
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
    // S9: with the CA that comes with it, a client that demands verified TLS is content.
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, &made.ca).expect("CA");
    let connect = format!("{}&sslrootcert={}", made.url, file.display());
    let psql = std::process::Command::new("psql")
        .args([&connect, "-Atc", "SELECT id FROM things"])
        .output()
        .expect("psql");
    assert_eq!(psql.stdout, b"7\n", "{psql:?}");
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

/// An engine that cannot work is refused with a reason, and nothing changes.
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
