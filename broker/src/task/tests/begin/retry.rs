//! BeginTask that is repeated, or whose key is used again.

use super::*;

#[tokio::test]
async fn a_retry_with_the_same_key_gets_the_same_task_and_token() {
    let (broker, agent) = registered().await;
    let request = || v1::BeginTaskRequest {
        idempotency_key: "once".to_owned(),
        ..agent.request(&["exec:git"])
    };
    let first = broker.begin(request(), &agent).await.unwrap();
    clock::testing::advance(Duration::from_secs(1));
    let second = broker.begin(request(), &agent).await.unwrap();
    assert_eq!((first.task, first.token), (second.task, second.token));
    assert_eq!(tasks_of(&broker, &agent).await, 1);
}

#[tokio::test]
async fn a_key_that_was_used_for_another_request_is_refused() {
    let (broker, agent) = registered().await;
    let request = |purpose: &str| v1::BeginTaskRequest {
        idempotency_key: "once".to_owned(),
        purpose: purpose.to_owned(),
        ..agent.request(&["exec:git"])
    };
    broker.begin(request("one"), &agent).await.unwrap();
    let other = broker.begin(request("two"), &agent).await;
    assert_refused!(other, Refusal::Idempotency);
    // What did not begin is not on the record as begun, and a retry did not begin again.
    broker.begin(request("one"), &agent).await.unwrap();
    assert_eq!(broker.journal("task_begun").len(), 1);
}

#[tokio::test]
async fn a_retry_from_another_certificate_gets_no_token() {
    let (broker, agent) = registered().await;
    let other = broker.agent("/agent");
    let request = |agent: &Agent| v1::BeginTaskRequest {
        idempotency_key: "once".to_owned(),
        ..agent.request(&["exec:git"])
    };
    broker.begin(request(&agent), &agent).await.unwrap();
    let retried = broker.begin(request(&other), &other).await;
    assert_refused!(retried, Refusal::Idempotency);
}

#[tokio::test]
async fn l15_a_retry_of_a_task_that_has_ended_takes_no_place() {
    let (broker, agent) = registered().await;
    let request = || v1::BeginTaskRequest {
        idempotency_key: "once".to_owned(),
        ..agent.request(&["exec:git"])
    };
    let first = broker.begin(request(), &agent).await.unwrap();
    let complete = v1::CompleteTaskRequest {
        task_id: first.id,
        outcome: 0,
    };
    let tasks = std::sync::Arc::clone(&broker.rooms.tasks);
    tasks.complete(agent.peer.clone(), complete).await.unwrap();
    assert_refused!(broker.begin(request(), &agent).await, Refusal::TaskDead(_));
    assert_eq!(tasks_of(&broker, &agent).await, 0);
}

/// A request under a key of its own, for a task of one second.
fn keyed(agent: &Agent) -> v1::BeginTaskRequest {
    v1::BeginTaskRequest {
        idempotency_key: "once".to_owned(),
        ttl_ms: 1000,
        ..agent.request(&["exec:git"])
    }
}

/// L11: whoever kept the token of a task that is long over has nothing when the key is used again.
#[tokio::test]
async fn l11_a_key_that_is_used_again_after_its_record_is_gone_gives_another_token() {
    let (broker, agent) = registered().await;
    let first = broker.begin(keyed(&agent), &agent).await.unwrap();
    let retried = broker.begin(keyed(&agent), &agent).await.unwrap();
    assert_eq!(retried.token, first.token, "while the record is there");
    clock::testing::advance(Duration::from_secs(700));
    // The store drops what is over together with old entries of the log.
    broker.ledger.log.forget().await.unwrap();
    let again = broker.begin(keyed(&agent), &agent).await.unwrap();
    assert!(broker.is_active(&again.token, &agent).await);
    assert_ne!(again.token.token, first.token.token);
    assert!(!broker.is_active(&first.token, &agent).await);
}

/// L11: a retry that comes after the token has expired is not answered with that token.
#[tokio::test]
async fn l11_a_retry_is_never_answered_with_an_expired_token() {
    let broker = TestBroker::start().await;
    broker
        .register("/agent", json!({ "max_token_ttl": "2s" }))
        .await;
    let agent = broker.agent("/agent");
    let request = || v1::BeginTaskRequest {
        ttl_ms: 0,
        ..keyed(&agent)
    };
    broker.begin(request(), &agent).await.unwrap();
    clock::testing::advance(Duration::from_millis(2500));
    let late = broker.begin(request(), &agent).await;
    assert_refused!(late, Refusal::Idempotency);
}
