//! The log: ordered, chained, waited for and trimmed.

use std::sync::Arc;

use sundew_broker::store::embedded::EmbeddedStore;
use sundew_core::store::{AppendAfter, Store as _, StoreError};
use sundew_core::{EntryId, Position};
use sundew_tests::now_ms;

use super::{both, report};

#[tokio::test]
async fn the_log_is_ordered_chained_and_never_goes_back() {
    both(|store| async move {
        let until = now_ms() + 60_000;
        let id = |n: u8| EntryId([n; 16]);
        assert_eq!(
            store.append(id(1), b"one", until, Position(0).into()).await,
            Ok(Position(1))
        );
        assert_eq!(
            store.append(id(2), b"two", until, Position(0).into()).await,
            Ok(Position(2))
        );
        // A broker that has seen more than the store remembers moves it on.
        assert_eq!(
            store
                .append(id(3), b"three", until, Position(40).into())
                .await,
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
            .heartbeat(report((Position(41), id(3))))
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
            .append_all(&entries, Position(40).into())
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
            .append(
                EntryId([1; 16]),
                b"x",
                now_ms() + 60_000,
                Position(0).into(),
            )
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
                .append(EntryId([n; 16]), b"x", until, Position(0).into())
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
            store
                .append(EntryId([5; 16]), b"x", now, Position(0).into())
                .await,
            Ok(Position(5))
        );
    })
    .await;
}

/// I10: a version that was superseded, or an entry that was written anew, is under a former root key,
/// and must not come back when that key is gone.
#[tokio::test]
async fn an_entry_that_was_dropped_before_its_time_stays_away_after_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("store");
    let store = EmbeddedStore::open(&path).expect("embedded");
    let until_ms = now_ms() + 60_000;
    for n in 1..=3 {
        let appended = store.append(EntryId([n; 16]), b"x", until_ms, Position(0).into());
        appended.await.expect("append");
    }
    let places = [Position(1), Position(3), Position(7)];
    store.trim_log(now_ms(), &places).await.expect("trim");
    drop(store);
    for _ in 0..2 {
        let store = EmbeddedStore::open(&path).expect("embedded");
        let log = store.read_log(Position(0), 10).await.expect("log");
        let left: Vec<_> = log.iter().map(|entry| entry.position.0).collect();
        assert_eq!(left, [2, 3]);
    }
}

/// L3, L6: whoever does not know the agreement appends nothing, and nobody replaces what they have
/// not seen.
#[tokio::test]
async fn an_append_is_by_the_agreement_that_the_store_has() {
    both(|store| async move {
        let after = |agreement| AppendAfter {
            agreement,
            floor: Position(0),
        };
        let until = now_ms() + 60_000;
        assert_eq!(store.agreement().await, Ok(None));
        assert_eq!(store.replace_agreement(1, 2, b"two").await, Ok(false));
        assert_eq!(store.replace_agreement(0, 7, b"seven").await, Ok(true));
        assert_eq!(store.replace_agreement(0, 8, b"eight").await, Ok(false));
        assert_eq!(store.agreement().await, Ok(Some(b"seven".to_vec())));
        let id = |n: u8| EntryId([n; 16]);
        for known in [0, 6, 8] {
            assert_eq!(
                store.append(id(1), b"x", until, after(known)).await,
                Err(StoreError::OtherAgreement)
            );
            assert_eq!(
                store
                    .append_all(&[(id(1), b"x".to_vec(), until)], after(known))
                    .await,
                Err(StoreError::OtherAgreement)
            );
        }
        assert_eq!(store.read_log(Position(0), 10).await, Ok(Vec::new()));
        assert_eq!(
            store.append(id(1), b"x", until, after(7)).await,
            Ok(Position(1))
        );
        let beat = store.heartbeat(report((Position(1), id(1)))).await;
        assert_eq!(beat.map(|beat| beat.agreement), Ok(7));
    })
    .await;
}
