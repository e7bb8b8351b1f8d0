//! The revocation log: what an entry says. See DESIGN "The revocation log" in ARCHITECTURE.md.

use serde::{Deserialize, Serialize};
use sundew_attestation::spiffe::SpiffeId;

use crate::id::{TaskId, TokenId};
use crate::record::{Outcome, RecordError};

/// A place in the log. 0 is before the first entry.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
pub struct Position(pub u64);

/// Names an entry over all brokers, whatever position it gets; a repeated append is recognised by it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
pub struct EntryId(pub [u8; 16]);

/// What a rule matches.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// One token.
    Token(TokenId),
    /// The tokens of one task, not the task.
    TaskTokens(TaskId),
    /// Everything of one SPIFFE ID.
    Workload(SpiffeId),
}

/// What happened.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A task ended. Position does not matter: it is dead whenever its tokens were minted.
    Ended {
        /// Which.
        task: TaskId,
        /// How.
        outcome: Outcome,
    },
    /// What the selector matches and was decided before this position is dead.
    Rule(Selector),
    /// A task was suspended: its tokens are dead and no new ones are minted.
    Suspended(TaskId),
    /// It was resumed: new tokens may be minted, the old ones stay dead.
    Resumed(TaskId),
    /// Something that brokers keep in memory changed.
    Changed(Changed),
    /// Nothing; it only moves the log past positions that were lost.
    Floor,
}

/// What brokers must read anew.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Changed {
    /// The keyring.
    Keyring,
    /// One registration.
    Workload(SpiffeId),
}

/// One entry of the log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogEntry {
    /// Its name.
    pub id: EntryId,
    /// What happened.
    pub event: Event,
    /// When nothing that it covers can be alive any more, in milliseconds since the epoch; then it may be forgotten.
    pub until_ms: i64,
}

impl LogEntry {
    /// As the log has it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what [`LogEntry::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}
