//! What the model of membership is made of: nodes of the store, brokers, and what may happen to them.

use sundew_core::protocol::{CommitState, is_committed};
use sundew_core::{EntryId, Position};

/// After how many of its own bounds a broker that does not report is taken off the list. The real
/// number is 10; a smaller one is more of a danger.
pub(super) const FORGOTTEN_AFTER: u8 = 2;
/// What a node of the store knows of a broker.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Report {
    pub(super) age: u8,
    pub(super) bound: u8,
    pub(super) applied: bool,
}

/// A node of the store.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Node {
    pub(super) ended: bool,
    pub(super) list: [Option<Report>; 2],
    pub(super) version: u8,
    pub(super) epoch: u8,
}

#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Broker {
    pub(super) version: u8,
    /// The ending is in the journal and the view.
    pub(super) knows: bool,
    /// The ending was read from the log.
    pub(super) applied: bool,
    pub(super) fresh: u8,
    pub(super) closed: u8,
    pub(super) doubt: u8,
    pub(super) primary: Option<u8>,
    pub(super) epoch: Option<u8>,
    /// The longest bound of which every node has heard from this broker.
    pub(super) heard_everywhere: u8,
}

/// The ending that waits, at the first broker.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Waiting {
    pub(super) bound: Option<u8>,
    /// The last heartbeat: whether every node has it, and what the other broker has applied.
    pub(super) ack: Option<(bool, Option<bool>)>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct State {
    pub(super) primary: Node,
    pub(super) behind: Node,
    pub(super) brokers: [Broker; 2],
    pub(super) waiting: Option<Waiting>,
    pub(super) acknowledged: bool,
    /// Ticks since the agreement was changed.
    pub(super) since_change: u8,
    pub(super) beaten: bool,
    pub(super) changes: u8,
    pub(super) failovers: u8,
    pub(super) deletions: u8,
    pub(super) probes: u8,
    pub(super) restarts: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Action {
    /// A heartbeat that a majority has, and every node or not.
    Beat(usize, bool),
    Change,
    Delete,
    End,
    Failover,
    Probe,
    Restart(usize),
    Tick,
}

pub(super) fn position(is_there: bool) -> (Position, EntryId) {
    let n = u8::from(is_there);
    (Position(n.into()), EntryId([n; 16]))
}

impl Node {
    /// Takes a report and forgets who has not reported for long; returns the longest bound.
    pub(super) fn report(&mut self, b: usize, report: Report, by_own: Option<u8>) -> u8 {
        self.list[b] = Some(report);
        for entry in &mut self.list {
            if entry
                .as_ref()
                .is_some_and(|e| e.age > FORGOTTEN_AFTER * by_own.unwrap_or(e.bound))
            {
                *entry = None;
            }
        }
        self.list
            .iter()
            .flatten()
            .map(|e| e.bound)
            .max()
            .unwrap_or(0)
    }
}

impl State {
    /// The first broker looks whether the ending that waits may be answered.
    pub(super) fn commit(&mut self) {
        let Some(Waiting {
            bound,
            ack: Some((everywhere, other)),
        }) = self.waiting
        else {
            return;
        };
        let broker = &self.brokers[0];
        let peers: Vec<_> = other.iter().map(|applied| position(*applied).0).collect();
        if is_committed(CommitState {
            position: position(true).0,
            majority_position: position(broker.applied).0,
            all_replicas_acked: everywhere,
            peers: &peers,
            bound_passed: bound == Some(0),
            peers_in_doubt: broker.doubt > 0,
        }) {
            (self.waiting, self.acknowledged) = (None, true);
        }
    }
}
