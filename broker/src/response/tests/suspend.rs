//! Suspensions by responders (L7).

use std::sync::Arc;

use sundew_attestation::BindingPurpose;
use sundew_core::Cause;
use sundew_proto::v1;

use super::{lift, of_workload, rules, two_tasks};
use crate::refusal::Refusal;
use crate::testing::{Agent, Begun, TestBroker, assert_refused};

async fn resume(
    broker: &TestBroker,
    agent: &Agent,
    begun: &Begun,
    key: &str,
) -> Result<v1::Token, Refusal> {
    let (nonce, evidence) = agent.proof(BindingPurpose::ResumeTask);
    let request = v1::ResumeTaskRequest {
        task_id: begun.id.clone(),
        nonce,
        evidence,
        idempotency_key: key.to_owned(),
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    let answer = tasks.resume(Arc::clone(&agent.peer), request).await?;
    Ok(answer.token.unwrap())
}

/// A responder takes back only his suspension. The agent gets its task back with fresh evidence, and
/// new tokens.
#[tokio::test]
async fn l7_a_responder_suspends_by_any_selector_and_the_agent_resumes_after_the_lift() {
    let (broker, (agent, begun), (other, theirs)) = two_tasks().await;
    let id = broker
        .respond(of_workload("/agent"), v1::Effect::Suspend)
        .await;
    assert!(!broker.is_active(&begun.token, &agent).await);
    assert!(broker.is_active(&theirs.token, &other).await);
    let minted = broker.mint(begun.mint(), &agent).await;
    assert_refused!(minted, Refusal::TaskDead(Cause::Suspended));
    let resumed = resume(&broker, &agent, &begun, "early").await;
    assert_refused!(resumed, Refusal::Quarantined);
    assert!(broker.journal("task_resumed").is_empty());
    let another = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert_refused!(another, Refusal::Quarantined);
    let standing = rules(&broker).await;
    assert_eq!(standing[0].effect(), v1::Effect::Suspend);

    lift(&broker, &id, "over").await.unwrap();
    assert!(rules(&broker).await.is_empty());
    let minted = broker.mint(begun.mint(), &agent).await;
    assert_refused!(minted, Refusal::TaskDead(Cause::Suspended));
    let token = resume(&broker, &agent, &begun, "then").await.unwrap();
    assert!(broker.is_active(&token, &agent).await);
    assert!(!broker.is_active(&begun.token, &agent).await);
    let minted = broker.mint(begun.mint(), &agent).await.unwrap();
    assert!(broker.is_active(&minted, &agent).await);
}

/// L5: the first lift reached the log, and its mark did not reach the store.
#[tokio::test]
async fn l5_a_lift_that_was_not_marked_is_repeated() {
    let (broker, _, _) = two_tasks().await;
    let id = broker
        .respond(of_workload("/agent"), v1::Effect::Quarantine)
        .await;
    lift(&broker, &id, "over").await.unwrap();
    let responses = &broker.rooms.responses;
    let (mut action, bytes) = responses.action(&id).await.unwrap().unwrap();
    action.lifted = false;
    let written = responses.write_action(&action, Some(&bytes)).await;
    assert!(written.unwrap().is_some());
    lift(&broker, &id, "over").await.unwrap();
    let (action, _) = responses.action(&id).await.unwrap().unwrap();
    assert!(action.lifted);
    assert!(rules(&broker).await.is_empty());
}
