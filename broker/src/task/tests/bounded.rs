//! What a task leaves behind, and how much of it there is at a time (A2).

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sundew_core::{Cause, Outcome, TaskId};
use sundew_proto::v1;

use super::sweep::sweep;
use crate::clock;
use crate::refusal::Refusal;
use crate::testing::{Agent, Begun, TestBroker, assert_refused};

async fn complete(
    broker: &TestBroker,
    agent: &Agent,
    begun: &Begun,
) -> Result<v1::Outcome, Refusal> {
    let request = v1::CompleteTaskRequest {
        task_id: begun.id.clone(),
        outcome: 0,
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    let answer = tasks.complete(agent.peer.clone(), request).await?;
    Ok(answer.outcome())
}

/// The length of a task's record in the store, and the number of its tokens.
async fn kept(broker: &TestBroker, begun: &Begun) -> Option<(usize, usize)> {
    let store = broker.ledger.records.store();
    let id = TaskId::parse(&begun.id).unwrap();
    let tokens = store.tokens(id, 0).await.unwrap().tokens.len();
    let stored = store.task(id).await.unwrap()?;
    Some((stored.record.len(), tokens))
}

#[tokio::test]
async fn a2_little_remains_of_a_task_that_has_ended_and_that_not_for_long() {
    let broker = TestBroker::start().await;
    broker.register("/agent", json!({})).await;
    let agent = broker.agent("/agent");
    let request = || v1::BeginTaskRequest {
        instruction: "i".repeat(200),
        purpose: "p".repeat(200),
        idempotency_key: "once".to_owned(),
        ..agent.request(&["exec:git"])
    };
    let begun = broker.begin(request(), &agent).await.unwrap();
    broker.mint(begun.mint(), &agent).await.unwrap();
    let (whole, tokens) = kept(&broker, &begun).await.unwrap();
    assert_eq!(tokens, 2);
    complete(&broker, &agent, &begun).await.unwrap();
    let (remains, tokens) = kept(&broker, &begun).await.unwrap();
    assert!(remains + 400 < whole, "{remains} of {whole} bytes");
    assert_eq!(tokens, 0);
    // What may come again gets the answer that it got.
    let again = complete(&broker, &agent, &begun).await;
    assert_eq!(again.unwrap(), v1::Outcome::Completed);
    let retried = broker.begin(request(), &agent).await;
    assert_refused!(retried, Refusal::TaskDead(Cause::TaskEnded(_)));
    // The embedded store drops things a minute late.
    clock::testing::advance(Duration::from_secs(180));
    broker.ledger.log.forget().await.unwrap();
    assert_eq!(kept(&broker, &begun).await, None);
    // The log knows for as long as the task could have lived.
    let retried = broker.begin(request(), &agent).await;
    assert_refused!(retried, Refusal::TaskDead(Cause::TaskEnded(_)));
    assert!(!broker.is_active(&begun.token, &agent).await);
}

#[tokio::test]
async fn a2_a_task_has_a_bounded_number_of_tokens() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    for _ in 1..8 {
        broker.mint(begun.mint(), &agent).await.unwrap();
    }
    let one_more = broker.mint(begun.mint(), &agent).await;
    assert_refused!(one_more, Refusal::TokenLimit);
    // What has expired makes room.
    clock::testing::advance_to(begun.token.expires_at_ms + 1000);
    broker.mint(begun.mint(), &agent).await.unwrap();
}

#[tokio::test]
async fn a2_a_token_whose_scopes_are_long_is_refused() {
    let broker = TestBroker::start().await;
    broker
        .register("/agent", json!({ "scopes": ["tool:*"] }))
        .await;
    let agent = broker.agent("/agent");
    let begun = broker.begin(agent.request(&["tool:*"]), &agent).await;
    let begun = begun.unwrap();
    let scopes = |count: usize| v1::MintTokenRequest {
        scopes: (0..count).map(|n| format!("tool:{n:0250}")).collect(),
        ..begun.mint()
    };
    broker.mint(scopes(14), &agent).await.unwrap();
    let long = broker.mint(scopes(20), &agent).await;
    assert_refused!(
        long,
        Refusal::Invalid {
            field: "scopes",
            ..
        }
    );
}

/// A retry of BeginTask finds a task that is suspended, and leaves it alone.
#[tokio::test]
async fn a2_a_suspended_task_keeps_its_record_and_its_place() {
    let broker = TestBroker::start().await;
    broker.register("/agent", json!({})).await;
    let agent = broker.agent("/agent");
    let request = || v1::BeginTaskRequest {
        idempotency_key: "once".to_owned(),
        ..agent.request(&["exec:git"])
    };
    let begun = broker.begin(request(), &agent).await.unwrap();
    let before = kept(&broker, &begun).await;
    let suspend = v1::SuspendTaskRequest {
        task_id: begun.id.clone(),
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    tasks.suspend(agent.peer.clone(), suspend).await.unwrap();
    let retried = broker.begin(request(), &agent).await;
    assert_refused!(retried, Refusal::TaskDead(Cause::Suspended));
    assert_eq!(kept(&broker, &begun).await, before);
    let store = broker.ledger.records.store();
    let places = store.tasks(Some(agent.peer.id().as_str()), 9).await;
    assert_eq!(places.unwrap().len(), 1);
}

/// A child may be due long after what remained of its parent has gone.
#[tokio::test]
async fn a2_a_child_of_a_task_that_is_gone_still_ends_on_the_record() {
    let broker = TestBroker::start().await;
    let parent = json!({ "max_delegation_depth": 1 });
    broker.register("/parent", parent).await;
    broker
        .register("/child", json!({ "attendance_grace": "10m" }))
        .await;
    let (parent, child) = (broker.agent("/parent"), broker.agent("/child"));
    let above = broker.begin(parent.request(&["exec:git"]), &parent).await;
    let above = above.unwrap();
    let grant = v1::DelegateRequest {
        task_id: above.id.clone(),
        delegate: child.peer.id().to_string(),
        scopes: vec!["exec:git".to_owned()],
        ..v1::DelegateRequest::default()
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    let grant = tasks.delegate(parent.peer.clone(), grant).await.unwrap();
    let request = v1::BeginTaskRequest {
        grant: grant.grant,
        ..child.request(&["exec:git"])
    };
    let below = broker.begin(request, &child).await.unwrap();
    complete(&broker, &parent, &above).await.unwrap();
    clock::testing::advance(Duration::from_secs(700));
    broker.ledger.log.forget().await.unwrap();
    broker.ledger.records.forget();
    assert_eq!(kept(&broker, &above).await, None);
    sweep(&broker).await;
    let records = broker.journal("task_ended");
    let ended = records.iter().find(|r| r.field("task") == Some(&below.id));
    let outcome = ended.and_then(|r| r.field("outcome"));
    assert_eq!(outcome, Some(Outcome::Canceled.as_str()));
    let store = broker.ledger.records.store();
    let places = store.tasks(Some(child.peer.id().as_str()), 9).await;
    assert!(places.unwrap().is_empty());
}
