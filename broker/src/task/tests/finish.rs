//! CompleteTask, SuspendTask and ResumeTask.

use std::sync::Arc;

use sundew_attestation::kinds::manifest::ManifestError;
use sundew_attestation::{AppraisalError, BindingPurpose};
use sundew_core::Cause;
use sundew_proto::v1;

use crate::clock;
use crate::refusal::Refusal;
use crate::testing::{Agent, Begun, TestBroker, assert_refused};

async fn complete(
    broker: &TestBroker,
    agent: &Agent,
    begun: &Begun,
    outcome: v1::Outcome,
) -> Result<v1::Outcome, Refusal> {
    let request = v1::CompleteTaskRequest {
        task_id: begun.id.clone(),
        outcome: outcome.into(),
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    let answer = tasks.complete(agent.peer.clone(), request).await?;
    Ok(answer.outcome())
}

async fn suspend(broker: &TestBroker, agent: &Agent, begun: &Begun) -> Result<(), Refusal> {
    let request = v1::SuspendTaskRequest {
        task_id: begun.id.clone(),
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    tasks.suspend(agent.peer.clone(), request).await.map(drop)
}

async fn resume(
    broker: &TestBroker,
    agent: &Agent,
    begun: &Begun,
    (nonce, evidence): (Vec<u8>, Vec<v1::Evidence>),
) -> Result<v1::Token, Refusal> {
    let request = v1::ResumeTaskRequest {
        task_id: begun.id.clone(),
        nonce,
        evidence,
        idempotency_key: "resume".to_owned(),
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    let answer = tasks.resume(agent.peer.clone(), request).await?;
    Ok(answer.token.unwrap())
}

#[tokio::test]
async fn a_task_has_one_outcome_the_first() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    for outcome in [v1::Outcome::Failed, v1::Outcome::Completed] {
        let answer = complete(&broker, &agent, &begun, outcome).await;
        assert_eq!(answer.unwrap(), v1::Outcome::Failed);
    }
    let records = broker.journal("task_ended");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].field("outcome"), Some("failed"));
    assert_eq!(records[0].field("actor"), Some(agent.peer.id().as_str()));
    let store = broker.ledger.records.store();
    let workload = Some(agent.peer.id().as_str());
    assert!(store.tasks(workload, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_owner_cannot_claim_an_outcome_that_the_broker_decides() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    for outcome in [
        v1::Outcome::Expired,
        v1::Outcome::Abandoned,
        v1::Outcome::Revoked,
    ] {
        let answer = complete(&broker, &agent, &begun, outcome).await;
        assert_refused!(
            answer,
            Refusal::Invalid {
                field: "outcome",
                ..
            }
        );
    }
    assert!(broker.is_active(&begun.token, &agent).await);
}

#[tokio::test]
async fn a_task_that_is_completed_after_its_deadline_has_expired() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    clock::testing::advance_to(begun.task.deadline_ms);
    let answer = complete(&broker, &agent, &begun, v1::Outcome::Completed).await;
    assert_eq!(answer.unwrap(), v1::Outcome::Expired);
}

#[tokio::test]
async fn a_task_that_a_rule_has_killed_was_revoked() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let selector = v1::Selector {
        spiffe_id: agent.peer.id().to_string(),
        ..v1::Selector::default()
    };
    broker.respond(selector, v1::Effect::Revoke).await;
    let answer = complete(&broker, &agent, &begun, v1::Outcome::Completed).await;
    assert_eq!(answer.unwrap(), v1::Outcome::Revoked);
}

#[tokio::test]
async fn another_certificate_ends_suspends_and_resumes_nothing() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let other = broker.agent("/agent");
    let completed = complete(&broker, &other, &begun, v1::Outcome::Completed).await;
    assert_refused!(completed, Refusal::Binding);
    assert_refused!(suspend(&broker, &other, &begun).await, Refusal::Binding);
    let proof = other.proof(BindingPurpose::ResumeTask);
    let resumed = resume(&broker, &other, &begun, proof).await;
    assert_refused!(resumed, Refusal::Binding);
    assert!(broker.is_active(&begun.token, &agent).await);
}

#[tokio::test]
async fn suspending_kills_tokens_and_is_on_the_record_once() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    suspend(&broker, &agent, &begun).await.unwrap();
    suspend(&broker, &agent, &begun).await.unwrap();
    assert!(!broker.is_active(&begun.token, &agent).await);
    assert_eq!(broker.journal("task_suspended").len(), 1);
    let token = broker.mint(begun.mint(), &agent).await;
    assert_refused!(token, Refusal::TaskDead(Cause::Suspended));
}

#[tokio::test]
async fn a_dead_task_is_neither_suspended_nor_resumed() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let answer = complete(&broker, &agent, &begun, v1::Outcome::Completed).await;
    answer.unwrap();
    let suspended = suspend(&broker, &agent, &begun).await;
    assert_refused!(suspended, Refusal::TaskDead(Cause::TaskEnded(_)));
    let proof = agent.proof(BindingPurpose::ResumeTask);
    let resumed = resume(&broker, &agent, &begun, proof).await;
    assert_refused!(resumed, Refusal::TaskDead(Cause::TaskEnded(_)));
}

#[tokio::test]
async fn resuming_gives_a_new_token_and_the_old_ones_stay_dead() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let minted = broker.mint(begun.mint(), &agent).await.unwrap();
    suspend(&broker, &agent, &begun).await.unwrap();
    let proof = agent.proof(BindingPurpose::ResumeTask);
    let token = resume(&broker, &agent, &begun, proof).await.unwrap();
    assert!(broker.is_active(&token, &agent).await);
    assert!(!broker.is_active(&begun.token, &agent).await);
    assert!(!broker.is_active(&minted, &agent).await);
    assert_eq!(broker.journal("task_resumed").len(), 1);
}

#[tokio::test]
async fn each_resumption_gives_a_live_token_though_the_key_is_the_same() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let mut tokens: Vec<v1::Token> = Vec::new();
    for _ in 0..3 {
        suspend(&broker, &agent, &begun).await.unwrap();
        let proof = agent.proof(BindingPurpose::ResumeTask);
        let token = resume(&broker, &agent, &begun, proof).await.unwrap();
        assert!(broker.is_active(&token, &agent).await);
        // A retry gets the same.
        let proof = agent.proof(BindingPurpose::ResumeTask);
        let again = resume(&broker, &agent, &begun, proof).await.unwrap();
        assert_eq!(again.token, token.token);
        assert!(tokens.iter().all(|before| before.token != token.token));
        tokens.push(token);
    }
}

#[tokio::test]
async fn resuming_needs_a_challenge_that_was_not_used() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    suspend(&broker, &agent, &begun).await.unwrap();
    let nothing = resume(&broker, &agent, &begun, (Vec::new(), Vec::new())).await;
    assert_refused!(nothing, Refusal::Challenge);
    let proof = agent.proof(BindingPurpose::ResumeTask);
    resume(&broker, &agent, &begun, proof.clone())
        .await
        .unwrap();
    let again = resume(&broker, &agent, &begun, proof).await;
    assert_refused!(again, Refusal::Challenge);
}

#[tokio::test]
async fn resuming_needs_evidence_that_was_made_for_it() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    suspend(&broker, &agent, &begun).await.unwrap();
    let without = (agent.nonce(), Vec::new());
    assert_refused!(
        resume(&broker, &agent, &begun, without).await,
        Refusal::Appraisal(AppraisalError::Missing)
    );
    let for_a_task = agent.proof(BindingPurpose::BeginTask);
    assert_refused!(
        resume(&broker, &agent, &begun, for_a_task).await,
        Refusal::Appraisal(AppraisalError::Manifest(ManifestError::Binding))
    );
    assert!(broker.journal("task_resumed").is_empty());
}

#[tokio::test]
async fn a_task_is_not_resumed_on_evidence_of_something_else() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    suspend(&broker, &agent, &begun).await.unwrap();
    let agent = agent.with_model("m-2");
    let proof = agent.proof(BindingPurpose::ResumeTask);
    let resumed = resume(&broker, &agent, &begun, proof).await;
    assert_refused!(resumed, Refusal::EvidenceChanged(_));
    assert!(broker.journal("task_resumed").is_empty());
}
