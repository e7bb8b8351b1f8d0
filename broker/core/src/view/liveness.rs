//! The part of the view that decides whether a task or a token is alive (P4).

use std::fmt;

use super::View;
use crate::id::TaskId;
use crate::outcome::Outcome;
use crate::position::{EntryId, Position};
use crate::selector::Subject;
use crate::subject::{KnownTask, KnownToken};

/// The reason why a task or a token is dead. It is meant for the operator's record only: callers
/// get a fixed text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// A task that the task was delegated from ended in this way.
    AncestorEnded(Outcome),
    /// The time of the task or the token ran out.
    Expired,
    /// A responder's rule matched.
    Revoked,
    /// The task, or a task that it was delegated from, is suspended, or was suspended after the
    /// token was minted.
    Suspended,
    /// The task ended in this way.
    TaskEnded(Outcome),
}

impl Cause {
    /// Returns the way in which a task ends that is dead for this reason.
    #[must_use]
    pub fn outcome(self) -> Outcome {
        match self {
            Self::AncestorEnded(outcome @ (Outcome::Expired | Outcome::Revoked))
            | Self::TaskEnded(outcome) => outcome,
            Self::AncestorEnded(_) => Outcome::Canceled,
            Self::Expired => Outcome::Expired,
            Self::Revoked | Self::Suspended => Outcome::Revoked,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AncestorEnded(outcome) => {
                write!(f, "a task above it ended ({})", outcome.as_str())
            }
            Self::Expired => f.write_str("its time ran out"),
            Self::Revoked => f.write_str("a rule revoked it"),
            Self::Suspended => f.write_str("it is or was suspended"),
            Self::TaskEnded(outcome) => write!(f, "it ended ({})", outcome.as_str()),
        }
    }
}

/// The view's answer about a task or a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Liveness {
    /// The task or token is alive now.
    Alive,
    /// The task or token is dead, for this reason.
    Dead(Cause),
}

impl View {
    /// Returns whether a task is alive at `now_ms`, in milliseconds since the epoch (P4, P5). A
    /// suspended task is alive; its tokens are not.
    pub fn task_liveness(&self, task: &KnownTask, now_ms: i64) -> Liveness {
        self.task_liveness_without(task, now_ms, None)
    }

    /// Returns whether a task would be alive if the log did not have the entry `without`. A caller
    /// compares this with [`View::task_liveness`] to find what an entry killed.
    pub fn task_liveness_without(
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
        if !self.rules.is_empty() && self.is_chain_killed(task, without) {
            return Liveness::Dead(Cause::Revoked);
        }
        Liveness::Alive
    }

    /// Returns whether a token is alive at `now_ms`, in milliseconds since the epoch (P4, P5).
    pub fn token_liveness(&self, token: &KnownToken, now_ms: i64) -> Liveness {
        self.token_liveness_without(token, now_ms, None)
    }

    /// Returns whether a token would be alive if the log did not have the entry `without`.
    pub fn token_liveness_without(
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
        // Most tokens are checked often and rules change seldom, so the result is remembered. It
        // holds only for the rules as they are: not for a set of rules with one left out.
        let generation = self.rules.generation();
        if !self.rules.is_empty() && (without.is_some() || !token.is_checked_at(generation)) {
            // A rule for a task kills tokens that are minted later in this task and in what was
            // delegated from it.
            if self
                .rules
                .is_killed(&self.with_counted_position(token.subject()), without)
                || self.is_chain_killed(task, without)
            {
                return Liveness::Dead(Cause::Revoked);
            }
            if without.is_none() {
                token.mark_checked_at(generation);
            }
        }
        if self.is_suspended_since(task, token.position) || self.is_token_suspended(token) {
            return Liveness::Dead(Cause::Suspended);
        }
        Liveness::Alive
    }

    /// Returns how a task ended, if it did.
    #[must_use]
    pub fn outcome(&self, task: TaskId) -> Option<Outcome> {
        self.endings.get(&task).map(|ending| ending.outcome)
    }

    /// Returns the tasks that the log ended one by one, with how, for as long as the log knows them.
    pub fn ended_tasks(&self) -> impl Iterator<Item = (TaskId, Outcome)> {
        let endings = self.endings.iter();
        endings.map(|(task, ending)| (*task, ending.outcome))
    }

    /// Returns whether a task, or a task that it was delegated from, is suspended.
    #[must_use]
    pub fn is_suspended(&self, task: &KnownTask) -> bool {
        let is_suspended = |id: &TaskId| {
            self.suspensions
                .get(id)
                .is_some_and(|suspension| !suspension.over)
                && !self.endings.contains_key(id)
        };
        (!self.suspensions.is_empty() && task.lineage().any(is_suspended))
            || self.suspending_rule(task).is_some()
    }

    /// Returns the rule by which a task, or a task that it was delegated from, is suspended: it
    /// stands above what was decided, and above the last resumption.
    fn suspending_rule(&self, task: &KnownTask) -> Option<EntryId> {
        if !self.rules.any_suspension() {
            return None;
        }
        task.chain().find_map(|each| {
            let (by, position) = self.rules.suspended_by(&each.subject())?;
            let resumed = self
                .suspensions
                .get(&each.id)
                .filter(|suspension| suspension.over)
                .map_or(Position(0), |suspension| suspension.position);
            let decided = self.counted(each.subject().position);
            (position > decided.max(resumed) && !self.endings.contains_key(&each.id)).then_some(by)
        })
    }

    /// Returns whether a rule suspends a token, or a task above it, that stands above the token.
    fn is_token_suspended(&self, token: &KnownToken) -> bool {
        let stamp = self.counted(token.position);
        let is_later = |subject: Subject<'_>| {
            self.rules
                .suspended_by(&subject)
                .is_some_and(|(_, position)| position > stamp)
        };
        self.rules.any_suspension()
            && (is_later(token.subject())
                || token.task().chain().any(|each| is_later(each.subject())))
    }

    /// Returns the names of the last suspension or resumption of a task, and of each task that it was
    /// delegated from. The list is empty if there was none, and another one after each of them.
    #[must_use]
    pub fn interruptions(&self, task: &KnownTask) -> Vec<EntryId> {
        if self.suspensions.is_empty() {
            return Vec::new();
        }
        let last = |id: &TaskId| self.suspensions.get(id).map(|suspension| suspension.by);
        task.lineage().filter_map(last).collect()
    }

    /// Returns the entry by which a task is dead or suspended. There is none if the task lives, or
    /// if its time ran out.
    #[must_use]
    pub fn ended_by(&self, task: &KnownTask) -> Option<EntryId> {
        let ended = task
            .lineage()
            .find_map(|id| self.endings.get(id))
            .map(|ending| ending.by);
        let killed = || {
            task.chain().find_map(|each| {
                self.rules
                    .killed_by(&self.with_counted_position(each.subject()))
            })
        };
        let suspended = || {
            self.suspensions
                .get(&task.id)
                .filter(|suspension| !suspension.over)
                .map(|suspension| suspension.by)
        };
        ended
            .or_else(killed)
            .or_else(suspended)
            .or_else(|| self.suspending_rule(task))
    }

    /// Returns how the task of this name ended, if the log says so.
    pub fn ending(&self, task: &TaskId) -> Option<Cause> {
        let ending = self.endings.get(task)?;
        Some(Cause::TaskEnded(ending.outcome))
    }

    /// Returns the entry that ended the task of this name, if one did.
    #[must_use]
    pub fn ended_entry(&self, task: &TaskId) -> Option<EntryId> {
        self.endings.get(task).map(|ending| ending.by)
    }

    /// Returns the ending of the task, or else that of the nearest task that it was delegated from:
    /// this is the reason that the task's owner can make sense of.
    fn ending_of(&self, task: &KnownTask, without: Option<EntryId>) -> Option<Cause> {
        let ending = |id: &TaskId| {
            self.endings
                .get(id)
                .filter(|ending| Some(ending.by) != without)
        };
        if let Some(ending) = ending(&task.id) {
            return Some(Cause::TaskEnded(ending.outcome));
        }
        let ending = task.record().ancestors.iter().rev().find_map(ending)?;
        Some(Cause::AncestorEnded(ending.outcome))
    }

    /// Returns whether a rule kills a task or one of the tasks that it was delegated from. The rule
    /// `without` is left out.
    fn is_chain_killed(&self, task: &KnownTask, without: Option<EntryId>) -> bool {
        task.chain().any(|each| {
            self.rules
                .is_killed(&self.with_counted_position(each.subject()), without)
        })
    }

    /// Returns whether a task, or a task that it was delegated from, was suspended or resumed after
    /// a token of it was stamped with this position.
    fn is_suspended_since(&self, task: &KnownTask, stamp: Position) -> bool {
        let is_later = |id: &TaskId| {
            self.suspensions
                .get(id)
                .is_some_and(|suspension| suspension.position > self.counted(stamp))
        };
        !self.suspensions.is_empty() && task.lineage().any(is_later)
    }

    /// Returns the subject with the position that counts in this view.
    pub(super) fn with_counted_position<'a>(&self, subject: Subject<'a>) -> Subject<'a> {
        Subject {
            position: self.counted(subject.position),
            ..subject
        }
    }

    /// Returns the position that counts for a stamp.
    ///
    /// A stamp beyond everything that was applied comes from a log that was lost, or this view lags
    /// behind. Such a stamp counts as 0, so that a matching rule kills. Of the two ways to be wrong
    /// for a moment, this is the one that revives nothing.
    fn counted(&self, stamp: Position) -> Position {
        if stamp > self.applied {
            Position(0)
        } else {
            stamp
        }
    }
}
