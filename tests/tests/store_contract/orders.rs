//! Orders: each is claimed once, by the step that begins its task.

use std::sync::Arc;

use sundew_broker::store::embedded::EmbeddedStore;
use sundew_core::OrderId;
use sundew_core::store::{Claimed, Created, NewOrder, OrderClaim, Store as _};
use sundew_tests::now_ms;

use super::{A, B, both, hash, task};

fn order(id: OrderId, now: i64, limit: u32) -> NewOrder<'static> {
    NewOrder {
        id,
        dispatcher: "spiffe://x/ci",
        record: b"order".to_vec(),
        listed_until_ms: now + 60_000,
        retain_until_ms: now + 120_000,
        limit,
        now_ms: now,
    }
}

#[tokio::test]
async fn ac_91_of_64_who_claim_an_order_at_once_one_begins_its_task() {
    both(|store| async move {
        let (now, id) = (now_ms(), OrderId::of_task(A));
        let claim = |store: Arc<dyn sundew_core::store::Store>, n: u8| async move {
            let first = hash(n);
            let claim = OrderClaim {
                claim: vec![n],
                retain_until_ms: now + 120_000,
                task: task(A, &n.to_string(), &first),
            };
            store.claim_order(claim).await
        };
        let early = claim(Arc::clone(&store), 1).await;
        assert_eq!(early, Ok(Claimed::Gone), "there is no such order");
        assert_eq!(store.task(A).await, Ok(None));
        let made = store.create_order(order(id, now, 5)).await;
        assert_eq!(made, Ok(Some(Created::New)));
        let again = store.create_order(order(id, now, 5)).await;
        assert_eq!(again, Ok(Some(Created::Existing(b"order".to_vec()))));
        assert_eq!(
            store.order(id).await.map(|o| o.map(|o| o.claim)),
            Ok(Some(None))
        );
        let calls: Vec<_> = (0..64)
            .map(|n| tokio::spawn(claim(Arc::clone(&store), n)))
            .collect();
        let (mut won, mut others) = (0, Vec::new());
        for call in calls {
            match call.await.expect("call").expect("claim") {
                Claimed::Now => won += 1,
                Claimed::Before(claim) => others.push(claim),
                Claimed::Gone => panic!("the order is there"),
            }
        }
        let stored = store.order(id).await.expect("order").expect("order");
        let winner = stored.claim.expect("claim");
        assert_eq!((won, others.len()), (1, 63));
        assert!(others.iter().all(|claim| *claim == winner));
        let begun = store.task(A).await.expect("task").expect("task");
        assert_eq!(begun.record, winner[0].to_string().into_bytes());
        // The end of the task, and even the loss of its record, gives the order back to nobody.
        let ended = store.end_task(A, b"over".to_vec(), now + 1).await;
        ended.expect("ended");
        let again = claim(Arc::clone(&store), 99).await;
        assert_eq!(again, Ok(Claimed::Before(winner)));
    })
    .await;
}

#[tokio::test]
async fn a_dispatcher_has_as_many_orders_as_it_may_have() {
    both(|store| async move {
        let (now, of) = (now_ms(), Some("spiffe://x/ci"));
        let (first, second) = (OrderId::of_task(A), OrderId::of_task(B));
        let made = store.create_order(order(first, now, 1)).await;
        assert_eq!(made, Ok(Some(Created::New)));
        assert_eq!(store.create_order(order(second, now, 1)).await, Ok(None));
        assert_eq!(store.order(second).await, Ok(None));
        assert_eq!(store.orders(of, 10).await, Ok(vec![first]));
        assert_eq!(store.orders(None, 10).await, Ok(vec![first]));
        assert_eq!(store.orders(Some("spiffe://x/b"), 10).await, Ok(vec![]));
        store
            .release_order("spiffe://x/ci", first)
            .await
            .expect("release");
        assert_eq!(store.orders(of, 10).await, Ok(vec![]));
        let made = store.create_order(order(second, now, 1)).await;
        assert_eq!(made, Ok(Some(Created::New)));
    })
    .await;
}

#[tokio::test]
async fn a_claim_outlives_a_restart_of_the_embedded_store() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("store");
    let (now, id) = (now_ms(), OrderId::of_task(A));
    let first = hash(1);
    let claim = |n: u8| OrderClaim {
        claim: vec![n],
        retain_until_ms: now + 120_000,
        task: task(A, "one", &first),
    };
    let store = EmbeddedStore::open(&path).expect("open");
    let made = store.create_order(order(id, now, 5)).await;
    assert_eq!(made, Ok(Some(Created::New)));
    assert_eq!(store.claim_order(claim(1)).await, Ok(Claimed::Now));
    drop(store);
    for _ in 0..2 {
        // Twice: once from operations, once from the snapshot that the first open wrote.
        let store = EmbeddedStore::open(&path).expect("open");
        let again = store.claim_order(claim(2)).await;
        assert_eq!(again, Ok(Claimed::Before(vec![1])));
        assert!(store.task(A).await.expect("task").is_some());
    }
}
