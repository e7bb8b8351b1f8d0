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
#[error("record is not readable: {0}")]
pub struct RecordError(#[from] serde_json::Error);

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

/// A task, as it was when it began.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TaskRecord {
    /// Its name.
    #[serde(rename = "t")]
    pub id: TaskId,
    /// Its owner.
    #[serde(rename = "w")]
    pub workload: SpiffeId,
    /// Why it exists, in the agent's words.
    #[serde(rename = "p")]
    pub purpose: String,
    /// What the agent was told to do.
    #[serde(rename = "i")]
    pub instruction: String,
    /// What it may do.
    #[serde(rename = "s")]
    pub scopes: ScopeSet,
    /// When it began, in milliseconds since the epoch.
    #[serde(rename = "c")]
    pub created_at_ms: i64,
    /// When it ends at the latest, in milliseconds since the epoch.
    #[serde(rename = "d")]
    pub deadline_ms: i64,
    /// SHA-256 of the SVID certificate that began it, base64url.
    #[serde(rename = "x", with = "digest_text")]
    pub certificate: [u8; 32],
    /// The log position that the broker had applied when it decided.
    #[serde(rename = "o")]
    pub position: Position,
    /// How long it may be unattended, in milliseconds.
    #[serde(rename = "g")]
    pub grace_ms: i64,
    /// Which registration decided.
    #[serde(rename = "r")]
    pub registration: String,
    /// Digest of the request, so that an idempotency key is not used for two of them.
    #[serde(rename = "f", with = "digest_text")]
    pub request: [u8; 32],
    /// Digests of the evidence.
    #[serde(rename = "e", default)]
    pub evidence: Vec<String>,
}

/// A token, as it was minted.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TokenRecord {
    /// Its task.
    #[serde(rename = "t")]
    pub task: TaskId,
    /// Its subject.
    #[serde(rename = "w")]
    pub workload: SpiffeId,
    /// What it is good for.
    #[serde(rename = "s")]
    pub scopes: ScopeSet,
    /// For whom.
    #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// When it was minted, in milliseconds since the epoch.
    #[serde(rename = "c")]
    pub issued_at_ms: i64,
    /// When it ends, in milliseconds since the epoch; at that instant it is refused.
    #[serde(rename = "d")]
    pub expires_at_ms: i64,
    /// What its presenter must hold.
    #[serde(rename = "b")]
    pub binding: TokenBinding,
    /// SHA-256 of the SVID certificate that it was minted for.
    #[serde(rename = "x", with = "digest_text")]
    pub certificate: [u8; 32],
    /// The log position that the broker had applied when it decided.
    #[serde(rename = "o")]
    pub position: Position,
    /// The same of its task.
    #[serde(rename = "q")]
    pub task_position: Position,
    /// Which registration decided.
    #[serde(rename = "r")]
    pub registration: String,
    /// Digest of the request.
    #[serde(rename = "f", with = "digest_text")]
    pub request: [u8; 32],
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
encoded!(TaskRecord, TokenRecord, SecretRecord, WorkloadRecord);

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
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        serde_json::Value::Object(members) => members.iter().for_each(|(name, v)| leaves(&join(name), v, out)),
        serde_json::Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| leaves(&join(&i.to_string()), v, out)),
        serde_json::Value::Null => {}
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) | serde_json::Value::String(_) => drop(out.insert(path.to_owned(), value.to_string())),
    }
}

mod digest_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(digest: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(digest))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text.as_bytes()).map_err(D::Error::custom)?;
        bytes.try_into().map_err(|_| D::Error::custom("digest is not 32 bytes"))
    }
}
