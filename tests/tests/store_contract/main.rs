//! The contract of a store, which both stores keep.

mod full_disk;
mod leases;
mod log;
mod orders;
mod redis;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

use sundew_broker::store::embedded::EmbeddedStore;
use sundew_broker::store::redis::RedisStore;
use sundew_core::store::{
    Created, DocumentKind, NewTask, NewToken, Report, Reserved, Store, StoredToken,
};
use sundew_core::{EntryId, Position, TaskId, TokenHash};
use sundew_tests::now_ms;
use sundew_tests::redis::{Redis, settings};

fn redis_store(redis: &Redis) -> Arc<dyn Store> {
    RedisStore::new(settings(&redis.url(), Duration::from_secs(1)))
}

/// Runs a contract against both.
async fn both<F: Future<Output = ()>>(contract: impl Fn(Arc<dyn Store>) -> F) {
    let folder = tempfile::tempdir().expect("folder");
    contract(EmbeddedStore::open(&folder.path().join("store")).expect("embedded")).await;
    let redis = Redis::start();
    let store = redis_store(&redis);
    store.check().await.expect("usable");
    contract(store).await;
}

const A: TaskId = TaskId::from_bytes([1; 16]);

const B: TaskId = TaskId::from_bytes([2; 16]);

fn hash(n: u8) -> TokenHash {
    TokenHash::from_bytes([n; 32])
}

fn token<'a>(hash: &'a TokenHash, record: &str, keep: i64) -> NewToken<'a> {
    NewToken {
        hash,
        record: record.as_bytes().to_vec(),
        retain_until_ms: now_ms() + keep,
    }
}

fn task<'a>(id: TaskId, record: &str, hash: &'a TokenHash) -> NewTask<'a> {
    NewTask {
        id,
        record: record.as_bytes().to_vec(),
        retain_until_ms: now_ms() + 60_000,
        token: token(hash, "first", 60_000),
    }
}

/// A report of the broker `me`.
fn report(applied: (Position, EntryId)) -> Report<'static> {
    Report {
        broker: "me",
        applied,
        freshness_ms: 60_000,
        about: "about me",
    }
}

fn first() -> StoredToken {
    StoredToken {
        task: b"one".to_vec(),
        record: b"first".to_vec(),
    }
}

#[tokio::test]
async fn documents_are_replaced_only_by_those_who_saw_what_is_there() {
    both(|store| async move {
        let kind = DocumentKind::Secret;
        assert_eq!(store.document(kind, "a").await, Ok(None));
        assert_eq!(
            store
                .replace_document(kind, "a", Some(b"x"), Some(b"1"))
                .await,
            Ok(false)
        );
        assert_eq!(
            store.replace_document(kind, "a", None, Some(b"1")).await,
            Ok(true)
        );
        assert_eq!(
            store.replace_document(kind, "a", None, Some(b"2")).await,
            Ok(false)
        );
        assert_eq!(
            store
                .replace_document(kind, "a", Some(b"1"), Some(b"\0\xff"))
                .await,
            Ok(true)
        );
        assert_eq!(
            store.document(kind, "a").await,
            Ok(Some(b"\0\xff".to_vec()))
        );
        assert_eq!(store.document(DocumentKind::Meta, "a").await, Ok(None));
        assert_eq!(
            store.replace_document(kind, "b", None, Some(b"3")).await,
            Ok(true)
        );
        assert_eq!(
            store.documents(kind).await,
            Ok(vec![
                ("a".to_owned(), b"\0\xff".to_vec()),
                ("b".to_owned(), b"3".to_vec())
            ])
        );
        assert_eq!(
            store
                .replace_document(kind, "a", Some(b"\0\xff"), None)
                .await,
            Ok(true)
        );
        assert_eq!(store.documents(kind).await.map(|d| d.len()), Ok(1));
    })
    .await;
}

#[tokio::test]
async fn of_64_who_consume_a_name_at_once_one_gets_it() {
    both(|store| async move {
        let until = now_ms() + 60_000;
        let calls: Vec<_> = (0..64)
            .map(|_| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.consume(&[9; 32], until).await })
            })
            .collect();
        let mut wins = 0;
        for call in calls {
            wins += usize::from(call.await.expect("call") == Ok(true));
        }
        assert_eq!(wins, 1);
        // T46: an end in the past is never a win, and never for ever.
        for until in [0, -1, now_ms() - 1, i64::MIN] {
            assert_eq!(store.consume(&[8; 32], until).await, Ok(false), "{until}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_embedded_store_keeps_everything_over_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("store");
    let store = EmbeddedStore::open(&path).expect("open");
    let now = now_ms();
    assert_eq!(
        store
            .replace_document(DocumentKind::Meta, "a", None, Some(b"1"))
            .await,
        Ok(true)
    );
    assert_eq!(store.consume(&[1; 32], now + 60_000).await, Ok(true));
    assert_eq!(
        store
            .reserve_task("w", A, now + 60_000, now + 500, 5, now)
            .await,
        Ok(Reserved::Taken)
    );
    assert_eq!(
        store.create_task(task(A, "one", &hash(1))).await,
        Ok(Created::New)
    );
    store.bind_task(A, b"b".to_vec(), 8).await.expect("bind");
    assert_eq!(
        store
            .append(EntryId([1; 16]), b"x", now + 60_000, Position(0).into())
            .await,
        Ok(Position(1))
    );
    drop(store);
    for _ in 0..2 {
        // Twice: once from operations, once from the snapshot that the first open wrote.
        let store = EmbeddedStore::open(&path).expect("open");
        assert_eq!(
            store.document(DocumentKind::Meta, "a").await,
            Ok(Some(b"1".to_vec()))
        );
        assert_eq!(store.consume(&[1; 32], now + 60_000).await, Ok(false));
        assert_eq!(
            store.task(A).await.map(|t| t.map(|t| t.bindings)),
            Ok(Some(vec![b"b".to_vec()]))
        );
        assert_eq!(store.token(A, &hash(1)).await, Ok(Some(first())));
        assert_eq!(store.due(now + 500, 10).await, Ok(vec![A]));
        assert_eq!(store.tasks(Some("w"), 9).await, Ok(vec![A]));
        assert_eq!(store.read_log(Position(0), 9).await.map(|l| l.len()), Ok(1));
    }
}
