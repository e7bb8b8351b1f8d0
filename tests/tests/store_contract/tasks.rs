//! Tasks, their tokens, and the places that workloads have for them.

use std::sync::Arc;

use sundew_core::TaskId;
use sundew_core::store::{Created, CreatedToken, Reserved};
use sundew_tests::{now_ms, until};

use super::{A, B, both, first, hash, task, token};

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
            Ok(Reserved::Held),
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
                .reserve_task(
                    "spiffe://x/w",
                    TaskId::from_bytes([77; 16]),
                    now + 60_000,
                    now,
                    5,
                    now
                )
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
            store.create_token(B, token(&hash(3), "x", 1000), 9).await,
            Ok(None),
            "no task, no token"
        );
        assert_eq!(
            store.create_token(A, token(&hash(3), "x", 60_000), 9).await,
            Ok(Some(CreatedToken::New))
        );
        assert_eq!(
            store.create_token(A, token(&hash(3), "y", 60_000), 9).await,
            Ok(Some(CreatedToken::Existing(b"x".to_vec())))
        );
    })
    .await;
}

#[tokio::test]
async fn tokens_and_tasks_are_walked_through_and_tokens_go_with_their_task() {
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
                store
                    .create_token(A, token(&hash(n), "x", 60_000), 200)
                    .await,
                Ok(Some(CreatedToken::New))
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
        for _ in 0..2 {
            let ended = store.end_task(A, b"remains".to_vec(), now + 60_000);
            assert_eq!(ended.await, Ok(()));
            assert_eq!(store.token(A, &hash(1)).await, Ok(None));
            let page = store.tokens(A, 0).await.expect("page");
            assert_eq!((page.tokens.len(), page.next), (0, 0));
            assert!(
                store.task(A).await.expect("task").is_some(),
                "what remains of the task stays"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn bindings_are_added_to_a_task_that_is_there() {
    both(|store| async move {
        store
            .bind_task(A, b"nobody".to_vec(), 8)
            .await
            .expect("no task, no effect");
        assert_eq!(
            store.create_task(task(A, "one", &hash(1))).await,
            Ok(Created::New)
        );
        for _ in 0..2 {
            store.bind_task(A, b"next".to_vec(), 8).await.expect("bind");
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
async fn a5_the_newest_bindings_of_a_task_stay() {
    both(|store| async move {
        assert_eq!(
            store.create_task(task(A, "one", &hash(1))).await,
            Ok(Created::New)
        );
        for name in [b"1", b"2", b"3", b"1", b"4"] {
            // The store orders by the time in milliseconds.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            store.bind_task(A, name.to_vec(), 3).await.expect("bind");
        }
        let mut found = store.task(A).await.expect("task").expect("there").bindings;
        found.sort();
        assert_eq!(found, [b"1", b"3", b"4"]);
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
        // O3: it is counted whether or not it is due.
        assert_eq!(store.count_tasks().await, Ok(1));
        assert_eq!(store.due(now + 499, 10).await, Ok(vec![]));
        assert_eq!(store.due(now + 500, 10).await, Ok(vec![A]));
        store.attend(vec![(A, now + 900)]).await.expect("attend");
        assert_eq!(store.due(now + 500, 10).await, Ok(vec![]));
        store.release_task("w", A).await.expect("release");
        assert_eq!(store.due(now + 10_000, 10).await, Ok(vec![]));
        assert_eq!(store.count_tasks().await, Ok(0));
    })
    .await;
}

#[tokio::test]
async fn a2_what_remains_of_a_task_takes_the_place_of_its_record_and_tokens() {
    both(|store| async move {
        let now = now_ms();
        store
            .end_task(B, b"nobody".to_vec(), now + 60_000)
            .await
            .expect("no task, no effect");
        assert_eq!(store.task(B).await, Ok(None));
        assert_eq!(
            store.create_task(task(A, "one", &hash(1))).await,
            Ok(Created::New)
        );
        store.bind_task(A, b"next".to_vec(), 8).await.expect("bind");
        // Again changes nothing, and keeps nothing for longer.
        for until in [now + 200, now + 90_000] {
            store
                .end_task(A, b"remains".to_vec(), until)
                .await
                .expect("ended");
        }
        let found = store.task(A).await.expect("task").expect("there");
        assert_eq!(
            (found.record, found.bindings),
            (b"remains".to_vec(), vec![b"next".to_vec()])
        );
        assert_eq!(store.token(A, &hash(1)).await, Ok(None));
        until("nothing is left", || async {
            store.trim_log(now_ms(), &[]).await.expect("trimmed");
            store.task(A).await == Ok(None)
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a2_a_task_has_so_many_tokens_that_have_not_expired_and_no_more() {
    both(|store| async move {
        assert_eq!(
            store.create_task(task(A, "one", &hash(1))).await,
            Ok(Created::New)
        );
        let create = |n, keep| {
            let store = Arc::clone(&store);
            async move { store.create_token(A, token(&hash(n), "x", keep), 3).await }
        };
        assert_eq!(create(2, 100).await, Ok(Some(CreatedToken::New)));
        assert_eq!(create(3, 60_000).await, Ok(Some(CreatedToken::New)));
        assert_eq!(create(4, 60_000).await, Ok(Some(CreatedToken::Full)));
        assert_eq!(
            create(3, 60_000).await,
            Ok(Some(CreatedToken::Existing(b"x".to_vec()))),
            "a retry is not one more"
        );
        until("one has expired", || async {
            create(4, 60_000).await == Ok(Some(CreatedToken::New))
        })
        .await;
        assert_eq!(create(5, 60_000).await, Ok(Some(CreatedToken::Full)));
    })
    .await;
}
