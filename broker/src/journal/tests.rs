use sundew_core::{EntryId, Event};

use super::*;
use crate::liveness::DurableSink as _;
use crate::store::chain_log;

fn events(folder: &Path) -> Vec<String> {
    let mut events = Vec::new();
    read(folder, |record| events.push(record.event.to_string())).unwrap();
    events
}

#[tokio::test]
async fn t78_hostile_text_stays_one_record() {
    let folder = tempfile::tempdir().unwrap();
    let hostile = format!("a\n\u{1b}[31m\",\"{}", "x".repeat(1 << 20));
    let journal = Journal::open(folder.path(), |_| {}).unwrap();
    journal
        .write(record("refused").with("purpose", &hostile))
        .await
        .unwrap();
    let mut records = Vec::new();
    read(folder.path(), |r| records.push(r)).unwrap();
    assert_eq!(records.len(), 1);
    assert!(records[0].field("purpose").unwrap().len() <= 64 << 10);
    assert!(!serde_json::to_string(&records[0]).unwrap().contains('\n'));
}

#[tokio::test]
async fn a_missing_segment_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let mut end = [0; 32];
    for number in 1..=3 {
        let path = Segment::of(folder.path(), number).path;
        let log = ChainLog::open(&path, end, |_| {}).unwrap();
        log.append(record("x").encode()).await.unwrap();
        end = chain_log::read(&path, |_| {}).unwrap().1;
    }
    let mut count = 0;
    read(folder.path(), |_| count += 1).unwrap();
    assert_eq!(count, 3);
    std::fs::remove_file(Segment::of(folder.path(), 2).path).unwrap();
    let error = read(folder.path(), |_| {}).unwrap_err();
    assert!(matches!(error, JournalError::Missing { .. }));
    assert!(error.to_string().contains("00000002.journal"), "{error}");
}

#[tokio::test]
async fn a_journal_goes_on_after_a_restart_with_all_that_was_written() {
    let folder = tempfile::tempdir().unwrap();
    for event in ["first", "second"] {
        let journal = Journal::open(folder.path(), |_| {}).unwrap();
        journal.write(record(event)).await.unwrap();
    }
    assert_eq!(events(folder.path()), ["first", "second"]);
}

#[tokio::test]
async fn a_note_is_durable_with_the_next_record_that_somebody_waits_for() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path(), |_| {}).unwrap();
    journal.note(record("refused"));
    journal.write(record("ended")).await.unwrap();
    assert_eq!(events(folder.path()), ["refused", "ended"]);
}

/// P10: what is not on the record is an error to whoever waits for it.
#[tokio::test]
async fn a_record_that_is_too_large_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path(), |_| {}).unwrap();
    assert!(matches!(
        journal.write(oversized()).await,
        Err(JournalError::Log(ChainLogError::TooLarge))
    ));
    assert_eq!(events(folder.path()), Vec::<String>::new());
}

/// P4: a broker says that it has applied endings of others only when it keeps each of them.
#[tokio::test]
async fn one_record_of_many_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path(), |_| {}).unwrap();
    let records = [record("first"), oversized(), record("last")];
    assert!(matches!(
        journal.write_all(records.into_iter()).await,
        Err(JournalError::Log(ChainLogError::TooLarge))
    ));
}

fn oversized() -> Record {
    let value = "x".repeat(64 << 10);
    (0..65).fold(record("ended"), |record, number| {
        record.with(format!("field_{number}"), &value)
    })
}

#[tokio::test]
async fn endings_of_other_brokers_are_durable_when_persist_returns() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Arc::new(Journal::open(folder.path(), |_| {}).unwrap());
    let entry = |number| LogEntry {
        id: EntryId([number; 16]),
        event: Event::Floor,
        retain_until_ms: 1,
        document: None,
    };
    journal.persist(Vec::new()).await.unwrap();
    journal
        .persist(vec![entry(1), entry(2), entry(3)])
        .await
        .unwrap();
    let mut heard = Vec::new();
    read(folder.path(), |record| {
        assert_eq!(record.event, "ending_heard");
        heard.push(LogEntry::decode(record.field("entry").unwrap().as_bytes()).unwrap());
    })
    .unwrap();
    assert_eq!(heard, [entry(1), entry(2), entry(3)]);
}

#[test]
fn two_brokers_cannot_write_one_journal() {
    let folder = tempfile::tempdir().unwrap();
    let _held = Journal::open(folder.path(), |_| {}).unwrap();
    assert!(matches!(
        Journal::open(folder.path(), |_| {}),
        Err(JournalError::Log(ChainLogError::Io { .. }))
    ));
}
