//! Endings: with a stale view, many together, and of a single child.

use std::sync::Arc;

use serde_json::json;
use sundew_core::{KnownTask, Outcome, TaskId};
use sundew_proto::v1;

use super::super::ending::end_many;
use crate::clock;
use crate::refusal::Refusal;
use crate::testing::{Agent, Begun, FRESHNESS, TestBroker, assert_refused};

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

/// L16: many endings are one call, which answers when all of them are in force.
#[tokio::test]
async fn l16_many_tasks_end_together_and_each_is_on_the_record_once() {
    let broker = TestBroker::start().await;
    let (_, begun) = broker.agent_with_task().await;
    let id = TaskId::parse(&begun.id).unwrap();
    let one = broker.ledger.records.task(id).await.unwrap().unwrap();
    // More than are ended in one group.
    let tasks: Vec<_> = (0_u64..5000)
        .map(|n| {
            let mut record = one.record().clone();
            record.id = TaskId::from_bytes(broker.ledger.root().derive_name(&[&n.to_be_bytes()]));
            (
                Arc::new(KnownTask::new(record, Vec::new(), one.root_key())),
                Outcome::Expired,
            )
        })
        .collect();
    let ids: Vec<_> = tasks.iter().map(|(task, _)| task.id).collect();
    end_many(&broker.ledger, tasks).await.unwrap();
    {
        let view = broker.ledger.log.view().unwrap();
        assert!(
            ids.iter()
                .all(|id| view.outcome(*id) == Some(Outcome::Expired))
        );
    }
    assert_eq!(broker.journal("task_ended").len(), ids.len());
}

/// A child that `/child` has begun below a task of `/agent`.
async fn child(broker: &TestBroker, agent: &Agent, parent: &Begun) -> (Agent, Begun) {
    broker.register("/child", json!({})).await;
    let request = v1::DelegateRequest {
        task_id: parent.id.clone(),
        delegate: format!("spiffe://{}/child", crate::testing::DOMAIN),
        scopes: vec!["exec:git".to_owned()],
        ..v1::DelegateRequest::default()
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    let grant = tasks
        .delegate(agent.peer.clone(), request)
        .await
        .unwrap()
        .grant;
    let child = broker.agent("/child");
    let request = v1::BeginTaskRequest {
        grant,
        ..child.request(&["exec:git"])
    };
    let begun = broker.begin(request, &child).await.unwrap();
    (child, begun)
}

/// A broker where `/agent` has a task below which it may delegate.
async fn parent() -> (TestBroker, Agent, Begun) {
    let broker = TestBroker::start().await;
    let depth = json!({ "max_delegation_depth": 2 });
    broker.register("/agent", depth).await;
    let agent = broker.agent("/agent");
    let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
    (broker, agent, begun.unwrap())
}

#[tokio::test]
async fn l25_a_parent_ends_one_child_and_goes_on_itself() {
    let (broker, agent, above) = parent().await;
    let (one, first) = child(&broker, &agent, &above).await;
    let (other, second) = child(&broker, &agent, &above).await;
    complete(&broker, &agent, &first.id).await.unwrap();
    assert!(!broker.is_active(&first.token, &one).await);
    assert!(broker.is_active(&second.token, &other).await);
    assert!(broker.is_active(&above.token, &agent).await);
    let ended = broker.journal("task_ended");
    assert_eq!(ended[0].field("task"), Some(first.id.as_str()));
    assert_eq!(ended[0].field("actor"), Some(agent.peer.id().as_str()));
}

#[tokio::test]
async fn l25_nobody_but_the_owners_of_a_task_and_of_those_above_it_ends_it() {
    let (broker, agent, above) = parent().await;
    let (one, first) = child(&broker, &agent, &above).await;
    let (_, second) = child(&broker, &agent, &above).await;
    // A child neither ends its parent nor its sibling, and another certificate is somebody else.
    assert_refused!(complete(&broker, &one, &above.id).await, Refusal::Binding);
    assert_refused!(complete(&broker, &one, &second.id).await, Refusal::Binding);
    let same_name = broker.agent("/agent");
    let answer = complete(&broker, &same_name, &first.id).await;
    assert_refused!(answer, Refusal::Binding);
}
