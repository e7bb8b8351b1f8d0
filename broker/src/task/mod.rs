//! The use cases of agents: opening a task, using it, and ending it.

mod attend;
mod begin;
mod delegate;
mod finish;
mod mint;
mod prove;
mod secret;

pub(crate) use begin::evidence_of;

use std::sync::Arc;

use sundew_attestation::BindingPurpose;
use sundew_core::{
    Cause, KnownTask, KnownToken, Liveness, Outcome, Permit, Position, ScopeSet, TaskId,
    TokenBinding, TokenRecord, Ttl, WorkloadRecord,
};
use sundew_proto::v1;

use crate::broker::Broker;
use crate::clock;
use crate::evidence::Showing;
use crate::peer::Peer;
use crate::records::Task;
use crate::refusal::Refusal;

/// Most audiences of a token.
const MAX_AUDIENCES: usize = 8;

impl Broker {
    /// The caller's own task. Unknown and not yours are refused alike (AC-32, P11).
    pub(crate) async fn own_task(&self, peer: &Peer, id: &str) -> Result<Arc<Task>, Refusal> {
        let id = TaskId::parse(id).map_err(|e| Refusal::invalid("task_id", e))?;
        let mut task = self
            .records
            .task(id)
            .await?
            .ok_or(Refusal::Absent("task"))?;
        if !acts_for(peer, &task) && task.workload == *peer.id() {
            // It may have been moved to this certificate at another broker.
            task = self
                .records
                .read_task(id)
                .await?
                .ok_or(Refusal::Absent("task"))?;
        }
        // T11: the same workload with another certificate than the task's is somebody else.
        if acts_for(peer, &task) {
            Ok(task)
        } else {
            Err(Refusal::Binding)
        }
    }

    /// P4, P5, P7: whether a task may be used at this moment.
    pub(crate) fn usable(&self, task: &KnownTask) -> Result<(), Refusal> {
        let view = self.keeper.view()?;
        match view.judge_task(task, clock::now_ms()) {
            Liveness::Dead(cause) => Err(Refusal::TaskDead(cause)),
            Liveness::Alive if view.is_suspended(task) => Err(Refusal::TaskDead(Cause::Suspended)),
            Liveness::Alive => Ok(()),
        }
    }
}

impl Broker {
    /// AC-4A: whether a quarantine forbids this token.
    fn not_quarantined(&self, token: &KnownToken) -> Result<(), Refusal> {
        if self.keeper.view()?.is_token_quarantined(token) {
            Err(Refusal::Quarantined)
        } else {
            Ok(())
        }
    }
}

/// What a workload shows for a task of its own.
fn showing<'a>(
    workload: &'a Arc<WorkloadRecord>,
    peer: &'a Peer,
    nonce: &'a [u8],
    evidence: &'a [v1::Evidence],
    purpose: BindingPurpose,
) -> Showing<'a> {
    Showing {
        workload,
        public_key: peer.svid().public_key(),
        channel: peer.channel(),
        nonce,
        evidence,
        purpose,
    }
}

fn acts_for(peer: &Peer, task: &Task) -> bool {
    let own = peer.svid().thumbprint();
    task.workload == *peer.id() && (task.certificate == *own || task.rotated_to.contains(own))
}

/// A token of a task, as a permit allows it to this peer; `position` is that of the view on which
/// it was decided.
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
        expires_at_ms: permit.token_expires_ms(),
        binding: permit.binding(),
        certificate: *peer.svid().thumbprint(),
        svid_serial: peer.svid().serial().to_vec(),
        position,
        registration: registration.to_owned(),
        request: request.first_chunk().copied().unwrap_or_default(),
    }
}

/// What a request asks, so that an idempotency key is not used for two of them. Injective: each
/// text counts with its length.
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

/// A list as records have it.
fn spaced(list: &[impl ToString]) -> String {
    list.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

fn ttl(ms: i64) -> Result<Option<Ttl>, Refusal> {
    if ms == 0 {
        Ok(None)
    } else {
        Ttl::from_ms(ms)
            .map(Some)
            .map_err(|e| Refusal::invalid("ttl_ms", e))
    }
}

fn scopes(texts: &[String]) -> Result<ScopeSet, Refusal> {
    ScopeSet::parse(texts).map_err(|e| Refusal::invalid("scopes", e))
}

fn binding(value: i32) -> Result<Option<TokenBinding>, Refusal> {
    match v1::Binding::try_from(value) {
        Ok(v1::Binding::Unspecified) => Ok(None),
        Ok(v1::Binding::Certificate) => Ok(Some(TokenBinding::Certificate)),
        Ok(v1::Binding::Bearer) => Ok(Some(TokenBinding::Bearer)),
        Err(_) => Err(Refusal::invalid("binding", "unknown binding")),
    }
}

pub(crate) fn audience(mut list: Vec<String>) -> Result<Vec<String>, Refusal> {
    list.sort();
    list.dedup();
    if list.len() > MAX_AUDIENCES
        || !list
            .iter()
            .all(|audience| sundew_core::is_audience(audience))
    {
        return Err(Refusal::invalid(
            "audience",
            "must be at most 8 names of at most 256 printable ASCII characters",
        ));
    }
    Ok(list)
}

pub(crate) fn binding_message(binding: TokenBinding) -> v1::Binding {
    match binding {
        TokenBinding::Bearer => v1::Binding::Bearer,
        TokenBinding::Certificate => v1::Binding::Certificate,
    }
}

pub(crate) fn outcome_message(outcome: Outcome) -> v1::Outcome {
    match outcome {
        Outcome::Abandoned => v1::Outcome::Abandoned,
        Outcome::Canceled => v1::Outcome::Canceled,
        Outcome::Completed => v1::Outcome::Completed,
        Outcome::Expired => v1::Outcome::Expired,
        Outcome::Failed => v1::Outcome::Failed,
        Outcome::Revoked => v1::Outcome::Revoked,
    }
}

fn token_message(record: &TokenRecord, credential: &sundew_core::Credential) -> v1::Token {
    v1::Token {
        token: credential.expose().to_string(),
        token_id: credential.hash().token_id().to_string(),
        scopes: record.scopes.to_strings(),
        expires_at_ms: record.expires_at_ms,
        binding: binding_message(record.binding).into(),
        audience: record.audience.clone(),
    }
}
