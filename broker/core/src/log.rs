//! The revocation log: what an entry says. See DESIGN "The revocation log" in ARCHITECTURE.md.

use serde::{Deserialize, Serialize};
use sundew_attestation::spiffe::SpiffeId;

use crate::id::TaskId;
use crate::record::{Outcome, RecordError};
use crate::selector::Selector;

/// A place in the log. 0 is before the first entry.
#[derive(
    Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize,
)]
pub struct Position(pub u64);

/// Names an entry over all brokers, whatever position it gets; a repeated append is recognised by
/// it.
#[derive(
    Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize,
)]
pub struct EntryId(pub [u8; 16]);

/// What a rule does to what its selector matches.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// What was decided before the rule's position is dead.
    Revoke,
    /// Nothing new is issued until the rule is lifted; what lives goes on.
    Quarantine,
    /// Both.
    Contain,
}

impl Effect {
    /// Whether it kills what was issued before it.
    #[must_use]
    pub fn revokes(self) -> bool {
        matches!(self, Self::Revoke | Self::Contain)
    }

    /// Whether it stands until it is lifted.
    #[must_use]
    pub fn quarantines(self) -> bool {
        matches!(self, Self::Quarantine | Self::Contain)
    }

    /// The word for it, as in records and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoke => "revoke",
            Self::Quarantine => "quarantine",
            Self::Contain => "contain",
        }
    }
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
    /// A responder's rule, named by its entry.
    Rule {
        /// What it matches.
        selector: Box<Selector>,
        /// What it does.
        effect: Effect,
    },
    /// A quarantine is lifted: new things may be issued again. Nothing that died comes back.
    Lifted(EntryId),
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
    /// The engines.
    Engines,
    /// The keyring.
    Keyring,
    /// What verifiers trust.
    Trust,
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
    /// When nothing that it covers can be alive any more, in milliseconds since the epoch; then it
    /// may be forgotten.
    pub until_ms: i64,
}

/// The end of what stands until it is lifted.
pub const FOR_EVER_MS: i64 = 1 << 52;

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
