//! Endings with a stale view.

use std::sync::Arc;

use sundew_proto::v1;

use crate::clock;
use crate::refusal::Refusal;
use crate::testing::{Agent, FRESHNESS, TestBroker};

async fn complete(broker: &TestBroker, agent: &Agent, task: &str) -> Result<v1::Outcome, Refusal> {
    let request = v1::CompleteTaskRequest {
        task_id: task.to_owned(),
        ..v1::CompleteTaskRequest::default()
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    let answer = tasks.complete(agent.peer.clone(), request).await?;
    Ok(answer.outcome())
}

#[tokio::test]
async fn l7_a_stale_view_keeps_nobody_from_ending_a_task() {
    let broker = TestBroker::start().await;
    let (agent, begun) = broker.agent_with_task().await;
    clock::testing::advance(FRESHNESS);
    assert!(broker.ledger.log.view().is_err(), "the view is stale");
    complete(&broker, &agent, &begun.id).await.unwrap();
    assert_eq!(broker.journal("task_ended").len(), 1);
}
