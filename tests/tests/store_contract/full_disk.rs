//! The embedded store on a disk that is full: what could not be written is not in memory either.

use std::path::Path;

use sundew_core::LeaseId;
use sundew_core::store::StoredLease;
use sundew_tests::disk::Disk;

use super::*;

const ENGINE: &str = "db";

/// Everything that a caller can see of what the test writes.
async fn seen(store: &dyn Store) -> String {
    let seen = (
        store.document(DocumentKind::Workload, "a").await,
        store.document(DocumentKind::Workload, "b").await,
        store.task(A).await,
        store.task(B).await,
        store.token(A, &hash(2)).await,
        store.lease(ENGINE, LeaseId::from_bytes([1; 16])).await,
        store.lease(ENGINE, LeaseId::from_bytes([2; 16])).await,
    );
    format!("{seen:?}")
}

fn lease(number: u8, record: &[u8], due_ms: i64) -> StoredLease {
    StoredLease {
        id: LeaseId::from_bytes([number; 16]),
        record: record.to_vec(),
        due_ms,
    }
}

/// What is written while there is room.
async fn write_first(store: &dyn Store) {
    let written = store.replace_document(DocumentKind::Workload, "a", None, Some(b"wide"));
    assert_eq!(written.await, Ok(true));
    let created = store.create_task(task(A, "one", &hash(1))).await;
    assert_eq!(created, Ok(Created::New));
    let leased = store.put_lease(ENGINE, A, lease(1, b"first", 20)).await;
    assert_eq!(leased, Ok(()));
}

/// Writes everything that changes something; answers how many of the writes were refused. Each has
/// so many bytes that none of them finds room.
async fn write_more(store: &dyn Store) -> usize {
    let large = vec![b'x'; 64 << 10];
    let text = String::from_utf8(large.clone()).expect("text");
    let mut long = large.clone();
    long.extend_from_slice(b"narrow");
    let hash = hash(2);
    [
        store
            .replace_document(DocumentKind::Workload, "a", Some(b"wide"), Some(&long))
            .await
            .is_err(),
        store
            .replace_document(DocumentKind::Workload, "b", None, Some(&large))
            .await
            .is_err(),
        store.create_task(task(B, &text, &hash)).await.is_err(),
        store
            .create_token(A, token(&hash, &text, 60_000), 256)
            .await
            .is_err(),
        store.bind_task(A, large.clone(), 8).await.is_err(),
        store
            .put_lease(ENGINE, A, lease(1, &large, 10))
            .await
            .is_err(),
        store
            .put_lease(ENGINE, A, lease(2, &large, 10))
            .await
            .is_err(),
    ]
    .into_iter()
    .filter(|refused| *refused)
    .count()
}

fn open(path: &Path) -> Arc<EmbeddedStore> {
    EmbeddedStore::open(path).expect("open")
}

/// L19: a registration that could not be narrowed was narrow until a restart, and its retry said
/// that nothing was to do.
#[tokio::test]
async fn l19_what_a_full_disk_refuses_is_not_in_memory_either() {
    let disk = Disk::mount("1m");
    let path = disk.path().join("store");
    let store = open(&path);
    write_first(&*store).await;
    let before = seen(&*store).await;
    let filler = disk.fill();
    assert_eq!(write_more(&*store).await, 7, "nothing finds room");
    assert_eq!(seen(&*store).await, before);
    drop(store);
    let store = open(&path);
    assert!(seen(&*store).await == before, "and after a restart");
    std::fs::remove_file(filler).expect("room");
    assert_eq!(write_more(&*store).await, 0, "each of them can be repeated");
    let after = seen(&*store).await;
    assert!(after != before);
    drop(store);
    assert!(seen(&*open(&path)).await == after);
}

/// L19: a single-use name that could not be kept was not taken.
#[tokio::test]
async fn l19_a_name_that_a_full_disk_refuses_is_not_taken() {
    let disk = Disk::mount("1m");
    let store = open(&disk.path().join("store"));
    let filler = disk.fill();
    let until = now_ms() + 60_000;
    let mut refused = None;
    // The page that the file is on may have room for some yet.
    for number in 0_u8..=255 {
        if store.consume(&[number; 32], until).await.is_err() {
            refused = Some(number);
            break;
        }
    }
    let name = [refused.expect("the disk is full"); 32];
    std::fs::remove_file(filler).expect("room");
    assert_eq!(store.consume(&name, until).await, Ok(true));
    assert_eq!(store.consume(&name, until).await, Ok(false));
}
