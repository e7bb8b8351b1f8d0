//! Registrations over a store without a process.

use std::sync::Arc;

use serde_json::{Value, json};
use sundew_core::store::DocumentKind;
use sundew_proto::v1;

use crate::refusal::Refusal;
use crate::store::embedded::Refused;
use crate::testing::documents::caught_up;
use crate::testing::{DOMAIN, TestBroker, assert_refused};

async fn apply(
    broker: &TestBroker,
    documents: &[String],
    dry_run: bool,
) -> Result<Vec<v1::WorkloadChange>, Refusal> {
    let request = v1::ApplyWorkloadsRequest {
        documents: documents.to_vec(),
        dry_run,
    };
    let registry = Arc::clone(&broker.rooms.registry);
    let applied = registry.apply_workloads(broker.operator(), request).await?;
    Ok(applied.changes)
}

/// The document of `/agent`, with changes.
fn document(broker: &TestBroker, changes: Value) -> String {
    broker.registration("/agent", changes).to_string()
}

async fn stored(broker: &TestBroker) -> usize {
    let store = broker.ledger.records.store();
    store.documents(DocumentKind::Workload).await.unwrap().len()
}

fn id() -> String {
    format!("spiffe://{DOMAIN}/agent")
}

#[tokio::test]
async fn a_registration_is_created_left_alone_and_changed() {
    let broker = TestBroker::start().await;
    let first = document(&broker, json!({}));
    let other = document(&broker, json!({ "max_tasks": 7 }));
    let mut versions = Vec::new();
    for (document, action) in [
        (&first, "created"),
        (&first, "unchanged"),
        (&other, "changed"),
    ] {
        let changes = apply(&broker, std::slice::from_ref(document), false)
            .await
            .unwrap();
        assert_eq!(changes[0].action, action);
        assert_eq!(changes[0].diff.is_empty(), action == "unchanged");
        versions.push(changes[0].version.clone());
    }
    assert_eq!(versions[0], versions[1]);
    assert_ne!(versions[1], versions[2]);
    let records = broker.journal("workload_applied");
    let actions: Vec<_> = records.iter().map(|r| r.field("action").unwrap()).collect();
    assert_eq!(actions, ["created", "changed"]);
    assert!(records[1].field("diff").unwrap().contains("max_tasks"));
}

#[tokio::test]
async fn a_change_holds_for_the_next_call() {
    let broker = TestBroker::start().await;
    broker.register("/agent", json!({})).await;
    let records = &broker.ledger.records;
    let agent = broker.agent("/agent");
    let before = records.workload(agent.peer.id()).await.unwrap().unwrap();
    assert_eq!(before.registration.max_tasks, 100);
    broker.register("/agent", json!({ "max_tasks": 7 })).await;
    let after = records.workload(agent.peer.id()).await.unwrap().unwrap();
    assert_eq!(after.registration.max_tasks, 7);
}

#[tokio::test]
async fn a_dry_run_tells_what_would_change_and_writes_nothing() {
    let broker = TestBroker::start().await;
    let changes = apply(&broker, &[document(&broker, json!({}))], true).await;
    assert_eq!(changes.unwrap()[0].action, "created");
    assert_eq!(stored(&broker).await, 0);
    assert!(broker.journal("workload_applied").is_empty());
}

#[tokio::test]
async fn every_problem_of_every_document_is_told_at_once_and_nothing_is_written() {
    let broker = TestBroker::start().await;
    let wrong = json!({
        "max_token_ttl": "2h",
        "attendance_grace": "10ms",
        "prove_every": "1s",
        "max_tasks": 0,
        "max_delegation_depth": 9,
        "max_delegated_tasks": 0,
        "audiences": [],
        "bindings": [],
        "jwt_svid_audiences": [""],
        "owner": " ",
        "local": [{}],
    });
    let good = broker.registration("/good", json!({})).to_string();
    let documents = [document(&broker, wrong.clone()), "{".to_owned(), good];
    let problem = match apply(&broker, &documents, false).await {
        Err(Refusal::Invalid {
            field: "documents",
            problem,
        }) => problem,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was applied"),
    };
    for field in wrong.as_object().unwrap().keys() {
        assert!(
            problem.contains(&format!("{field}: ")),
            "{field}: {problem}"
        );
    }
    assert!(problem.contains("workload 2: "), "{problem}");
    assert_eq!(stored(&broker).await, 0);
}

/// One document that is refused, and a word of the reason.
async fn assert_problem(broker: &TestBroker, changes: Value, word: &str) {
    match apply(broker, &[document(broker, changes)], false).await {
        Err(Refusal::Invalid { problem, .. }) => assert!(problem.contains(word), "{problem}"),
        Err(other) => panic!("{word}: {other}"),
        Ok(_) => panic!("{word}: it was applied"),
    }
}

#[tokio::test]
async fn what_could_prove_nothing_is_refused() {
    let broker = TestBroker::start().await;
    assert_problem(&broker, json!({ "evidence": [] }), "evidence").await;
    let unknown = json!([{ "kind": "oidc", "issuer": "https://unknown.test", "claims": {} }]);
    assert_problem(&broker, json!({ "evidence": unknown }), "evidence").await;
    assert_problem(&broker, json!({ "scopes": [] }), "scopes").await;
    assert_problem(&broker, json!({ "scopes": ["*"] }), "scopes").await;
    assert_problem(&broker, json!({ "no_such_member": 1 }), "no_such_member").await;
}

#[tokio::test]
async fn no_registration_allows_longer_tasks_than_the_broker_does() {
    let broker = TestBroker::start().await;
    assert_problem(&broker, json!({ "max_task_ttl": "2d" }), "max_task_ttl").await;
}

#[tokio::test]
async fn a_workload_that_is_named_twice_is_refused() {
    let broker = TestBroker::start().await;
    let twice = [
        document(&broker, json!({})),
        document(&broker, json!({ "max_tasks": 7 })),
    ];
    assert_refused!(
        apply(&broker, &twice, false).await,
        Refusal::Invalid {
            field: "documents",
            ..
        }
    );
    assert_eq!(stored(&broker).await, 0);
}

#[tokio::test]
async fn more_than_a_thousand_documents_are_refused() {
    let broker = TestBroker::start().await;
    let many = vec![String::new(); 1001];
    assert_refused!(
        apply(&broker, &many, false).await,
        Refusal::Invalid {
            field: "documents",
            ..
        }
    );
}

#[tokio::test]
async fn a_registration_is_shown_and_listed_until_it_is_deleted() {
    let broker = TestBroker::start().await;
    let registry = &broker.rooms.registry;
    let show = || v1::ShowWorkloadRequest { spiffe_id: id() };
    let missing = Arc::clone(registry).show_workload(broker.operator(), show());
    assert_refused!(missing.await, Refusal::NotFound("workload"));
    broker.register("/agent", json!({})).await;
    let shown = Arc::clone(registry).show_workload(broker.operator(), show());
    let shown = shown.await.unwrap().workload.unwrap();
    assert_eq!(shown.spiffe_id, id());
    let listed = Arc::clone(registry)
        .list_workloads(broker.operator(), v1::ListWorkloadsRequest {})
        .await;
    assert_eq!(listed.unwrap().workloads, [shown]);
    let delete = v1::DeleteWorkloadRequest { spiffe_id: id() };
    let deleted = Arc::clone(registry).delete_workload(broker.operator(), delete.clone());
    assert_eq!(deleted.await.unwrap().action, "deleted");
    assert_eq!(stored(&broker).await, 0);
    let again = Arc::clone(registry).delete_workload(broker.operator(), delete);
    assert_eq!(again.await.unwrap().action, "absent");
    assert_eq!(broker.journal("workload_deleted").len(), 1);
}

#[tokio::test]
async fn deleting_a_registration_ends_what_was_issued_to_its_workload() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    broker.register("/other", json!({})).await;
    let other = broker.agent("/other");
    let kept = broker.begin(other.request(&["exec:git"]), &other).await;
    let registry = Arc::clone(&broker.rooms.registry);
    let delete = v1::DeleteWorkloadRequest { spiffe_id: id() };
    let deleted = registry.delete_workload(broker.operator(), delete).await;
    deleted.unwrap();
    assert!(!broker.is_active(&begun.token, &agent).await);
    assert!(broker.is_active(&kept.unwrap().token, &other).await);
    let again = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert_refused!(again, Refusal::Unregistered);
}

/// I2: an executable, or a lowest value, leaves it to the caller to fit.
#[tokio::test]
async fn i2_an_executable_alone_is_refused_and_told_what_to_add() {
    let broker = TestBroker::start().await;
    let digest = "ab".repeat(32);
    for selector in [
        json!({ "exe_sha256": digest }),
        json!({ "exe": "/usr/bin/agent", "gid": 7 }),
        json!({ "node": format!("spiffe://{DOMAIN}/node"), "exe_sha256": digest }),
    ] {
        let local = json!({ "local": [{ "uid": 7 }, selector] });
        assert_problem(
            &broker,
            local,
            "add `uid` (of a user that runs nothing else)",
        )
        .await;
    }
    for (selector, word) in [
        (json!({ "uid": 65534 }), "stands for all users"),
        (json!({ "uid": u32::MAX }), "stands for all users"),
        (json!({ "container_id": "4f" }), "64 lower-case"),
        (json!({ "systemd_unit": "agent" }), "whole name of a unit"),
        (
            json!({ "systemd_unit": "session-3.scope" }),
            "not of a session",
        ),
    ] {
        assert_problem(&broker, json!({ "local": [selector] }), word).await;
    }
    let good = json!([
        { "uid": 7 },
        { "systemd_unit": "agent.service", "exe_sha256": digest },
        { "container_id": digest },
    ]);
    let good = document(&broker, json!({ "local": good }));
    apply(&broker, &[good], false).await.unwrap();

    let process = |claims: Value| {
        json!({ "evidence": [{
            "kind": "process", "nodes": [format!("spiffe://{DOMAIN}/node")], "claims": claims,
        }] })
    };
    for (claims, word) in [
        (
            json!({ "exe_sha256": [digest] }),
            "an executable only narrows",
        ),
        (
            json!({ "exe": ["/a"], "gid": ["7"], "pid": ["7"] }),
            "an executable only narrows",
        ),
        (
            json!({ "cgroup": ["/a.service"] }),
            "must pin `uid` or `container_id`",
        ),
        (
            json!({ "uid": { "at_least": "1" } }),
            "to values or a reference",
        ),
        (json!({ "uid": ["7", "65534"] }), "not the number of a user"),
        (json!({ "uid": ["root"] }), "not the number of a user"),
        (json!({ "container_id": ["4f"] }), "64 lower-case"),
        (
            json!({ "uid": ["7"], "systemd_unit": ["agent"] }),
            "whole name of a unit",
        ),
    ] {
        assert_problem(&broker, process(claims), word).await;
    }
    for claims in [
        json!({ "uid": ["7"] }),
        json!({ "systemd_unit": ["agent.service"], "exe_sha256": { "reference": "agents" } }),
        json!({ "container_id": { "reference": "containers" } }),
    ] {
        let good = document(&broker, process(claims));
        apply(&broker, &[good], false).await.unwrap();
    }
}

/// I2: registrations that were applied when an executable was enough.
#[tokio::test]
async fn i2_a_registration_that_is_no_longer_enough_is_named_until_it_is_changed() {
    let broker = TestBroker::start().await;
    let digest = "ab".repeat(32);
    let former = json!({
        "local": [{ "uid": 7 }, { "exe_sha256": digest }],
        "evidence": [{ "any_of": [
            { "kind": "process", "nodes": [format!("spiffe://{DOMAIN}/node")],
              "claims": { "exe_sha256": [digest] } },
            broker.registration("/agent", json!({}))["evidence"][0],
        ] }],
    });
    broker.register_unchecked("/agent", former).await;
    let registry = &broker.rooms.registry;
    assert!(registry.problems_of_registrations().is_empty());
    registry.look_for_no_longer_enough().await.unwrap();
    let told = registry.problems_of_registrations();
    assert_eq!(told.len(), 1);
    for word in [id().as_str(), "local: ", "evidence: process: "] {
        assert!(told[0].contains(word), "{word}: {told:?}");
    }
    let now = document(&broker, json!({ "local": [{ "uid": 7 }] }));
    apply(&broker, &[now], false).await.unwrap();
    assert!(registry.problems_of_registrations().is_empty());
    registry.look_for_no_longer_enough().await.unwrap();
    assert!(registry.problems_of_registrations().is_empty());
}

/// E9: what the former registration allowed and the new one does not, and nothing else.
#[tokio::test]
async fn e9_narrowing_a_registration_ends_what_it_allows_no_more() {
    let broker = TestBroker::start().await;
    let (agent, by_git) = broker.agent_with_task().await;
    let by_secret = broker.begin(agent.request(&["secret:app/db"]), &agent);
    let by_secret = by_secret.await.unwrap();
    let wider = json!({ "scopes": ["secret:app/*", "tool:*", "exec:git"] });
    let changed = apply(&broker, &[document(&broker, wider)], false).await;
    assert!(changed.unwrap()[0].revocations.is_empty());
    let narrower = document(&broker, json!({ "scopes": ["secret:app/*"] }));
    let dry = apply(&broker, std::slice::from_ref(&narrower), true).await;
    assert!(dry.unwrap()[0].revocations.is_empty());
    assert!(broker.is_active(&by_git.token, &agent).await);
    let changed = apply(&broker, std::slice::from_ref(&narrower), false).await;
    assert_eq!(changed.unwrap()[0].revocations.len(), 2);
    assert!(!broker.is_active(&by_git.token, &agent).await);
    assert!(broker.is_active(&by_secret.token, &agent).await);
    // The evidence of the time before is not enough any more.
    let mut other = broker.registration("/agent", json!({ "scopes": ["secret:app/*"] }));
    other["evidence"][0]["claims"] = json!({ "model": ["m-2"] });
    let changed = apply(&broker, &[other.to_string()], false).await;
    assert_eq!(changed.unwrap()[0].revocations.len(), 1);
    assert!(!broker.is_active(&by_secret.token, &agent).await);
}

/// L5: the broker died after it wrote the registration; the registrar repeats it at another one.
#[tokio::test]
async fn e9_a_retry_of_a_narrowing_that_broke_off_ends_what_it_allows_no_more() {
    let one = TestBroker::start().await;
    let (agent, begun) = one.agent_with_task().await;
    let narrower = document(&one, json!({ "scopes": ["secret:app/*"] }));
    *one.store.refuses.lock().unwrap() = Some(Refused::Entries);
    let broken_off = apply(&one, std::slice::from_ref(&narrower), false).await;
    assert!(broken_off.is_err());
    one.die();
    *one.store.refuses.lock().unwrap() = None;
    let two = one.beside().await;
    caught_up(&two).await;
    let again = apply(&two, &[narrower], false).await.unwrap();
    assert_eq!(
        (again[0].action.as_str(), again[0].revocations.len()),
        ("unchanged", 2)
    );
    assert!(!two.is_active(&begun.token, &agent).await);
}
