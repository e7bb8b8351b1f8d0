//! Changes of documents, over a store that fails between their steps (L5).

use serde_json::json;
use sundew_core::Position;
use sundew_core::store::DocumentKind;
use sundew_proto::v1;

use super::*;
use crate::store::embedded::Refused;
use crate::testing::TestBroker;
use crate::testing::documents::{caught_up, delete, name, put, put_back, stored};

fn refuse(broker: &TestBroker, what: Option<Refused>) {
    *broker.store.refuses.lock().unwrap() = what;
}

/// The statements about the document of a family that the log has, in the order of the log.
async fn in_log(broker: &TestBroker, kind: DocumentKind) -> Vec<DocumentVersion> {
    let records = &broker.ledger.records;
    let entries = records.store().read_log(Position(0), 1000).await.unwrap();
    let opened = entries.iter().map(|stored| {
        let bytes = records.root().untag(&[b"log", &stored.id.0], &stored.bytes);
        sundew_core::LogEntry::decode(bytes.unwrap()).unwrap()
    });
    opened
        .filter_map(|entry| entry.document)
        .filter(|statement| statement.kind == kind && statement.name == name(kind))
        .collect()
}

/// L5: a change of any family, whose broker died after it was written and before anybody heard.
#[tokio::test]
async fn l5_a_retry_tells_every_broker_of_a_change_that_was_written_before() {
    for kind in DocumentKind::ALL {
        let one = TestBroker::start().await;
        let Some(first) = put(&one, kind, 1).await else {
            continue;
        };
        first.unwrap();
        let before = in_log(&one, kind).await;
        let version = before.last().unwrap().version;
        refuse(&one, Some(Refused::Entries));
        let unheard = put(&one, kind, 2).await.unwrap();
        assert!(unheard.is_err(), "{kind:?}: nobody has heard of it");
        one.die();
        refuse(&one, None);
        assert_eq!(in_log(&one, kind).await, before);
        let bytes = stored(&one, kind).await;
        let two = one.beside().await;
        put(&two, kind, 2).await.unwrap().unwrap();
        assert_eq!(stored(&two, kind).await, bytes, "{kind:?}: as it was");
        let last = in_log(&two, kind).await.pop().unwrap();
        assert_eq!(
            (last.version, last.deleted),
            (version + 1, false),
            "{kind:?}"
        );
        // Whoever asks once more adds nothing to the log.
        let length = in_log(&two, kind).await.len();
        put(&two, kind, 2).await.unwrap().unwrap();
        assert_eq!(in_log(&two, kind).await.len(), length, "{kind:?}");
    }
}

/// L5: a change of any family, whose broker died before anybody heard, and that nobody repeats.
#[tokio::test]
async fn l5_a_change_that_nobody_announced_is_announced_by_whoever_finds_it() {
    for kind in DocumentKind::ALL {
        let one = TestBroker::start().await;
        let Some(first) = put(&one, kind, 1).await else {
            continue;
        };
        first.unwrap();
        let version = in_log(&one, kind).await.last().unwrap().version;
        refuse(&one, Some(Refused::Entries));
        assert!(put(&one, kind, 2).await.unwrap().is_err());
        one.die();
        refuse(&one, None);
        let two = one.beside().await;
        two.ledger.look_at_documents().await.unwrap();
        let last = in_log(&two, kind).await.pop().unwrap();
        assert_eq!(last.version, version + 1, "{kind:?}");
        let length = in_log(&two, kind).await.len();
        two.ledger.look_at_documents().await.unwrap();
        assert_eq!(in_log(&two, kind).await.len(), length, "{kind:?}: once");
    }
}

/// L5: a deletion of any family that was broken off, by a log that takes nothing or by documents
/// that cannot be changed.
#[tokio::test]
async fn l5_a_retry_of_a_deletion_does_every_step_of_it() {
    for kind in DocumentKind::ALL {
        for refused in [Refused::Entries, Refused::Documents] {
            let one = TestBroker::start().await;
            if let Some(put) = put(&one, kind, 1).await {
                put.unwrap();
            }
            refuse(&one, Some(refused));
            let Some(broken_off) = delete(&one, kind).await else {
                continue;
            };
            assert!(broken_off.is_err(), "{kind:?}");
            assert!(stored(&one, kind).await.is_some(), "the bytes go last");
            one.die();
            refuse(&one, None);
            let two = one.beside().await;
            caught_up(&two).await;
            assert_eq!(delete(&two, kind).await.unwrap().unwrap(), "deleted");
            assert!(stored(&two, kind).await.is_none());
            let last = in_log(&two, kind).await.pop().unwrap();
            assert!(last.deleted, "{kind:?}");
            assert_eq!(delete(&two, kind).await.unwrap().unwrap(), "absent");
            // It may come back, as something newer.
            put(&two, kind, 1).await.unwrap().unwrap();
            let again = in_log(&two, kind).await.pop().unwrap();
            assert_eq!((again.version, again.deleted), (last.version + 1, false));
        }
    }
}

/// L5: as it was seen: one broker takes a scope away, and another one grants it for ever.
#[tokio::test]
async fn l5_what_a_retry_takes_away_no_other_broker_grants() {
    let one = TestBroker::start().await;
    one.register("/agent", json!({})).await;
    let two = one.beside().await;
    let agent = two.agent("/agent");
    let granted = two.begin(agent.request(&["exec:git"]), &agent).await;
    granted.unwrap();
    refuse(&one, Some(Refused::Entries));
    let narrow = one.registration("/agent", json!({ "scopes": ["tool:github.create_pr"] }));
    let request = || v1::ApplyWorkloadsRequest {
        documents: vec![narrow.to_string()],
        dry_run: false,
    };
    let apply = |broker: &TestBroker| {
        let registry = broker.rooms.registry.clone();
        registry.apply_workloads(broker.operator(), request())
    };
    assert!(apply(&one).await.is_err());
    one.die();
    refuse(&one, None);
    let three = one.beside().await;
    let applied = apply(&three).await.unwrap();
    assert_eq!(applied.changes[0].action, "unchanged");
    caught_up(&two).await;
    let refused = two.begin(agent.request(&["exec:git"]), &agent).await;
    assert!(matches!(refused, Err(Refusal::Denied(_))));
}

/// L5: what a broken-off deletion has left alive ends, and a registration that is gone already ends
/// what was issued all the same.
#[tokio::test]
async fn l5_deleting_a_registration_that_is_gone_ends_what_was_issued() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let kind = DocumentKind::Workload;
    put_back(&broker, kind, None).await;
    assert!(broker.is_active(&begun.token, &agent).await);
    assert_eq!(delete(&broker, kind).await.unwrap().unwrap(), "absent");
    assert!(!broker.is_active(&begun.token, &agent).await);
    assert!(broker.journal("workload_deleted").is_empty(), "P10");
}

/// L5: what ends comes first, and holds at once where nobody else can hear of it.
#[tokio::test]
async fn l5_a_deletion_that_the_log_does_not_take_ends_what_rested_on_it_here() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    refuse(&broker, Some(Refused::Entries));
    let pending = delete(&broker, DocumentKind::Workload).await.unwrap();
    assert!(matches!(pending, Err(Refusal::EndingPending(_))));
    assert!(!broker.is_active(&begun.token, &agent).await);
}
