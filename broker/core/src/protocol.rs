//! The decisions of the protocol by which P4 and P5 hold over several brokers and primaries, as
//! pure functions: the keeper of the view and the model that is explored exhaustively
//! (`tests/tests/model`) call the same ones.

use crate::log::{EntryId, Position};

/// What a broker does after a heartbeat.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Step {
    /// The view is what the log says: it is fresh from the moment at which the heartbeat was sent.
    Renew,
    /// There is more to read.
    ReadOn,
    /// The store lost something: read all of it and append again what is missing.
    AssertAgain,
}

/// Compares what was applied with the tip that a heartbeat brought back.
pub fn after_heartbeat(
    applied: Position,
    last: EntryId,
    tip: (Position, EntryId),
    emptied: bool,
) -> Step {
    if emptied || tip.0 < applied || (tip.0 == applied && applied > Position(0) && tip.1 != last) {
        Step::AssertAgain
    } else if tip.0 > applied {
        Step::ReadOn
    } else {
        Step::Renew
    }
}

/// Whether entries are missing between what was applied and the next entry.
#[must_use]
pub fn is_gap(applied: Position, last: EntryId, previous: EntryId) -> bool {
    applied > Position(0) && previous != last
}

/// How many replicas must have acknowledged besides the primary, of so many that it has.
///
/// Both what renews a view and what acknowledges an ending need a majority of the data nodes. Two
/// primaries cannot both have one, so a deposed primary renews nothing once its successor has
/// acknowledged anything, whichever replica was promoted.
#[must_use]
pub fn replicas_for_majority(replicas: u32) -> u32 {
    replicas.div_ceil(2)
}

/// What a broker knows when it decides whether an ending may be answered.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    /// Where the ending is in the log.
    pub position: Position,
    /// Up to where this broker's heartbeats were acknowledged by a majority.
    pub own: Position,
    /// The last of those heartbeats was acknowledged by every replica.
    pub everywhere: bool,
    /// What the other brokers that the store knows have applied.
    pub peers: &'a [Position],
    /// The freshness bound has passed since `own` reached `position`. Counted from the append it
    /// would be too short: until a majority has the ending, a deposed primary may still renew
    /// views.
    pub bound_passed: bool,
    /// There was a failover, or the list of brokers was lost, so recently that a broker with a
    /// fresh view may be missing from `peers`.
    pub peers_in_doubt: bool,
}

/// Whether an ending may be answered: it is on a majority, and nobody who has not applied it has a
/// fresh view.
///
/// Where somebody has not applied it and may still be alive, it must be on every node: if this
/// broker died too, a failover to a node without it would leave nobody who knows.
#[must_use]
pub fn is_settled(waiting: Waiting<'_>) -> bool {
    if waiting.own < waiting.position {
        return false;
    }
    let applied = waiting
        .peers
        .iter()
        .all(|applied| *applied >= waiting.position);
    (applied && !waiting.peers_in_doubt)
        || (waiting.bound_passed && (applied || waiting.everywhere))
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
