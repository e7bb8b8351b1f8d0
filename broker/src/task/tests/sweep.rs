//! Sweeping: what nobody ends is ended, at its time and not before.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::testing::{Agent, Begun, TestBroker};

/// A grace that no registration of these tests changes.
const GRACE: Duration = Duration::from_secs(30);

/// Lets the broker sweep once, until nothing is due.
pub(super) async fn sweep(broker: &TestBroker) {
    let sweeping = tokio::spawn(Arc::clone(&broker.rooms.tasks).sweep());
    tokio::task::yield_now().await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(250)).await;
    tokio::time::resume();
    let store = broker.ledger.records.store();
    while !store.due(clock::now_ms(), 1).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    sweeping.abort();
}

/// The outcomes of the ended tasks that are on the record.
fn outcomes(broker: &TestBroker) -> Vec<String> {
    let outcome = |record: &crate::journal::Record| record.field("outcome").map(str::to_owned);
    let records = broker.journal("task_ended");
    assert!(records.iter().all(|r| r.field("actor") == Some("broker")));
    records.iter().filter_map(outcome).collect()
}

/// Keeps the task of a test attended.
async fn attend(
    broker: &TestBroker,
    agent: &Agent,
    begun: &Begun,
) -> super::super::attendance::Attending {
    let tasks = &broker.rooms.tasks;
    let task = tasks.own_task(&agent.peer, &begun.id).await.unwrap();
    tasks.attendance().attend(&task)
}

#[tokio::test]
async fn a_task_that_nobody_attends_is_abandoned_after_its_grace() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    clock::testing::advance(GRACE - Duration::from_millis(1));
    sweep(&broker).await;
    assert!(broker.is_active(&begun.token, &agent).await);
    clock::testing::advance(Duration::from_millis(1));
    sweep(&broker).await;
    assert!(!broker.is_active(&begun.token, &agent).await);
    assert_eq!(outcomes(&broker), ["abandoned"]);
}

#[tokio::test]
async fn an_attended_task_expires_at_its_deadline_and_not_before() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let _attending = attend(&broker, &agent, &begun).await;
    clock::testing::advance_to(begun.task.deadline_ms - 1);
    sweep(&broker).await;
    assert!(outcomes(&broker).is_empty());
    clock::testing::advance(Duration::from_millis(1));
    sweep(&broker).await;
    assert_eq!(outcomes(&broker), ["expired"]);
    let store = broker.ledger.records.store();
    let workload = Some(agent.peer.id().as_str());
    assert!(store.tasks(workload, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_task_whose_last_stream_closed_is_attended_no_more() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let one = attend(&broker, &agent, &begun).await;
    let two = attend(&broker, &agent, &begun).await;
    drop(one);
    clock::testing::advance(GRACE);
    sweep(&broker).await;
    assert!(outcomes(&broker).is_empty());
    drop(two);
    clock::testing::advance(GRACE);
    sweep(&broker).await;
    assert_eq!(outcomes(&broker), ["abandoned"]);
}

#[tokio::test]
async fn a_broker_that_has_just_started_gives_agents_a_grace_to_come_back() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let tasks = &broker.rooms.tasks;
    let task = tasks.own_task(&agent.peer, &begun.id).await.unwrap();
    let store = broker.ledger.records.store();
    // As it would be for a task that was begun long before this broker started.
    let overdue = vec![(task.id, clock::now_ms())];
    store.attend(overdue).await.unwrap();
    sweep(&broker).await;
    assert!(outcomes(&broker).is_empty());
    clock::testing::advance(GRACE);
    sweep(&broker).await;
    assert_eq!(outcomes(&broker), ["abandoned"]);
}

#[tokio::test]
async fn attendance_is_reported_when_a_third_of_the_grace_has_passed() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    let _attending = attend(&broker, &agent, &begun).await;
    let attendance = broker.rooms.tasks.attendance();
    let due = || attendance.due_reports(clock::now_ms());
    let grace_ms = i64::try_from(GRACE.as_millis()).unwrap();
    let first = due();
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].1, clock::now_ms() + grace_ms);
    assert_eq!(due().len(), 1, "L12: until the store has it");
    attendance.reported([first[0].0]);
    assert!(due().is_empty());
    clock::testing::advance(GRACE / 3);
    assert_eq!(due().len(), 1);
    // Nothing is due after the task's end.
    clock::testing::advance_to(begun.task.deadline_ms - 1000);
    assert_eq!(due()[0].1, begun.task.deadline_ms);
}
