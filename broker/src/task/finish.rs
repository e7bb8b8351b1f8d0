//! SuspendTask, ResumeTask and CompleteTask.

use std::sync::Arc;

use sundew_attestation::{BindingPurpose, hex};
use sundew_core::{Cause, Event, KnownTask, Liveness, Outcome, TaskId, TokenRequest};
use sundew_proto::v1;

use super::mint::TokenSpec;
use super::{Tasks, ending};
use crate::clock;
use crate::evidence::attested_digests;
use crate::journal;
use crate::ledger::Ledger;
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::wire::{self, idempotency_key};

impl Tasks {
    /// Ends a task as its owner says. Whatever ended it first is its one outcome (AC-33).
    pub(crate) async fn complete(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::CompleteTaskRequest,
    ) -> Result<v1::CompleteTaskResponse, Refusal> {
        let asked = match v1::Outcome::try_from(request.outcome) {
            Ok(v1::Outcome::Unspecified | v1::Outcome::Completed) => Outcome::Completed,
            Ok(v1::Outcome::Failed) => Outcome::Failed,
            Ok(v1::Outcome::Canceled) => Outcome::Canceled,
            Ok(v1::Outcome::Expired | v1::Outcome::Abandoned | v1::Outcome::Revoked) | Err(_) => {
                return Err(Refusal::invalid(
                    "outcome",
                    "must be completed, failed or canceled",
                ));
            }
        };
        let task = self.task_to_end(&peer, &request.task_id).await?;
        let (liveness, by) = {
            // L7: an ending needs no fresh view. At worst it ends what has ended already.
            let view = self.ledger.log.latest_view();
            (
                view.task_liveness(&task, clock::now_ms()),
                view.ended_by(&task),
            )
        };
        let outcome = match (liveness, by) {
            (Liveness::Alive, _) => {
                ending::end_task(&self.ledger, &task, asked, Some(peer.id().as_str())).await?
            }
            // The clean-up after a rule puts the end of the task on the record, once.
            (Liveness::Dead(Cause::Revoked), Some(by)) => {
                self.ledger.confirm(by).await?;
                Outcome::Revoked
            }
            (Liveness::Dead(cause), _) => {
                ending::end_task(&self.ledger, &task, cause.outcome(), None).await?
            }
        };
        Ok(v1::CompleteTaskResponse {
            outcome: wire::outcome_message(outcome).into(),
        })
    }

    /// Returns a task that the caller may end: one of its own, or one that was delegated from a task
    /// of its own (L25). Every other one is refused alike (P11).
    async fn task_to_end(&self, peer: &Peer, id: &str) -> Result<Arc<KnownTask>, Refusal> {
        match self.own_task(peer, id).await {
            Err(Refusal::Binding) => {}
            own => return Ok(Arc::clone(&own?.known)),
        }
        let id = TaskId::parse(id).map_err(|e| Refusal::invalid("task_id", e))?;
        let task = self.ledger.records.task(id).await?;
        let task = task.ok_or(Refusal::NotFound("task"))?;
        for ancestor in &task.record().ancestors {
            match self.own_task(peer, &ancestor.to_string()).await {
                Err(Refusal::Binding) => {}
                own => return own.map(|_| Arc::clone(&task.known)),
            }
        }
        Err(Refusal::Binding)
    }

    /// Suspends a task: its tokens are dead, and it gets none until it is resumed.
    pub(crate) async fn suspend(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::SuspendTaskRequest,
    ) -> Result<v1::SuspendTaskResponse, Refusal> {
        let task = self.own_task(&peer, &request.task_id).await?;
        let (liveness, suspended_by) = {
            let view = self.ledger.log.latest_view();
            let suspended_by = view.is_suspended(&task).then(|| view.ended_by(&task));
            (
                view.task_liveness(&task, clock::now_ms()),
                suspended_by.flatten(),
            )
        };
        if let Liveness::Dead(cause) = liveness {
            return Err(Refusal::TaskDead(cause));
        }
        if let Some(by) = suspended_by {
            self.ledger.confirm(by).await?;
            return Ok(v1::SuspendTaskResponse {});
        }
        let record = journal::record("task_suspended")
            .with("task", task.id)
            .with("workload", peer.id());
        self.ledger
            .end(
                Event::Suspended(task.id),
                Ledger::retain_until_ms(&task),
                record,
            )
            .await?;
        Ok(v1::SuspendTaskResponse {})
    }

    /// Revives a suspended task on fresh evidence, with a fresh token. Tokens of the time before
    /// stay dead (AC-37).
    pub(crate) async fn resume(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::ResumeTaskRequest,
    ) -> Result<v1::ResumeTaskResponse, Refusal> {
        // P2: the nonce is gone from here on, whatever else is wrong.
        let challenged = peer.channel().consume(&request.nonce);
        let key = idempotency_key(request.idempotency_key)?;
        if !challenged {
            return Err(Refusal::Challenge);
        }
        let task = self.own_task(&peer, &request.task_id).await?;
        let suspended = match self.ledger.require_usable(&task) {
            Err(Refusal::TaskDead(Cause::Suspended)) => true,
            Err(other) => return Err(other),
            Ok(()) => false,
        };
        // A responder's suspension is lifted by a responder.
        if self.ledger.log.view()?.is_quarantined(&task) {
            return Err(Refusal::Quarantined);
        }
        let attested = self
            .attest_again(
                &peer,
                &task,
                &request.nonce,
                &request.evidence,
                BindingPurpose::ResumeTask,
            )
            .await?;
        // A task that runs already is not resumed again: this is a retry, which gets its token.
        let mut position = self.ledger.log.view()?.applied().0;
        if suspended {
            let record = journal::record("task_resumed")
                .with("task", task.id)
                .with("workload", peer.id());
            let record = record.with("evidence", attested_digests(&attested).join(" "));
            position = self
                .ledger
                .end(
                    Event::Resumed(task.id),
                    Ledger::retain_until_ms(&task),
                    record,
                )
                .await?;
        }
        // P3: a token does not outlive the evidence that it rests on.
        let left = attested
            .not_after_ms()
            .map(|end| end.saturating_sub(clock::now_ms()));
        let ttl = match left {
            Some(ms) => {
                Some(sundew_core::Ttl::from_ms(ms).map_err(|_| sundew_core::Denial::NoTime)?)
            }
            None => None,
        };
        let wanted = TokenSpec {
            request: TokenRequest {
                scopes: None,
                ttl,
                binding: None,
                audience: Vec::new(),
            },
            key: self.resumption_key(&task, &key),
            digest: [0; 32],
            certificate: None,
        };
        let token = self
            .mint_within(&peer, &task, wanted, position, "token_minted")
            .await?;
        Ok(v1::ResumeTaskResponse {
            token: Some(token),
            proof: self.proof_ticket(&task),
        })
    }

    /// The name of the token that a resumption gives: another one for each resumption, so that a key
    /// that is used again gets no token of an earlier one, which is dead.
    fn resumption_key(&self, task: &KnownTask, key: &str) -> String {
        let view = self.ledger.log.latest_view();
        let interruptions = view.interruptions(task);
        let names: Vec<_> = interruptions.iter().map(|id| hex(&id.0)).collect();
        format!("resume:{key}:{}", names.join(","))
    }
}
