//! What the store keeps. Records are immutable; whether they are alive is the view's business.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sundew_attestation::spiffe::SpiffeId;

use crate::id::TaskId;
use crate::log::Position;
use crate::registration::Registration;
use crate::scope::ScopeSet;

/// A record that does not read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A document that is not the JSON that it should be.
    #[error("record is not readable: {0}")]
    Json(#[from] serde_json::Error),
    /// A stored task or token with something that cannot be.
    #[error("record is not readable")]
    Malformed,
}

/// How a task ended; exactly one per task.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The agent stopped attending.
    Abandoned,
    /// The agent called it off.
    Canceled,
    /// The agent finished it.
    Completed,
    /// Its time ran out.
    Expired,
    /// The agent failed at it.
    Failed,
    /// A responder ended it.
    Revoked,
}

impl Outcome {
    /// The word for it, as in records and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Canceled => "canceled",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Revoked => "revoked",
        }
    }
}

/// What the presenter of a token must hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenBinding {
    /// Nothing. Needs the registration's leave.
    Bearer,
    /// The SVID certificate that it was minted for.
    Certificate,
}

impl TokenBinding {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Certificate => "certificate",
        }
    }
}

/// Whether a text can be an audience: 1 to 256 printable ASCII characters.
#[must_use]
pub fn is_audience(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// A task, as it was when it began.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TaskRecord {
    /// Its name.
    pub id: TaskId,
    /// Its owner.
    pub workload: SpiffeId,
    /// Why it exists, in the agent's words.
    pub purpose: String,
    /// What the agent was told to do.
    pub instruction: String,
    /// What it may do.
    pub scopes: ScopeSet,
    /// If not empty: the audiences that its tokens may be meant for, and one of which they must
    /// name.
    pub audience: Vec<String>,
    /// When it began, in milliseconds since the epoch.
    pub created_at_ms: i64,
    /// When it ends at the latest, in milliseconds since the epoch.
    pub deadline_ms: i64,
    /// SHA-256 of the SVID certificate that began it.
    pub certificate: [u8; 32],
    /// Serial number of that certificate, big-endian.
    pub svid_serial: Vec<u8>,
    /// The log position that the broker had applied when it decided.
    pub position: Position,
    /// How long it may be unattended, in milliseconds.
    pub grace_ms: i64,
    /// Which registration decided.
    pub registration: String,
    /// Digest of the request, so that an idempotency key is not used for two of them.
    pub request: [u8; 32],
    /// Digests of the evidence, `kind:hex`.
    pub evidence: Vec<String>,
    /// Verified claims, `kind.name=value`.
    pub claims: Vec<String>,
    /// The tasks that it was delegated from, its parent last.
    pub ancestors: Vec<TaskId>,
    /// How many further levels may be delegated below it.
    pub depth_left: u32,
}

/// A token, as it was minted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenRecord {
    /// Its task.
    pub task: TaskId,
    /// What it is good for.
    pub scopes: ScopeSet,
    /// For whom.
    pub audience: Vec<String>,
    /// When it was minted, in milliseconds since the epoch.
    pub issued_at_ms: i64,
    /// When it ends, in milliseconds since the epoch; at that instant it is refused.
    pub expires_at_ms: i64,
    /// What its presenter must hold.
    pub binding: TokenBinding,
    /// SHA-256 of the SVID certificate that it was minted for.
    pub certificate: [u8; 32],
    /// Serial number of that certificate, big-endian.
    pub svid_serial: Vec<u8>,
    /// The log position that the broker had applied when it decided.
    pub position: Position,
    /// Which registration decided.
    pub registration: String,
    /// Digest of the request, its first half.
    pub request: [u8; 16],
}

/// A stored secret: sealed value and what is known of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SecretRecord {
    /// Counts the values that this name has had, from 1.
    pub version: u64,
    /// When this value was written, in milliseconds since the epoch.
    pub updated_at_ms: i64,
    /// Sealed value, base64.
    pub sealed: String,
    /// Digest of the idempotency key that wrote it.
    pub request: String,
}

/// A registered workload.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct WorkloadRecord {
    /// What the platform team applied.
    pub registration: Registration,
    /// Changes with every change of it.
    pub version: String,
    /// When it was applied, in milliseconds since the epoch.
    pub applied_at_ms: i64,
    /// Who applied it.
    pub applied_by: String,
}

macro_rules! encoded {
    ($($record:ident),*) => {
        $(impl $record {
            /// As the store has it.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                serde_json::to_vec(self).unwrap_or_default()
            }

            /// Reads what [`Self::encode`] wrote.
            pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
                Ok(serde_json::from_slice(bytes)?)
            }
        })*
    };
}
encoded!(SecretRecord, WorkloadRecord);

/// A diff of two JSON documents by member, for people: `+ path: value`, `- path: value`.
#[must_use]
pub(crate) fn diff(old: &serde_json::Value, new: &serde_json::Value) -> Vec<String> {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    leaves("", old, &mut before);
    leaves("", new, &mut after);
    let mut lines = Vec::new();
    for (path, value) in &before {
        if after.get(path) != Some(value) {
            lines.push(format!("- {path}: {value}"));
        }
    }
    for (path, value) in &after {
        if before.get(path) != Some(value) {
            lines.push(format!("+ {path}: {value}"));
        }
    }
    lines
}

fn leaves(path: &str, value: &serde_json::Value, out: &mut BTreeMap<String, String>) {
    let join = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match value {
        serde_json::Value::Object(members) => members
            .iter()
            .for_each(|(name, v)| leaves(&join(name), v, out)),
        serde_json::Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, v)| leaves(&join(&i.to_string()), v, out)),
        serde_json::Value::Null => {}
        serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => drop(out.insert(path.to_owned(), value.to_string())),
    }
}
