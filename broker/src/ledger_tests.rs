use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::Poll;

use sundew_core::{EntryId, Outcome, Selector};

use super::*;
use crate::journal;
use crate::liveness::AppendError;
use crate::testing::{TestBroker, assert_refused};

fn ended() -> Event {
    Event::Ended {
        task: TaskId::from_bytes([7; 16]),
        outcome: Outcome::Revoked,
    }
}

/// The names of the entries that the store's log has.
async fn in_log(ledger: &Ledger) -> Vec<EntryId> {
    let store = ledger.records.store();
    let entries = store.read_log(Position(0), 100).await.unwrap();
    entries.iter().map(|entry| entry.id).collect()
}

#[tokio::test]
async fn an_ending_is_on_the_record_before_it_is_in_the_log() {
    let broker = TestBroker::start().await;
    let ledger = &broker.ledger;
    let entry = RevocationLog::entry(ended(), Ledger::retain_from_now_ms()).unwrap();
    let (id, text) = (entry.id, entry.encode());
    let mut end = pin!(ledger.end_as(entry, journal::record("ended")));
    // However far it has got: what is in the log is on the record.
    let position = loop {
        let step = poll_fn(|context| Poll::Ready(end.as_mut().poll(context))).await;
        let is_in_log = in_log(ledger).await.contains(&id);
        assert!(!is_in_log || !broker.journal("ended").is_empty());
        match step {
            Poll::Ready(position) => break position.unwrap(),
            Poll::Pending => tokio::task::yield_now().await,
        }
    };
    assert!(in_log(ledger).await.contains(&id));
    assert_eq!(
        ledger.log.view().unwrap().entry(&id).unwrap().0,
        position,
        "it is answered when this broker has applied it"
    );
    let records = broker.journal("ended");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].field("entry").map(str::as_bytes), Some(&*text));
}

/// P10: what is not on the record must not happen.
#[tokio::test]
async fn an_ending_that_cannot_be_put_on_the_record_is_not_appended() {
    let broker = TestBroker::start().await;
    let ledger = &broker.ledger;
    let entry = RevocationLog::entry(ended(), Ledger::retain_from_now_ms()).unwrap();
    let id = entry.id;
    let value = "x".repeat(64 << 10);
    let too_large = (0..65).fold(journal::record("ended"), |record, number| {
        record.with(format!("field_{number}"), &value)
    });
    assert_refused!(ledger.end_as(entry, too_large).await, Refusal::Journal(_));
    assert!(!in_log(ledger).await.contains(&id));
    assert!(!ledger.log.view().unwrap().knows(&id));
    assert_eq!(ledger.log.pending(), 0);
}

/// P4: a caller who hears an error may have ended something all the same, and never the reverse.
#[tokio::test]
async fn an_ending_that_the_store_does_not_take_holds_here() {
    let broker = TestBroker::start().await;
    let ledger = &broker.ledger;
    // Larger than what the store takes in one record; the journal cuts long values.
    let rule = Event::Rule {
        selector: Box::new(Selector {
            audience: Some("x".repeat((4 << 20) + 1)),
            ..Selector::default()
        }),
        effect: sundew_core::Effect::Revoke,
    };
    let entry = RevocationLog::entry(rule, Ledger::retain_from_now_ms()).unwrap();
    let id = entry.id;
    let end = ledger.end_as(entry, journal::record("revoked"));
    assert_refused!(end.await, Refusal::EndingPending(AppendError::Store(_)));
    assert_eq!(broker.journal("revoked").len(), 1);
    assert!(!in_log(ledger).await.contains(&id));
    assert!(ledger.log.view().unwrap().knows(&id), "it holds here");
    assert_eq!(
        ledger.log.pending(),
        1,
        "it is appended when that is possible"
    );
}

#[tokio::test]
async fn whoever_changes_a_document_is_answered_when_the_change_was_heard() {
    let broker = TestBroker::start().await;
    let before = in_log(&broker.ledger).await.len();
    broker.put_secret("app/db", "value").await;
    let (_, applied) = broker.ledger.log.view().unwrap().applied();
    let entries = in_log(&broker.ledger).await;
    assert_eq!(
        (entries.len(), entries.last()),
        (before + 1, Some(&applied))
    );
}
