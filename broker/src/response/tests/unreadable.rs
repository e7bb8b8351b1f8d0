//! Tasks whose records do not open (L20).

use std::sync::Arc;

use sundew_core::store::{NewTask, NewToken};
use sundew_core::{Outcome, TaskId, TokenHash};
use sundew_proto::v1;

use super::{preview, request, revoke};
use crate::testing::TestBroker;
use crate::{clock, response};

/// A record of a task that does not open, and that is on the lists.
async fn spoil(broker: &TestBroker, id: TaskId) {
    let hash = TokenHash::from_bytes([9; 32]);
    let until_ms = clock::now_ms() + 60_000;
    let spoiled = NewTask {
        id,
        record: b"spoiled".to_vec(),
        retain_until_ms: until_ms,
        token: NewToken {
            hash: &hash,
            record: Vec::new(),
            retain_until_ms: until_ms,
        },
    };
    let store = broker.ledger.records.store();
    drop(store.create_task(spoiled).await.unwrap());
    let reserved = store.reserve_task("spiffe://x/y", id, until_ms, until_ms, 10, clock::now_ms());
    assert_eq!(reserved.await, Ok(sundew_core::store::Reserved::Taken));
}

/// L20: it hides no other task from a responder, who hears of it.
#[tokio::test]
async fn l20_a_task_whose_record_cannot_be_read_hides_no_other() {
    let broker = TestBroker::start().await;
    let (_, begun) = broker.agent_with_task().await;
    let id = TaskId::from_bytes([9; 16]);
    spoil(&broker, id).await;
    let responses = || Arc::clone(&broker.rooms.responses);
    let listed = responses().list_tasks(broker.operator(), v1::ListTasksRequest::default());
    let listed = listed.await.unwrap().tasks;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].task_id, begun.id);
    let everything = v1::Selector {
        everything: true,
        ..v1::Selector::default()
    };
    assert_eq!(preview(&broker, everything.clone()).await.tasks, 1);
    let problems = |is_over: bool| {
        let records = &broker.ledger.records;
        records.task_problems(|_| is_over).join("\n")
    };
    assert!(problems(false).contains(&format!("{id}: its record does not open")));
    assert_eq!(problems(true), "");
    // The clean-up after a revocation comes to its end.
    let answer = revoke(&broker, request(everything)).await.unwrap();
    responses().clean_up_once("worker").await.unwrap();
    let entry = response::entry_of(&answer.revocation_id).unwrap();
    let action = responses().action(&response::name(&entry)).await.unwrap();
    assert!(action.unwrap().0.done);
}

/// L20: a task is ended by its name, whatever its record has become.
#[tokio::test]
async fn l20_a_task_whose_record_cannot_be_read_is_revoked_all_the_same() {
    let broker = TestBroker::start().await;
    let id = TaskId::from_bytes([9; 16]);
    spoil(&broker, id).await;
    assert!(broker.ledger.records.task(id).await.is_err());
    let selector = v1::Selector {
        task_id: id.to_string(),
        ..v1::Selector::default()
    };
    let answer = revoke(&broker, request(selector)).await.unwrap();
    assert!(answer.position > 0 && !answer.pending);
    let view = broker.ledger.log.view().unwrap();
    assert_eq!(view.outcome(id), Some(Outcome::Revoked));
}
