//! One contract, two stores.

mod redis;

use std::sync::Arc;
use std::time::Duration;

use sundew_broker::store::embedded::EmbeddedStore;
use sundew_broker::store::redis::RedisStore;
use sundew_core::store::{
    Created, DocumentKind, NewTask, NewToken, Reserved, Store, StoredLease, StoredToken,
};
use sundew_core::{EntryId, LeaseId, Position, TaskId, TokenHash};
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
        keep_until_ms: now_ms() + keep,
    }
}

fn task<'a>(id: TaskId, record: &str, hash: &'a TokenHash) -> NewTask<'a> {
    NewTask {
        id,
        record: record.as_bytes().to_vec(),
        keep_until_ms: now_ms() + 60_000,
        token: token(hash, "first", 60_000),
    }
}

fn first() -> StoredToken {
    StoredToken {
        task: b"one".to_vec(),
        record: b"first".to_vec(),
    }
}

fn lease(n: u8, due_ms: i64) -> StoredLease {
    StoredLease {
        id: LeaseId::from_bytes([n; 16]),
        record: vec![n],
        due_ms,
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
async fn a_workload_gets_as_many_places_as_it_may_have_and_no_more() {
    both(|store| async move {
        let now = now_ms();
        let mut taken = 0;
        let calls: Vec<_> = (0..20)
            .map(|n| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    store
                        .reserve_task(
                            "spiffe://x/w",
                            TaskId::from_bytes([n; 16]),
                            now + 60_000,
                            now + 1000,
                            5,
                            now,
                        )
                        .await
                })
            })
            .collect();
        for call in calls {
            taken += usize::from(call.await.expect("call") == Ok(Reserved::Taken));
        }
        assert_eq!(taken, 5);
        let tasks = store.tasks(Some("spiffe://x/w"), 100).await.expect("tasks");
        assert_eq!(tasks.len(), 5);
        assert_eq!(
            store
                .reserve_task("spiffe://x/w", tasks[0], now + 60_000, now, 5, now)
                .await,
            Ok(Reserved::Taken),
            "again is not once more"
        );
        assert_eq!(
            store
                .reserve_task("spiffe://x/other", A, now + 60_000, now, 5, now)
                .await,
            Ok(Reserved::Taken)
        );
        store
            .release_task("spiffe://x/w", tasks[0])
            .await
            .expect("release");
        assert_eq!(
            store
                .reserve_task("spiffe://x/w", B, now + 60_000, now, 5, now)
                .await,
            Ok(Reserved::Taken)
        );
        // A place whose task has passed its deadline is free.
        assert_eq!(
            store
                .reserve_task(
                    "spiffe://x/w",
                    TaskId::from_bytes([99; 16]),
                    now + 120_000,
                    now,
                    5,
                    now + 60_001
                )
                .await,
            Ok(Reserved::Taken)
        );
    })
    .await;
}

#[tokio::test]
async fn a_task_and_its_first_token_are_created_once() {
    both(|store| async move {
        assert_eq!(store.task(A).await, Ok(None));
        assert_eq!(
            store.create_task(task(A, "one", &hash(1))).await,
            Ok(Created::New)
        );
        assert_eq!(
            store.create_task(task(A, "two", &hash(2))).await,
            Ok(Created::Existing(b"one".to_vec()))
        );
        assert_eq!(store.token(A, &hash(1)).await, Ok(Some(first())));
        assert_eq!(
            store.token(A, &hash(2)).await,
            Ok(None),
            "the second call wrote nothing"
        );
        assert_eq!(
            store.token(B, &hash(1)).await,
            Ok(None),
            "T35: a token is of one task"
        );
        assert_eq!(
            store.create_token(B, token(&hash(3), "x", 1000)).await,
            Ok(None),
            "no task, no token"
        );
        assert_eq!(
            store.create_token(A, token(&hash(3), "x", 60_000)).await,
            Ok(Some(Created::New))
        );
        assert_eq!(
            store.create_token(A, token(&hash(3), "y", 60_000)).await,
            Ok(Some(Created::Existing(b"x".to_vec())))
        );
    })
    .await;
}

#[tokio::test]
async fn tokens_and_tasks_are_walked_through_and_reaped() {
    both(|store| async move {
        let now = now_ms();
        let tasks: Vec<TaskId> = (0..1500_u16)
            .map(|n| TaskId::from_bytes(std::array::from_fn(|i| n.to_le_bytes()[i % 2])))
            .collect();
        for task in &tasks {
            assert_eq!(
                store
                    .reserve_task("w", *task, now + 60_000, now + 500, 9999, now)
                    .await,
                Ok(Reserved::Taken)
            );
        }
        let (mut seen, mut from) = (std::collections::BTreeSet::new(), 0);
        loop {
            let page = store.scan_tasks(from).await.expect("page");
            seen.extend(page.tasks);
            from = page.next;
            if from == 0 {
                break;
            }
        }
        assert_eq!(seen.len(), tasks.len());
        assert_eq!(
            store.create_task(task(A, "one", &hash(1))).await,
            Ok(Created::New)
        );
        for n in 2..=200 {
            assert_eq!(
                store.create_token(A, token(&hash(n), "x", 60_000)).await,
                Ok(Some(Created::New))
            );
        }
        let (mut seen, mut from) = (std::collections::BTreeMap::new(), 0);
        loop {
            let page = store.tokens(A, from).await.expect("page");
            seen.extend(page.tokens);
            from = page.next;
            if from == 0 {
                break;
            }
        }
        assert_eq!(
            (seen.len(), seen.get(&hash(1).token_id())),
            (200, Some(&b"first".to_vec()))
        );
        assert_eq!(store.reap_tokens(A).await, Ok(200));
        assert_eq!(store.reap_tokens(A).await, Ok(0));
        assert_eq!(store.token(A, &hash(1)).await, Ok(None));
        assert!(
            store.task(A).await.expect("task").is_some(),
            "the task's record stays"
        );
        assert_eq!(store.reap_tokens(B).await, Ok(0));
    })
    .await;
}

#[tokio::test]
async fn a_lease_is_claimed_by_one_and_is_there_until_it_is_removed() {
    both(|store| async move {
        let now = now_ms();
        let id = |n: u8| LeaseId::from_bytes([n; 16]);
        store
            .put_lease("db/a", A, lease(1, now + 60_000))
            .await
            .expect("put");
        store
            .put_lease("db/a", A, lease(2, now + 60_000))
            .await
            .expect("put");
        store
            .put_lease("db/b", A, lease(3, now - 1))
            .await
            .expect("put");
        assert_eq!(
            store.lease("db/a", id(3)).await,
            Ok(None),
            "engines do not share"
        );
        assert_eq!(
            store.claim_leases("db/a", now, now + 500, 10).await,
            Ok(vec![])
        );
        store
            .lease_due("db/a", &[id(1), id(9)], now)
            .await
            .expect("due");
        store
            .put_lease("db/a", A, lease(1, now + 60_000))
            .await
            .expect("what is due stays due");
        assert_eq!(store.lease_counts("db/a", now).await, Ok((2, 1)));
        let claims: Vec<_> = (0..8)
            .map(|_| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    store
                        .claim_leases("db/a", now, now + 500, 10)
                        .await
                        .expect("claim")
                        .len()
                })
            })
            .collect();
        let mut claimed = 0;
        for claim in claims {
            claimed += claim.await.expect("claim");
        }
        assert_eq!(claimed, 1);
        assert_eq!(
            store
                .claim_leases("db/a", now + 500, now + 900, 10)
                .await
                .map(|l| l.len()),
            Ok(1),
            "whoever claimed it died"
        );
        store
            .retry_lease(
                "db/a",
                StoredLease {
                    record: b"again".to_vec(),
                    ..lease(1, now + 700)
                },
            )
            .await
            .expect("retry");
        assert_eq!(
            store
                .lease("db/a", id(1))
                .await
                .map(|l| l.map(|l| (l.record, l.due_ms))),
            Ok(Some((b"again".to_vec(), now + 700)))
        );
        store
            .remove_leases("db/a", &[id(1), id(8)])
            .await
            .expect("removed");
        store
            .retry_lease("db/a", lease(1, now))
            .await
            .expect("nothing comes back");
        let (left, next) = store.leases("db/a", 0).await.expect("leases");
        assert_eq!((left, next), (vec![lease(2, now + 60_000)], 0));
        assert_eq!(store.lease_counts("db/none", now).await, Ok((0, 0)));
        assert_eq!(
            store.create_task(task(A, "one", &hash(1))).await,
            Ok(Created::New)
        );
        for n in [4, 5, 5] {
            store
                .put_lease("db/a", A, lease(n, now))
                .await
                .expect("put");
        }
        store
            .remove_leases("db/a", &[id(4)])
            .await
            .expect("removed");
        assert_eq!(
            (store.leases_had(A).await, store.leases_had(B).await),
            (Ok(2), Ok(0)),
            "remembered for as long as the task is"
        );
    })
    .await;
}

#[tokio::test]
async fn bindings_are_added_to_a_task_that_is_there() {
    both(|store| async move {
        store
            .bind_task(A, b"nobody".to_vec())
            .await
            .expect("no task, no effect");
        assert_eq!(
            store.create_task(task(A, "one", &hash(1))).await,
            Ok(Created::New)
        );
        for _ in 0..2 {
            store.bind_task(A, b"next".to_vec()).await.expect("bind");
        }
        let found = store.task(A).await.expect("task").expect("there");
        assert_eq!(
            (found.record, found.bindings),
            (b"one".to_vec(), vec![b"next".to_vec()])
        );
    })
    .await;
}

#[tokio::test]
async fn what_is_due_is_found_and_attendance_puts_nothing_on_the_list() {
    both(|store| async move {
        let now = now_ms();
        store.attend(vec![(B, now)]).await.expect("attend");
        assert_eq!(store.due(now + 10_000, 10).await, Ok(vec![]));
        assert_eq!(
            store
                .reserve_task("w", A, now + 60_000, now + 500, 5, now)
                .await,
            Ok(Reserved::Taken)
        );
        assert_eq!(store.due(now + 499, 10).await, Ok(vec![]));
        assert_eq!(store.due(now + 500, 10).await, Ok(vec![A]));
        store.attend(vec![(A, now + 900)]).await.expect("attend");
        assert_eq!(store.due(now + 500, 10).await, Ok(vec![]));
        store.release_task("w", A).await.expect("release");
        assert_eq!(store.due(now + 10_000, 10).await, Ok(vec![]));
    })
    .await;
}

#[tokio::test]
async fn the_log_is_ordered_chained_and_never_goes_back() {
    both(|store| async move {
        let until = now_ms() + 60_000;
        let id = |n: u8| EntryId([n; 16]);
        assert_eq!(
            store.append(id(1), b"one", until, Position(0)).await,
            Ok(Position(1))
        );
        assert_eq!(
            store.append(id(2), b"two", until, Position(0)).await,
            Ok(Position(2))
        );
        // A broker that has seen more than the store remembers moves it on.
        assert_eq!(
            store.append(id(3), b"three", until, Position(40)).await,
            Ok(Position(41))
        );
        let log = store.read_log(Position(0), 10).await.expect("log");
        let found: Vec<_> = log
            .iter()
            .map(|e| (e.position.0, e.id, e.previous, e.bytes.as_slice()))
            .collect();
        let none = EntryId::default();
        assert_eq!(
            found,
            [
                (1, id(1), none, &b"one"[..]),
                (2, id(2), id(1), b"two"),
                (41, id(3), id(2), b"three")
            ]
        );
        assert_eq!(
            store.read_log(Position(2), 10).await.map(|l| l.len()),
            Ok(1)
        );
        assert_eq!(store.read_log(Position(0), 2).await.map(|l| l.len()), Ok(2));
        let beat = store
            .heartbeat("me", (Position(41), id(3)), 60_000)
            .await
            .expect("heartbeat");
        assert_eq!(beat.tip, (Position(41), id(3)));
        assert_eq!(beat.peers, [("me".to_owned(), Position(41))]);
        assert!((beat.now_ms - now_ms()).abs() < 5000);
    })
    .await;
}

#[tokio::test]
async fn many_entries_are_appended_in_their_order() {
    both(|store| async move {
        let entries: Vec<_> = (1..=600_u32)
            .map(|n| {
                (
                    EntryId(std::array::from_fn(|i| n.to_be_bytes()[i % 4])),
                    vec![1],
                    now_ms() + 60_000,
                )
            })
            .collect();
        store
            .append_all(&entries, Position(40))
            .await
            .expect("appended");
        let log = store.read_log(Position(0), 1000).await.expect("log");
        assert_eq!(
            log.iter().map(|e| (e.position.0, e.id)).collect::<Vec<_>>(),
            (41..).zip(entries.iter().map(|e| e.0)).collect::<Vec<_>>()
        );
    })
    .await;
}

#[tokio::test]
async fn waiting_for_the_log_ends_when_there_is_something_and_not_for_ever() {
    both(|store| async move {
        let waiting = {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.await_log(Position(0), 5000).await })
        };
        tokio::task::yield_now().await;
        let began = std::time::Instant::now();
        store
            .append(EntryId([1; 16]), b"x", now_ms() + 60_000, Position(0))
            .await
            .expect("append");
        waiting.await.expect("task").expect("woken");
        assert!(
            began.elapsed().as_millis() < 4000,
            "woken by the entry, not by the time"
        );
        store.await_log(Position(1), 20).await.expect("time is up");
    })
    .await;
}

#[tokio::test]
async fn trimming_drops_what_is_past_and_keeps_the_tip() {
    both(|store| async move {
        let now = now_ms();
        for (n, until) in [(1, now - 1), (2, now + 60_000), (3, now - 1), (4, now - 1)] {
            store
                .append(EntryId([n; 16]), b"x", until, Position(0))
                .await
                .expect("append");
        }
        store.trim_log(now, &[]).await.expect("trim");
        let left = async || {
            store
                .read_log(Position(0), 10)
                .await
                .expect("log")
                .iter()
                .map(|e| e.position.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(left().await, [2, 4]);
        store
            .trim_log(now, &[Position(2), Position(4)])
            .await
            .expect("trim");
        assert_eq!(
            left().await,
            [4],
            "places that are named go, but never the tip"
        );
        assert_eq!(
            store.append(EntryId([5; 16]), b"x", now, Position(0)).await,
            Ok(Position(5))
        );
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
    store.bind_task(A, b"b".to_vec()).await.expect("bind");
    assert_eq!(
        store
            .append(EntryId([1; 16]), b"x", now + 60_000, Position(0))
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
