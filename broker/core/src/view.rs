//! A broker's view of the revocation log: with the clock and the record, the only thing that
//! decides liveness.
//!
//! P4: an ended task is dead with every token of it and everything that was delegated from it; a
//! rule kills what was decided before its position. Pure: no clock, no I/O. Whether the view is
//! fresh enough to be asked is its keeper's business (P5, P7).

use std::collections::HashMap;

use sundew_attestation::spiffe::SpiffeId;

use crate::id::TaskId;
use crate::log::{Effect, EntryId, Event, LogEntry, Position};
use crate::record::Outcome;
use crate::rules::Rules;
use crate::selector::{Subject, audience_attributes, workload_attributes};
use crate::subject::{KnownTask, KnownToken};

/// Why something is dead. For the operator's record only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// Its task ended.
    TaskEnded(Outcome),
    /// A task that it was delegated from ended, so.
    AncestorEnded(Outcome),
    /// Its own time ran out.
    Expired,
    /// A responder's rule matched.
    Revoked,
    /// Its task, or one that it was delegated from, is suspended, or was since it was minted.
    Suspended,
}

impl Cause {
    /// How a task that is dead for this reason ended, or ends.
    #[must_use]
    pub fn outcome(self) -> Outcome {
        match self {
            Self::TaskEnded(outcome) => outcome,
            Self::AncestorEnded(outcome @ (Outcome::Expired | Outcome::Revoked)) => outcome,
            Self::AncestorEnded(_) => Outcome::Canceled,
            Self::Expired => Outcome::Expired,
            Self::Revoked | Self::Suspended => Outcome::Revoked,
        }
    }
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
    /// The entry that says so.
    by: EntryId,
}

struct Known {
    position: Position,
    entry: LogEntry,
    held: bool,
}

struct Suspension {
    by: EntryId,
    position: Position,
    until_ms: i64,
    over: bool,
}

/// Endings and rules up to a position.
#[derive(Default)]
pub struct View {
    applied: Position,
    last: EntryId,
    ended: HashMap<TaskId, Ended>,
    rules: Rules,
    suspensions: HashMap<TaskId, Suspension>,
    lifted: HashMap<EntryId, i64>,
    /// Every entry that may still matter, so that what a store lost can be appended again.
    entries: HashMap<EntryId, Known>,
}

impl View {
    /// Applies an entry. Entries come in order; one that was applied before changes nothing but the
    /// position.
    pub fn apply(&mut self, position: Position, entry: LogEntry) {
        self.applied = self.applied.max(position);
        self.last = entry.id;
        self.take_effect(position, entry, false);
    }

    fn take_effect(&mut self, position: Position, entry: LogEntry, held: bool) {
        match &entry.event {
            Event::Ended { task, outcome } => {
                // AC-33: the first ending in the log is the one reason.
                let fresh = Ended {
                    outcome: *outcome,
                    until_ms: entry.until_ms,
                    held,
                    by: entry.id,
                };
                let ended = self.ended.entry(*task).or_insert(fresh);
                if ended.held && !held {
                    (ended.outcome, ended.held, ended.by) = (*outcome, false, entry.id);
                }
                ended.until_ms = ended.until_ms.max(entry.until_ms);
            }
            Event::Rule { selector, effect } => {
                // AC-4A: what was lifted stays lifted, in whatever order the two entries come.
                let effect = if self.lifted.contains_key(&entry.id) && *effect == Effect::Contain {
                    Effect::Revoke
                } else {
                    *effect
                };
                if !self.lifted.contains_key(&entry.id) || effect == Effect::Revoke {
                    self.rules.raise(entry.id, selector, effect, position);
                }
            }
            Event::Lifted(rule) => {
                self.rules.lift(rule);
                self.lifted.insert(*rule, entry.until_ms);
            }
            // Tokens decided by a broker that had not seen the suspension stay dead after the task
            // is resumed (position).
            Event::Suspended(task) => self.suspend(*task, position, &entry, false),
            Event::Resumed(task) => self.suspend(*task, position, &entry, true),
            Event::Changed(_) | Event::Floor => {}
        }
        self.entries.insert(
            entry.id,
            Known {
                position,
                entry,
                held,
            },
        );
    }

    fn suspend(&mut self, task: TaskId, position: Position, entry: &LogEntry, over: bool) {
        let (by, until_ms) = (entry.id, entry.until_ms);
        let suspension = self.suspensions.entry(task).or_insert(Suspension {
            by,
            position,
            until_ms,
            over,
        });
        if position >= suspension.position {
            *suspension = Suspension {
                by,
                position,
                until_ms: until_ms.max(suspension.until_ms),
                over,
            };
        }
    }

    /// Holds an entry that the log could not take: it takes effect here at once. It is no part of
    /// the log's order.
    pub fn hold(&mut self, entry: LogEntry) {
        self.take_effect(Position(self.applied.0.saturating_add(1)), entry, true);
    }

    /// Goes on reading from this place: the store lost what came after it. What was found of stamps
    /// before counts no more.
    pub fn rewind(&mut self, position: Position, last: EntryId) {
        self.rules.touch();
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
        self.entries
            .get(id)
            .filter(|own| !own.held)
            .map(|own| (own.position, &own.entry))
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
        let mut missing: Vec<_> = self
            .entries
            .values()
            .filter(|own| !known.contains(&own.entry.id))
            .collect();
        missing.sort_by_key(|own| own.position);
        missing.into_iter().map(|own| own.entry.clone()).collect()
    }

    /// Rules that stand, with what is left of their effect, oldest first.
    #[must_use]
    pub fn standing(&self) -> Vec<(Position, &LogEntry, Effect)> {
        let with_effect = |(id, effect)| {
            self.entries
                .get(id)
                .map(|own| (own.position, &own.entry, effect))
        };
        let mut standing: Vec<_> = self.rules.standing().filter_map(with_effect).collect();
        standing.sort_by_key(|(position, ..)| *position);
        standing
    }

    /// How a task ended, if it did.
    #[must_use]
    pub fn outcome(&self, task: TaskId) -> Option<Outcome> {
        self.ended.get(&task).map(|ended| ended.outcome)
    }

    /// Whether a task, or one that it was delegated from, is suspended.
    #[must_use]
    pub fn is_suspended(&self, task: &KnownTask) -> bool {
        let suspended = |id: &TaskId| {
            self.suspensions
                .get(id)
                .is_some_and(|suspension| !suspension.over)
                && !self.ended.contains_key(id)
        };
        !self.suspensions.is_empty() && task.lineage().any(suspended)
    }

    /// Whether a quarantine forbids to issue anything more in this task, or to begin it.
    #[must_use]
    pub fn is_quarantined(&self, task: &KnownTask) -> bool {
        self.rules.any_quarantine()
            && task
                .chain()
                .any(|each| self.rules.quarantine(&each.subject()))
    }

    /// Whether a quarantine forbids to issue a credential to a workload that has no task for it.
    #[must_use]
    pub fn is_workload_quarantined(
        &self,
        workload: &SpiffeId,
        audience: &[String],
        now_ms: i64,
    ) -> bool {
        self.rules.any_quarantine() && {
            let (task, own) = (workload_attributes(workload), audience_attributes(audience));
            self.rules.quarantine(&Subject {
                position: self.applied().0,
                issued_at_ms: now_ms,
                task: &task,
                own: &own,
            })
        }
    }

    /// The same for a token that is about to be minted.
    #[must_use]
    pub fn is_token_quarantined(&self, token: &KnownToken) -> bool {
        self.rules.any_quarantine()
            && (self.rules.quarantine(&token.subject()) || self.is_quarantined(token.task()))
    }

    /// P4, P5: whether a task is alive. A suspended task is alive; its tokens are not.
    pub fn judge_task(&self, task: &KnownTask, now_ms: i64) -> Liveness {
        self.judge_task_without(task, now_ms, None)
    }

    /// The same as if one entry were not there: whether it is the one that killed something.
    pub fn judge_task_without(
        &self,
        task: &KnownTask,
        now_ms: i64,
        without: Option<EntryId>,
    ) -> Liveness {
        if let Some(cause) = self.ending_of(task, without) {
            return Liveness::Dead(cause);
        }
        if now_ms >= task.deadline_ms {
            return Liveness::Dead(Cause::Expired);
        }
        if !self.rules.is_empty()
            && task
                .chain()
                .any(|each| self.rules.kill(&self.placed(each.subject()), without))
        {
            return Liveness::Dead(Cause::Revoked);
        }
        Liveness::Alive
    }

    /// The entry by which a task is dead or suspended; nothing if it lives or its time ran out.
    #[must_use]
    pub fn ended_by(&self, task: &KnownTask) -> Option<EntryId> {
        let ended = task
            .lineage()
            .find_map(|id| self.ended.get(id))
            .map(|ended| ended.by);
        let killed = || {
            task.chain()
                .find_map(|each| self.rules.killer(&self.placed(each.subject())))
        };
        let suspended = || {
            self.suspensions
                .get(&task.id)
                .filter(|suspension| !suspension.over)
                .map(|suspension| suspension.by)
        };
        ended.or_else(killed).or_else(suspended)
    }

    /// An entry, from the log or held, with its position if it is in the log.
    #[must_use]
    pub fn known(&self, id: &EntryId) -> Option<(&LogEntry, Option<Position>)> {
        self.entries
            .get(id)
            .map(|own| (&own.entry, (!own.held).then_some(own.position)))
    }

    /// A stamp beyond everything that was applied is from a log that was lost, or this view lags:
    /// it counts as nothing, so that a matching rule kills. Of the two ways to be wrong for a
    /// moment, this is the one that revives nothing.
    fn placed<'a>(&self, subject: Subject<'a>) -> Subject<'a> {
        Subject {
            position: self.counted(subject.position),
            ..subject
        }
    }

    fn counted(&self, stamp: Position) -> Position {
        if stamp > self.applied {
            Position(0)
        } else {
            stamp
        }
    }

    fn ending_of(&self, task: &KnownTask, without: Option<EntryId>) -> Option<Cause> {
        let ended = |id: &TaskId| self.ended.get(id).filter(|ended| Some(ended.by) != without);
        if let Some(ended) = ended(&task.id) {
            return Some(Cause::TaskEnded(ended.outcome));
        }
        // The nearest one first: it is the reason that the owner of this task can make sense of.
        let ended = task.record().ancestors.iter().rev().find_map(ended)?;
        Some(Cause::AncestorEnded(ended.outcome))
    }

    /// P4, P5: whether a token is alive.
    pub fn judge_token(&self, token: &KnownToken, now_ms: i64) -> Liveness {
        self.judge_token_without(token, now_ms, None)
    }

    /// The same as if one entry were not there.
    pub fn judge_token_without(
        &self,
        token: &KnownToken,
        now_ms: i64,
        without: Option<EntryId>,
    ) -> Liveness {
        let task = token.task();
        if let Some(cause) = self.ending_of(task, without) {
            return Liveness::Dead(cause);
        }
        if now_ms >= token.expires_at_ms {
            return Liveness::Dead(Cause::Expired);
        }
        let generation = self.rules.generation();
        if !self.rules.is_empty() && (without.is_some() || !token.is_spared_at(generation)) {
            // A rule for the task kills tokens minted later in it, and in what was delegated from
            // it.
            let in_chain = || {
                task.chain()
                    .any(|each| self.rules.kill(&self.placed(each.subject()), without))
            };
            if self.rules.kill(&self.placed(token.subject()), without) || in_chain() {
                return Liveness::Dead(Cause::Revoked);
            }
            if without.is_none() {
                token.spare_at(generation);
            }
        }
        if !self.suspensions.is_empty() {
            let since = |id: &TaskId| {
                self.suspensions
                    .get(id)
                    .is_some_and(|suspension| suspension.position > self.counted(token.position))
            };
            if task.lineage().any(since) {
                return Liveness::Dead(Cause::Suspended);
            }
        }
        Liveness::Alive
    }

    /// Forgets what nothing alive can be covered by any more. A quarantine that was lifted before
    /// `now_ms` goes with what lifted it; answers the places of both in the log, which does not
    /// drop them by itself.
    pub fn forget(&mut self, now_ms: i64) -> Vec<Position> {
        self.ended.retain(|_, ended| ended.until_ms > now_ms);
        self.suspensions
            .retain(|_, suspension| suspension.until_ms > now_ms);
        let lifted = &mut self.lifted;
        let mut places = Vec::new();
        self.entries.retain(|id, own| {
            let over = match own.entry.event {
                Event::Lifted(rule) => lifted.get(&rule).is_none_or(|until| *until <= now_ms),
                Event::Rule { .. } if own.entry.until_ms >= crate::log::FOR_EVER_MS => {
                    lifted.get(id).is_some_and(|until| *until <= now_ms)
                }
                Event::Rule { .. }
                | Event::Ended { .. }
                | Event::Suspended(_)
                | Event::Resumed(_)
                | Event::Changed(_)
                | Event::Floor => own.entry.until_ms <= now_ms,
            };
            if over && own.entry.until_ms > now_ms {
                places.push(own.position);
            }
            !over
        });
        let entries = &self.entries;
        self.rules.retain(|id| entries.contains_key(id));
        lifted.retain(|rule, until| *until > now_ms || entries.contains_key(rule));
        places
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
