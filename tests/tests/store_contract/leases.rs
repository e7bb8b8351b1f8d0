//! Leases: claimed by one, and there until they are removed.

use std::sync::Arc;

use sundew_core::LeaseId;
use sundew_core::store::{Created, Store, StoredLease};
use sundew_tests::now_ms;

use super::{A, B, both, hash, task};

fn lease(n: u8, due_ms: i64) -> StoredLease {
    StoredLease {
        id: LeaseId::from_bytes([n; 16]),
        record: vec![n],
        due_ms,
    }
}

/// Of eight who claim what is due at once one gets it, and another when that one has died.
async fn of_eight_one_claims(store: &Arc<dyn Store>, now: i64) {
    let claims: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(store);
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
}

/// A task knows for as long as it is there how many leases it had.
async fn leases_are_remembered_with_their_task(store: &Arc<dyn Store>, now: i64) {
    let id = |n: u8| LeaseId::from_bytes([n; 16]);
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
        of_eight_one_claims(&store, now).await;
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
        leases_are_remembered_with_their_task(&store, now).await;
    })
    .await;
}
