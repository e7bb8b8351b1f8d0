//! BeginTask: each refusal once, and what a task leaves in journal and store.

mod retry;

use std::time::Duration;

use serde_json::json;
use sundew_attestation::kinds::manifest::ManifestError;
use sundew_attestation::{AppraisalError, BindingPurpose};
use sundew_core::store::DocumentKind;
use sundew_core::{Credential, Denial, TaskId, Ttl, WorkloadRecord};
use sundew_proto::v1;

use crate::clock;
use crate::records::DocumentPlace;
use crate::refusal::Refusal;
use crate::testing::{Agent, FRESHNESS, MAX_TEXT, TestBroker, assert_refused};

/// A broker with `/agent` registered, and that agent.
async fn registered() -> (TestBroker, Agent) {
    let broker = TestBroker::start().await;
    broker.register("/agent", json!({})).await;
    let agent = broker.agent("/agent");
    (broker, agent)
}

/// How many tasks the workload of an agent has on its list.
async fn tasks_of(broker: &TestBroker, agent: &Agent) -> usize {
    let store = broker.ledger.records.store();
    let tasks = store.tasks(Some(agent.peer.id().as_str()), 100).await;
    tasks.unwrap().len()
}

/// Nothing of a refused call may stay.
async fn assert_nothing_was_begun(broker: &TestBroker, agent: &Agent) {
    assert_eq!(tasks_of(broker, agent).await, 0);
    assert!(broker.journal("task_begun").is_empty());
}

#[tokio::test]
async fn a_task_is_on_the_record_and_in_the_store_with_what_was_asked() {
    let (broker, agent) = registered().await;
    let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
    let begun = begun.unwrap();
    let now_ms = clock::now_ms();
    assert_eq!(begun.task.spiffe_id, agent.peer.id().as_str());
    assert_eq!(begun.task.scopes, ["exec:git"]);
    assert_eq!(begun.task.created_at_ms, now_ms);
    assert_eq!(begun.task.deadline_ms, now_ms + 3_600_000);
    assert_eq!(begun.token.expires_at_ms, now_ms + 900_000);
    assert_eq!(begun.token.binding(), v1::Binding::Certificate);

    let [record] = &broker.journal("task_begun")[..] else {
        panic!("one record");
    };
    for (field, value) in [
        ("task", begun.id.as_str()),
        ("workload", agent.peer.id().as_str()),
        ("purpose", "test"),
        ("instruction", "do the test"),
        ("scopes", "exec:git"),
        ("token_id", begun.token.token_id.as_str()),
        ("assurance", "claimed"),
        ("fresh.manifest", "true"),
    ] {
        assert_eq!(record.field(field), Some(value), "{field}");
    }

    let credential = Credential::parse(&begun.token.token).unwrap();
    let store = broker.ledger.records.store();
    let id = TaskId::parse(&begun.id).unwrap();
    assert_eq!(credential.task(), id);
    let stored = store.task(id).await.unwrap().expect("the task");
    assert!(stored.bindings.is_empty());
    let token = store.token(id, &credential.hash()).await.unwrap();
    assert!(token.is_some());
    assert_eq!(tasks_of(&broker, &agent).await, 1);
    assert!(broker.is_active(&begun.token, &agent).await);
}

#[tokio::test]
async fn an_unregistered_workload_gets_neither_a_challenge_nor_a_task() {
    let broker = TestBroker::start().await;
    let agent = broker.agent("/agent");
    let tasks = std::sync::Arc::clone(&broker.rooms.tasks);
    let challenge = tasks.challenge(agent.peer.clone(), v1::ChallengeRequest {});
    assert_refused!(challenge.await, Refusal::Unregistered);
    let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert_refused!(begun, Refusal::Unregistered);
    assert_nothing_was_begun(&broker, &agent).await;
}

#[tokio::test]
async fn a_challenge_says_until_when_and_with_what_it_is_to_be_answered() {
    let (broker, agent) = registered().await;
    let tasks = std::sync::Arc::clone(&broker.rooms.tasks);
    let challenge = tasks.challenge(agent.peer.clone(), v1::ChallengeRequest {});
    let challenge = challenge.await.unwrap();
    assert_eq!(challenge.expires_at_ms, clock::now_ms() + 60_000);
    assert_eq!(challenge.evidence_sets[0].kinds, ["manifest"]);
    assert!(agent.peer.channel().consume(&challenge.nonce));
}

#[tokio::test]
async fn without_a_challenge_of_this_connection_no_task_begins() {
    let (broker, agent) = registered().await;
    let elsewhere = broker.agent("/agent").nonce();
    for nonce in [Vec::new(), vec![7; 32], elsewhere] {
        let request = v1::BeginTaskRequest {
            evidence: agent.evidence(BindingPurpose::BeginTask, &nonce),
            nonce,
            ..agent.request(&["exec:git"])
        };
        assert_refused!(broker.begin(request, &agent).await, Refusal::Challenge);
    }
    assert_nothing_was_begun(&broker, &agent).await;
}

#[tokio::test]
async fn a_challenge_is_used_once() {
    let (broker, agent) = registered().await;
    let request = agent.request(&["exec:git"]);
    broker.begin(request.clone(), &agent).await.unwrap();
    assert_refused!(broker.begin(request, &agent).await, Refusal::Challenge);
}

#[tokio::test]
async fn a_refused_call_has_used_its_challenge() {
    let (broker, agent) = registered().await;
    let request = agent.request(&["exec:git"]);
    let malformed = v1::BeginTaskRequest {
        purpose: String::new(),
        ..request.clone()
    };
    assert!(broker.begin(malformed, &agent).await.is_err());
    assert_refused!(broker.begin(request, &agent).await, Refusal::Challenge);
}

#[tokio::test]
async fn a_challenge_is_good_for_less_than_a_minute() {
    let (broker, agent) = registered().await;
    let (in_time, late) = (agent.request(&["exec:git"]), agent.request(&["exec:git"]));
    clock::testing::advance(Duration::from_millis(59_999));
    assert!(broker.begin(in_time, &agent).await.is_ok());
    clock::testing::advance(Duration::from_millis(1));
    assert_refused!(broker.begin(late, &agent).await, Refusal::Challenge);
}

#[tokio::test]
async fn a_scope_outside_of_the_registration_is_refused_before_evidence_is_looked_at() {
    let (broker, agent) = registered().await;
    let request = v1::BeginTaskRequest {
        evidence: Vec::new(),
        ..agent.request(&["exec:git", "exec:make"])
    };
    let begun = broker.begin(request, &agent).await;
    assert_refused!(begun, Refusal::Denied(Denial::Scope));
    assert_nothing_was_begun(&broker, &agent).await;
}

#[tokio::test]
async fn without_evidence_no_task_begins() {
    let (broker, agent) = registered().await;
    let request = v1::BeginTaskRequest {
        evidence: Vec::new(),
        ..agent.request(&["exec:git"])
    };
    let begun = broker.begin(request, &agent).await;
    assert_refused!(begun, Refusal::Appraisal(AppraisalError::Missing));
    assert_nothing_was_begun(&broker, &agent).await;
}

#[tokio::test]
async fn evidence_of_another_kind_begins_no_task() {
    let (broker, agent) = registered().await;
    let mut request = agent.request(&["exec:git"]);
    request.evidence[0].kind = "oidc".to_owned();
    assert_refused!(broker.begin(request, &agent).await, Refusal::Appraisal(_));
    assert_nothing_was_begun(&broker, &agent).await;
}

#[tokio::test]
async fn evidence_for_another_challenge_or_purpose_begins_no_task() {
    let (broker, agent) = registered().await;
    let nonce = agent.nonce();
    for evidence in [
        agent.evidence(BindingPurpose::BeginTask, &[7; 32]),
        agent.evidence(BindingPurpose::ResumeTask, &nonce),
    ] {
        let request = v1::BeginTaskRequest {
            nonce: agent.nonce(),
            evidence,
            ..agent.request(&["exec:git"])
        };
        assert_refused!(
            broker.begin(request, &agent).await,
            Refusal::Appraisal(AppraisalError::Manifest(ManifestError::Binding))
        );
    }
    assert_nothing_was_begun(&broker, &agent).await;
}

#[tokio::test]
async fn evidence_by_the_key_of_another_svid_begins_no_task() {
    let (broker, agent) = registered().await;
    let mut request = agent.request(&["exec:git"]);
    let other = broker.agent("/agent");
    request.evidence = other.evidence(BindingPurpose::BeginTask, &request.nonce);
    assert_refused!(
        broker.begin(request, &agent).await,
        Refusal::Appraisal(AppraisalError::Manifest(ManifestError::Binding))
    );
    assert_nothing_was_begun(&broker, &agent).await;
}

#[tokio::test]
async fn a_manifest_that_the_platform_team_has_not_signed_begins_no_task() {
    let (broker, agent) = registered().await;
    let agent = agent.with_own_signer();
    let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert_refused!(
        begun,
        Refusal::Appraisal(AppraisalError::Manifest(ManifestError::Envelope(_)))
    );
    assert_nothing_was_begun(&broker, &agent).await;
}

#[tokio::test]
async fn a_quarantined_workload_begins_no_task() {
    let (broker, agent) = registered().await;
    let selector = v1::Selector {
        spiffe_id: agent.peer.id().to_string(),
        ..v1::Selector::default()
    };
    broker.respond(selector, v1::Effect::Quarantine).await;
    let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert_refused!(begun, Refusal::Quarantined);
    assert_nothing_was_begun(&broker, &agent).await;
}

#[tokio::test]
async fn a_workload_has_no_more_tasks_than_it_may_until_one_ends() {
    let broker = TestBroker::start().await;
    broker.register("/agent", json!({ "max_tasks": 1 })).await;
    let agent = broker.agent("/agent");
    let first = broker.begin(agent.request(&["exec:git"]), &agent).await;
    let second = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert_refused!(second, Refusal::TaskLimit);
    let complete = v1::CompleteTaskRequest {
        task_id: first.unwrap().id,
        outcome: 0,
    };
    let tasks = std::sync::Arc::clone(&broker.rooms.tasks);
    tasks.complete(agent.peer.clone(), complete).await.unwrap();
    let third = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert!(third.is_ok());
}

#[tokio::test]
async fn each_malformed_field_is_named() {
    let (broker, agent) = registered().await;
    let long = "x".repeat(MAX_TEXT + 1);
    type Change<'a> = Box<dyn Fn(&mut v1::BeginTaskRequest) + 'a>;
    let cases: [(&str, Change<'_>); 8] = [
        ("purpose", Box::new(|r| r.purpose = " ".to_owned())),
        ("purpose", Box::new(|r| r.purpose = long.clone())),
        ("instruction", Box::new(|r| r.instruction = long.clone())),
        ("scopes", Box::new(|r| r.scopes.clear())),
        ("ttl_ms", Box::new(|r| r.ttl_ms = -1)),
        ("binding", Box::new(|r| r.binding = 99)),
        ("audience", Box::new(|r| r.audience = vec![String::new()])),
        (
            "idempotency_key",
            Box::new(|r| r.idempotency_key = "a b".to_owned()),
        ),
    ];
    for (named, change) in cases {
        let mut request = agent.request(&["exec:git"]);
        change(&mut request);
        match broker.begin(request, &agent).await {
            Err(Refusal::Invalid { field, .. }) => assert_eq!(field, named),
            Err(other) => panic!("{named}: {other}"),
            Ok(_) => panic!("{named} was taken"),
        }
    }
    assert_nothing_was_begun(&broker, &agent).await;
}

#[tokio::test]
async fn a_binding_that_the_registration_does_not_allow_is_refused() {
    let (broker, agent) = registered().await;
    let request = v1::BeginTaskRequest {
        binding: v1::Binding::Bearer.into(),
        ..agent.request(&["exec:git"])
    };
    let begun = broker.begin(request, &agent).await;
    assert_refused!(begun, Refusal::Denied(Denial::Binding));
}

#[tokio::test]
async fn a_task_lives_no_longer_than_its_registration_allows() {
    let (broker, agent) = registered().await;
    for (asked_ms, given_ms) in [(60_000, 60_000), (7_200_000, 3_600_000)] {
        let request = v1::BeginTaskRequest {
            ttl_ms: asked_ms,
            ..agent.request(&["exec:git"])
        };
        let task = broker.begin(request, &agent).await.unwrap().task;
        assert_eq!(task.deadline_ms - clock::now_ms(), given_ms);
    }
}

#[tokio::test]
async fn l3_no_task_lives_longer_than_this_broker_allows_whatever_its_registration_says() {
    let (broker, agent) = registered().await;
    // Written while the limit was higher; the registry would refuse it now.
    let document = broker.registration("/agent", json!({ "max_task_ttl": "30d" }));
    let record = WorkloadRecord {
        registration: serde_json::from_value(document).unwrap(),
        version: "earlier".to_owned(),
        applied_at_ms: clock::now_ms(),
        applied_by: String::new(),
    };
    let records = &broker.ledger.records;
    let place = DocumentPlace::new(DocumentKind::Workload, agent.peer.id().as_str());
    let before = records.before_change(place).await.unwrap();
    let body = record.encode();
    let written = records.write_document(place, &before, &body);
    assert!(written.await.unwrap().is_some());
    for ttl_ms in [0, 7 * 86_400_000] {
        let request = v1::BeginTaskRequest {
            ttl_ms,
            ..agent.request(&["exec:git"])
        };
        let task = broker.begin(request, &agent).await.unwrap().task;
        assert_eq!(task.deadline_ms - clock::now_ms(), Ttl::DAY.as_ms());
    }
}

#[tokio::test]
async fn on_a_stale_view_no_task_begins() {
    let (broker, agent) = registered().await;
    clock::testing::advance(FRESHNESS);
    let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert_refused!(begun, Refusal::Stale(_));
    assert_nothing_was_begun(&broker, &agent).await;
}

/// L9: only who attends is asked for evidence, so nobody is unattended for much longer than that.
#[tokio::test]
async fn l9_a_task_that_must_prove_itself_is_not_unattended_for_much_longer() {
    let broker = TestBroker::start().await;
    for (proving, grace_ms) in [(json!("5s"), 7500), (json!("90s"), 60_000)] {
        let changes = json!({ "attendance_grace": "60s", "prove_every": proving });
        broker.register("/agent", changes).await;
        let agent = broker.agent("/agent");
        let tasks = std::sync::Arc::clone(&broker.rooms.tasks);
        let begun = tasks.begin(agent.peer.clone(), agent.request(&["exec:git"]));
        assert_eq!(begun.await.unwrap().attendance_grace_ms, grace_ms);
    }
}
