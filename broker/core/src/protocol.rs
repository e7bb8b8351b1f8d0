//! The decisions of the revocation protocol, by which P4 and P5 hold over several brokers and
//! several primaries.
//!
//! All of them are pure functions. The broker calls them as it runs, and the model
//! (`tests/tests/model`) calls the very same ones while it explores every order of events.

use std::time::Duration;

use crate::position::{EntryId, Position};

/// The step that a broker takes after a heartbeat.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Step {
    /// The log has entries that the broker has not applied yet: it reads them.
    ReadOn,
    /// The store lost entries: the broker reads the whole log and appends what is missing again.
    Reappend,
    /// The view agrees with the log: it is fresh from the moment at which the heartbeat was sent.
    Renew,
}

/// Returns the step that a broker takes when it has applied the log up to `applied`, where the
/// entry is `last`, and when a heartbeat brought back the log's last position and entry, `tip`.
///
/// `emptied` says that the store was emptied since the heartbeat before.
pub fn after_heartbeat(
    applied: Position,
    last: EntryId,
    tip: (Position, EntryId),
    emptied: bool,
) -> Step {
    // A tip below what was applied, or another entry in its place, is from another life of the log.
    if emptied || tip.0 < applied || (tip.0 == applied && applied > Position(0) && tip.1 != last) {
        Step::Reappend
    } else if tip.0 > applied {
        Step::ReadOn
    } else {
        Step::Renew
    }
}

/// Returns whether the store lost entries between the entry `last`, which is at the position
/// `applied`, and the next entry, which names `previous` as the one before it.
#[must_use]
pub fn is_gap(applied: Position, last: EntryId, previous: EntryId) -> bool {
    applied > Position(0) && previous != last
}

/// Returns whether entries that were trimmed stood before the first entry that a broker reads, which
/// names `previous` as the one before it. Nothing is lost by that. But the broker may have read
/// documents while the log was empty, and those entries may have said that they changed (L4).
#[must_use]
pub fn is_beginning_missing(applied: Position, previous: EntryId) -> bool {
    applied == Position(0) && previous != EntryId::default()
}

/// Returns how many of a primary's replicas must acknowledge a write so that a majority of the data
/// nodes, the primary included, has it.
///
/// A heartbeat renews a view, and an ending is acknowledged, only with such a majority. Two
/// primaries cannot both have one. Therefore a deposed primary renews no view once its successor
/// has acknowledged anything, whichever replica was promoted.
#[must_use]
pub fn replicas_for_majority(replicas: u32) -> u32 {
    replicas.div_ceil(2)
}

/// A broker's knowledge about an ending that a caller waits for.
#[derive(Clone, Copy, Debug)]
pub struct CommitState<'a> {
    /// The position of the ending in the log.
    pub position: Position,
    /// The position up to which a majority of the data nodes acknowledged this broker's heartbeats.
    pub majority_position: Position,
    /// Whether every replica acknowledged the last of those heartbeats.
    pub all_replicas_acked: bool,
    /// The positions that the other brokers on the store's list have applied.
    pub peers: &'a [Position],
    /// Whether the freshness bound has passed since `majority_position` reached `position`.
    ///
    /// A bound that began with the append would end too early: until a majority has the ending, a
    /// deposed primary may still renew views.
    pub bound_passed: bool,
    /// Whether a broker with a fresh view may be missing from `peers`, since there was a failover
    /// or a loss of the list of brokers a short time ago.
    pub peers_in_doubt: bool,
}

/// Returns whether an ending may be answered: a majority of the data nodes has it, and no broker
/// that has not applied it can have a fresh view.
///
/// There are two ways to know the latter. Either every broker has applied the ending, or the bound
/// has passed, after which a broker that has not applied it has lost its freshness. In the second
/// case every node must have the ending if some broker has not applied it: if this broker died
/// too, a failover to a node without the ending would leave nobody who knows of it.
#[must_use]
pub fn is_committed(state: CommitState<'_>) -> bool {
    if state.majority_position < state.position {
        return false;
    }
    let all_applied = state.peers.iter().all(|applied| *applied >= state.position);
    (all_applied && !state.peers_in_doubt)
        || (state.bound_passed && (all_applied || state.all_replicas_acked))
}

/// Returns whether the store must get a report that a task is attended. The last report is
/// `since_report` old, as far as the store has it; `None` if the store has none.
#[must_use]
pub fn is_report_due(since_report: Option<Duration>, grace: Duration) -> bool {
    since_report.is_none_or(|since| since >= grace / 3)
}

/// Returns whether a task's agent should attend it at another broker, since this one could not report
/// it for so long that there is just time for that (L12).
#[must_use]
pub fn is_unreported(since_report: Duration, grace: Duration) -> bool {
    since_report > grace / 2
}

/// Returns whether a task that is alive, and that is due because nobody has reported it for its
/// grace, is abandoned.
///
/// L12: time in which attendance could not be told counts for nobody. After an outage of the store,
/// other brokers need time to tell theirs; after a restart, agents need time to come back. So the
/// broker must have been able to read and write the store for the whole grace, `steady_for`: its
/// view was fresh, and its sweeps succeeded. A view may stay fresh over an outage that is longer
/// than a short grace.
#[must_use]
pub fn is_abandoned(attended_here: bool, steady_for: Duration, grace: Duration) -> bool {
    !attended_here && steady_for >= grace
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_majorities_of_the_same_nodes_meet() {
        for replicas in 0..9 {
            let have = replicas_for_majority(replicas) + 1;
            assert!(2 * have > replicas + 1, "{replicas}");
        }
    }
}
