//! How a task ends: AC-30 to AC-33, AC-36, AC-37.

use std::time::{Duration, Instant};

use serde_json::json;
use sundew_proto::v1::attend_request::Request;
use sundew_proto::v1::{
    AttendPing, AttendRequest, AttendStart, Outcome, ResumeTaskRequest, ShowTaskRequest,
    SuspendTaskRequest,
};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller, oidc};
use sundew_tests::until;
use sundew_tests::world::World;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

/// Starts a broker with `/agent` registered and the secret `app/key` written.
pub(crate) async fn ready(world: &World) -> (Broker, Caller) {
    let (broker, caller) = world.broker_and_agent().await;
    world
        .operator(&broker)
        .put_secret("app/key", "s3cr3t")
        .await;
    (broker, caller)
}

pub(crate) const SCOPES: &[&str] = &["secret:app/key", "exec:git"];

async fn outcome(world: &World, broker: &Broker, task: &str) -> Outcome {
    let request = ShowTaskRequest {
        task_id: task.to_owned(),
    };
    world
        .operator(broker)
        .response()
        .show_task(request)
        .await
        .expect("shown")
        .into_inner()
        .task
        .expect("task")
        .outcome()
}

/// AC-31, AC-83: after completion every token and secret of the task is refused, at every broker;
/// others live.
#[tokio::test]
async fn ac_31_completing_a_task_kills_everything_of_it_everywhere_and_nothing_else() {
    for world in World::both() {
        let (broker, caller) = ready(&world).await;
        let brokers = if world.redis.is_some() {
            vec![world.broker().await, world.broker().await]
        } else {
            vec![]
        };
        let begun = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("task");
        let other = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("task");
        let minted = caller.mint(&begun.task).await.expect("token").token;
        assert_eq!(
            caller.secret(&begun.task, "app/key").await.as_deref().ok(),
            Some("s3cr3t")
        );
        let everywhere: Vec<_> = std::iter::once(&broker)
            .chain(&brokers)
            .map(|b| world.operator(b))
            .collect();
        for server in &everywhere {
            for token in [&begun.token, &minted, &other.token] {
                assert_eq!(
                    server.active(token, &caller.thumbprint()).await.ok(),
                    Some(true),
                    "caches are warm"
                );
            }
        }
        assert_eq!(
            caller.complete(&begun.task).await.ok(),
            Some(Outcome::Completed)
        );
        for server in &everywhere {
            for token in [&begun.token, &minted] {
                assert_eq!(
                    server.active(token, &caller.thumbprint()).await.ok(),
                    Some(false)
                );
            }
            assert_eq!(
                server.active(&other.token, &caller.thumbprint()).await.ok(),
                Some(true)
            );
        }
        assert_eq!(
            caller.mint(&begun.task).await.expect_err("dead").code(),
            Code::PermissionDenied
        );
        assert_eq!(
            caller
                .secret(&begun.task, "app/key")
                .await
                .expect_err("dead")
                .code(),
            Code::PermissionDenied
        );
        // AC-33: again is the same.
        assert_eq!(
            caller.complete(&begun.task).await.ok(),
            Some(Outcome::Completed)
        );
        let ends = broker
            .journal()
            .iter()
            .filter(|r| r.event == "task_ended" && r.field("task") == Some(&begun.task))
            .count();
        assert_eq!(ends, 1);
    }
}

/// AC-32, P11: unknown and not yours are one answer.
#[tokio::test]
async fn ac_32_an_unknown_task_and_somebody_elses_are_answered_alike() {
    for world in World::both() {
        let (broker, caller) = ready(&world).await;
        world.register(&broker, "/other", json!({})).await;
        let other = world.caller(&broker, "/other");
        let begun = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("task");
        let unknown = format!("task-{}", "0".repeat(32));
        let mut answers = Vec::new();
        for task in [&begun.task, &unknown] {
            answers.push(other.complete(task).await.expect_err("refused"));
            answers.push(other.mint(task).await.expect_err("refused"));
            answers.push(other.secret(task, "app/key").await.expect_err("refused"));
        }
        assert!(
            answers
                .iter()
                .all(|s| (s.code(), s.message()) == (Code::PermissionDenied, "not permitted")),
            "{answers:?}"
        );
        assert_eq!(
            caller.active(&begun.token, &[]).await.ok(),
            Some(true),
            "and nothing happened"
        );
        until("causes are on the record", || async {
            let reasons = broker.refusals("CompleteTask");
            reasons.len() == 2 && reasons[0] != reasons[1]
        })
        .await;
    }
}

/// AC-30, AC-36, T61: an agent that is gone.
#[tokio::test]
async fn ac_36_a_task_that_nobody_attends_ends_after_its_grace_and_one_that_is_attended_does_not() {
    for world in World::both() {
        let broker = world.broker().await;
        world
            .register(&broker, "/agent", json!({ "attendance_grace": "1s" }))
            .await;
        let caller = world.caller(&broker, "/agent");
        // A broker that has just started gives agents time to come back.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let left = caller
            .begin(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("task");
        let kept = caller
            .begin(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("task");
        let (asked, requests) = tokio::sync::mpsc::channel(4);
        let say = |request| AttendRequest {
            request: Some(request),
        };
        asked
            .send(say(Request::Start(AttendStart {
                task_id: kept.task.clone(),
                ..AttendStart::default()
            })))
            .await
            .expect("start");
        let mut told = caller
            .agent()
            .attend(ReceiverStream::new(requests))
            .await
            .expect("attend")
            .into_inner();
        let began = Instant::now();
        until("abandoned", || async {
            let _ = asked.try_send(say(Request::Ping(AttendPing {})));
            caller.active(&left.token, &[]).await.ok() == Some(false)
        })
        .await;
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(
            outcome(&world, &broker, &left.task).await,
            Outcome::Abandoned
        );
        assert_eq!(caller.active(&kept.token, &[]).await.ok(), Some(true));
        // The stream breaks off, as it does when the agent is killed.
        drop(asked);
        while told.next().await.is_some_and(|event| event.is_ok()) {}
        until("abandoned too", || async {
            caller.active(&kept.token, &[]).await.ok() == Some(false)
        })
        .await;
    }
}

/// AC-30: time runs out, and the record says so.
#[tokio::test]
async fn ac_30_a_task_expires_and_the_record_says_so() {
    for world in World::both() {
        let (broker, caller) = ready(&world).await;
        let mut request = caller
            .request(&world.issuer, "/agent", SCOPES)
            .await
            .expect("request");
        request.ttl_ms = 700;
        let begun = caller.send(request).await.expect("task");
        until("expired", || async {
            caller.active(&begun.token, &[]).await.ok() == Some(false)
        })
        .await;
        assert_eq!(
            caller
                .secret(&begun.task, "app/key")
                .await
                .expect_err("dead")
                .code(),
            Code::PermissionDenied
        );
        until("on the record", || async {
            broker.journal().iter().any(|r| {
                r.event == "task_ended"
                    && r.field("task") == Some(&begun.task)
                    && r.field("outcome") == Some("expired")
            })
        })
        .await;
        // AC-33: completing it afterwards changes nothing about how it ended.
        assert_eq!(
            caller.complete(&begun.task).await.ok(),
            Some(Outcome::Expired)
        );
    }
}

/// Suspends a task, twice, and sees that its tokens and secrets are gone.
async fn suspend(caller: &Caller, begun: &Begun) {
    for _ in 0..2 {
        caller
            .agent()
            .suspend_task(SuspendTaskRequest {
                task_id: begun.task.clone(),
            })
            .await
            .expect("suspended");
    }
    assert_eq!(caller.active(&begun.token, &[]).await.ok(), Some(false));
    assert_eq!(
        caller
            .mint(&begun.task)
            .await
            .expect_err("suspended")
            .code(),
        Code::PermissionDenied
    );
    assert_eq!(
        caller
            .secret(&begun.task, "app/key")
            .await
            .expect_err("suspended")
            .code(),
        Code::PermissionDenied
    );
}

/// AC-37: suspension kills tokens, and resuming needs fresh evidence and revives nothing.
#[tokio::test]
async fn ac_37_suspending_kills_tokens_and_resuming_needs_evidence_and_revives_none() {
    for world in World::both() {
        let (_broker, caller) = ready(&world).await;
        let begun = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("task");
        suspend(&caller, &begun).await;
        let resume = |nonce: Vec<u8>, token: Vec<u8>| ResumeTaskRequest {
            task_id: begun.task.clone(),
            nonce,
            evidence: vec![oidc(token)],
            idempotency_key: String::new(),
        };
        let fresh = world.issuer.token("/agent");
        for (nonce, token) in [
            (vec![0; 32], fresh.clone()),
            (
                caller.nonce().await.expect("nonce"),
                world.issuer.token("/other"),
            ),
        ] {
            assert_eq!(
                caller
                    .agent()
                    .resume_task(resume(nonce, token))
                    .await
                    .expect_err("refused")
                    .code(),
                Code::PermissionDenied
            );
        }
        let request = resume(caller.nonce().await.expect("nonce"), fresh.clone());
        let token = caller
            .agent()
            .resume_task(request)
            .await
            .expect("resumed")
            .into_inner()
            .token
            .expect("token")
            .token;
        assert_eq!(caller.active(&token, &[]).await.ok(), Some(true));
        assert_eq!(
            caller.active(&begun.token, &[]).await.ok(),
            Some(false),
            "the old one stays dead"
        );
        assert_eq!(
            caller.secret(&begun.task, "app/key").await.as_deref().ok(),
            Some("s3cr3t")
        );
        let again = resume(caller.nonce().await.expect("nonce"), fresh);
        assert_eq!(
            caller
                .agent()
                .resume_task(again)
                .await
                .expect_err("evidence used twice")
                .code(),
            Code::PermissionDenied
        );
    }
}
