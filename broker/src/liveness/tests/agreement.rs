//! The agreement of all brokers on their bounds.

use sundew_core::Agreement;

use super::*;

/// L3: a token of a task of a day was active again after its revocation, since a broker with a
/// lower limit had set the rule.
#[tokio::test]
async fn l3_a_rule_stands_for_the_longest_task_of_the_time_before_a_change() {
    let test = TestLog::new().await;
    let day_ms = Ttl::DAY.as_ms();
    let shorter = SharedBounds {
        max_task_ttl: Ttl::SECOND,
        ..BOUNDS
    };
    let changed = test.log.agreement().changed(shorter, clock::now_ms());
    let (store, root) = (Arc::clone(&test.log.store), Arc::clone(&test.log.root));
    let log = RevocationLog::new(store, root, "broker-2".to_owned(), changed, shorter);
    assert!(log.rule_stands_until_ms() >= clock::now_ms() + day_ms);
    clock::testing::advance(Duration::from_millis(day_ms.unsigned_abs() + 60_000));
    assert!(log.rule_stands_until_ms() < clock::now_ms() + day_ms);
    // Brokers may agree on what the file allows while a rule waits in the journal.
    assert!(test.log.rule_stands_until_ms() >= clock::now_ms() + day_ms);
}

/// L3: while a broker was cut off, the others agreed on longer tasks than its file allows. What it
/// was asked for meanwhile covers such tasks.
#[tokio::test]
async fn l3_an_ending_that_has_waited_stands_for_the_longer_tasks_of_now() {
    let test = TestLog::new().await;
    let follower = open_follower(&test.log);
    let over = || LogEntry {
        retain_until_ms: clock::now_ms() - 1,
        ..ending(1)
    };
    test.log.outbox.hold(over());
    follower.cycle().await.unwrap();
    let entries = async || test.log.store.read_log(Position(0), 9).await.unwrap();
    assert!(entries().await.is_empty(), "no task lives so long");
    let two_days = Ttl::from_ms(Ttl::DAY.as_ms() * 2).unwrap();
    let beyond = SharedBounds {
        max_task_ttl: two_days,
        ..BOUNDS
    };
    let agreed = test.log.agreement().changed(beyond, clock::now_ms());
    let bytes = test.log.root.tag(&[b"agreement"], agreed.encode());
    let replaced = test.log.store.replace_agreement(1, 2, &bytes).await;
    assert_eq!(replaced, Ok(true));
    test.log.outbox.hold(over());
    assert!(
        follower.cycle().await.is_err(),
        "its file does not allow it"
    );
    let stored = entries().await;
    let entry = test
        .log
        .root
        .untag(&[b"log", &stored[0].id.0], &stored[0].bytes);
    let entry = LogEntry::decode(entry.unwrap()).unwrap();
    assert!(entry.retain_until_ms >= clock::now_ms() + two_days.as_ms());
}

/// L3: the file of a restarted broker changes nothing of what the tasks of the time before rest on.
#[tokio::test]
async fn l3_a_broker_that_starts_with_another_file_takes_the_agreement_or_does_not_start() {
    let test = TestLog::new().await;
    let (store, root) = (test.log.store.as_ref(), &test.log.root);
    let with = |freshness, replicas| SharedBounds {
        freshness,
        replicas,
        ..BOUNDS
    };
    let agreed = agree(store, root, &with(Ttl::DAY, 3), false).await.unwrap();
    assert_eq!((agreed.version, agreed.bounds), (1, BOUNDS));
    let refused = agree(store, root, &with(Ttl::SECOND, 0), false).await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("revocation.freshness = \"1h\""), "{error}");
    let other_root = RootKey::new(&[1; 32]).unwrap();
    assert!(agree(store, &other_root, &BOUNDS, false).await.is_err());
    // Who has a store to himself asks nobody, and forgets nothing.
    let alone = agree(store, root, &with(Ttl::SECOND, 0), true).await;
    assert_eq!(alone.unwrap().bounds, with(Ttl::SECOND, 0));
}

#[tokio::test]
async fn l6_a_view_that_was_renewed_under_another_bound_is_not_asked() {
    let test = TestLog::new().await;
    let follower = open_follower(&test.log);
    follower.cycle().await.unwrap();
    let shorter = SharedBounds {
        freshness: Ttl::SECOND,
        ..BOUNDS
    };
    let changed = test.log.change_agreement(shorter).await.unwrap();
    follower.settle_agreement(changed.version).await.unwrap();
    assert!(test.is_stale(), "until the new bound is told");
    follower.cycle().await.unwrap();
    assert!(!test.is_stale());
    clock::testing::advance(Duration::from_secs(1));
    assert!(test.is_stale(), "the new bound has passed");
}

/// A broker that was cut off before the change has a view of the former bound.
#[tokio::test]
async fn l6_views_of_the_former_bound_are_waited_for_after_a_shorter_one() {
    let test = TestLog::new().await;
    let follower = open_follower(&test.log);
    let shorter = SharedBounds {
        freshness: Ttl::SECOND,
        ..BOUNDS
    };
    test.log.change_agreement(shorter).await.unwrap();
    follower.cycle().await.unwrap();
    assert_eq!(follower.longest_freshness(), FRESHNESS);
    clock::testing::advance(FRESHNESS + Duration::from_secs(60));
    assert_eq!(follower.longest_freshness(), Duration::from_secs(1));
}

/// A failover may make a node the primary that has not heard of the longer bound.
#[tokio::test]
async fn l6_a_longer_bound_counts_once_every_node_has_heard_of_it() {
    let test = TestLog::new().await;
    let second = SharedBounds {
        freshness: Ttl::SECOND,
        ..BOUNDS
    };
    test.log.change_agreement(second).await.unwrap();
    let follower = open_follower(&test.log);
    follower.cycle().await.unwrap();
    test.log.change_agreement(BOUNDS).await.unwrap();
    let longer = test.log.agreement().changed(BOUNDS, clock::now_ms());
    follower.settle_agreement(longer.version).await.unwrap();
    assert_eq!(follower.renewed_for(false), Duration::from_secs(1));
    assert_eq!(follower.renewed_for(true), FRESHNESS);
    assert_eq!(follower.renewed_for(false), FRESHNESS, "it has heard");
}

/// An ending is taken also by a broker that has not heard of the agreement yet.
#[tokio::test]
async fn l3_an_ending_that_meets_another_agreement_is_appended_under_it() {
    let test = TestLog::new().await;
    let follower = open_follower(&test.log);
    follower.cycle().await.unwrap();
    let longer = test.log.agreement().changed(BOUNDS, clock::now_ms());
    let bytes = test.log.root.tag(&[b"agreement"], longer.encode());
    let replaced = test.log.store.replace_agreement(1, 2, &bytes).await;
    assert_eq!(replaced, Ok(true));
    let entry = ending(1);
    let follow = async {
        // Until the ending waits.
        while test.log.pending() == 0 {
            tokio::task::yield_now().await;
        }
        follower.cycle().await.unwrap();
    };
    let (appended, ()) = tokio::join!(test.log.append(entry.clone()), follow);
    appended.unwrap();
    assert_eq!(test.log.agreement().version, 2);
    assert!(test.log.read().is_in_log(&entry.id));
    assert_eq!(test.log.pending(), 0);
}

/// L22: whoever writes the store puts an older agreement back.
#[tokio::test]
async fn l22_an_older_agreement_is_refused_and_the_known_one_is_put_back() {
    let test = TestLog::new().await;
    let follower = open_follower(&test.log);
    let older = test.log.store.agreement().await.unwrap().unwrap();
    let shorter = SharedBounds {
        max_task_ttl: Ttl::HOUR,
        ..BOUNDS
    };
    test.log.change_agreement(shorter).await.unwrap();
    follower.cycle().await.unwrap();
    let put_back = test.log.store.replace_agreement(2, 1, &older).await;
    assert_eq!(put_back, Ok(true));
    follower.cycle().await.unwrap();
    assert_eq!(test.log.agreement().bounds, shorter);
    let (store, root) = (test.log.store.as_ref(), &test.log.root);
    let stored = agree(store, root, &BOUNDS, false).await.unwrap();
    assert_eq!(stored.bounds, shorter);
}

#[tokio::test]
async fn an_agreement_that_was_altered_is_not_followed() {
    let test = TestLog::new().await;
    let follower = open_follower(&test.log);
    let altered = Agreement::first(BOUNDS).changed(BOUNDS, 0).encode();
    let replaced = test.log.store.replace_agreement(1, 2, &altered).await;
    assert_eq!(replaced, Ok(true));
    assert!(follower.cycle().await.is_err());
    assert!(test.is_stale());
    assert_eq!(test.log.agreement().version, 1);
}

/// An ending needs no fresh view, and a broker under an agreement beyond its file has none.
#[tokio::test]
async fn a_broker_under_an_agreement_beyond_its_file_appends_endings_and_answers_nothing() {
    let test = TestLog::new().await;
    let follower = open_follower(&test.log);
    follower.cycle().await.unwrap();
    let beyond = SharedBounds {
        max_task_ttl: Ttl::from_ms(Ttl::DAY.as_ms() * 2).unwrap(),
        ..BOUNDS
    };
    assert!(test.log.change_agreement(beyond).await.is_err());
    let agreed = test.log.agreement().changed(beyond, clock::now_ms());
    let bytes = test.log.root.tag(&[b"agreement"], agreed.encode());
    let replaced = test.log.store.replace_agreement(1, 2, &bytes).await;
    assert_eq!(replaced, Ok(true));
    test.log.outbox.hold(ending(1));
    let error = follower.cycle().await.unwrap_err().to_string();
    assert!(error.contains("limits.max_task_ttl = \"2d\""), "{error}");
    assert!(test.is_stale());
    assert_eq!(test.log.pending(), 0);
    assert_eq!(
        test.log.store.read_log(Position(0), 9).await.unwrap().len(),
        1
    );
}
