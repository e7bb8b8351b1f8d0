mod agreement;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sundew_attestation::spiffe::SpiffeId;
use sundew_core::store::{BoxFuture, StoreError};
use sundew_core::{
    Effect, EntryId, Event, LogEntry, Outcome, Position, RootKey, Selector, SharedBounds, TaskId,
    Ttl,
};
use tempfile::TempDir;

use super::follower::ENTRIES_PER_READ;
use super::revocation_log::HeartbeatAck;
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

/// L8: what a jump ahead made a broker forget would be alive again after the jump.
#[tokio::test]
async fn l8_a_wall_clock_that_jumps_ahead_makes_nothing_forgotten() {
    let test = TestLog::new().await;
    test.log.open_after(Duration::ZERO);
    test.follow().await;
    let entry = ending(1);
    test.log.append(entry.clone()).await.unwrap();
    clock::testing::set_wall(7_200_000);
    test.log.forget().await.unwrap();
    assert!(test.log.latest_view().entry(&entry.id).is_some());
    clock::testing::advance(Duration::from_secs(7_200));
    test.log.forget().await.unwrap();
    assert!(test.log.latest_view().entry(&entry.id).is_none());
}

/// P4: the position with which a store answers an append is one of the log of whichever primary took
/// it. What was not read back from the log that is followed is in no view of others.
#[tokio::test]
async fn p4_an_ending_that_was_not_read_back_is_not_acknowledged() {
    let test = TestLog::new().await;
    let ahead = HeartbeatAck {
        applied: Position(100),
        all_replicas_acked: true,
        ..HeartbeatAck::default()
    };
    test.log.progress.acks.send_replace(ahead);
    let mut append = std::pin::pin!(test.log.append(ending(1)));
    let answered = tokio::time::timeout(Duration::from_millis(200), append.as_mut()).await;
    assert!(answered.is_err(), "{answered:?}");
    test.follow().await;
    append.await.unwrap();
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

#[tokio::test]
async fn l17_a_start_with_a_long_and_trimmed_log_is_no_loss() {
    let test = TestLog::new().await;
    let (room, store) = (Arc::new(Forgetful::default()), Arc::clone(&test.log.store));
    let mut follower = LogFollower::new(Arc::clone(&test.log), NoSink);
    follower.subscribe(Arc::clone(&room));
    let entries = ENTRIES_PER_READ + 3;
    for number in 0..entries {
        let (id, bytes, until_ms) = test.log.sealed(&ending(1));
        // The first entry after the first read has had its time.
        let until_ms = if number == ENTRIES_PER_READ {
            1
        } else {
            until_ms
        };
        let appended = store.append(id, &bytes, until_ms, test.log.append_after());
        appended.await.unwrap();
    }
    store.trim_log(2, &[]).await.unwrap();
    follower.cycle().await.unwrap();
    let last = Position(u64::try_from(entries).unwrap());
    assert_eq!(test.log.read().applied().0, last, "nothing was appended");
    // What rooms read before may be older than the entry that is missing.
    assert_eq!(room.0.load(Ordering::Relaxed), 1);
}

/// A store that took an ending may be set back before anybody has read it.
#[tokio::test]
async fn l7_an_ending_is_pending_until_it_was_read_back() {
    let test = TestLog::new().await;
    let follower = open_follower(&test.log);
    test.log.outbox.hold(ending(1));
    assert_eq!(follower.append_pending().await, Ok(true));
    assert_eq!(test.log.pending(), 1);
    follower.cycle().await.unwrap();
    assert_eq!(test.log.pending(), 0);
}

/// P4: the store was set back once more after a repair, to where it was before it.
#[tokio::test]
async fn a_repair_counts_once_the_log_was_read_and_has_everything() {
    let test = TestLog::new().await;
    let follower = open_follower(&test.log);
    let (lost, kept) = (ending(1), ending(2));
    for entry in [&lost, &kept] {
        append_until(&test.log, entry.clone(), LONG).await;
    }
    follower.cycle().await.unwrap();
    assert_eq!(follower.is_repaired().await, Ok(true));
    test.log.store.trim_log(0, &[Position(1)]).await.unwrap();
    follower.unverified.store(true, Ordering::Relaxed);
    follower.cycle().await.unwrap();
    let stored = test.log.store.read_log(Position(0), 9).await.unwrap();
    assert!(stored.iter().any(|stored| stored.id == lost.id));
    assert_eq!(follower.is_repaired().await, Ok(true));
}

/// A rule that revokes everything of a workload.
fn rule() -> LogEntry {
    let workload = SpiffeId::parse("spiffe://example.org/agent").unwrap();
    let event = Event::Rule {
        selector: Box::new(Selector::workload(workload)),
        effect: Effect::Revoke,
    };
    RevocationLog::entry(event, LONG).unwrap()
}

/// Lets others agree on something, so that the store takes nothing from this log before it has heard
/// of that.
async fn agree_elsewhere(log: &RevocationLog) {
    let agreed = log.agreement().changed(BOUNDS, clock::now_ms());
    let bytes = log.root.tag(&[b"agreement"], agreed.encode());
    let replaced = log.store.replace_agreement(1, agreed.version, &bytes).await;
    assert_eq!(replaced, Ok(true));
}

/// P4, L5: what a repair has read is known by the time at which it fails. The rule must be repeated
/// all the same.
#[tokio::test]
async fn p4_a_repair_that_failed_is_made_again_as_a_whole() {
    let test = TestLog::new().await;
    let follower = open_follower(&test.log);
    let rule = rule();
    append_until(&test.log, rule.clone(), LONG).await;
    // This broker has read more of a log that is gone, and has stamped tokens with that.
    test.log.write().rewind(Position(10), EntryId([7; 16]));
    agree_elsewhere(&test.log).await;
    assert_eq!(
        follower.reappend_lost().await,
        Err(StoreError::OtherAgreement)
    );
    follower.cycle().await.unwrap();
    let view = test.log.read();
    let above = view
        .active_rules()
        .iter()
        .any(|(at, ..)| *at > Position(10));
    assert!(above, "the rule stands above every stamp");
}

/// L8: a wall clock that jumps ahead ends nothing for good before the jump is noticed.
#[tokio::test]
async fn l8_nothing_ends_by_a_time_that_the_store_has_not_confirmed() {
    let test = TestLog::new().await;
    assert_eq!(test.log.ending_time_ms(), clock::now_ms());
    let confirmed_ms = clock::now_ms() - 45_000;
    test.log
        .confirmed_time
        .note(confirmed_ms, clock::monotonic());
    let skew_ms = BOUNDS.max_clock_skew.as_ms();
    assert_eq!(test.log.ending_time_ms(), confirmed_ms + skew_ms);
    clock::testing::advance(Duration::from_secs(10));
    assert_eq!(test.log.ending_time_ms(), confirmed_ms + 10_000 + skew_ms);
}
