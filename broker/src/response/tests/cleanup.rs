//! What clean-ups read (A6), and who does them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sundew_core::store::DocumentKind;
use sundew_core::{Effect, Event, Selector};
use sundew_proto::v1;

use super::{of_workload, status, two_tasks};
use crate::testing::TestBroker;
use crate::{clock, journal};

/// More revocations than a broker may read each second.
const REVOCATIONS: usize = 50;

/// Lets a broker look for what is to be cleaned up, as it does each second.
async fn look(broker: &TestBroker, worker: &str) {
    broker.fresh().await;
    let responses = &broker.rooms.responses;
    responses.clean_up_once(worker).await.unwrap();
}

/// The number of documents that a broker reads in a minute of looking.
async fn read_in_a_minute(broker: &TestBroker) -> usize {
    let before = broker.store.documents_read.load(Ordering::Relaxed);
    for _ in 0..60 {
        clock::testing::advance(Duration::from_secs(1));
        look(broker, "broker-1").await;
    }
    broker.store.documents_read.load(Ordering::Relaxed) - before
}

async fn revoke_many(broker: &TestBroker) -> Vec<String> {
    let mut names = Vec::new();
    for number in 0..REVOCATIONS {
        let selector = of_workload(&format!("/nobody/{number}"));
        names.push(broker.respond(selector, v1::Effect::Contain).await);
    }
    names
}

/// Waits until a broker has heard of everything in the log.
async fn heard(broker: &TestBroker, count: usize) {
    while broker.rooms.responses.backlog.len() < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a6_clean_ups_that_are_done_are_read_by_nobody() {
    let broker = TestBroker::start().await;
    let second = broker.beside().await;
    let names = revoke_many(&broker).await;
    heard(&second, REVOCATIONS).await;
    for _ in 0..2 {
        look(&broker, "broker-1").await;
        look(&second, "broker-2").await;
        clock::testing::advance(Duration::from_secs(1));
    }
    for name in &names {
        assert!(status(&broker, name).await.unwrap().done);
    }
    for broker in [&broker, &second] {
        assert_eq!(broker.rooms.responses.backlog.len(), 0);
        assert_eq!(read_in_a_minute(broker).await, 0);
    }
}

#[tokio::test]
async fn a6_a_clean_up_of_which_a_broker_heard_in_the_log_is_taken_over() {
    let (broker, ..) = two_tasks().await;
    let second = broker.beside().await;
    look(&second, "broker-2").await;
    let id = broker
        .respond(of_workload("/agent"), v1::Effect::Revoke)
        .await;
    broker.die();
    heard(&second, 1).await;
    look(&second, "broker-2").await;
    let cleaned = status(&second, &id).await.unwrap();
    assert_eq!((cleaned.done, cleaned.tasks), (true, 1));
}

#[tokio::test]
async fn a6_a_broker_that_starts_finds_the_clean_ups_that_are_not_done() {
    let (broker, ..) = two_tasks().await;
    let id = broker
        .respond(of_workload("/agent"), v1::Effect::Revoke)
        .await;
    broker.die();
    let second = broker.beside().await;
    look(&second, "broker-2").await;
    assert!(status(&second, &id).await.unwrap().done);
}

#[tokio::test]
async fn a6_a_rule_whose_action_was_never_noted_is_cleaned_up_all_the_same() {
    let (broker, ..) = two_tasks().await;
    look(&broker, "broker-1").await;
    let selector = Selector {
        everything: true,
        ..Selector::default()
    };
    let rule = Event::Rule {
        selector: Box::new(selector),
        effect: Effect::Revoke,
    };
    let until_ms = broker.ledger.log.rule_stands_until_ms();
    let ended = broker
        .ledger
        .end(rule, until_ms, journal::record("revoked"));
    ended.await.unwrap();
    heard(&broker, 1).await;
    assert!(read_in_a_minute(&broker).await < 30);
    look(&broker, "broker-1").await;
    clock::testing::advance(Duration::from_secs(30));
    look(&broker, "broker-1").await;
    let store = broker.ledger.records.store();
    let actions = store.documents(DocumentKind::Response).await.unwrap();
    let id = actions[0].0.clone();
    let cleaned = status(&broker, &id).await.unwrap();
    assert_eq!((cleaned.done, cleaned.tasks), (true, 2));
    assert_eq!(broker.rooms.responses.backlog.len(), 0);
}

#[tokio::test]
async fn a6_an_ending_without_an_action_is_not_looked_at_for_ever() {
    let (broker, (_, begun), _) = two_tasks().await;
    look(&broker, "broker-1").await;
    let task = sundew_core::TaskId::parse(&begun.id).unwrap();
    let outcome = sundew_core::Outcome::Revoked;
    let record = journal::record("task_ended");
    let until_ms = begun.task.deadline_ms;
    let ending = Event::Ended { task, outcome };
    let ended = broker.ledger.end(ending, until_ms, record);
    ended.await.unwrap();
    heard(&broker, 1).await;
    read_in_a_minute(&broker).await;
    clock::testing::advance(Duration::from_secs(30));
    look(&broker, "broker-1").await;
    assert_eq!(broker.rooms.responses.backlog.len(), 0);
}

#[tokio::test]
async fn a_day_after_it_was_done_an_action_is_forgotten_unless_it_stands() {
    let broker = TestBroker::start().await;
    for effect in [v1::Effect::Revoke, v1::Effect::Contain] {
        broker.respond(of_workload("/agent"), effect).await;
    }
    look(&broker, "broker-1").await;
    for _ in 0..2 {
        clock::testing::advance(Duration::from_secs(12 * 3600 + 1));
        // An entry of the log wakes the broker, which renews its view then.
        broker.put_secret("app/db", "x").await;
    }
    let store = broker.ledger.records.store();
    let actions = store.documents(DocumentKind::Response).await.unwrap();
    assert_eq!(actions.len(), 2);
    look(&broker, "broker-1").await;
    let left = store.documents(DocumentKind::Response).await.unwrap();
    assert_eq!(left.len(), 1);
    let left = status(&broker, &left[0].0).await.unwrap();
    assert_eq!(left.effect(), v1::Effect::Contain);
}
