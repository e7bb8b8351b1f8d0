//! GetSecret: a stored secret, to the bound caller, while the task lives.

use std::sync::Arc;

use serde_json::{Value, json};
use sundew_attestation::kinds::manifest::ManifestError;
use sundew_attestation::{AppraisalError, BindingPurpose};
use sundew_core::{Cause, Denial};
use sundew_proto::v1;

use crate::clock;
use crate::refusal::Refusal;
use crate::testing::{Agent, Begun, TestBroker, assert_refused};

/// A broker that has a secret, and an agent whose task may read it.
async fn with_secret(changes: Value) -> (TestBroker, Agent, Begun) {
    let broker = TestBroker::start().await;
    broker.register("/agent", changes).await;
    broker.put_secret("app/db", "hunter2").await;
    let agent = broker.agent("/agent");
    let request = agent.request(&["secret:app/db", "secret:app/mail"]);
    let begun = broker.begin(request, &agent).await.unwrap();
    (broker, agent, begun)
}

async fn read(
    broker: &TestBroker,
    agent: &Agent,
    request: v1::GetSecretRequest,
) -> Result<v1::GetSecretResponse, Refusal> {
    let tasks = Arc::clone(&broker.rooms.tasks);
    tasks
        .secret(agent.peer.clone(), request, broker.place())
        .await
}

fn request(begun: &Begun, name: &str) -> v1::GetSecretRequest {
    v1::GetSecretRequest {
        task_id: begun.id.clone(),
        name: name.to_owned(),
        ..v1::GetSecretRequest::default()
    }
}

#[tokio::test]
async fn a_secret_is_read_and_its_reading_is_on_the_record_without_its_value() {
    let (broker, agent, begun) = with_secret(json!({})).await;
    let answer = read(&broker, &agent, request(&begun, "app/db")).await;
    let answer = answer.unwrap();
    assert_eq!(
        (answer.value.as_slice(), answer.version),
        (&b"hunter2"[..], 1)
    );
    assert_eq!(answer.expires_at_ms, begun.task.deadline_ms);
    let records = broker.journal("secret_read");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].field("secret"), Some("app/db"));
    assert_eq!(records[0].field("task"), Some(begun.id.as_str()));
    let text = serde_json::to_string(&records).unwrap();
    assert!(!text.contains("hunter2"));
}

#[tokio::test]
async fn a_secret_outside_of_the_task_or_of_the_registration_of_today_is_refused() {
    let (broker, agent, begun) = with_secret(json!({})).await;
    let outside = read(&broker, &agent, request(&begun, "app/other")).await;
    assert_refused!(outside, Refusal::Denied(Denial::Scope));
    let narrower = json!({ "scopes": ["exec:git"] });
    broker.register("/agent", narrower).await;
    let narrowed = read(&broker, &agent, request(&begun, "app/db")).await;
    assert_refused!(narrowed, Refusal::TaskDead(_));
    assert!(broker.journal("secret_read").is_empty());
}

#[tokio::test]
async fn a_secret_that_does_not_exist_is_not_found_and_a_malformed_name_is_named() {
    let (broker, agent, begun) = with_secret(json!({})).await;
    let missing = read(&broker, &agent, request(&begun, "app/mail")).await;
    assert_refused!(missing, Refusal::NotFound("secret"));
    let malformed = read(&broker, &agent, request(&begun, "app//db")).await;
    assert_refused!(malformed, Refusal::Invalid { field: "name", .. });
}

#[tokio::test]
async fn another_certificate_reads_nothing() {
    let (broker, _, begun) = with_secret(json!({})).await;
    let other = broker.agent("/agent");
    let answer = read(&broker, &other, request(&begun, "app/db")).await;
    assert_refused!(answer, Refusal::Binding);
}

#[tokio::test]
async fn a_task_that_is_suspended_or_past_its_deadline_reads_nothing() {
    let (broker, agent, begun) = with_secret(json!({})).await;
    let suspend = v1::SuspendTaskRequest {
        task_id: begun.id.clone(),
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    tasks.suspend(agent.peer.clone(), suspend).await.unwrap();
    let suspended = read(&broker, &agent, request(&begun, "app/db")).await;
    assert_refused!(suspended, Refusal::TaskDead(Cause::Suspended));
    clock::testing::advance_to(begun.task.deadline_ms);
    let late = read(&broker, &agent, request(&begun, "app/db")).await;
    assert_refused!(late, Refusal::TaskDead(_));
}

#[tokio::test]
async fn a_quarantined_workload_reads_nothing() {
    let (broker, agent, begun) = with_secret(json!({})).await;
    let selector = v1::Selector {
        spiffe_id: agent.peer.id().to_string(),
        ..v1::Selector::default()
    };
    broker.respond(selector, v1::Effect::Quarantine).await;
    let answer = read(&broker, &agent, request(&begun, "app/db")).await;
    assert_refused!(answer, Refusal::Quarantined);
}

#[tokio::test]
async fn where_secrets_want_evidence_each_one_wants_its_own() {
    let (broker, agent, begun) = with_secret(json!({ "evidence_at_secrets": true })).await;
    let with = |(nonce, evidence): (Vec<u8>, Vec<v1::Evidence>)| v1::GetSecretRequest {
        nonce,
        evidence,
        ..request(&begun, "app/db")
    };
    let without = read(&broker, &agent, request(&begun, "app/db")).await;
    assert_refused!(without, Refusal::Challenge);
    let for_a_task = with(agent.proof(BindingPurpose::BeginTask));
    assert_refused!(
        read(&broker, &agent, for_a_task).await,
        Refusal::Appraisal(AppraisalError::Manifest(ManifestError::Binding))
    );
    let proof = agent.proof(BindingPurpose::GetSecret);
    let answer = read(&broker, &agent, with(proof.clone())).await;
    assert_eq!(answer.unwrap().value, b"hunter2");
    let again = read(&broker, &agent, with(proof)).await;
    assert_refused!(again, Refusal::Challenge);
    let records = broker.journal("secret_read");
    assert_eq!(records.len(), 1);
    assert!(records[0].field("evidence").is_some());
}
