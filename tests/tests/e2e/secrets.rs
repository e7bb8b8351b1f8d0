//! Secrets and what must never show: AC-60, AC-62, AC-63, the keyring, P9.

use std::path::PathBuf;

use serde_json::json;
use sundew_proto::v1::{DeleteSecretRequest, ListSecretsRequest, RotateKeyringRequest};
use sundew_tests::broker::Broker;
use sundew_tests::until;
use sundew_tests::world::World;
use tonic::Code;

/// AC-60: by name, by caller, by task.
#[tokio::test]
async fn ac_60_a_secret_is_given_for_its_name_to_its_caller_within_its_task() {
    for world in World::both() {
        let broker = world.broker().await;
        let operator = world.operator(&broker);
        world.register(&broker, "/agent", json!({})).await;
        world.register(&broker, "/other", json!({})).await;
        operator.put_secret("app/a", "value-a").await;
        operator.put_secret("app/b", "value-b").await;
        let (caller, other) = (
            world.caller(&broker, "/agent"),
            world.caller(&broker, "/other"),
        );
        let begun = caller
            .begin(&world.issuer, "/agent", &["secret:app/a"])
            .await
            .expect("task");
        assert_eq!(
            caller.secret(&begun.task, "app/a").await.as_deref().ok(),
            Some("value-a")
        );
        for (who, name) in [
            (&caller, "app/b"),
            (&caller, "app/none"),
            (&other, "app/a"),
            (&operator, "app/a"),
        ] {
            assert_eq!(
                who.secret(&begun.task, name)
                    .await
                    .expect_err("refused")
                    .code(),
                Code::PermissionDenied,
                "{name}"
            );
        }
        for name in ["*", "app/*", "../app/a", "", "app/a\0", "app//a"] {
            assert_eq!(
                caller
                    .secret(&begun.task, name)
                    .await
                    .expect_err("refused")
                    .code(),
                Code::InvalidArgument,
                "{name:?}"
            );
        }
        let everything = caller
            .begin(&world.issuer, "/agent", &["secret:app/*"])
            .await
            .expect("task");
        assert_eq!(
            caller
                .secret(&everything.task, "app/b")
                .await
                .as_deref()
                .ok(),
            Some("value-b")
        );
        operator
            .registry()
            .delete_secret(DeleteSecretRequest {
                name: "app/b".to_owned(),
            })
            .await
            .expect("deleted");
        assert_eq!(
            caller
                .secret(&everything.task, "app/b")
                .await
                .expect_err("gone")
                .code(),
            Code::PermissionDenied
        );
    }
}

/// The keyring rotates; old records open at once and are sealed anew, at every broker.
#[tokio::test]
async fn rotating_the_keyring_loses_nothing_and_seals_anew() {
    let world = World::redis();
    let (one, two) = (world.broker().await, world.broker().await);
    world.register(&one, "/agent", json!({})).await;
    let operator = world.operator(&one);
    operator.put_secret("app/a", "old").await;
    let key = operator
        .registry()
        .rotate_keyring(RotateKeyringRequest::default())
        .await
        .expect("rotated")
        .into_inner()
        .key_id;
    assert_eq!(key, 2);
    let again = RotateKeyringRequest {
        idempotency_key: "once".to_owned(),
    };
    for _ in 0..2 {
        assert_eq!(
            operator
                .registry()
                .rotate_keyring(again.clone())
                .await
                .expect("rotated")
                .into_inner()
                .key_id,
            3
        );
    }
    operator.put_secret("app/b", "new").await;
    let caller = world.caller(&two, "/agent");
    let begun = caller
        .begin(&world.issuer, "/agent", &["secret:app/*"])
        .await
        .expect("task");
    assert_eq!(
        caller.secret(&begun.task, "app/a").await.as_deref().ok(),
        Some("old")
    );
    assert_eq!(
        caller.secret(&begun.task, "app/b").await.as_deref().ok(),
        Some("new")
    );
    let listed = operator
        .registry()
        .list_secrets(ListSecretsRequest {})
        .await
        .expect("list")
        .into_inner()
        .secrets;
    assert!(listed.iter().all(|s| s.version == 1) && listed.iter().any(|s| s.key_id == 3));
}

/// AC-63: two sealed values swapped in the store open nowhere.
#[tokio::test]
async fn ac_63_swapped_records_do_not_open() {
    let world = World::redis();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let operator = world.operator(&broker);
    operator.put_secret("app/a", "value-a").await;
    operator.put_secret("app/b", "value-b").await;
    let mut connection = world.redis.as_ref().expect("redis").connection();
    let key = "sundew:documents:secret";
    let get = |name: &str, connection: &mut redis::Connection| -> Vec<u8> {
        redis::cmd("HGET")
            .arg(key)
            .arg(name)
            .query(connection)
            .expect("record")
    };
    let (a, b) = (get("app/a", &mut connection), get("app/b", &mut connection));
    redis::cmd("HSET")
        .arg(key)
        .arg("app/a")
        .arg(b)
        .arg("app/b")
        .arg(a)
        .exec(&mut connection)
        .expect("swapped");
    let caller = world.caller(&broker, "/agent");
    let begun = caller
        .begin(&world.issuer, "/agent", &["secret:app/*"])
        .await
        .expect("task");
    for name in ["app/a", "app/b"] {
        assert_eq!(
            caller
                .secret(&begun.task, name)
                .await
                .expect_err("unreadable")
                .code(),
            Code::Unavailable
        );
    }
}

/// Everything that a broker prints or answers, by the place where it is found.
async fn said(broker: &Broker) -> Vec<(&'static str, String)> {
    let mut said = vec![
        ("output", broker.output()),
        ("metrics", broker.http("/metrics").await.expect("metrics").1),
        ("health", broker.http("/readyz").await.expect("health").1),
    ];
    for name in ["cmdline", "environ"] {
        said.push((
            name,
            String::from_utf8_lossy(
                &std::fs::read(format!("/proc/{}/{name}", broker.pid())).expect("proc"),
            )
            .into_owned(),
        ));
    }
    said.push((
        "journal",
        serde_json::to_string(&broker.journal()).expect("JSON"),
    ));
    said
}

/// Looks for canaries in each file below these folders; returns how many files there are.
fn scan(mut files: Vec<PathBuf>, canaries: &[&str]) -> usize {
    let mut scanned = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(
                std::fs::read_dir(path)
                    .expect("folder")
                    .map(|e| e.expect("entry").path()),
            );
        } else if path.is_file() {
            scanned += 1;
            let bytes = std::fs::read(&path).expect("file");
            for canary in canaries {
                assert!(
                    !bytes.windows(canary.len()).any(|w| w == canary.as_bytes()),
                    "{} has {canary}",
                    path.display()
                );
            }
        }
    }
    scanned
}

/// AC-62, T79: canaries in every credential, and a scan of everything that is written or said.
#[tokio::test]
async fn ac_62_no_canary_shows_anywhere() {
    for world in World::both() {
        let mut broker = world.prepare("");
        let mut command = std::process::Command::new(sundew_tests::sundew());
        command.env("SUNDEW_LOG", "trace,h2=debug,hyper=debug");
        broker.up_as(command);
        broker.ready().await;
        world.register(&broker, "/agent", json!({})).await;
        let secret = "canary-7f3a9b-secret-value";
        world.operator(&broker).put_secret("app/key", secret).await;
        let caller = world.caller(&broker, "/agent");
        let begun = caller
            .begin(&world.issuer, "/agent", &["secret:app/key"])
            .await
            .expect("task");
        let minted = caller.mint(&begun.task).await.expect("token").token;
        assert_eq!(
            caller.secret(&begun.task, "app/key").await.as_deref().ok(),
            Some(secret)
        );
        caller.active(&minted, &[]).await.expect("answer");
        let _ = caller.secret(&begun.task, "app/other").await;
        caller.complete(&begun.task).await.expect("completed");
        let answer = caller
            .agent()
            .get_secret(sundew_proto::v1::GetSecretRequest {
                task_id: begun.task.clone(),
                name: "app/key".to_owned(),
                ..Default::default()
            })
            .await;
        let canaries = [secret, &begun.token[4..], &minted[4..]];
        let mut said = said(&broker).await;
        said.push(("refusal", format!("{answer:?}")));
        said.push((
            "debug",
            format!("{:?} {:?}", begun.answer.token, begun.answer),
        ));
        broker.kill();
        let mut files = vec![world.folder().to_owned()];
        if let Some(redis) = &world.redis {
            redis::cmd("SAVE")
                .exec(&mut redis.connection())
                .expect("dump");
            files.push(redis.folder().to_owned());
        }
        let scanned = scan(files, &canaries);
        assert!(scanned >= 6, "only {scanned} files were scanned");
        for (place, text) in said {
            for canary in canaries {
                assert!(!text.contains(canary), "{place} has {canary}");
            }
        }
    }
}

/// T69: calls that are cancelled at random never give one caller's secret to another.
#[tokio::test]
async fn t69_cancelled_calls_mix_up_no_replies() {
    let world = World::redis();
    let broker = world.broker().await;
    let operator = world.operator(&broker);
    let mut tasks = Vec::new();
    for n in 0..4 {
        let path = format!("/agent{n}");
        let changes = json!({ "evidence": [{ "kind": "oidc", "issuer": sundew_tests::issuer::ISSUER, "claims": { "sub": [path] } }] });
        world.register(&broker, &path, changes).await;
        operator
            .put_secret(&format!("app/own{n}"), &format!("canary-of-{n}"))
            .await;
        let caller = world.caller(&broker, &path);
        let begun = caller
            .begin(&world.issuer, &path, &["secret:app/*"])
            .await
            .expect("task");
        tasks.push((caller, begun.task, n));
    }
    let mut calls = Vec::new();
    for (caller, task, n) in tasks {
        calls.push(tokio::spawn(async move {
            for round in 0..500_u64 {
                let name = format!("app/own{n}");
                let call = caller.secret(&task, &name);
                // A few hundred microseconds is about as long as a call takes.
                let patience = std::time::Duration::from_micros(100 + (round * 7919) % 2000);
                if let Ok(Ok(value)) = tokio::time::timeout(patience, call).await {
                    assert_eq!(value, format!("canary-of-{n}"));
                }
            }
            assert_eq!(
                caller
                    .secret(&task, &format!("app/own{n}"))
                    .await
                    .as_deref()
                    .ok(),
                Some(format!("canary-of-{n}").as_str())
            );
        }));
    }
    for call in calls {
        call.await.expect("no mix-up");
    }
    until("still ready", || async {
        broker
            .http("/readyz")
            .await
            .is_some_and(|(code, _)| code == 200)
    })
    .await;
}
