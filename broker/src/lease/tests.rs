//! Engines and leases over a store without a process, and without a target: what is refused before
//! a target is asked, and what is left when it does not answer.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sundew_attestation::BindingPurpose;
use sundew_proto::v1;

use crate::clock;
use crate::refusal::Refusal;
use crate::testing::{Agent, Begun, TestBroker, assert_refused};

/// An engine whose target nobody answers for, with changes.
fn engine(changes: Value) -> String {
    let mut document = json!({
        "name": "app/cache",
        "target": { "kind": "redis", "host": "127.0.0.1", "port": 1 },
        "roles": { "reader": { "grants": ["+get", "~app:*"] } },
    });
    if let (Some(document), Value::Object(changes)) = (document.as_object_mut(), changes) {
        document.extend(changes);
    }
    document.to_string()
}

async fn put(broker: &TestBroker, document: String, unchecked: bool) -> Result<String, Refusal> {
    let request = v1::PutEngineRequest {
        document,
        password: b"hunter2".to_vec(),
        unchecked,
    };
    let leases = Arc::clone(&broker.rooms.leases);
    let answer = leases.put_engine(broker.operator(), request).await?;
    Ok(answer.action)
}

async fn delete(broker: &TestBroker, name: &str) -> Result<String, Refusal> {
    let request = v1::DeleteEngineRequest {
        name: name.to_owned(),
    };
    let leases = Arc::clone(&broker.rooms.leases);
    let answer = leases.delete_engine(broker.operator(), request).await;
    answer.map(|answer| answer.action)
}

async fn engines(broker: &TestBroker) -> Vec<v1::EngineInfo> {
    let leases = Arc::clone(&broker.rooms.leases);
    let answer = leases.list_engines(broker.operator(), v1::ListEnginesRequest {});
    answer.await.unwrap().engines
}

/// Why a document was refused.
async fn problem(broker: &TestBroker, document: String) -> String {
    match put(broker, document, true).await {
        Err(Refusal::Invalid {
            field: "document",
            problem,
        }) => problem,
        Err(other) => panic!("{other}"),
        Ok(action) => panic!("it was {action}"),
    }
}

/// A broker with the engine, and an agent whose task may have a credential of it.
async fn with_engine() -> (TestBroker, Agent, Begun) {
    let broker = TestBroker::start().await;
    put(&broker, engine(json!({})), true).await.unwrap();
    broker.register("/agent", json!({})).await;
    let agent = broker.agent("/agent");
    let request = agent.request(&["secret:app/*"]);
    let begun = broker.begin(request, &agent).await.unwrap();
    (broker, agent, begun)
}

async fn read(broker: &TestBroker, agent: &Agent, begun: &Begun, name: &str) -> Refusal {
    let request = v1::GetSecretRequest {
        task_id: begun.id.clone(),
        name: name.to_owned(),
        ..v1::GetSecretRequest::default()
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    let answer = tasks
        .secret(agent.peer.clone(), request, broker.place())
        .await;
    answer.err().unwrap()
}

#[tokio::test]
async fn a_document_that_is_none_is_refused() {
    let broker = TestBroker::start().await;
    for document in ["", "{", "{}"] {
        problem(&broker, document.to_owned()).await;
    }
    let unknown = engine(json!({ "no_such_member": 1 }));
    let problem = problem(&broker, unknown).await;
    assert!(problem.contains("no_such_member"), "{problem}");
}

#[tokio::test]
async fn every_problem_of_an_engine_is_told_at_once() {
    let broker = TestBroker::start().await;
    let wrong = engine(json!({
        "name": "app//cache",
        "max_connections": 0,
        "target": { "kind": "redis", "host": "cache.test" },
        "roles": { "a/b": { "grants": [" "] } },
    }));
    let problem = problem(&broker, wrong).await;
    for part in [
        "name: ",
        "max_connections: ",
        "roles.a/b: ",
        "roles.a/b.grants: ",
        "target.ca: ",
    ] {
        assert!(problem.contains(part), "{part} in {problem}");
    }
    assert!(engines(&broker).await.is_empty());
    assert!(broker.journal("engine_written").is_empty());
}

#[tokio::test]
async fn an_engine_without_roles_is_refused() {
    let broker = TestBroker::start().await;
    let problem = problem(&broker, engine(json!({ "roles": {} }))).await;
    assert!(problem.contains("roles: "), "{problem}");
}

#[tokio::test]
async fn an_engine_whose_target_does_not_answer_is_refused_unless_told_otherwise() {
    let broker = TestBroker::start().await;
    match put(&broker, engine(json!({})), false).await {
        Err(Refusal::Invalid { problem, .. }) => {
            assert!(problem.contains("the target was tried"), "{problem}");
        }
        Err(other) => panic!("{other}"),
        Ok(action) => panic!("it was {action}"),
    }
    assert!(engines(&broker).await.is_empty());
    let unchecked = put(&broker, engine(json!({})), true).await;
    assert_eq!(unchecked.unwrap(), "created");
}

#[tokio::test]
async fn an_engine_is_changed_in_place_and_keeps_its_password_to_itself() {
    let broker = TestBroker::start().await;
    let put_again = |document, password: &[u8]| {
        let request = v1::PutEngineRequest {
            document,
            password: password.to_vec(),
            unchecked: true,
        };
        Arc::clone(&broker.rooms.leases).put_engine(broker.operator(), request)
    };
    put(&broker, engine(json!({})), true).await.unwrap();
    let same = put_again(engine(json!({})), b"").await;
    assert_eq!(same.unwrap().action, "unchanged");
    let wider = engine(json!({ "max_connections": 8 }));
    let changed = put_again(wider, b"").await;
    assert_eq!(changed.unwrap().action, "changed");
    let listed = engines(&broker).await;
    assert_eq!(listed.len(), 1);
    assert!(listed[0].document.contains(r#""max_connections":8"#));
    let records = serde_json::to_string(&broker.journal("engine_written")).unwrap();
    assert!(!listed[0].document.contains("hunter2") && !records.contains("hunter2"));
}

#[tokio::test]
async fn an_engine_without_leases_is_deleted_and_an_unknown_one_is_absent() {
    let broker = TestBroker::start().await;
    let unknown = delete(&broker, "app/cache").await.unwrap();
    assert_eq!(unknown, "absent");
    put(&broker, engine(json!({})), true).await.unwrap();
    assert_eq!(delete(&broker, "app/cache").await.unwrap(), "deleted");
    assert!(engines(&broker).await.is_empty());
    assert_eq!(broker.journal("engine_deleted").len(), 1);
}

#[tokio::test]
async fn a_role_that_an_engine_does_not_have_is_refused() {
    let (broker, agent, begun) = with_engine().await;
    let refusal = read(&broker, &agent, &begun, "app/cache/writer").await;
    assert!(matches!(refusal, Refusal::NotFound("role of an engine")));
    assert_eq!(engines(&broker).await[0].leases, 0);
}

#[tokio::test]
async fn what_a_target_may_have_made_is_remembered_and_keeps_its_engine() {
    let (broker, agent, begun) = with_engine().await;
    let refusal = read(&broker, &agent, &begun, "app/cache/reader").await;
    assert!(matches!(refusal, Refusal::Engine(_)), "{refusal}");

    let listed = engines(&broker).await;
    assert_eq!((listed[0].leases, listed[0].leases_due), (1, 0));
    assert!(listed[0].problem.contains("unreachable"), "{listed:?}");
    assert_refused!(
        delete(&broker, "app/cache").await,
        Refusal::Invalid { field: "name", .. }
    );
    // S3: another broker may have made it meanwhile, so only the end of the task makes it due.
    clock::testing::advance(Duration::from_secs(5));
    assert_eq!(engines(&broker).await[0].leases_due, 0);
}

#[tokio::test]
async fn a_lease_that_is_on_its_way_out_is_not_given_again() {
    let (broker, agent, begun) = with_engine().await;
    let refusal = read(&broker, &agent, &begun, "app/cache/reader").await;
    assert!(matches!(refusal, Refusal::Engine(_)), "{refusal}");
    let store = broker.rooms.leases.ledger.records.store();
    let (leases, _) = store.leases("app/cache", 0).await.unwrap();
    let ids = [leases[0].id];
    let due = store.lease_due("app/cache", &ids, clock::now_ms());
    due.await.unwrap();
    // The target was not asked again: there is no problem of its to tell.
    let refusal = read(&broker, &agent, &begun, "app/cache/reader").await;
    assert!(
        matches!(&refusal, Refusal::Engine(problem) if problem.is_empty()),
        "{refusal}"
    );
    assert_eq!(engines(&broker).await[0].leases, 1);
}

async fn suspend(broker: &TestBroker, agent: &Agent, begun: &Begun) {
    let request = v1::SuspendTaskRequest {
        task_id: begun.id.clone(),
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    tasks.suspend(agent.peer.clone(), request).await.unwrap();
}

async fn resume(broker: &TestBroker, agent: &Agent, begun: &Begun) {
    let (nonce, evidence) = agent.proof(BindingPurpose::ResumeTask);
    let request = v1::ResumeTaskRequest {
        task_id: begun.id.clone(),
        nonce,
        evidence,
        ..v1::ResumeTaskRequest::default()
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    tasks.resume(agent.peer.clone(), request).await.unwrap();
}

#[tokio::test]
async fn l10_a_suspension_ends_leases_and_a_resumed_task_has_others() {
    let (broker, agent, begun) = with_engine().await;
    let leases = Arc::clone(&broker.rooms.leases);
    let mut seen = Vec::new();
    for round in 1..=3_u64 {
        read(&broker, &agent, &begun, "app/cache/reader").await;
        let id = broker.journal("secret_read").pop().unwrap();
        let id = id.field("lease").unwrap().to_owned();
        assert!(!seen.contains(&id), "{id} was there before");
        seen.push(id);
        leases.end_leases_of_dead_tasks(true).await;
        let due = engines(&broker).await[0].leases_due;
        assert_eq!(due, round - 1, "the lease of a running task is not due");
        suspend(&broker, &agent, &begun).await;
        leases.end_leases_of_dead_tasks(false).await;
        let listed = engines(&broker).await;
        assert_eq!((listed[0].leases, listed[0].leases_due), (round, round));
        resume(&broker, &agent, &begun).await;
    }
}

#[tokio::test]
async fn l10_a_lease_from_before_a_suspension_ends_though_the_task_was_resumed() {
    let (broker, agent, begun) = with_engine().await;
    read(&broker, &agent, &begun, "app/cache/reader").await;
    suspend(&broker, &agent, &begun).await;
    resume(&broker, &agent, &begun).await;
    let leases = Arc::clone(&broker.rooms.leases);
    leases.end_leases_of_dead_tasks(false).await;
    assert_eq!(engines(&broker).await[0].leases_due, 1);
}
