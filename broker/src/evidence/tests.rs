//! What registrars see of evidence, and what they let verifiers trust.

mod replaced;

use std::sync::Arc;

use serde_json::json;
use sundew_attestation::AppraisalError;
use sundew_core::store::DocumentKind;
use sundew_proto::v1;

use crate::liveness::Subscriber as _;
use crate::refusal::Refusal;
use crate::testing::documents::{put, put_back, stored};
use crate::testing::{TestBroker, assert_refused};

async fn add(broker: &TestBroker, kind: &str, name: &str) -> Result<String, Refusal> {
    let answer = add_content(broker, kind, name, b"approved").await?;
    Ok(answer.action)
}

async fn add_content(
    broker: &TestBroker,
    kind: &str,
    name: &str,
    content: &[u8],
) -> Result<v1::AddTrustResponse, Refusal> {
    let request = v1::AddTrustRequest {
        kind: kind.to_owned(),
        name: name.to_owned(),
        content: content.to_vec(),
    };
    let items = Arc::clone(&broker.rooms.trust_items);
    items.add_trust(broker.operator(), request).await
}

async fn remove(
    broker: &TestBroker,
    name: &str,
    reason: &str,
) -> Result<v1::RemoveTrustResponse, Refusal> {
    let request = v1::RemoveTrustRequest {
        kind: "reference".to_owned(),
        name: name.to_owned(),
        reason: reason.to_owned(),
    };
    let items = Arc::clone(&broker.rooms.trust_items);
    items.remove_trust(broker.operator(), request).await
}

async fn listed(broker: &TestBroker) -> Vec<String> {
    let items = Arc::clone(&broker.rooms.trust_items);
    let answer = items.list_trust(broker.operator(), v1::ListTrustRequest {});
    let items = answer.await.unwrap().items;
    items.into_iter().map(|item| item.name).collect()
}

/// A registration of `/agent` whose model must be one of the reference values.
async fn register_by_reference(broker: &TestBroker) {
    let mut document = broker.registration("/agent", json!({}));
    document["evidence"][0]["claims"] = json!({ "model": { "reference": "models" } });
    broker.register("/agent", document).await;
}

#[tokio::test]
async fn a_registrar_hears_why_evidence_was_refused_and_the_caller_does_not() {
    let broker = TestBroker::start().await;
    let (agent, _) = broker.agent_with_task().await;
    let nothing = v1::BeginTaskRequest {
        evidence: Vec::new(),
        ..agent.request(&["exec:git"])
    };
    let refused = broker.begin(nothing, &agent).await.err().unwrap();
    assert_eq!(refused.status("c").message(), "not permitted");
    let explain = |spiffe_id: &str, limit| {
        let request = v1::ExplainEvidenceRequest {
            spiffe_id: spiffe_id.to_owned(),
            limit,
        };
        Arc::clone(&broker.rooms.evidence).explain_evidence(broker.operator(), request)
    };
    let attempts = explain("", 0).await.unwrap().attempts;
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[0].refusal, refused.to_string());
    assert_eq!(attempts[0].spiffe_id, agent.peer.id().as_str());
    assert_eq!(attempts[1].assurance, "claimed");
    assert_eq!(attempts[1].shown, ["manifest"]);
    assert_eq!(explain("", 1).await.unwrap().attempts, attempts[..1]);
    let other = explain("spiffe://test.example/other", 0).await;
    assert!(other.unwrap().attempts.is_empty());
    assert_refused!(
        explain("", 257).await,
        Refusal::Invalid { field: "limit", .. }
    );
}

#[tokio::test]
async fn an_item_is_created_once_and_listed() {
    let broker = TestBroker::start().await;
    for action in ["created", "unchanged"] {
        let added = add(&broker, "reference", "models/m-1").await;
        assert_eq!(added.unwrap(), action);
    }
    assert_eq!(listed(&broker).await, ["models/m-1"]);
    assert_eq!(broker.journal("trust_added").len(), 1);
}

#[tokio::test]
async fn an_item_that_cannot_be_trusted_is_refused_when_it_is_added() {
    let broker = TestBroker::start().await;
    let unknown = add(&broker, "no_such_kind", "a").await;
    assert_refused!(unknown, Refusal::Invalid { field: "kind", .. });
    for kind in ["nitro", "sev_snp", "tdx", "tpm2_ak", "crl", "tpm2_ek_root"] {
        let added = add(&broker, kind, "a").await;
        assert_refused!(
            added,
            Refusal::Invalid {
                field: "content",
                ..
            }
        );
    }
    assert!(listed(&broker).await.is_empty());
    assert!(broker.journal("trust_added").is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_not_removed_and_a_reason_is_needed() {
    let broker = TestBroker::start().await;
    let missing = remove(&broker, "models/m-1", "test").await.unwrap();
    assert_eq!(missing.action, "absent");
    assert!(broker.journal("trust_removed").is_empty());
    add(&broker, "reference", "models/m-1").await.unwrap();
    for reason in [" ", "x".repeat(1025).as_str()] {
        assert_refused!(
            remove(&broker, "models/m-1", reason).await,
            Refusal::Invalid {
                field: "reason",
                ..
            }
        );
    }
    assert_eq!(listed(&broker).await, ["models/m-1"]);
}

#[tokio::test]
async fn a_task_begins_on_a_value_that_is_trusted_and_dies_when_it_is_withdrawn() {
    let broker = TestBroker::start().await;
    register_by_reference(&broker).await;
    let agent = broker.agent("/agent");
    let early = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert_refused!(early, Refusal::Appraisal(AppraisalError::Claim { .. }));
    for name in ["models/m-1", "models/m-2"] {
        add(&broker, "reference", name).await.unwrap();
    }
    let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
    let begun = begun.unwrap();
    let other = broker.agent("/agent").with_model("m-2");
    let kept = broker.begin(other.request(&["exec:git"]), &other).await;

    let removed = remove(&broker, "models/m-1", "withdrawn").await;
    let revocations = removed.unwrap().revocations;
    assert_eq!(revocations.len(), 1);
    assert_eq!(revocations[0].spiffe_id, agent.peer.id().as_str());
    assert!(!broker.is_active(&begun.token, &agent).await);
    assert!(broker.is_active(&kept.unwrap().token, &other).await);
    let late = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert_refused!(late, Refusal::Appraisal(AppraisalError::Claim { .. }));
}

/// L22: whoever withdraws an item that somebody has put an older one in place of ends everything
/// that may rest on it.
#[tokio::test]
async fn l22_withdrawing_an_item_that_was_put_back_ends_what_rests_on_the_newer_one() {
    let broker = TestBroker::start().await;
    register_by_reference(&broker).await;
    let kind = DocumentKind::Trust;
    put(&broker, kind, 1).await.unwrap().unwrap();
    let old = stored(&broker, kind).await.unwrap();
    put(&broker, kind, 2).await.unwrap().unwrap();
    let agent = broker.agent("/agent");
    let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
    let begun = begun.unwrap();
    put_back(&broker, kind, Some(&old)).await;
    let removed = remove(&broker, "models/m-1", "test").await.unwrap();
    assert_eq!(removed.action, "deleted");
    assert!(!broker.is_active(&begun.token, &agent).await);
}

/// L22: nor does it help to take the item away before it is withdrawn.
#[tokio::test]
async fn l22_withdrawing_an_item_that_is_gone_ends_what_rests_on_it() {
    let broker = TestBroker::start().await;
    register_by_reference(&broker).await;
    let kind = DocumentKind::Trust;
    put(&broker, kind, 1).await.unwrap().unwrap();
    let agent = broker.agent("/agent");
    let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
    let begun = begun.unwrap();
    put_back(&broker, kind, None).await;
    Arc::clone(&broker.ledger.records).on_gap();
    let removed = remove(&broker, "models/m-1", "test").await.unwrap();
    assert_eq!(removed.action, "absent");
    assert!(!broker.is_active(&begun.token, &agent).await);
}
