//! What responders do, over a store without a process.

mod cleanup;
mod quarantine;
mod suspend;
mod unreadable;

use std::sync::Arc;

use serde_json::json;
use sundew_proto::v1;

use crate::refusal::Refusal;
use crate::testing::{Agent, Begun, DOMAIN, FRESHNESS, TestBroker, assert_refused};
use crate::{clock, response};

fn of_workload(path: &str) -> v1::Selector {
    v1::Selector {
        spiffe_id: format!("spiffe://{DOMAIN}{path}"),
        ..v1::Selector::default()
    }
}

fn request(selector: v1::Selector) -> v1::RevokeRequest {
    v1::RevokeRequest {
        selector: Some(selector),
        reason: "test".to_owned(),
        ..v1::RevokeRequest::default()
    }
}

async fn revoke(
    broker: &TestBroker,
    request: v1::RevokeRequest,
) -> Result<v1::RevokeResponse, Refusal> {
    let responses = Arc::clone(&broker.rooms.responses);
    responses.revoke(broker.operator(), request).await
}

async fn lift(broker: &TestBroker, revocation_id: &str, reason: &str) -> Result<(), Refusal> {
    let request = v1::LiftRequest {
        revocation_id: revocation_id.to_owned(),
        reason: reason.to_owned(),
    };
    let responses = Arc::clone(&broker.rooms.responses);
    responses.lift(broker.operator(), request).await.map(drop)
}

async fn rules(broker: &TestBroker) -> Vec<v1::Rule> {
    let responses = Arc::clone(&broker.rooms.responses);
    let answer = responses.list_rules(broker.operator(), v1::ListRulesRequest {});
    answer.await.unwrap().rules
}

/// The last word of a preview.
async fn preview(broker: &TestBroker, selector: v1::Selector) -> v1::PreviewResponse {
    let request = v1::PreviewRequest {
        selector: Some(selector),
    };
    let responses = Arc::clone(&broker.rooms.responses);
    let mut told = responses.preview(broker.operator(), request).await.unwrap();
    let mut last = None;
    while let Some(so_far) = told.recv().await {
        last = Some(so_far.unwrap());
    }
    last.filter(|last| last.done).expect("a last word")
}

/// How far the clean-up after a revocation is.
async fn status(broker: &TestBroker, id: &str) -> Result<v1::RevocationStatus, Refusal> {
    let request = v1::WatchRevocationRequest {
        revocation_id: id.to_owned(),
        follow: false,
    };
    let responses = Arc::clone(&broker.rooms.responses);
    let told = responses.watch_revocation(broker.operator(), request).await;
    Ok(told?.recv().await.expect("a status").unwrap())
}

/// A broker where `/agent` and `/other` have a task each.
async fn two_tasks() -> (TestBroker, (Agent, Begun), (Agent, Begun)) {
    let broker = TestBroker::start().await;
    let one = broker.agent_with_task().await;
    broker.register("/other", json!({})).await;
    let other = broker.agent("/other");
    let begun = broker.begin(other.request(&["exec:git"]), &other).await;
    (broker, one, (other, begun.unwrap()))
}

#[tokio::test]
async fn revoking_a_workload_kills_its_tokens_and_no_others() {
    let (broker, (agent, begun), (other, kept)) = two_tasks().await;
    let answer = revoke(&broker, request(of_workload("/agent"))).await;
    let answer = answer.unwrap();
    assert!(!broker.is_active(&begun.token, &agent).await);
    assert!(broker.is_active(&kept.token, &other).await);
    let records = broker.journal("revoked");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].field("reason"), Some("test"));
    assert_eq!(records[0].field("effect"), Some("revoke"));
    let operator = format!("spiffe://{DOMAIN}/operator");
    assert_eq!(records[0].field("actor"), Some(operator.as_str()));
    assert!(records[0].field("target").unwrap().contains("/agent"));
    let standing = rules(&broker).await;
    assert_eq!(standing[0].revocation_id, answer.revocation_id);
    assert_eq!(standing[0].position, answer.position);
    // What begins after the rule is not what it was about.
    let again = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert!(broker.is_active(&again.unwrap().token, &agent).await);
}

#[tokio::test]
async fn each_selector_kills_what_it_selects() {
    for kind in 0..5 {
        let (broker, (agent, begun), (other, kept)) = two_tasks().await;
        let mut selector = v1::Selector::default();
        match kind {
            0 => selector.task_id = begun.id.clone(),
            1 => selector.task_tree = begun.id.clone(),
            2 => selector.token = begun.token.token.clone(),
            3 => selector.token = begun.token.token_id.clone(),
            _ => selector.spiffe_path_prefix = format!("spiffe://{DOMAIN}/agent"),
        }
        revoke(&broker, request(selector)).await.unwrap();
        assert!(!broker.is_active(&begun.token, &agent).await, "{kind}");
        assert!(broker.is_active(&kept.token, &other).await, "{kind}");
    }
}

#[tokio::test]
async fn everything_is_a_selector_of_its_own() {
    let (broker, (agent, begun), (other, kept)) = two_tasks().await;
    let everything = v1::Selector {
        everything: true,
        ..v1::Selector::default()
    };
    revoke(&broker, request(everything)).await.unwrap();
    assert!(!broker.is_active(&begun.token, &agent).await);
    assert!(!broker.is_active(&kept.token, &other).await);
}

#[tokio::test]
async fn each_malformed_field_is_named_and_nothing_is_revoked() {
    let (broker, (agent, begun), _) = two_tasks().await;
    let good = || request(of_workload("/agent"));
    let named = |selector| v1::RevokeRequest {
        selector: Some(selector),
        ..good()
    };
    let secret_and_scope = v1::Selector {
        secret: "app/db".to_owned(),
        scope: "exec:git".to_owned(),
        ..v1::Selector::default()
    };
    let in_the_future = v1::Selector {
        issued_before_ms: clock::now_ms() + 1,
        ..of_workload("/agent")
    };
    let no_token = v1::Selector {
        token: "token".to_owned(),
        ..v1::Selector::default()
    };
    let cases = [
        (
            "reason",
            v1::RevokeRequest {
                reason: " ".to_owned(),
                ..good()
            },
        ),
        (
            "reason",
            v1::RevokeRequest {
                reason: "x".repeat(4097),
                ..good()
            },
        ),
        (
            "effect",
            v1::RevokeRequest {
                effect: 99,
                ..good()
            },
        ),
        (
            "selector",
            v1::RevokeRequest {
                selector: None,
                ..good()
            },
        ),
        ("selector", named(v1::Selector::default())),
        ("secret", named(secret_and_scope)),
        ("issued_before_ms", named(in_the_future)),
        ("token", named(no_token)),
        (
            "spiffe_id",
            named(v1::Selector {
                spiffe_id: "*".to_owned(),
                ..v1::Selector::default()
            }),
        ),
        (
            "idempotency_key",
            v1::RevokeRequest {
                idempotency_key: "a b".to_owned(),
                ..good()
            },
        ),
    ];
    for (named, request) in cases {
        match revoke(&broker, request).await {
            Err(Refusal::Invalid { field, .. }) => assert_eq!(field, named),
            Err(other) => panic!("{named}: {other}"),
            Ok(_) => panic!("{named} was taken"),
        }
    }
    assert!(broker.is_active(&begun.token, &agent).await);
    assert!(broker.journal("revoked").is_empty());
}

#[tokio::test]
async fn a_retry_with_the_same_key_is_one_rule_and_another_request_is_refused() {
    let (broker, _, _) = two_tasks().await;
    let keyed = |path| v1::RevokeRequest {
        idempotency_key: "once".to_owned(),
        ..request(of_workload(path))
    };
    let first = revoke(&broker, keyed("/agent")).await.unwrap();
    let second = revoke(&broker, keyed("/agent")).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(broker.journal("revoked").len(), 1);
    let other = revoke(&broker, keyed("/other")).await;
    assert_refused!(other, Refusal::Idempotency);
}

#[tokio::test]
async fn what_was_never_seen_is_revoked_all_the_same() {
    let broker = TestBroker::start().await;
    let answer = revoke(&broker, request(of_workload("/nobody"))).await;
    assert!(answer.unwrap().position > 0);
}

/// L7: a rule takes authority away, which needs no fresh view. What gives it back does.
#[tokio::test]
async fn l7_on_a_stale_view_a_rule_is_put_in_force_and_none_is_lifted() {
    let (broker, _, _) = two_tasks().await;
    let contain = v1::RevokeRequest {
        effect: v1::Effect::Contain.into(),
        ..request(of_workload("/agent"))
    };
    clock::testing::advance(FRESHNESS);
    let answer = revoke(&broker, contain).await.unwrap();
    assert!(answer.position > 0 && !answer.pending);
    broker.fresh().await;
    assert_eq!(rules(&broker).await[0].revocation_id, answer.revocation_id);
    clock::testing::advance(FRESHNESS);
    let lifted = lift(&broker, &answer.revocation_id, "test").await;
    assert_refused!(lifted, Refusal::Stale(_));
}

#[tokio::test]
async fn a_preview_counts_what_matches_and_changes_nothing() {
    let (broker, (agent, begun), _) = two_tasks().await;
    broker.mint(begun.mint(), &agent).await.unwrap();
    let counted = preview(&broker, of_workload("/agent")).await;
    assert_eq!((counted.tasks, counted.tokens), (1, 2));
    assert_eq!(counted.workloads[0].spiffe_id, agent.peer.id().as_str());
    assert_eq!(counted.samples[0].task_id, begun.id);
    let everything = v1::Selector {
        everything: true,
        ..v1::Selector::default()
    };
    let counted = preview(&broker, everything).await;
    assert_eq!((counted.tasks, counted.tokens), (2, 3));
    assert!(broker.is_active(&begun.token, &agent).await);
    assert!(rules(&broker).await.is_empty());
    assert!(broker.journal("revoked").is_empty());
}

#[tokio::test]
async fn a_preview_of_nothing_is_refused_and_so_are_too_many_at_a_time() {
    let broker = TestBroker::start().await;
    let ask = |selector| {
        let request = v1::PreviewRequest { selector };
        Arc::clone(&broker.rooms.responses).preview(broker.operator(), request)
    };
    assert_refused!(
        ask(None).await,
        Refusal::Invalid {
            field: "selector",
            ..
        }
    );
    let of_agent = || Some(of_workload("/agent"));
    let _walking = (ask(of_agent()).await, ask(of_agent()).await);
    assert_refused!(ask(of_agent()).await, Refusal::RateLimit);
}

#[tokio::test]
async fn a_clean_up_counts_what_was_killed_and_takes_it_off_the_lists() {
    let (broker, (agent, begun), (_, kept)) = two_tasks().await;
    broker.mint(begun.mint(), &agent).await.unwrap();
    let selector = of_workload("/agent");
    let id = broker.respond(selector, v1::Effect::Revoke).await;
    assert!(!status(&broker, &id).await.unwrap().done);
    let responses = Arc::clone(&broker.rooms.responses);
    let cleaning = tokio::spawn(responses.clean_up("broker-1".to_owned()));
    while !status(&broker, &id).await.unwrap().done {
        tokio::task::yield_now().await;
    }
    cleaning.abort();
    let cleaned = status(&broker, &id).await.unwrap();
    assert_eq!((cleaned.tasks, cleaned.tokens), (1, 2));
    assert_eq!(cleaned.reaped_tasks, 1);
    let list = v1::ListTasksRequest::default();
    let responses = Arc::clone(&broker.rooms.responses);
    let listed = responses.list_tasks(broker.operator(), list).await;
    let listed: Vec<_> = listed
        .unwrap()
        .tasks
        .into_iter()
        .map(|t| t.task_id)
        .collect();
    assert_eq!(listed, [kept.id]);
    // The refused notes of a clean-up become durable with the next record that is waited for.
    broker.put_secret("app/db", "x").await;
    let records = broker.journal("task_ended");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].field("outcome"), Some("revoked"));
    assert_eq!(records[0].field("by"), Some(id.as_str()));
}

#[tokio::test]
async fn what_is_not_there_is_neither_watched_nor_shown() {
    let broker = TestBroker::start().await;
    let unknown = format!("rev-{}", "0".repeat(32));
    assert_refused!(
        status(&broker, &unknown).await,
        Refusal::NotFound("revocation")
    );
    assert_refused!(
        status(&broker, "rev-1").await,
        Refusal::Invalid {
            field: "revocation_id",
            ..
        }
    );
    let show = |task_id: String| {
        let request = v1::ShowTaskRequest { task_id };
        Arc::clone(&broker.rooms.responses).show_task(broker.operator(), request)
    };
    let missing = show(format!("task-{}", "0".repeat(32))).await;
    assert_refused!(missing, Refusal::NotFound("task"));
    let malformed = show("task-1".to_owned()).await;
    assert_refused!(
        malformed,
        Refusal::Invalid {
            field: "task_id",
            ..
        }
    );
}

#[tokio::test]
async fn a_list_has_a_thousand_entries_at_most() {
    let broker = TestBroker::start().await;
    let list = |limit| {
        let request = v1::ListTasksRequest {
            limit,
            ..v1::ListTasksRequest::default()
        };
        Arc::clone(&broker.rooms.responses).list_tasks(broker.operator(), request)
    };
    assert!(list(1000).await.is_ok());
    assert_refused!(list(1001).await, Refusal::Invalid { field: "limit", .. });
}

#[test]
fn a_revocation_has_one_name() {
    let id = sundew_core::EntryId([7; 16]);
    assert_eq!(response::entry_of(&response::name(&id)).unwrap(), id);
}
