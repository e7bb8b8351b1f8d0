//! Records of tasks and tokens: immutable statements of what was decided.
//!
//! A record never says whether its task or token is alive. The view of the revocation log decides
//! that (P4).

#[cfg(test)]
pub(crate) mod samples;
mod stored;

use sundew_attestation::spiffe::SpiffeId;

use crate::id::TaskId;
use crate::position::Position;
use crate::scope::ScopeSet;
use crate::token_binding::TokenBinding;

/// The reason why the bytes of a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not the JSON document that belongs in this place.
    #[error("record is not readable: {0}")]
    Json(#[from] serde_json::Error),
    /// The bytes of a task, a token or a grant have a field with an impossible value.
    #[error("record is not readable")]
    Malformed,
    /// The record has a form that only a later version of Sundew knows.
    #[error("record was written by a later version of Sundew: upgrade this broker")]
    Version,
}

/// A task, as it was when it began.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TaskRecord {
    /// The identifier of the task.
    pub id: TaskId,
    /// The workload that owns the task.
    pub workload: SpiffeId,
    /// The agent's own words for why the task exists. They never decide anything.
    pub purpose: String,
    /// The instruction that the agent was given. It never decides anything.
    pub instruction: String,
    /// The scopes that the task may use.
    pub scopes: ScopeSet,
    /// The ceiling of the audiences of the task's tokens, from a parent and its grant: names, or
    /// names whose last segment is `*`. An empty list sets no limit.
    pub audience: Vec<String>,
    /// The time at which the task began, in milliseconds since the epoch.
    pub created_at_ms: i64,
    /// The time at which the task ends at the latest, in milliseconds since the epoch.
    pub deadline_ms: i64,
    /// The SHA-256 digest of the SVID certificate that began the task.
    pub certificate: [u8; 32],
    /// The serial number of that certificate, big-endian.
    pub svid_serial: Vec<u8>,
    /// The log position that the broker had applied when it decided on the task.
    pub position: Position,
    /// The time for which the task may be unattended, in milliseconds.
    pub grace_ms: i64,
    /// The version of the registration that allowed the task.
    pub registration: String,
    /// The digest of the request. An idempotency key that comes with another digest is refused.
    pub request: [u8; 32],
    /// The digests of the evidence, each as `kind:hex`.
    pub evidence: Vec<String>,
    /// The verified claims, each as `kind.name=value`.
    pub claims: Vec<String>,
    /// The tasks that this task was delegated from; its parent is the last one.
    pub ancestors: Vec<TaskId>,
    /// The number of further levels that may be delegated below the task.
    pub depth_left: u32,
    /// The order that the task came of, if it came of one. The task has its identifier.
    pub order: Option<TaskOrder>,
}

/// What a task keeps of the order that it came of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TaskOrder {
    /// The identity that ordered the task.
    pub dispatcher: SpiffeId,
    /// The labels of the order.
    pub labels: Vec<String>,
}

/// The most bytes of scopes and claims that are kept of a task that has ended. By them, the clean-up
/// after a rule finds the leases of the tasks that the rule killed.
const KEPT_ATTRIBUTES: usize = 1024;

impl TaskRecord {
    /// Returns what is kept of the record once the task has ended: who may ask how it ended, and
    /// what a repeated request is compared with. The journal has the rest (A2). The result takes
    /// about 1.5 KiB at most.
    #[must_use]
    pub fn remains(&self) -> Self {
        let mut remains = Self {
            purpose: String::new(),
            instruction: String::new(),
            audience: Vec::new(),
            evidence: Vec::new(),
            ..self.clone()
        };
        let scopes: usize = self.scopes.iter().map(|scope| scope.as_str().len()).sum();
        let claims: usize = self.claims.iter().map(String::len).sum();
        if scopes.saturating_add(claims) > KEPT_ATTRIBUTES {
            remains.claims = Vec::new();
            remains.scopes = self.scopes.first();
        }
        remains
    }
}

/// A token, as it was when it was minted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenRecord {
    /// The task that the token belongs to.
    pub task: TaskId,
    /// The scopes that the token is good for.
    pub scopes: ScopeSet,
    /// The audiences that the token is meant for.
    pub audience: Vec<String>,
    /// The time at which the token was minted, in milliseconds since the epoch.
    pub issued_at_ms: i64,
    /// The time from which the token is refused, in milliseconds since the epoch.
    pub expires_at_ms: i64,
    /// The proof of possession that the presenter of the token must give.
    pub binding: TokenBinding,
    /// The SHA-256 digest of the certificate that the token is bound to: that of the SVID with which
    /// it was minted, or one that was shown.
    pub certificate: [u8; 32],
    /// The serial number of the SVID with which the token was minted, big-endian.
    pub svid_serial: Vec<u8>,
    /// The log position that the broker had applied when it decided on the token.
    pub position: Position,
    /// The version of the registration that allowed the token.
    pub registration: String,
    /// The first half of the digest of the request.
    pub request: [u8; 16],
}
