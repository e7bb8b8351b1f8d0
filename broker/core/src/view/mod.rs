//! A broker's view of the revocation log: with the clock and the records, the only thing that
//! decides liveness.
//!
//! P4: an ended task is dead with all of its tokens and with everything that was delegated from it;
//! a rule kills what was decided before the rule's position. The view is pure: it reads no clock
//! and does no I/O. Whether a view is fresh enough to be asked is decided by its owner (P5, P7).

#[cfg(test)]
mod document_tests;
mod liveness;
mod order;
mod quarantine;
mod retention;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use crate::document::{DocumentKind, DocumentVersion};
use crate::id::TaskId;
use crate::log::{Effect, Event, LogEntry};
use crate::outcome::Outcome;
use crate::position::{EntryId, Position};
use crate::rules::Rules;

pub use liveness::{Cause, Liveness};
pub use quarantine::AskedIdentity;
pub use retention::still_matter;

/// The ending of a task.
struct Ending {
    outcome: Outcome,
    retain_until_ms: i64,
    /// Whether the ending is not in the log yet. An ending in the log takes precedence.
    held: bool,
    /// The entry that ended the task.
    by: EntryId,
}

/// An entry that may still matter.
struct KnownEntry {
    position: Position,
    entry: LogEntry,
    /// Whether the entry is not in the log yet.
    held: bool,
}

/// The last suspension or resumption of a task.
struct Suspension {
    by: EntryId,
    position: Position,
    retain_until_ms: i64,
    /// Whether the task was resumed. Tokens from before stay dead.
    over: bool,
}

/// The last statement about a document.
struct Newest {
    statement: DocumentVersion,
    /// The entry that made the statement.
    by: EntryId,
    retain_until_ms: i64,
}

/// The last statements about documents, by family and name.
type Documents = HashMap<(DocumentKind, String), Newest>;

/// The endings, suspensions and rules of the log up to a position.
#[derive(Default)]
pub struct View {
    applied: Position,
    last: EntryId,
    endings: HashMap<TaskId, Ending>,
    rules: Rules,
    suspensions: HashMap<TaskId, Suspension>,
    /// The quarantines that were lifted, with the time from which each may be forgotten. Never
    /// forgotten: see `retention.rs`.
    lifted: HashMap<EntryId, i64>,
    /// The last version that the log has of each document, and the entry that says so.
    documents: Documents,
    /// Every entry that may still matter, so that an entry that the store lost can be appended
    /// again.
    entries: HashMap<EntryId, KnownEntry>,
}

impl View {
    /// Applies an entry of the log. Entries must come in the order of their positions. An entry
    /// that was applied before changes nothing but the position.
    pub fn apply(&mut self, position: Position, entry: LogEntry) {
        self.applied = self.applied.max(position);
        self.last = entry.id;
        self.take_effect(position, entry, false);
    }

    /// Holds an entry that the log could not take. The entry takes effect in this view at once, and
    /// has no position in the log.
    pub fn hold(&mut self, entry: LogEntry) {
        self.take_effect(Position(self.applied.0.saturating_add(1)), entry, true);
    }

    /// Sets the position after which reading goes on, because the store lost what came after it.
    /// Tokens that were checked before are checked again.
    pub fn rewind(&mut self, position: Position, last: EntryId) {
        self.rules.advance_generation();
        (self.applied, self.last) = (position, last);
    }

    fn take_effect(&mut self, position: Position, entry: LogEntry, held: bool) {
        match &entry.event {
            Event::Changed(_) | Event::Floor => {}
            Event::Ended { task, outcome } => self.end(*task, *outcome, &entry, held),
            Event::Lifted(rule) => {
                self.rules.lift(rule);
                self.lifted.insert(*rule, entry.retain_until_ms);
            }
            Event::Resumed(task) => self.suspend(*task, position, &entry, true),
            Event::Rule { selector, effect } => {
                // AC-4A: what was lifted stays lifted, in whatever order the two entries come.
                let is_lifted = self.lifted.contains_key(&entry.id);
                if !is_lifted || *effect != Effect::Quarantine {
                    self.rules.insert(entry.id, selector, *effect, position);
                }
                if is_lifted {
                    self.rules.lift(&entry.id);
                }
            }
            // The position is kept, so that tokens from a broker that had not seen the suspension
            // stay dead after the task is resumed.
            Event::Suspended(task) => self.suspend(*task, position, &entry, false),
        }
        retention::note_version(&mut self.documents, &entry);
        let known = KnownEntry {
            position,
            entry,
            held,
        };
        self.entries.insert(known.entry.id, known);
    }

    fn end(&mut self, task: TaskId, outcome: Outcome, entry: &LogEntry, held: bool) {
        let (by, retain_until_ms) = (entry.id, entry.retain_until_ms);
        // AC-33: the first ending in the log is the one reason.
        let ending = self.endings.entry(task).or_insert(Ending {
            outcome,
            retain_until_ms,
            held,
            by,
        });
        if ending.held && !held {
            (ending.outcome, ending.held, ending.by) = (outcome, false, by);
        }
        ending.retain_until_ms = ending.retain_until_ms.max(retain_until_ms);
    }

    fn suspend(&mut self, task: TaskId, position: Position, entry: &LogEntry, over: bool) {
        let (by, retain_until_ms) = (entry.id, entry.retain_until_ms);
        let suspension = self.suspensions.entry(task).or_insert(Suspension {
            by,
            position,
            retain_until_ms,
            over,
        });
        if position >= suspension.position {
            *suspension = Suspension {
                by,
                position,
                retain_until_ms: retain_until_ms.max(suspension.retain_until_ms),
                over,
            };
        }
    }

    /// Returns whether the view has a lift of this rule.
    #[must_use]
    pub fn is_lifted(&self, rule: &EntryId) -> bool {
        self.lifted.contains_key(rule)
    }

    /// Returns whether the view has an entry, be it from the log or held.
    #[must_use]
    pub fn knows(&self, id: &EntryId) -> bool {
        self.entries.contains_key(id)
    }

    /// Returns an entry that was read from the log, with its position.
    #[must_use]
    pub fn entry(&self, id: &EntryId) -> Option<(Position, &LogEntry)> {
        self.entries
            .get(id)
            .filter(|own| !own.held)
            .map(|own| (own.position, &own.entry))
    }

    /// Returns an entry, be it from the log or held. The position is absent for a held entry.
    #[must_use]
    pub fn known(&self, id: &EntryId) -> Option<(&LogEntry, Option<Position>)> {
        self.entries
            .get(id)
            .map(|own| (&own.entry, (!own.held).then_some(own.position)))
    }

    /// Returns whether the view has read an entry from the log.
    #[must_use]
    pub fn is_in_log(&self, id: &EntryId) -> bool {
        self.entry(id).is_some()
    }

    /// Returns the last statement about a document that the view has, be it from the log or held,
    /// and the entry that made it.
    #[must_use]
    pub fn document(&self, kind: DocumentKind, name: &str) -> Option<(&DocumentVersion, EntryId)> {
        self.documents
            .get(&(kind, name.to_owned()))
            .map(|newest| (&newest.statement, newest.by))
    }

    /// Returns the position up to which the log was applied, and the name of the entry there.
    #[must_use]
    pub fn applied(&self) -> (Position, EntryId) {
        (self.applied, self.last)
    }

    /// Returns the entries that may still matter and that are not in `known`, in the order of their
    /// positions.
    #[must_use]
    pub fn missing_from(&self, known: &HashSet<EntryId>) -> Vec<LogEntry> {
        let mut missing: Vec<_> = self
            .entries
            .values()
            .filter(|own| !known.contains(&own.entry.id))
            .collect();
        missing.sort_by_key(|own| own.position);
        missing.into_iter().map(|own| own.entry.clone()).collect()
    }

    /// Returns the rules that have some effect left, with their positions and this effect, the
    /// oldest rule first.
    #[must_use]
    pub fn active_rules(&self) -> Vec<(Position, &LogEntry, Effect)> {
        let with_entry = |(id, effect)| {
            self.entries
                .get(id)
                .map(|own| (own.position, &own.entry, effect))
        };
        let mut active: Vec<_> = self.rules.active_rules().filter_map(with_entry).collect();
        active.sort_by_key(|(position, ..)| *position);
        active
    }

    /// Returns the number of entries that the view has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether the view has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
