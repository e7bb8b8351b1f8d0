//! Backups over a store without a process (L21).

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::clock;
use crate::records::DocumentPlace;
use crate::refusal::Refusal;
use crate::store::embedded::EmbeddedStore;
use crate::testing::documents::{KINDS, caught_up, delete, name, put, put_back, stored};
use crate::testing::{TestBroker, assert_refused};

use std::sync::Arc;

fn root() -> Arc<RootKey> {
    Arc::new(RootKey::new(&[0x7a; 32]).unwrap())
}

async fn back_up(broker: &TestBroker) -> Backup {
    let store = broker.ledger.records.store();
    let root = root();
    let backup = Backup::take(&**store, &root, clock::now_ms());
    let backup = backup.await.unwrap();
    // As a file.
    Backup::decode(&root, &backup.encode(&root)).unwrap()
}

/// Such a file would open under no key.
#[tokio::test]
async fn a_store_under_another_root_key_is_not_backed_up() {
    let broker = TestBroker::start().await;
    let other = RootKey::new(&[0x5e; 32]).unwrap();
    let store = broker.ledger.records.store();
    let backup = Backup::take(&**store, &other, clock::now_ms());
    let refused = backup.await.unwrap_err().to_string();
    assert!(refused.contains("root_key"), "{refused}");
}

/// Brings a backup back; answers what became of the document of each family.
async fn bring_back(
    store: &Arc<dyn Store>,
    backup: &Backup,
    mode: RestoreMode,
) -> BTreeMap<&'static str, Outcome> {
    let told = restore(store, &root(), backup, mode, clock::now_ms()).await;
    let told = told.unwrap().into_iter();
    told.filter(|told| told.name == name(told.kind))
        .map(|told| (told.kind.as_str(), told.outcome))
        .collect()
}

fn all(outcome: Outcome) -> BTreeMap<&'static str, Outcome> {
    each(|_| outcome)
}

fn each(outcome: impl Fn(DocumentKind) -> Outcome) -> BTreeMap<&'static str, Outcome> {
    let outcome = |kind: &DocumentKind| (kind.as_str(), outcome(*kind));
    KINDS.iter().map(outcome).collect()
}

async fn write_all(broker: &TestBroker, form: u8) {
    for kind in KINDS {
        put(broker, kind, form).await.unwrap().unwrap();
    }
}

#[test]
fn a_backup_that_was_edited_or_is_of_another_root_key_is_none() {
    let backup = Backup {
        format: FORMAT,
        created_at_ms: 1,
        position: 2,
        documents: Vec::new(),
        entries: Vec::new(),
    };
    let file = backup.encode(&root());
    assert_eq!(Backup::decode(&root(), &file).unwrap().position(), 2);
    for byte in 0..file.len() {
        let mut edited = file.clone();
        edited[byte] ^= 1;
        assert!(Backup::decode(&root(), &edited).is_err());
    }
    let other = RootKey::new(&[1; 32]).unwrap();
    assert!(matches!(
        Backup::decode(&other, &file),
        Err(BackupError::Seal(_))
    ));
    let newer = Backup {
        format: 2,
        ..backup
    };
    let newer = Backup::decode(&root(), &newer.encode(&root()));
    assert!(matches!(newer, Err(BackupError::Format(2))));
}

#[tokio::test]
async fn l21_a_store_that_was_lost_is_filled_and_everything_works_again() {
    let one = TestBroker::start().await;
    write_all(&one, 1).await;
    let (agent, begun) = one.agent_with_task().await;
    assert!(one.is_active(&begun.token, &agent).await);
    let backup = back_up(&one).await;
    let folder = tempfile::tempdir().unwrap();
    let empty = EmbeddedStore::open(&folder.path().join("store")).unwrap();
    let shared: Arc<dyn Store> = empty.clone();
    let check = RestoreMode::Check { new_epoch: false };
    assert_eq!(
        bring_back(&shared, &backup, check).await,
        all(Outcome::Written)
    );
    assert!(
        shared
            .documents(DocumentKind::Workload)
            .await
            .unwrap()
            .is_empty()
    );
    let fill = RestoreMode::Fill;
    assert_eq!(
        bring_back(&shared, &backup, fill).await,
        all(Outcome::Written)
    );
    assert_eq!(
        bring_back(&shared, &backup, fill).await,
        all(Outcome::Unchanged)
    );
    let two = one.over_store(empty).await;
    caught_up(&two).await;
    for kind in KINDS {
        let form = if kind == DocumentKind::Workload {
            continue;
        } else {
            1
        };
        let before = stored(&two, kind).await;
        put(&two, kind, form).await.unwrap().unwrap();
        assert_eq!(stored(&two, kind).await, before, "{kind:?} is as it was");
    }
    assert!(two.rooms.secrets.read("app/db").await.unwrap().is_some());
    let begun = two.begin(agent.request(&["exec:git"]), &agent).await;
    assert!(begun.is_ok(), "the registration is back");
}

/// L21: what ended since the backup does not come back, and what is newer stays.
#[tokio::test]
async fn l21_filling_lets_no_document_fall() {
    let broker = TestBroker::start().await;
    write_all(&broker, 1).await;
    let backup = back_up(&broker).await;
    write_all(&broker, 2).await;
    for kind in [DocumentKind::Secret, DocumentKind::Trust] {
        delete(&broker, kind).await.unwrap().unwrap();
    }
    let mut before = Vec::new();
    for kind in KINDS {
        before.push(stored(&broker, kind).await);
    }
    let store = Arc::clone(broker.ledger.records.store());
    let told = bring_back(&store, &backup, RestoreMode::Fill).await;
    let is_deleted = |kind| matches!(kind, DocumentKind::Secret | DocumentKind::Trust);
    let outcome = |kind| match is_deleted(kind) {
        true => Outcome::Deleted,
        false => Outcome::Kept,
    };
    assert_eq!(told, each(outcome));
    for (kind, before) in KINDS.into_iter().zip(before) {
        assert_eq!(stored(&broker, kind).await, before, "{kind:?}");
    }
}

/// L21: what is older than what the log knows is not written, and it is told that it is not there.
#[tokio::test]
async fn l21_a_later_version_that_was_lost_is_told() {
    let broker = TestBroker::start().await;
    put(&broker, DocumentKind::Secret, 1)
        .await
        .unwrap()
        .unwrap();
    let backup = back_up(&broker).await;
    put(&broker, DocumentKind::Secret, 2)
        .await
        .unwrap()
        .unwrap();
    let store = Arc::clone(broker.ledger.records.store());
    let (name, bytes) = store
        .documents(DocumentKind::Secret)
        .await
        .unwrap()
        .remove(0);
    let swapped = store
        .replace_document(DocumentKind::Secret, &name, Some(&bytes), None)
        .await;
    swapped.unwrap();
    let told = bring_back(&store, &backup, RestoreMode::Fill).await;
    assert_eq!(told.get("secret"), Some(&Outcome::Lost));
    assert!(
        store
            .document(DocumentKind::Secret, &name)
            .await
            .unwrap()
            .is_none()
    );
}

/// L21: an operator may let the content of a backup count. Each broker hears of it, and each
/// document that fell is told.
#[tokio::test]
async fn l21_in_a_new_epoch_content_falls_and_is_told_and_taken_by_every_broker() {
    let one = TestBroker::start().await;
    write_all(&one, 1).await;
    let backup = back_up(&one).await;
    write_all(&one, 2).await;
    delete(&one, DocumentKind::Secret).await.unwrap().unwrap();
    one.put_secret("app/new", "value").await;
    let two = one.beside().await;
    caught_up(&two).await;
    clock::testing::advance(std::time::Duration::from_secs(5));
    let store = Arc::clone(one.ledger.records.store());
    let check = RestoreMode::Check { new_epoch: true };
    assert_eq!(bring_back(&store, &backup, check).await, all(Outcome::Fell));
    let told = bring_back(&store, &backup, RestoreMode::NewEpoch).await;
    assert_eq!(told, all(Outcome::Fell));
    for broker in [&one, &two, &one.beside().await] {
        caught_up(broker).await;
        for kind in KINDS {
            let place = name(kind);
            let document = broker
                .ledger
                .records
                .document(DocumentPlace::new(kind, &place));
            let version = document.await.unwrap().unwrap().version();
            assert!(version > u64::from(u32::MAX), "{kind:?}");
        }
        assert!(broker.ledger.records.document_problems().is_empty());
        // The keys are those of the newest keyring, so everything opens.
        let secret = broker.rooms.secrets.read("app/new").await.unwrap().unwrap();
        let sealed = STANDARD.decode(secret.sealed).unwrap();
        broker.rooms.secrets.open("app/new", &sealed).await.unwrap();
    }
    // And it goes on from there.
    write_all(&two, 2).await;
    let changed = stored(&two, DocumentKind::Workload).await.unwrap();
    put(&two, DocumentKind::Workload, 1).await.unwrap().unwrap();
    put_back(&two, DocumentKind::Workload, Some(&changed)).await;
    let place = name(DocumentKind::Workload);
    let place = DocumentPlace::new(DocumentKind::Workload, &place);
    assert_refused!(
        two.ledger.records.document(place).await,
        Refusal::Outdated { .. }
    );
}

/// L21: brokers that know more than the store and its log do refuse what was filled, until an
/// operator begins a new epoch.
#[tokio::test]
async fn l21_what_only_brokers_know_holds_against_a_backup_until_a_new_epoch() {
    let broker = TestBroker::start().await;
    broker.register("/agent", json!({})).await;
    let backup = back_up(&broker).await;
    let kind = DocumentKind::Workload;
    let wide = stored(&broker, kind).await.unwrap();
    broker
        .register("/agent", json!({ "scopes": ["exec:git"] }))
        .await;
    put_back(&broker, kind, Some(&wide)).await;
    let place = name(kind);
    let place = DocumentPlace::new(kind, &place);
    assert_refused!(
        broker.ledger.records.document(place).await,
        Refusal::Outdated { .. }
    );
    let store = Arc::clone(broker.ledger.records.store());
    let told = bring_back(&store, &backup, RestoreMode::NewEpoch).await;
    assert_eq!(told.get("workload"), Some(&Outcome::Fell));
    caught_up(&broker).await;
    assert!(
        broker
            .ledger
            .records
            .document(place)
            .await
            .unwrap()
            .is_some()
    );
}
