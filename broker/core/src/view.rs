//! A broker's view of the revocation log: with the clock and the record, the only thing that decides liveness.
//!
//! P4: an ended task is dead for every token of it; a rule kills what was decided before its position. Pure: no clock, no I/O.
//! Whether the view is fresh enough to be asked is its keeper's business (P5, P7).

use std::collections::HashMap;

use crate::id::TaskId;
use crate::log::{EntryId, Event, LogEntry, Position, Selector};
use crate::record::{Outcome, TaskRecord, TokenRecord};

/// Why something is dead. For the operator's record only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// Its task ended.
    TaskEnded(Outcome),
    /// Its own time ran out.
    Expired,
    /// A responder's rule matched.
    Revoked,
    /// Its task is suspended, or was since it was minted.
    Suspended,
}

/// What the view says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Liveness {
    /// Good now.
    Alive,
    /// Not good, and why.
    Dead(Cause),
}

struct Ended {
    outcome: Outcome,
    until_ms: i64,
    /// Not from the log yet, so not the one reason yet.
    held: bool,
}

struct Known {
    position: Position,
    entry: LogEntry,
    held: bool,
}

struct Rule {
    position: Position,
    until_ms: i64,
}

/// Endings and rules up to a position.
#[derive(Default)]
pub struct View {
    applied: Position,
    last: EntryId,
    ended: HashMap<TaskId, Ended>,
    rules: HashMap<Selector, Rule>,
    suspended: HashMap<TaskId, i64>,
    /// Every entry that may still matter, so that what a store lost can be appended again.
    entries: HashMap<EntryId, Known>,
}

impl View {
    /// Applies an entry. Entries come in order; one that was applied before changes nothing but the position.
    pub fn apply(&mut self, position: Position, entry: LogEntry) {
        self.applied = self.applied.max(position);
        self.last = entry.id;
        self.take_effect(position, entry, false);
    }

    fn take_effect(&mut self, position: Position, entry: LogEntry, held: bool) {
        match &entry.event {
            Event::Ended { task, outcome } => {
                // AC-33: the first ending in the log is the one reason.
                let fresh = Ended { outcome: *outcome, until_ms: entry.until_ms, held };
                let ended = self.ended.entry(*task).or_insert(fresh);
                if ended.held && !held {
                    (ended.outcome, ended.held) = (*outcome, false);
                }
                ended.until_ms = ended.until_ms.max(entry.until_ms);
                self.suspended.remove(task);
            }
            Event::Rule(selector) => self.raise(selector.clone(), position, entry.until_ms),
            Event::Suspended(task) => {
                self.raise(Selector::TaskTokens(*task), position, entry.until_ms);
                if !self.ended.contains_key(task) {
                    self.suspended.insert(*task, entry.until_ms);
                }
            }
            Event::Resumed(task) => {
                // Tokens decided by a broker that had not seen the suspension stay dead (position), new ones live.
                self.raise(Selector::TaskTokens(*task), position, entry.until_ms);
                self.suspended.remove(task);
            }
            Event::Changed(_) | Event::Floor => {}
        }
        self.entries.insert(entry.id, Known { position, entry, held });
    }

    fn raise(&mut self, selector: Selector, position: Position, until_ms: i64) {
        let rule = self.rules.entry(selector).or_insert(Rule { position, until_ms });
        rule.position = rule.position.max(position);
        rule.until_ms = rule.until_ms.max(until_ms);
    }

    /// Holds an entry that the log could not take: it takes effect here at once. It is no part of the log's order.
    pub fn hold(&mut self, entry: LogEntry) {
        self.take_effect(Position(self.applied.0.saturating_add(1)), entry, true);
    }

    /// Goes on reading from this place: the store lost what came after it.
    pub fn rewind(&mut self, position: Position, last: EntryId) {
        (self.applied, self.last) = (position, last);
    }

    /// Whether it has an entry, from the log or held.
    #[must_use]
    pub fn knows(&self, id: &EntryId) -> bool {
        self.entries.contains_key(id)
    }

    /// An entry from the log, with its position.
    #[must_use]
    pub fn entry(&self, id: &EntryId) -> Option<(Position, &LogEntry)> {
        self.entries.get(id).filter(|own| !own.held).map(|own| (own.position, &own.entry))
    }

    /// Whether it has an entry from the log.
    #[must_use]
    pub fn is_in_log(&self, id: &EntryId) -> bool {
        self.entry(id).is_some()
    }

    /// The position up to which the log was applied, and the entry there.
    #[must_use]
    pub fn applied(&self) -> (Position, EntryId) {
        (self.applied, self.last)
    }

    /// Entries that still matter and that `known` does not have, in the order of their positions.
    #[must_use]
    pub fn missing_from(&self, known: &std::collections::HashSet<EntryId>) -> Vec<LogEntry> {
        let mut missing: Vec<_> = self.entries.values().filter(|own| !known.contains(&own.entry.id)).collect();
        missing.sort_by_key(|own| own.position);
        missing.into_iter().map(|own| own.entry.clone()).collect()
    }

    /// How a task ended, if it did.
    #[must_use]
    pub fn outcome(&self, task: TaskId) -> Option<Outcome> {
        self.ended.get(&task).map(|ended| ended.outcome)
    }

    /// Whether a task is suspended.
    #[must_use]
    pub fn is_suspended(&self, task: TaskId) -> bool {
        self.suspended.contains_key(&task)
    }

    /// P4, P5: whether a task is alive. A suspended task is alive; its tokens are not.
    pub fn judge_task(&self, task: &TaskRecord, now_ms: i64) -> Liveness {
        if let Some(ended) = self.ended.get(&task.id) {
            return Liveness::Dead(Cause::TaskEnded(ended.outcome));
        }
        if now_ms >= task.deadline_ms {
            return Liveness::Dead(Cause::Expired);
        }
        if self.kills(&Selector::Workload(task.workload.clone()), task.position) {
            return Liveness::Dead(Cause::Revoked);
        }
        Liveness::Alive
    }

    /// P4, P5: whether a token is alive.
    pub fn judge_token(&self, token: &TokenRecord, id: crate::id::TokenId, now_ms: i64) -> Liveness {
        if let Some(ended) = self.ended.get(&token.task) {
            return Liveness::Dead(Cause::TaskEnded(ended.outcome));
        }
        if now_ms >= token.expires_at_ms {
            return Liveness::Dead(Cause::Expired);
        }
        if self.rules.is_empty() {
            return Liveness::Alive;
        }
        // A rule for the workload kills the task, and with it tokens minted later in it.
        if self.kills(&Selector::Workload(token.workload.clone()), token.task_position) || self.rules.contains_key(&Selector::Token(id)) {
            return Liveness::Dead(Cause::Revoked);
        }
        if self.kills(&Selector::TaskTokens(token.task), token.position) {
            return Liveness::Dead(Cause::Suspended);
        }
        Liveness::Alive
    }

    fn kills(&self, selector: &Selector, stamped: Position) -> bool {
        self.rules.get(selector).is_some_and(|rule| rule.position > stamped)
    }

    /// Forgets what nothing alive can be covered by any more.
    pub fn forget(&mut self, now_ms: i64) {
        self.ended.retain(|_, ended| ended.until_ms > now_ms);
        self.rules.retain(|_, rule| rule.until_ms > now_ms);
        self.suspended.retain(|_, until| *until > now_ms);
        self.entries.retain(|_, own| own.entry.until_ms > now_ms);
    }

    /// How many entries it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
