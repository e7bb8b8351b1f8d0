//! Incident responders: AC-40, AC-41, AC-43, AC-48, AC-49, T62.

use std::time::Duration;

use serde_json::json;
use sundew_proto::v1::attend_request::Request;
use sundew_proto::v1::attend_response::Event;
use sundew_proto::v1::{AttendRequest, AttendStart, Outcome, Selector};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::now_ms;
use sundew_tests::pki::DOMAIN;
use sundew_tests::selectors::{of_task, of_token, of_workload};
use sundew_tests::world::World;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::ending::{SCOPES, ready};

pub(crate) async fn agents(world: &World, broker: &Broker, paths: &[&str]) -> Vec<Caller> {
    for path in paths {
        world
            .register(broker, path, json!({ "max_tasks": 1000 }))
            .await;
    }
    paths
        .iter()
        .map(|path| world.caller(broker, path))
        .collect()
}

pub(crate) async fn begin(world: &World, caller: &Caller, path: &str) -> Begun {
    caller
        .begin(&world.issuer, path, SCOPES)
        .await
        .expect("task")
}

pub(crate) async fn alive(server: &Caller, caller: &Caller, token: &str) -> bool {
    server
        .active(token, &caller.thumbprint())
        .await
        .expect("answer")
}

pub(crate) fn selector() -> Selector {
    Selector::default()
}

pub(crate) fn id(path: &str) -> String {
    format!("spiffe://{DOMAIN}{path}")
}

/// A name, a selector from the first task of /a/one and its caller, and whether tasks of /a/one,
/// /a/two and /ab die.
type Row = (&'static str, fn(&Begun, &Caller) -> Selector, [bool; 3]);

const ROWS: [Row; 11] = [
    (
        "token",
        |begun, _| of_token(&begun.token),
        [true, false, false],
    ),
    (
        "task",
        |begun, _| of_task(&begun.task),
        [true, false, false],
    ),
    (
        "task tree",
        |begun, _| Selector {
            task_tree: begun.task.clone(),
            ..selector()
        },
        [true, false, false],
    ),
    (
        "SPIFFE ID",
        |_, _| of_workload("/a/one"),
        [true, false, false],
    ),
    (
        "prefix",
        |_, _| Selector {
            spiffe_path_prefix: id("/a"),
            ..selector()
        },
        [true, true, false],
    ),
    (
        "claim",
        |_, _| Selector {
            claims: vec!["oidc.sub=/a/two".to_owned()],
            ..selector()
        },
        [false, true, false],
    ),
    (
        "serial",
        |_, caller| Selector {
            svid_serial: caller.svid.as_ref().expect("svid").serial(),
            ..selector()
        },
        [true, false, false],
    ),
    (
        "secret",
        |_, _| Selector {
            secret: "app/key".to_owned(),
            ..selector()
        },
        [true, true, true],
    ),
    (
        "scope and SPIFFE ID",
        |_, _| Selector {
            scope: "exec:git".to_owned(),
            ..of_workload("/ab")
        },
        [false, false, true],
    ),
    (
        "trust domain",
        |_, _| Selector {
            trust_domain: DOMAIN.to_owned(),
            ..selector()
        },
        [true, true, true],
    ),
    (
        "everything",
        |_, _| Selector {
            everything: true,
            ..selector()
        },
        [true, true, true],
    ),
];

/// Begins a task of each caller, previews and revokes what a row selects, and sees what is alive.
async fn kills_what_it_matches(
    world: &World,
    operator: &Caller,
    elsewhere: &Caller,
    callers: &[Caller],
    (what, select, dies): Row,
) {
    let [one, two, other] = callers else {
        panic!("three")
    };
    let begun = [
        begin(world, one, "/a/one").await,
        begin(world, two, "/a/two").await,
        begin(world, other, "/ab").await,
    ];
    let selected = select(&begun[0], one);
    let preview = operator.preview(selected.clone()).await.expect("preview");
    for (begun, caller) in begun.iter().zip(callers) {
        assert!(
            alive(elsewhere, caller, &begun.token).await,
            "{what}: a preview changes nothing"
        );
    }
    let answer = operator.revoke(selected).await.expect(what);
    for ((begun, caller), dies) in begun.iter().zip(callers).zip(dies) {
        assert_eq!(
            alive(elsewhere, caller, &begun.token).await,
            !dies,
            "{what}: {}",
            begun.task
        );
    }
    let status = operator
        .cleaned_up(&answer.revocation_id)
        .await
        .expect("status");
    let (tasks, tokens) = (
        dies.iter().filter(|dies| **dies).count(),
        dies.iter().filter(|dies| **dies).count(),
    );
    let tasks = if what == "token" { 0 } else { tasks };
    assert_eq!(
        (status.tasks, status.tokens, status.done),
        (tasks as u64, tokens as u64, true),
        "{what}: AC-41"
    );
    assert_eq!(
        (preview.tasks, preview.tokens),
        (status.tasks, status.tokens),
        "{what}: AC-43"
    );
    assert_eq!(status.actor, id("/operator"), "AC-49");
    // What lives ends, so that the next row begins with nothing.
    for (begun, caller) in begun.iter().zip(callers) {
        let _ = caller.complete(&begun.task).await;
    }
}

/// Selects by what the registration's version decided, by audience, and by time of issue.
async fn versions_audiences_and_times(
    world: &World,
    operator: &Caller,
    elsewhere: &Caller,
    one: &Caller,
) {
    // What the registration's version decided, and what was meant for an audience.
    let begun = begin(world, one, "/a/one").await;
    let version = begun
        .answer
        .task
        .as_ref()
        .expect("task")
        .registration_version
        .clone();
    let request = sundew_proto::v1::MintTokenRequest {
        task_id: begun.task.clone(),
        audience: vec!["billing".to_owned()],
        ..Default::default()
    };
    let minted = one
        .agent()
        .mint_token(request)
        .await
        .expect("token")
        .into_inner()
        .token
        .expect("token")
        .token;
    operator
        .revoke(Selector {
            audience: "billing".to_owned(),
            ..selector()
        })
        .await
        .expect("audience");
    assert!(!alive(elsewhere, one, &minted).await && alive(elsewhere, one, &begun.token).await);
    operator
        .revoke(Selector {
            registration_version: version,
            ..selector()
        })
        .await
        .expect("version");
    assert!(!alive(elsewhere, one, &begun.token).await);
    // Issued before: what comes later lives.
    let old = begin(world, one, "/a/one").await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let now = now_ms();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let new = begin(world, one, "/a/one").await;
    operator
        .revoke(Selector {
            issued_before_ms: now,
            ..selector()
        })
        .await
        .expect("issued before");
    assert!(!alive(elsewhere, one, &old.token).await && alive(elsewhere, one, &new.token).await);
}

/// AC-40, AC-41, AC-43: each criterion kills what it matches and nothing else; the preview predicts
/// what the revocation reports.
#[tokio::test]
async fn ac_40_every_selector_kills_what_matches_and_leaves_the_rest() {
    for world in World::both() {
        let broker = world.broker().await;
        let second = if world.redis.is_some() {
            Some(world.broker().await)
        } else {
            None
        };
        let operator = world.operator(&broker);
        let elsewhere = world.operator(second.as_ref().unwrap_or(&broker));
        let callers = agents(&world, &broker, &["/a/one", "/a/two", "/ab"]).await;

        for row in ROWS {
            kills_what_it_matches(&world, &operator, &elsewhere, &callers, row).await;
        }
        versions_audiences_and_times(&world, &operator, &elsewhere, &callers[0]).await;
    }
}

/// Revokes a task whose agent attends it: the agent hears of it, and the task has one reason.
async fn revoke_while_attended(
    operator: &Caller,
    elsewhere: &Caller,
    caller: &Caller,
    begun: &Begun,
) {
    let (asked, requests) = tokio::sync::mpsc::channel(4);
    asked
        .send(AttendRequest {
            request: Some(Request::Start(AttendStart {
                task_id: begun.task.clone(),
                ..AttendStart::default()
            })),
        })
        .await
        .expect("start");
    let mut told = caller
        .agent()
        .attend(ReceiverStream::new(requests))
        .await
        .expect("attend")
        .into_inner();
    let answer = operator
        .revoke(of_task(&begun.task))
        .await
        .expect("revoked");
    assert!(!alive(elsewhere, caller, &begun.token).await);
    let heard = loop {
        match told.next().await.expect("event").expect("event").event {
            Some(Event::Ended(ended)) => break ended.outcome(),
            _ => continue,
        }
    };
    assert_eq!(heard, Outcome::Revoked);
    let status = operator
        .cleaned_up(&answer.revocation_id)
        .await
        .expect("status");
    assert_eq!(
        (status.tasks, status.tokens, status.reason.as_str()),
        (1, 1, "test"),
        "AC-41: one token was dead before"
    );
    assert_eq!(
        caller.complete(&begun.task).await.ok(),
        Some(Outcome::Revoked),
        "AC-33: one reason"
    );
}

/// Revocation of a token, a task and a workload, at one broker; refused at the others.
#[tokio::test]
async fn responders_kill_a_token_a_task_or_a_workload_and_agents_hear_of_it() {
    for world in World::both() {
        let (broker, caller) = ready(&world).await;
        let second = if world.redis.is_some() {
            Some(world.broker().await)
        } else {
            None
        };
        let elsewhere = world.operator(second.as_ref().unwrap_or(&broker));
        let operator = world.operator(&broker);
        let begun = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("task");
        let minted = caller.mint(&begun.task).await.expect("token");

        let active = async |token: &str| alive(&elsewhere, &caller, token).await;
        assert!(active(&minted.token).await && active(&begun.token).await);
        operator
            .revoke(of_token(&minted.token_id))
            .await
            .expect("revoked");
        assert!(!active(&minted.token).await && active(&begun.token).await);

        revoke_while_attended(&operator, &elsewhere, &caller, &begun).await;

        let third = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("task");
        operator
            .revoke(of_workload("/agent"))
            .await
            .expect("revoked");
        assert!(!active(&third.token).await);
        assert_eq!(
            caller.mint(&third.task).await.expect_err("dead").code(),
            Code::PermissionDenied
        );
        let fourth = caller
            .begin(&world.issuer, "/agent", SCOPES)
            .await
            .expect("what is issued later lives");
        assert!(active(&fourth.token).await);
        // AC-48: what was never seen is remembered.
        operator
            .revoke(of_task(&format!("task-{}", "a".repeat(32))))
            .await
            .expect("remembered");
        let status = operator
            .response()
            .revoke(sundew_proto::v1::RevokeRequest {
                reason: " ".to_owned(),
                selector: Some(of_task(&third.task)),
                ..Default::default()
            })
            .await;
        assert_eq!(
            status.expect_err("AC-49: a reason is needed").code(),
            Code::InvalidArgument
        );
    }
}
