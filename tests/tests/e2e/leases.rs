//! Secrets that are made for a task in another system, and are certainly gone from there: AC-61,
//! T54, T58, T59.

use std::time::Duration;

use serde_json::{Value, json};
use sundew_proto::v1::{
    Effect, GetSecretRequest, Lease, ListLeasesRequest, ListLeasesResponse, PutEngineRequest,
    ResumeTaskRequest, Selector, SuspendTaskRequest,
};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Caller, oidc};
use sundew_tests::postgres::{PASSWORD, Postgres};
use sundew_tests::selectors::of_workload;
use sundew_tests::until;
use sundew_tests::world::World;
use tonic::{Code, Status};

pub(crate) const SCOPES: &[&str] = &["secret:db/*", "exec:git"];

pub(crate) async fn put_engine(
    operator: &Caller,
    document: &Value,
    password: &str,
) -> Result<String, Status> {
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
pub(crate) async fn lease(caller: &Caller, task: &str, name: &str) -> Result<Lease, Status> {
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

pub(crate) async fn leases(operator: &Caller) -> ListLeasesResponse {
    operator
        .response()
        .list_leases(ListLeasesRequest::default())
        .await
        .expect("leases")
        .into_inner()
}

pub(crate) async fn agent(world: &World, broker: &Broker) -> Caller {
    world.register(broker, "/agent", json!({ "scopes": ["secret:db/*", "secret:cache/*", "exec:git"], "attendance_grace": "3s" })).await;
    world.caller(broker, "/agent")
}

pub(crate) async fn works(postgres: &Postgres, lease: &Lease) -> bool {
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

pub(crate) async fn gone(postgres: &Postgres) {
    until("every role is gone from the database", || async {
        postgres.roles().await.is_empty()
    })
    .await;
}

/// A lease in its task's first moments: usable, the same when asked for again, and bounded at the
/// database too.
async fn leased(postgres: &Postgres, caller: &Caller, elsewhere: &Caller, task: &str) -> Lease {
    let made = lease(elsewhere, task, "db/app/readonly")
        .await
        .expect("lease");
    assert!(works(postgres, &made).await);
    assert!(made.url.starts_with("postgresql://sdw_") && made.url.ends_with("/app"));
    assert_eq!(
        lease(caller, task, "db/app/readonly")
            .await
            .expect("again")
            .username,
        made.username,
        "asked again it is the same"
    );
    assert_eq!(
        lease(caller, task, "db/app/nothing")
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
    made
}

/// Ends a task in one of several ways; what is not named here ends it by itself.
async fn end(how: &str, caller: &Caller, operator: &Caller, task: &str) {
    match how {
        "completed" => drop(caller.complete(task).await.expect("completed")),
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
            let made = leased(&postgres, &caller, &elsewhere, &begun.task).await;
            let session = postgres
                .client(&made.username, &made.password, "app")
                .await
                .expect("session");
            end(how, &caller, &operator, &begun.task).await;
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

/// L10: a suspension ends what was leased, and the resumed task gets another name and password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l10_a_suspended_task_keeps_no_role_and_gets_another_when_it_is_resumed() {
    let postgres = Postgres::start().await;
    let world = World::redis();
    let broker = world.broker().await;
    let caller = agent(&world, &broker).await;
    let operator = world.operator(&broker);
    drop(
        put_engine(&operator, &postgres.engine("db/app"), PASSWORD)
            .await
            .expect("engine"),
    );
    let begun = caller
        .begin(&world.issuer, "/agent", SCOPES)
        .await
        .expect("task");
    let before = lease(&caller, &begun.task, "db/app/readonly")
        .await
        .expect("lease");
    assert!(works(&postgres, &before).await);
    let suspend = SuspendTaskRequest {
        task_id: begun.task.clone(),
    };
    caller
        .agent()
        .suspend_task(suspend)
        .await
        .expect("suspended");
    gone(&postgres).await;
    assert!(!works(&postgres, &before).await);
    let resume = ResumeTaskRequest {
        task_id: begun.task.clone(),
        nonce: caller.nonce().await.expect("nonce"),
        evidence: vec![oidc(world.issuer.token("/agent"))],
        idempotency_key: String::new(),
    };
    caller.agent().resume_task(resume).await.expect("resumed");
    let after = lease(&caller, &begun.task, "db/app/readonly")
        .await
        .expect("another lease");
    assert!(works(&postgres, &after).await && !works(&postgres, &before).await);
    assert_ne!(before.username, after.username);
    assert_ne!(before.password, after.password);
    caller.complete(&begun.task).await.expect("completed");
    gone(&postgres).await;
}
