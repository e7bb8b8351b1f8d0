//! The revocation log as the store returns it.

use crate::position::{EntryId, Position};

/// An entry of the log as the store has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredEntry {
    /// The position of the entry.
    pub position: Position,
    /// The name of the entry.
    pub id: EntryId,
    /// The name of the entry before it, by which a reader notices a loss.
    pub previous: EntryId,
    /// The entry as it was appended.
    pub bytes: Vec<u8>,
}

/// The conditions of an append to the log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AppendAfter {
    /// The version of the agreement that the caller knows; 0 if it knows none.
    pub agreement: u64,
    /// The position above which the entry must be.
    pub floor: Position,
}

/// Above this position, in a store of which no agreement is known.
impl From<Position> for AppendAfter {
    fn from(floor: Position) -> Self {
        Self {
            agreement: 0,
            floor,
        }
    }
}

/// The report of a broker with its heartbeat.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The name of the broker.
    pub broker: &'a str,
    /// The position and the name of the last entry that the broker has applied.
    pub applied: (Position, EntryId),
    /// The freshness bound of the broker, in milliseconds.
    pub freshness_ms: i64,
    /// What the broker says of itself, for operators.
    pub about: &'a str,
}

/// The answer of the store to a heartbeat.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Heartbeat {
    /// The wall clock of the store, in milliseconds since the epoch.
    pub now_ms: i64,
    /// The version of the agreement that the store has; 0 if it has none.
    pub agreement: u64,
    /// The name of this life of the store. Another name means that the store was emptied, or that
    /// it lost its list of brokers at least.
    pub epoch: String,
    /// The name of the primary that answered. Another name means that there was a failover, so that
    /// `peers` may lack some brokers.
    pub primary: String,
    /// The longest freshness bound of the brokers that the store knows, in milliseconds: so long a
    /// broker that is not heard of may still have a fresh view.
    pub longest_freshness_ms: i64,
    /// Whether every replica, and not only a majority, acknowledged the heartbeat.
    pub all_replicas_acked: bool,
    /// The position and the name of the last entry of the log.
    pub tip: (Position, EntryId),
    /// The brokers that the store knows, the caller included, each with the position that it had
    /// applied when it last reported.
    pub peers: Vec<(String, Position)>,
    /// What brokers ask the others with that have come to the log, by their names.
    pub arrivals: Vec<(String, Vec<u8>)>,
}
