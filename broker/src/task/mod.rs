//! The use cases of agents: opening a task, using it, attending to it, and ending it.

mod attend;
pub(crate) mod attendance;
mod begin;
mod claims;
mod delegate;
mod ending;
mod finish;
mod mint;
mod new_task;
mod ordered;
mod pace;
mod prove;
mod secret;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use sundew_attestation::BindingPurpose;
use sundew_core::{
    Credential, KeyFingerprint, Permit, Position, TaskId, TaskRecord, TokenBinding, TokenRecord,
    WorkloadRecord,
};
use sundew_proto::v1;

use crate::evidence::{Evidence, Presentation};
use crate::lease::Leases;
use crate::ledger::Ledger;
use crate::limits::CallLimits;
use crate::metrics::OrderMetrics;
use crate::peer::{Peer, Trust};
use crate::records::Task;
use crate::refusal::Refusal;
use crate::refusal_recorder::RefusalRecorder;
use crate::secret::Secrets;
use crate::wire::binding_message;
use attendance::Attendance;
use sweep::{Answered, SweepState};

/// The room of tasks.
pub(crate) struct Tasks {
    ledger: Ledger,
    answered: Answered,
    attendance: Arc<Attendance>,
    evidence: Arc<Evidence>,
    leases: Arc<Leases>,
    limits: CallLimits,
    orders: OrderMetrics,
    refusals: RefusalRecorder,
    secrets: Arc<Secrets>,
    swept: SweepState,
    trust: Arc<Trust>,
}

/// The rooms that [`Tasks`] uses.
pub(crate) struct TasksUse {
    pub(crate) evidence: Arc<Evidence>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) orders: OrderMetrics,
    pub(crate) refusals: RefusalRecorder,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) trust: Arc<Trust>,
}

impl Tasks {
    /// A room without attended tasks.
    pub(crate) fn new(ledger: Ledger, limits: CallLimits, uses: TasksUse) -> Self {
        let TasksUse {
            evidence,
            leases,
            orders,
            refusals,
            secrets,
            trust,
        } = uses;
        Self {
            ledger,
            answered: Answered::new(),
            attendance: Arc::default(),
            evidence,
            leases,
            limits,
            orders,
            refusals,
            secrets,
            swept: SweepState::new(),
            trust,
        }
    }

    /// The tasks that are attended at this broker.
    pub(crate) fn attendance(&self) -> &Arc<Attendance> {
        &self.attendance
    }

    /// How long ago a sweep ended, or the broker started, and how many tasks of all brokers there were
    /// lately.
    pub(crate) fn swept(&self) -> (Duration, u64) {
        self.swept.read()
    }

    /// The caller's own task. Unknown and not yours are refused alike (AC-32, P11).
    pub(crate) async fn own_task(&self, peer: &Peer, id: &str) -> Result<Arc<Task>, Refusal> {
        let id = TaskId::parse(id).map_err(|e| Refusal::invalid("task_id", e))?;
        let mut task = self
            .ledger
            .records
            .task(id)
            .await?
            .ok_or(Refusal::NotFound("task"))?;
        if !acts_for(peer, &task) && task.workload == *peer.id() {
            // The task may have been moved to this certificate at another broker.
            task = self
                .ledger
                .records
                .read_task(id)
                .await?
                .ok_or(Refusal::NotFound("task"))?;
        }
        // T11: the same workload with another certificate than the task's is somebody else.
        if acts_for(peer, &task) {
            Ok(task)
        } else {
            Err(Refusal::Binding)
        }
    }

    /// Answers the one token that a task has for an idempotency key. The token is derived under the
    /// root key of the task, so that a retry gets the same token at any broker, and nothing is
    /// stored. L11: when the task began, which only its record says, is a part of that: a key that is
    /// used again after the record is gone gives another token.
    fn credential(
        &self,
        (task, root_key): (&TaskRecord, KeyFingerprint),
        key: &str,
        certificate: &[u8; 32],
    ) -> Credential {
        let parts: [&[u8]; 6] = [
            b"token",
            task.id.as_bytes(),
            key.as_bytes(),
            certificate,
            &task.created_at_ms.to_be_bytes(),
            &task.position.0.to_be_bytes(),
        ];
        Credential::new(task.id, self.ledger.root().derive_under(root_key, &parts))
    }
}

/// The evidence that a workload presents for a task of its own, and what it must be bound to.
fn presentation<'a>(
    workload: &'a Arc<WorkloadRecord>,
    peer: &'a Peer,
    nonce: &'a [u8],
    evidence: &'a [v1::Evidence],
    purpose: BindingPurpose,
) -> Presentation<'a> {
    Presentation {
        workload,
        public_key: peer.svid().public_key(),
        channel: peer.channel(),
        nonce,
        evidence,
        purpose,
    }
}

/// Says whether the peer's certificate is the one that the task is bound to, or was moved to.
fn acts_for(peer: &Peer, task: &Task) -> bool {
    let own = peer.svid().thumbprint();
    task.workload == *peer.id() && (task.certificate == *own || task.rotated_to.contains(own))
}

/// The record of a token, as a permit allows it to this peer; `position` is that of the view on
/// which the permit was decided.
fn new_token(
    peer: &Peer,
    permit: &Permit,
    task: TaskId,
    registration: &str,
    position: Position,
    now_ms: i64,
    request: &[u8; 32],
) -> TokenRecord {
    TokenRecord {
        task,
        scopes: permit.scopes().clone(),
        audience: permit.audience().to_vec(),
        issued_at_ms: now_ms,
        expires_at_ms: permit.token_expires_at_ms(),
        binding: permit.binding(),
        certificate: *peer.svid().thumbprint(),
        svid_serial: peer.svid().serial().to_vec(),
        position,
        registration: registration.to_owned(),
        request: request.first_chunk().copied().unwrap_or_default(),
    }
}

/// The digest of what a request asks, so that an idempotency key is not used for two requests. Each
/// text counts with its length, so that different texts never join to one input.
fn request_digest(texts: &[&String], numbers: &[i64]) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for text in texts {
        context.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(text.as_bytes());
    }
    numbers
        .iter()
        .for_each(|number| context.update(&number.to_be_bytes()));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// A list as records have it, with spaces between.
fn join_spaces(list: &[impl ToString]) -> String {
    list.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A new token as a message: the one time that the token itself leaves the broker.
fn token_message(record: &TokenRecord, credential: &Credential) -> v1::Token {
    v1::Token {
        token: credential.expose().to_string(),
        token_id: credential.hash().token_id().to_string(),
        scopes: record.scopes.to_strings(),
        expires_at_ms: record.expires_at_ms,
        binding: binding_message(record.binding).into(),
        audience: record.audience.clone(),
        certificate_sha256: match record.binding {
            TokenBinding::Bearer => Vec::new(),
            TokenBinding::Certificate => record.certificate.to_vec(),
        },
    }
}
