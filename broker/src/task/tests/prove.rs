//! Proving anew: when evidence is asked for, and what happens without it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sundew_attestation::BindingPurpose;
use sundew_core::{Cause, Liveness};
use sundew_proto::v1;

use crate::clock;
use crate::records::Task;
use crate::refusal::Refusal;
use crate::testing::{Agent, TestBroker, assert_refused};

/// A task that must prove itself every 100 seconds, just begun.
async fn begun() -> (TestBroker, Agent, Arc<Task>) {
    let broker = TestBroker::start().await;
    let proving = json!({ "prove_every": "100s" });
    broker.register("/agent", proving).await;
    let agent = broker.agent("/agent");
    let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
    let tasks = &broker.rooms.tasks;
    let task = tasks.own_task(&agent.peer, &begun.unwrap().id).await;
    (broker, agent, task.unwrap())
}

#[tokio::test]
async fn evidence_is_asked_for_once_before_it_is_due() {
    let (broker, _, task) = begun().await;
    let tasks = &broker.rooms.tasks;
    let mut proof = tasks.proof(&task, &[]).unwrap();
    let due_ms = task.created_at_ms + 100_000;
    for (after_s, asked) in [(69, false), (70, true), (71, false)] {
        clock::testing::advance_to(task.created_at_ms + after_s * 1000);
        let wanted = tasks.look_at_proof(&task, &mut proof, false);
        let wanted = wanted.await.unwrap();
        assert_eq!(wanted.is_some(), asked, "after {after_s} seconds");
        assert!(wanted.is_none_or(|wanted| wanted.due_ms == due_ms));
    }
}

#[tokio::test]
async fn a_task_that_does_not_prove_itself_is_suspended_and_then_revoked() {
    let (broker, _, task) = begun().await;
    let tasks = &broker.rooms.tasks;
    let mut proof = tasks.proof(&task, &[]).unwrap();
    clock::testing::advance(Duration::from_secs(100));
    let look = tasks.look_at_proof(&task, &mut proof, false);
    look.await.unwrap();
    let usable = broker.ledger.require_usable(&task);
    assert_refused!(usable, Refusal::TaskDead(Cause::Suspended));
    clock::testing::advance(Duration::from_secs(100));
    let look = tasks.look_at_proof(&task, &mut proof, true);
    look.await.unwrap();
    let records = broker.journal("task_ended");
    assert_eq!(records[0].field("outcome"), Some("revoked"));
    let view = broker.ledger.log.view().unwrap();
    assert_ne!(view.task_liveness(&task, clock::now_ms()), Liveness::Alive);
}

#[tokio::test]
async fn good_evidence_proves_a_task_and_its_ticket_says_when() {
    let (broker, agent, task) = begun().await;
    let tasks = &broker.rooms.tasks;
    clock::testing::advance(Duration::from_secs(90));
    let (nonce, evidence) = agent.proof(BindingPurpose::Prove);
    let mut proof = tasks.proof(&task, &[]).unwrap();
    let prove = v1::Prove { nonce, evidence };
    let proven = tasks.prove(&agent.peer, &task, &mut proof, prove);
    assert!(proven.await.unwrap());
    assert_eq!(broker.journal("task_proven").len(), 1);
    // Whoever reads the ticket does not ask again soon.
    let ticket = tasks.proof_ticket(&task);
    let mut proof = tasks.proof(&task, &ticket).unwrap();
    clock::testing::advance(Duration::from_secs(20));
    let wanted = tasks.look_at_proof(&task, &mut proof, false);
    assert!(wanted.await.unwrap().is_none());
    broker.ledger.require_usable(&task).unwrap();
}

#[tokio::test]
async fn a_ticket_that_was_touched_is_none() {
    let (broker, _, task) = begun().await;
    let tasks = &broker.rooms.tasks;
    let mut ticket = tasks.proof_ticket(&task);
    ticket[0] ^= 1;
    let proof = tasks.proof(&task, &ticket);
    assert_refused!(proof, Refusal::Invalid { field: "proof", .. });
}

#[tokio::test]
async fn evidence_that_is_not_enough_suspends_the_task_and_is_on_the_record_once() {
    let (broker, agent, task) = begun().await;
    let tasks = &broker.rooms.tasks;
    let agent = agent.with_model("m-2");
    let (nonce, evidence) = agent.proof(BindingPurpose::Prove);
    let mut proof = tasks.proof(&task, &[]).unwrap();
    let prove = v1::Prove { nonce, evidence };
    let proven = tasks.prove(&agent.peer, &task, &mut proof, prove);
    assert!(!proven.await.unwrap());
    let usable = broker.ledger.require_usable(&task);
    assert_refused!(usable, Refusal::TaskDead(Cause::Suspended));
    assert_eq!(broker.journal("refused").len(), 1);
    assert_eq!(broker.journal("task_suspended").len(), 1);
}

/// L17, E14: each task's stream has its own challenge, however many the connection has open.
#[tokio::test]
async fn l17_many_tasks_of_one_connection_prove_themselves_and_none_is_suspended() {
    let broker = TestBroker::start().await;
    let proving = json!({ "prove_every": "100s" });
    broker.register("/agent", proving).await;
    let agent = broker.agent("/agent");
    let tasks = &broker.rooms.tasks;
    let mut streams = Vec::new();
    for _ in 0..60 {
        let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
        let task = tasks.own_task(&agent.peer, &begun.unwrap().id).await;
        let task = task.unwrap();
        let proof = tasks.proof(&task, &[]).unwrap();
        streams.push((task, proof, Vec::new()));
    }
    clock::testing::advance(Duration::from_secs(80));
    for (task, proof, nonce) in &mut streams {
        let wanted = tasks.look_at_proof(task, proof, false).await;
        *nonce = wanted.unwrap().unwrap().nonce;
    }
    // Other calls on the same connection take their challenges meanwhile.
    while agent.peer.channel().challenge().is_ok() {}
    for (task, proof, nonce) in &mut streams {
        let evidence = agent.evidence(BindingPurpose::Prove, nonce);
        let prove = v1::Prove {
            nonce: nonce.clone(),
            evidence,
        };
        let proven = tasks.prove(&agent.peer, task, proof, prove).await;
        assert!(proven.unwrap());
        broker.ledger.require_usable(task).unwrap();
    }
    assert!(broker.journal("task_suspended").is_empty());
}
