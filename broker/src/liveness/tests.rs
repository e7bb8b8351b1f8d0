use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sundew_core::store::BoxFuture;
use sundew_core::{
    Agreement, EntryId, Event, LogEntry, Outcome, Position, RootKey, SharedBounds, TaskId, Ttl,
};
use tempfile::TempDir;

use super::*;
use crate::clock;
use crate::clock::testing::StoppedClock;
use crate::store::embedded::EmbeddedStore;

/// Long on the stopped clock, so that only a test lets it pass.
const FRESHNESS: Duration = Duration::from_secs(3600);
/// The bounds of a broker.
const BOUNDS: SharedBounds = SharedBounds {
    freshness: Ttl::HOUR,
    max_clock_skew: Ttl::SECOND,
    max_task_ttl: Ttl::DAY,
    replicas: 0,
};

struct NoSink;

impl DurableSink for NoSink {
    fn persist(&self, _: Vec<LogEntry>) -> BoxFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// A log over an embedded store in a folder of its own.
struct TestLog {
    log: Arc<RevocationLog>,
    _clock: StoppedClock,
    _folder: TempDir,
}

impl TestLog {
    async fn new() -> Self {
        let stopped = clock::testing::stop();
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("store.log")).unwrap();
        let root = Arc::new(RootKey::new(&[0x7a; 32]).unwrap());
        let agreement = agree(store.as_ref(), &root, &BOUNDS, true).await.unwrap();
        let log = RevocationLog::new(store, root, "broker-1".to_owned(), agreement, BOUNDS);
        Self {
            log: Arc::new(log),
            _clock: stopped,
            _folder: folder,
        }
    }

    /// Lets a follower run, and waits until a heartbeat of it was acknowledged.
    async fn follow(&self) {
        let mut acks = self.log.progress.acks.subscribe();
        tokio::spawn(LogFollower::new(Arc::clone(&self.log), NoSink).run());
        acks.changed().await.unwrap();
    }

    fn is_stale(&self) -> bool {
        self.log.view().is_err()
    }
}

fn ending(number: u8) -> LogEntry {
    let event = Event::Ended {
        task: TaskId::from_bytes([number; 16]),
        outcome: Outcome::Completed,
    };
    RevocationLog::entry(event, clock::now_ms() + 3_600_000).unwrap()
}

#[tokio::test]
async fn a_view_is_stale_until_it_is_opened_however_often_it_is_renewed() {
    let test = TestLog::new().await;
    assert!(test.is_stale());
    test.follow().await;
    test.log.append(ending(1)).await.unwrap();
    assert!(test.is_stale(), "nobody has opened it");
    assert!(test.log.degraded_reason().is_some());
    test.log.open_after(Duration::ZERO);
    test.log.append(ending(2)).await.unwrap();
    assert!(!test.is_stale());
    assert_eq!(test.log.degraded_reason(), None);
}

/// P4: what only other brokers know is on its way until the wait is over.
#[tokio::test]
async fn a_view_that_is_opened_after_a_wait_is_stale_until_then() {
    let test = TestLog::new().await;
    test.log.open_after(Duration::from_secs(10));
    test.follow().await;
    clock::testing::advance(Duration::from_millis(9_999));
    test.log.append(ending(1)).await.unwrap();
    assert!(test.is_stale());
    clock::testing::advance(Duration::from_millis(1));
    test.log.append(ending(2)).await.unwrap();
    assert!(!test.is_stale());
}

/// P5: the bound counts from the moment at which the heartbeat was sent.
#[tokio::test]
async fn a_view_that_is_not_renewed_is_stale_when_its_bound_has_passed() {
    let test = TestLog::new().await;
    test.log.open_after(Duration::ZERO);
    test.follow().await;
    assert!(!test.is_stale());
    clock::testing::advance(FRESHNESS - Duration::from_millis(1));
    assert!(!test.is_stale());
    clock::testing::advance(Duration::from_millis(1));
    assert!(test.is_stale());
}

#[tokio::test]
async fn an_ending_that_was_appended_is_in_the_view_and_can_be_confirmed() {
    let test = TestLog::new().await;
    test.log.open_after(Duration::ZERO);
    test.follow().await;
    let entry = ending(1);
    let position = test.log.append(entry.clone()).await.unwrap();
    let (at, known) = {
        let view = test.log.view().unwrap();
        let (at, known) = view.entry(&entry.id).unwrap();
        (at, known.clone())
    };
    assert_eq!((at, known), (position, entry.clone()));
    assert_eq!(test.log.confirm(entry.id).await.unwrap(), position);
    assert_eq!(test.log.pending(), 0);
}

#[tokio::test]
async fn an_ending_that_nobody_knows_is_not_confirmed() {
    let test = TestLog::new().await;
    test.log.open_after(Duration::ZERO);
    test.follow().await;
    assert!(matches!(
        test.log.confirm(EntryId([9; 16])).await,
        Err(AppendError::Unconfirmed(_))
    ));
}

/// P4: what the journal has and the log has lost holds at once, and is in the log before the view
/// is fresh.
#[tokio::test]
async fn what_the_journal_has_is_appended_before_the_view_may_be_asked() {
    let test = TestLog::new().await;
    let entry = ending(1);
    test.log.restore([entry.clone()]);
    assert_eq!(test.log.pending(), 1);
    assert!(test.log.read().knows(&entry.id));
    test.log.open_after(Duration::ZERO);
    test.follow().await;
    let (position, _) = test.log.view().unwrap().entry(&entry.id).unwrap();
    assert!(position > Position(0));
    assert_eq!(test.log.pending(), 0);
}

#[tokio::test]
async fn a_broker_that_has_left_answers_nothing_more() {
    let test = TestLog::new().await;
    test.log.open_after(Duration::ZERO);
    test.follow().await;
    assert!(!test.is_stale());
    test.log.leave().await;
    assert!(test.is_stale());
    test.log.append(ending(1)).await.unwrap();
    assert!(test.is_stale(), "not even after a heartbeat");
}

/// A room that counts how often it was told to forget.
#[derive(Default)]
struct Forgetful(AtomicUsize);

impl Subscriber for Forgetful {
    fn on_event(self: Arc<Self>, _: &Event) {}
    fn on_gap(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Appends an entry with a retention that is not that of its kind.
async fn append_until(log: &RevocationLog, entry: LogEntry, retain_until_ms: i64) {
    let (id, bytes, _) = log.sealed(&entry);
    log.store
        .append(id, &bytes, retain_until_ms, log.append_after())
        .await
        .unwrap();
}

const LONG: i64 = i64::MAX >> 12;

/// Lets something change, which leaves the log after its time, and something else come.
async fn change_and_trim(log: &RevocationLog) {
    append_until(log, ending(2), 1).await;
    append_until(log, ending(3), LONG).await;
    log.store.trim_log(2, &[]).await.unwrap();
}

#[tokio::test]
async fn l4_a_broker_that_missed_entries_for_good_tells_every_room_to_forget() {
    let test = TestLog::new().await;
    let room = Arc::new(Forgetful::default());
    let mut follower = LogFollower::new(Arc::clone(&test.log), NoSink);
    follower.subscribe(Arc::clone(&room));
    append_until(&test.log, ending(1), LONG).await;
    follower.cycle().await.unwrap();
    assert_eq!(room.0.load(Ordering::Relaxed), 0);
    change_and_trim(&test.log).await;
    follower.cycle().await.unwrap();
    assert!(room.0.load(Ordering::Relaxed) > 0);
}

/// A broker may have read documents before the log had its first entry.
#[tokio::test]
async fn l4_a_broker_whose_log_was_empty_before_it_was_away_tells_every_room_to_forget() {
    let test = TestLog::new().await;
    let room = Arc::new(Forgetful::default());
    let mut follower = open_follower(&test.log);
    follower.subscribe(Arc::clone(&room));
    follower.cycle().await.unwrap();
    change_and_trim(&test.log).await;
    follower.cycle().await.unwrap();
    assert!(room.0.load(Ordering::Relaxed) > 0);
    assert!(!test.is_stale(), "and nothing is lost by that");
}

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
