//! The agreement of all brokers on their bounds.

use sundew_core::Agreement;

use super::*;

/// A follower of this log that nobody runs, and whose view may be asked once it was renewed.
fn open_follower(log: &Arc<RevocationLog>) -> LogFollower {
    log.open_after(Duration::ZERO);
    LogFollower::new(Arc::clone(log), NoSink)
}

/// L3: a token of a task of a day was active again after its revocation, since a broker with a
/// lower limit had set the rule.
#[tokio::test]
async fn l3_a_rule_stands_for_the_longest_task_of_the_time_before_a_change() {
    let test = TestLog::new().await;
    let follower = open_follower(&test.log);
    follower.cycle().await.unwrap();
    let day_ms = Ttl::DAY.as_ms();
    let shorter = SharedBounds {
        max_task_ttl: Ttl::SECOND,
        ..BOUNDS
    };
    test.log.change_agreement(shorter).await.unwrap();
    follower.cycle().await.unwrap();
    assert_eq!(test.log.agreement().bounds, shorter);
    assert!(test.log.rule_stands_until_ms() >= clock::now_ms() + day_ms);
    clock::testing::advance(Duration::from_millis(day_ms.unsigned_abs() + 60_000));
    assert!(test.log.rule_stands_until_ms() < clock::now_ms() + day_ms);
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
