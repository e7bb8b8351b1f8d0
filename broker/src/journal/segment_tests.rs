use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{Effect, EntryId, Event, FOR_EVER_MS, Outcome, Selector, TaskId};

use super::*;
use crate::store::chain_log;

/// A time at which what the tests write still matters, in milliseconds since the epoch.
const NOW_MS: i64 = 1_760_000_000_000;
const LATER_MS: i64 = 4_000_000_000_000;

pub(super) fn rules() -> SegmentRules {
    SegmentRules {
        segment_bytes: 1 << 40,
        segment_age: Duration::from_secs(3600),
        keep_for: None,
        keep_bytes: None,
        archive: None,
    }
}

pub(super) fn open(folder: &Path) -> (Arc<Journal>, Vec<LogEntry>) {
    let mut endings = Vec::new();
    let journal = Journal::open(folder, |ending| endings.push(ending)).unwrap();
    (Arc::new(journal), endings)
}

/// The numbers of the entries that a start takes out of a journal, in their order.
fn endings(folder: &Path) -> Vec<u8> {
    let (_, endings) = open(folder);
    endings.iter().map(|entry| entry.id.0[0]).collect()
}

fn task(number: u8) -> TaskId {
    TaskId::from_bytes([number; 16])
}

fn ended(number: u8, until_ms: i64) -> LogEntry {
    let event = Event::Ended {
        task: task(number),
        outcome: Outcome::Completed,
    };
    entry(number, event, until_ms)
}

fn entry(number: u8, event: Event, retain_until_ms: i64) -> LogEntry {
    LogEntry {
        id: EntryId([number; 16]),
        event,
        retain_until_ms,
        document: None,
    }
}

fn quarantine(number: u8) -> LogEntry {
    let id = SpiffeId::parse("spiffe://test.example/agent").unwrap();
    let event = Event::Rule {
        selector: Box::new(Selector::workload(id)),
        effect: Effect::Quarantine,
    };
    entry(number, event, FOR_EVER_MS)
}

async fn write(journal: &Journal, event: &str, entry: &LogEntry) {
    let text = String::from_utf8(entry.encode()).unwrap();
    let record = record(event).with("entry", text);
    journal.write(record).await.unwrap();
}

/// Ends the current segment, as a crash right after leaves it.
async fn roll(journal: &Journal) {
    journal.roll(NOW_MS).await.unwrap();
}

/// Ends the current segment, and carries over what still matters.
async fn roll_and_carry(journal: &Arc<Journal>) {
    roll(journal).await;
    let upkeep = Upkeep::new(Arc::clone(journal), rules());
    upkeep.look(NOW_MS).await.unwrap();
}

fn segments_of(folder: &Path) -> Vec<u64> {
    let segments = segments::list(folder).unwrap();
    segments.iter().map(|segment| segment.number).collect()
}

fn remove_segment(folder: &Path, number: u64) {
    std::fs::remove_file(Segment::of(folder, number).path).unwrap();
}

/// Writes until the current segment is known to be longer than this. The writer tells its length once
/// in a second, or after many bytes.
async fn write_more_than(journal: &Journal, bytes: u64) {
    loop {
        journal.write(record("more")).await.unwrap();
        if journal.space.state().file > bytes {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn o1_a_segment_ends_by_length_and_by_age_while_the_journal_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    let began_ms = journal.segments().began_ms;
    let upkeep = |segment_bytes| {
        let rules = SegmentRules {
            segment_bytes,
            ..rules()
        };
        Upkeep::new(Arc::clone(&journal), rules)
    };
    upkeep(1 << 20).look(began_ms + 3_600_001).await.unwrap();
    assert_eq!(segments_of(folder.path()), [1], "there is nothing in it");
    write_more_than(&journal, upkeep::EMPTY_BYTES).await;
    upkeep(1 << 20).look(began_ms + 3_599_000).await.unwrap();
    assert_eq!(segments_of(folder.path()), [1]);
    upkeep(1 << 20).look(began_ms + 3_600_001).await.unwrap();
    assert_eq!(segments_of(folder.path()), [1, 2], "it is old");
    upkeep(1 << 20).look(began_ms + 9_600_001).await.unwrap();
    assert_eq!(segments_of(folder.path()), [1, 2], "nothing of its own");
    for _ in 0..20 {
        let long = record("second").with("text", "x".repeat(60_000));
        journal.write(long).await.unwrap();
    }
    write_more_than(&journal, (1 << 20) - 1).await;
    upkeep(1 << 20).look(began_ms + 3_700_000).await.unwrap();
    assert_eq!(segments_of(folder.path()), [1, 2, 3], "it is long");
    journal.write(record("fourth")).await.unwrap();
    assert_eq!(journal.state().segments, 3);
    assert!(journal.state().bytes > 1 << 20);
    drop(journal);
    let extent = read_all(&[folder.path().to_owned()], |_| {}).unwrap();
    assert_eq!((extent.first, extent.last), (1, 3));
    assert!(extent.records >= 22 + 2);
}

/// A quarantine may be as old as the journal.
#[tokio::test]
async fn o1_a_start_needs_the_newest_segment_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    write(&journal, "revoked", &quarantine(1)).await;
    write(&journal, "revoked", &quarantine(2)).await;
    write(&journal, "task_ended", &ended(3, LATER_MS)).await;
    write(&journal, "task_ended", &ended(4, NOW_MS - 1)).await;
    let suspended = entry(5, Event::Suspended(task(5)), LATER_MS);
    write(&journal, "task_suspended", &suspended).await;
    roll_and_carry(&journal).await;
    let lift = entry(6, Event::Lifted(EntryId([2; 16])), NOW_MS - 1);
    write(&journal, "lifted", &lift).await;
    let resumed = entry(7, Event::Resumed(task(5)), LATER_MS);
    write(&journal, "task_resumed", &resumed).await;
    for _ in 0..3 {
        roll_and_carry(&journal).await;
    }
    write(&journal, "ending_heard", &ended(8, LATER_MS)).await;
    drop(journal);
    assert_eq!(segments_of(folder.path()), [1, 2, 3, 4, 5]);
    let known = endings(folder.path());
    let mut sorted = known.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [1, 3, 5, 6, 7, 8]);
    let place = |number| known.iter().position(|n| *n == number);
    assert!(
        place(5) < place(7),
        "a task is resumed after it was suspended"
    );
    for number in 1..=4 {
        remove_segment(folder.path(), number);
    }
    assert_eq!(endings(folder.path()), known);
    let extent = read_all(&[folder.path().to_owned()], |_| {}).unwrap();
    assert_eq!((extent.first, extent.last), (5, 5), "the rest verifies");
}

/// Before the endings are carried over, a start needs the segment before too, and says so.
#[tokio::test]
async fn o1_a_missing_segment_that_is_needed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    write(&journal, "task_ended", &ended(1, LATER_MS)).await;
    roll_and_carry(&journal).await;
    roll(&journal).await;
    write(&journal, "task_ended", &ended(2, LATER_MS)).await;
    drop(journal);
    remove_segment(folder.path(), 1);
    assert_eq!(endings(folder.path()), [1, 2]);
    remove_segment(folder.path(), 2);
    let error = Journal::open(folder.path(), |_| {}).map(drop).unwrap_err();
    assert!(matches!(&error, JournalError::Missing { path }
        if *path == Segment::of(folder.path(), 2).path));
    assert!(
        error
            .to_string()
            .ends_with("00000002.journal: segment is missing")
    );
}

/// Whatever a crash leaves of a new segment: no header, a part of it, a part of what was carried
/// over, and a record torn in the middle.
#[tokio::test]
async fn o1_a_crash_at_any_point_of_a_new_segment_loses_no_ending() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    write(&journal, "revoked", &quarantine(1)).await;
    write(&journal, "task_ended", &ended(2, LATER_MS)).await;
    roll_and_carry(&journal).await;
    write(&journal, "task_ended", &ended(3, LATER_MS)).await;
    drop(journal);
    let before = std::fs::read(Segment::of(folder.path(), 2).path).unwrap();
    let (journal, _) = open(folder.path());
    roll_and_carry(&journal).await;
    drop(journal);
    let whole = std::fs::read(Segment::of(folder.path(), 3).path).unwrap();
    let in_the_header = (0..44).step_by(11);
    for length in in_the_header.chain((44..whole.len()).step_by(17)) {
        let crashed = tempfile::tempdir().unwrap();
        // The one before the one before is gone: it is never needed.
        std::fs::write(Segment::of(crashed.path(), 2).path, &before).unwrap();
        std::fs::write(Segment::of(crashed.path(), 3).path, &whole[..length]).unwrap();
        std::fs::write(crashed.path().join("00000004.new"), &whole[..length]).unwrap();
        let (journal, mut known) = open(crashed.path());
        known.sort_by_key(|entry| entry.id.0);
        assert_eq!(
            known,
            [quarantine(1), ended(2, LATER_MS), ended(3, LATER_MS)]
        );
        // It goes on, and the next start needs nothing else.
        write(&journal, "task_ended", &ended(4, LATER_MS)).await;
        let upkeep = Upkeep::new(Arc::clone(&journal), rules());
        upkeep.look(NOW_MS).await.unwrap();
        if journal.segments().current == 3 {
            drop((upkeep, journal));
            remove_segment(crashed.path(), 2);
        } else {
            assert!(length < 44, "{length}");
            drop((upkeep, journal));
        }
        let mut known = endings(crashed.path());
        known.sort_unstable();
        assert_eq!(known, [1, 2, 3, 4], "after {length} bytes");
        read(crashed.path(), |_| {}).unwrap();
    }
}

/// A crash after the first attempt to carry over, and the same again: nothing grows by that.
#[tokio::test]
async fn o1_endings_that_were_carried_twice_are_carried_on_once() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    for number in 1..=9 {
        write(&journal, "task_ended", &ended(number, LATER_MS)).await;
    }
    roll_and_carry(&journal).await;
    for _ in 0..3 {
        journal.segments().sources = 1;
        Upkeep::new(Arc::clone(&journal), rules())
            .look(NOW_MS)
            .await
            .unwrap();
    }
    roll_and_carry(&journal).await;
    drop(journal);
    assert_eq!(endings(folder.path()), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let mut carried = 0;
    let path = Segment::of(folder.path(), 3).path;
    chain_log::read(&path, |payload| {
        carried += usize::from(endings::look(payload).unwrap().is_carried);
    })
    .unwrap();
    assert_eq!(carried, 9);
}

/// `tests/vectors/journal` was written by the version before segments were carried over.
#[tokio::test]
async fn o1_a_journal_of_an_older_version_goes_on() {
    let vector = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/journal");
    let folder = tempfile::tempdir().unwrap();
    for number in 1..=2 {
        let to = Segment::of(folder.path(), number).path;
        std::fs::copy(Segment::of(&vector, number).path, to).unwrap();
    }
    // 2 was lifted and 4 is over since long ago.
    let expected = [1, 3, 5, 6, 7, 8];
    assert_eq!(endings(folder.path()), expected);
    let (journal, _) = open(folder.path());
    let upkeep = Upkeep::new(Arc::clone(&journal), rules());
    upkeep.look(crate::clock::now_ms()).await.unwrap();
    write(&journal, "task_ended", &ended(9, LATER_MS)).await;
    drop((upkeep, journal));
    read(folder.path(), |_| {}).unwrap();
    remove_segment(folder.path(), 1);
    let mut known = endings(folder.path());
    known.sort_unstable();
    assert_eq!(known, [1, 3, 5, 6, 7, 8, 9]);
}

/// A1: where there is no room for two segments' reserves, the segment goes on, and endings are
/// written.
#[tokio::test]
async fn o1_a_full_disk_keeps_a_segment_from_ending_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let settings = JournalSettings {
        reserve: u64::MAX,
        budget: None,
    };
    let journal = Journal::open_with(folder.path(), settings, |_| {}).unwrap();
    let journal = Arc::new(journal);
    write(&journal, "task_ended", &ended(1, LATER_MS)).await;
    let upkeep = SegmentRules {
        segment_age: Duration::ZERO,
        segment_bytes: 1,
        ..rules()
    };
    let upkeep = Upkeep::new(Arc::clone(&journal), upkeep);
    upkeep.look(LATER_MS).await.unwrap();
    write(&journal, "task_ended", &ended(2, LATER_MS)).await;
    assert_eq!(segments_of(folder.path()), [1]);
    assert!(!folder.path().join("00000002.new").exists());
    drop((upkeep, journal));
    assert_eq!(endings(folder.path()), [1, 2]);
}

/// A1: half of the reserve is allocated to the file that is written, and to no other.
#[tokio::test]
async fn o1_the_reserve_goes_with_the_journal_into_the_next_segment() {
    let folder = tempfile::tempdir().unwrap();
    let settings = JournalSettings {
        reserve: 4 << 20,
        budget: None,
    };
    let journal = Journal::open_with(folder.path(), settings, |_| {}).unwrap();
    let allocated = |number| {
        let metadata = Segment::of(folder.path(), number).path.metadata().unwrap();
        std::os::unix::fs::MetadataExt::blocks(&metadata) * 512
    };
    assert!(allocated(1) >= 2 << 20);
    roll(&journal).await;
    assert!(allocated(2) >= 2 << 20);
    assert!(allocated(1) < 1 << 20, "{}", allocated(1));
}

#[tokio::test]
async fn a1_a_workload_that_fills_the_journal_is_refused_and_ends_its_tasks_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |bytes| std::num::NonZeroU32::new(bytes).unwrap();
    let settings = JournalSettings {
        reserve: 0,
        budget: Some(RecordBudget {
            per_minute: bytes(60),
            burst: bytes(1 << 20),
        }),
    };
    let journal = Journal::open_with(folder.path(), settings, |_| {}).unwrap();
    let issue = |workload: &str| {
        let record = record("task_begun").with("workload", workload);
        journal.write(record.with("instruction", "i".repeat(60_000)))
    };
    for _ in 0..17 {
        issue("a").await.unwrap();
    }
    assert!(matches!(issue("a").await, Err(JournalError::Budget)));
    let end = || record("task_ended").with("workload", "a");
    journal.write(end()).await.unwrap();
    issue("b").await.unwrap();
    journal.budgets.forget();
    assert!(matches!(issue("a").await, Err(JournalError::Budget)));
    let refusal = crate::refusal::Refusal::from(JournalError::Budget);
    let status = refusal.status("");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(refusal.to_string().contains("used up its bytes"));
}
