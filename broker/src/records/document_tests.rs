//! Old bytes that somebody puts back into the store (L22).

use std::time::Duration;

use serde_json::json;
use sundew_core::store::DocumentKind;
use sundew_proto::v1;

use super::*;
use crate::clock;
use crate::testing::documents::{caught_up, delete, name, put, put_back, stored};
use crate::testing::{DOMAIN, TestBroker, assert_refused};

async fn read(broker: &TestBroker, kind: DocumentKind) -> Result<Option<u64>, Refusal> {
    let name = name(kind);
    let document = broker
        .ledger
        .records
        .document(DocumentPlace::new(kind, &name));
    Ok(document.await?.map(|document| document.version()))
}

/// The document of a family in its first and its second form, which is the one in the store.
async fn changed(broker: &TestBroker, kind: DocumentKind) -> Option<[Vec<u8>; 2]> {
    put(broker, kind, 1).await?.unwrap();
    let first = stored(broker, kind).await.unwrap();
    put(broker, kind, 2).await?.unwrap();
    Some([first, stored(broker, kind).await.unwrap()])
}

#[tokio::test]
async fn l22_an_older_document_of_any_family_is_refused_and_told() {
    for kind in DocumentKind::ALL {
        let one = TestBroker::start().await;
        let Some([first, second]) = changed(&one, kind).await else {
            continue;
        };
        let version = read(&one, kind).await.unwrap();
        put_back(&one, kind, Some(&first)).await;
        // Whoever wrote it, whoever read of it in the log, and whoever was told of it by another.
        let two = one.beside().await;
        caught_up(&two).await;
        for broker in [&one, &two] {
            assert_refused!(read(broker, kind).await, Refusal::Outdated { .. });
            let problems = broker.ledger.records.document_problems();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(&name(kind)) && problems[0].contains("altered"));
            assert_eq!(broker.ledger.records.altered_documents(), 1);
        }
        put_back(&one, kind, Some(&second)).await;
        for broker in [&one, &two] {
            assert_eq!(read(broker, kind).await.unwrap(), version);
            assert!(broker.ledger.records.document_problems().is_empty());
        }
    }
}

/// L22: it is enough to write such a document again, or to remove it.
#[tokio::test]
async fn l22_an_older_document_is_mended_by_whoever_owns_it() {
    for kind in DocumentKind::ALL {
        let broker = TestBroker::start().await;
        let Some([first, _]) = changed(&broker, kind).await else {
            continue;
        };
        let last = read(&broker, kind).await.unwrap().unwrap();
        put_back(&broker, kind, Some(&first)).await;
        put(&broker, kind, 1).await.unwrap().unwrap();
        assert_eq!(
            read(&broker, kind).await.unwrap(),
            Some(last + 1),
            "{kind:?}"
        );
        put_back(&broker, kind, Some(&first)).await;
        let Some(deleted) = delete(&broker, kind).await else {
            continue;
        };
        assert_eq!(deleted.unwrap(), "deleted");
        assert_eq!(read(&broker, kind).await.unwrap(), None);
        assert!(broker.ledger.records.document_problems().is_empty());
    }
}

#[tokio::test]
async fn l22_a_deleted_document_of_any_family_does_not_come_back() {
    for kind in DocumentKind::ALL {
        let one = TestBroker::start().await;
        let Some([first, second]) = changed(&one, kind).await else {
            continue;
        };
        if delete(&one, kind).await.is_none() {
            continue;
        }
        let two = one.beside().await;
        caught_up(&two).await;
        for broker in [&one, &two] {
            put_back(broker, kind, Some(&first)).await;
            assert_refused!(read(broker, kind).await, Refusal::Outdated { .. });
            // The last version is what a broker sees that reads between withdrawal and removal.
            put_back(broker, kind, Some(&second)).await;
            assert_eq!(read(broker, kind).await.unwrap(), None);
            clock::testing::advance(Duration::from_secs(11));
            assert_eq!(read(broker, kind).await.unwrap(), None);
            assert_eq!(broker.ledger.records.altered_documents(), 1, "it is told");
            put_back(broker, kind, None).await;
        }
    }
}

#[tokio::test]
async fn l22_a_document_from_before_versions_counts_until_a_version_is_known() {
    let broker = TestBroker::start().await;
    let kind = DocumentKind::Trust;
    let place = name(kind);
    let root = broker.ledger.records.root();
    let old = root.tag(&[b"trust", place.as_bytes()], b"1".to_vec());
    put_back(&broker, kind, Some(&old)).await;
    assert_eq!(read(&broker, kind).await.unwrap(), Some(0));
    // The same content again is answered as such, and gives the document a version.
    put(&broker, kind, 1).await.unwrap().unwrap();
    assert_eq!(read(&broker, kind).await.unwrap(), Some(1));
    assert!(broker.journal("trust_added").is_empty(), "nothing changed");
    put_back(&broker, kind, Some(&old)).await;
    assert_refused!(
        read(&broker, kind).await,
        Refusal::Outdated { stored: 0, .. }
    );
}

/// L22: as it was seen: a registration from before it was narrowed, by a broker that forgot what it
/// had in memory.
#[tokio::test]
async fn l22_no_task_begins_on_a_registration_that_was_put_back() {
    let broker = TestBroker::start().await;
    let kind = DocumentKind::Workload;
    broker.register("/agent", json!({})).await;
    let wide = stored(&broker, kind).await.unwrap();
    broker
        .register("/agent", json!({ "scopes": ["exec:git"] }))
        .await;
    let agent = broker.agent("/agent");
    put_back(&broker, kind, Some(&wide)).await;
    Arc::clone(&broker.ledger.records).on_gap();
    let begun = broker
        .begin(agent.request(&["tool:github.create_pr"]), &agent)
        .await;
    assert_refused!(
        begun,
        Refusal::Outdated {
            what: "workload",
            ..
        }
    );
}

/// L22: a reference value that was withdrawn, and a secret from before it was rotated.
#[tokio::test]
async fn l22_no_withdrawn_value_and_no_rotated_secret_is_taken() {
    let broker = TestBroker::start().await;
    let [_, withdrawn] = changed(&broker, DocumentKind::Trust).await.unwrap();
    delete(&broker, DocumentKind::Trust).await.unwrap().unwrap();
    put_back(&broker, DocumentKind::Trust, Some(&withdrawn)).await;
    let items = broker.rooms.trust_items.clone();
    let listed = items.list_trust(broker.operator(), v1::ListTrustRequest {});
    assert!(listed.await.unwrap().items.is_empty());
    let [rotated, _] = changed(&broker, DocumentKind::Secret).await.unwrap();
    put_back(&broker, DocumentKind::Secret, Some(&rotated)).await;
    let secret = broker.rooms.secrets.read("app/db").await;
    assert_refused!(secret, Refusal::Outdated { what: "secret", .. });
}

/// L22: what takes something back must be there.
#[tokio::test]
async fn l22_nothing_is_decided_without_a_list_of_what_was_taken_back() {
    let broker = TestBroker::start().await;
    let records = &broker.ledger.records;
    broker.rooms.evidence.trusted().await.unwrap();
    records.learn(&DocumentPlace::new(DocumentKind::Trust, "crl/maker").with_version(1, false));
    put(&broker, DocumentKind::Trust, 1).await.unwrap().unwrap();
    let trusted = broker.rooms.evidence.trusted().await;
    assert_refused!(trusted, Refusal::Outdated { what: "trust", .. });
}

/// L21: a store of yesterday is noticed before anybody asks for something of it.
#[tokio::test]
async fn l21_what_is_old_or_missing_is_told_before_anybody_asks() {
    let broker = TestBroker::start().await;
    let mut kinds = 0;
    for kind in DocumentKind::ALL {
        let Some([first, _]) = changed(&broker, kind).await else {
            continue;
        };
        if kind == DocumentKind::Meta {
            continue;
        }
        put_back(&broker, kind, (kinds % 2 == 0).then_some(&*first)).await;
        kinds += 1;
    }
    let records = &broker.ledger.records;
    records.look_at_documents().await.unwrap();
    assert_eq!((kinds, records.altered_documents()), (4, 4));
    let problems = records.document_problems().join("\n");
    assert!(
        problems.contains(&format!("spiffe://{DOMAIN}/agent")),
        "{problems}"
    );
    assert!(problems.contains("missing from the store"), "{problems}");
    assert!(
        problems.contains("version 1, and version 2 is known"),
        "{problems}"
    );
    for kind in DocumentKind::ALL {
        if kind != DocumentKind::Meta {
            let Some(put) = put(&broker, kind, 2).await else {
                continue;
            };
            put.unwrap();
        }
    }
    records.look_at_documents().await.unwrap();
    assert_eq!(records.altered_documents(), 0);
}
