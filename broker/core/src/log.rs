//! The entries of the revocation log.
//!
//! The log is one ordered list in the store that every broker reads. Records of tasks and tokens
//! never change; the log says what became of them. An entry ends, suspends or resumes a task, sets
//! or lifts a rule, or tells brokers to read something again. P4: what an entry kills stays dead.

use serde::{Deserialize, Serialize};
use sundew_attestation::spiffe::SpiffeId;

use crate::document::{DocumentKind, DocumentVersion};
use crate::id::TaskId;
use crate::outcome::Outcome;
use crate::position::EntryId;
use crate::record::RecordError;
use crate::selector::Selector;

/// The effect of a rule on the tasks and tokens that its selector matches.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The rule does both: it revokes, and it quarantines until it is lifted.
    Contain,
    /// Nothing new is issued until the rule is lifted; what lives goes on.
    Quarantine,
    /// Everything that was decided before the rule's position is dead.
    Revoke,
    /// What lives is suspended, and nothing new is issued until the rule is lifted, except
    /// X.509-SVIDs, by which agents resume. A suspended task stays so after that, until its agent
    /// resumes it with fresh evidence. Tokens from before stay dead.
    Suspend,
}

impl Effect {
    /// Returns whether the rule kills what was issued before it.
    #[must_use]
    pub fn revokes(self) -> bool {
        matches!(self, Self::Revoke | Self::Contain)
    }

    /// Returns whether the rule forbids new things until it is lifted.
    #[must_use]
    pub fn quarantines(self) -> bool {
        matches!(self, Self::Quarantine | Self::Contain | Self::Suspend)
    }

    /// Returns the effect that is left once the rule was lifted on the new things that it forbids.
    #[must_use]
    pub fn lifted(self) -> Option<Self> {
        match self {
            Self::Contain | Self::Revoke => Some(Self::Revoke),
            Self::Quarantine | Self::Suspend => None,
        }
    }

    /// Returns the word that records and the command line use for this effect.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Contain => "contain",
            Self::Quarantine => "quarantine",
            Self::Revoke => "revoke",
            Self::Suspend => "suspend",
        }
    }
}

/// The statement that an entry makes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Something that brokers keep in memory changed.
    Changed(Changed),
    /// A task ended. The position does not matter: the task's tokens are dead whenever they were
    /// minted.
    Ended {
        /// The task that ended.
        task: TaskId,
        /// The way in which the task ended.
        outcome: Outcome,
    },
    /// The entry says nothing. It only moves the log past positions that a store lost, so that no
    /// later entry gets a position that tokens were stamped with before.
    Floor,
    /// A quarantine is lifted: new things may be issued again. Nothing that died comes back.
    Lifted(EntryId),
    /// A task was resumed: new tokens may be minted in it, and the old ones stay dead.
    Resumed(TaskId),
    /// A responder set a rule. The name of its entry is the name of the rule.
    Rule {
        /// The tasks and tokens that the rule is about.
        selector: Box<Selector>,
        /// The effect of the rule on them.
        effect: Effect,
    },
    /// A task was suspended: its tokens are dead, and no new ones are minted.
    Suspended(TaskId),
}

impl Event {
    /// Returns the event beside a statement about a document: what brokers read anew, if they keep
    /// documents of this family in memory.
    #[must_use]
    pub fn beside(statement: &DocumentVersion) -> Self {
        match statement.kind {
            DocumentKind::Engine => Self::Changed(Changed::Engines),
            DocumentKind::Meta => Self::Changed(Changed::Keyring),
            DocumentKind::Trust => Self::Changed(Changed::Trust),
            DocumentKind::Workload => SpiffeId::parse(&statement.name)
                .map_or(Self::Floor, |id| Self::Changed(Changed::Workload(id))),
            DocumentKind::Response | DocumentKind::Secret => Self::Floor,
        }
    }
}

/// The things that brokers keep in memory and read again when an entry says that they changed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Changed {
    /// The engines that make credentials in other systems changed.
    Engines,
    /// The keyring changed.
    Keyring,
    /// The keys and references that verifiers trust changed.
    Trust,
    /// The registration of one workload changed.
    Workload(SpiffeId),
}

/// An entry of the log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogEntry {
    /// The name of the entry.
    pub id: EntryId,
    /// The statement that the entry makes.
    pub event: Event,
    /// The time from which the entry may be deleted, in milliseconds since the epoch: no task or
    /// token that the entry kills can be alive by then. An entry with the version of a document is
    /// kept longer: until another entry has a later version.
    #[serde(rename = "until_ms")]
    pub retain_until_ms: i64,
    /// The version that a document has now, beside the event. A broker that does not know of
    /// versions reads the event and nothing else (L22).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentVersion>,
}

/// The value of [`LogEntry::retain_until_ms`] for a rule that stands until it is lifted.
pub const FOR_EVER_MS: i64 = 1 << 52;

impl LogEntry {
    /// Returns the time from which the log may drop the entry by itself, in milliseconds since the
    /// epoch. A lift is never dropped: without it, the quarantine that it lifted could come back.
    /// Nor is the version of a document: without it, an older version could come back.
    #[must_use]
    pub fn log_retains_until_ms(&self) -> i64 {
        if self.document.is_some() {
            return FOR_EVER_MS;
        }
        match self.event {
            Event::Lifted(_) => FOR_EVER_MS,
            Event::Changed(_)
            | Event::Ended { .. }
            | Event::Floor
            | Event::Resumed(_)
            | Event::Rule { .. }
            | Event::Suspended(_) => self.retain_until_ms,
        }
    }

    /// L3: returns the entry as it is appended after it has waited. An ending, a rule or a lift stands
    /// until `until_ms` at least, which is what a rule of this moment would do: brokers may have
    /// agreed on longer tasks since the entry was made.
    #[must_use]
    pub fn standing_until(mut self, until_ms: i64) -> Self {
        match self.event {
            Event::Ended { .. } | Event::Lifted(_) | Event::Rule { .. } => {
                self.retain_until_ms = self.retain_until_ms.max(until_ms);
            }
            Event::Changed(_) | Event::Floor | Event::Resumed(_) | Event::Suspended(_) => {}
        }
        self
    }

    /// Returns the bytes that the log keeps.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the bytes that [`LogEntry::encode`] returned.
    ///
    /// # Errors
    ///
    /// [`RecordError::Json`] if the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_of_an_entry_stays_as_it_is() {
        let entry = LogEntry {
            id: EntryId([1; 16]),
            event: Event::Suspended(TaskId::from_bytes([2; 16])),
            retain_until_ms: 7,
            document: None,
        };
        let stored = concat!(
            r#"{"id":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"#,
            r#""event":{"suspended":"task-02020202020202020202020202020202"},"until_ms":7}"#
        );
        assert_eq!(String::from_utf8(entry.encode()).unwrap(), stored);
        assert_eq!(LogEntry::decode(stored.as_bytes()).unwrap(), entry);
        let versioned = LogEntry {
            document: Some(DocumentVersion {
                kind: crate::store::DocumentKind::Secret,
                name: "app/db".to_owned(),
                version: 3,
                deleted: false,
                content_of: None,
            }),
            ..entry
        };
        let beside = r#""until_ms":7,"document":{"kind":"secret","name":"app/db","version":3}}"#;
        let stored = stored.replace(r#""until_ms":7}"#, beside);
        assert_eq!(String::from_utf8(versioned.encode()).unwrap(), stored);
        assert_eq!(LogEntry::decode(stored.as_bytes()).unwrap(), versioned);
    }

    /// L3: what takes authority away, and what says how long that matters, must not be over before the
    /// tasks of now.
    #[test]
    fn an_entry_that_has_waited_stands_for_the_time_of_its_append() {
        let task = TaskId::from_bytes([2; 16]);
        let outcome = Outcome::Revoked;
        let until_ms = |event, made_ms| {
            let entry = LogEntry {
                id: EntryId([1; 16]),
                event,
                retain_until_ms: made_ms,
                document: None,
            };
            entry.standing_until(100).retain_until_ms
        };
        assert_eq!(until_ms(Event::Ended { task, outcome }, 7), 100);
        assert_eq!(until_ms(Event::Lifted(EntryId([3; 16])), 7), 100);
        assert_eq!(until_ms(Event::Ended { task, outcome }, 200), 200);
        assert_eq!(until_ms(Event::Floor, 7), 7);
    }
}
