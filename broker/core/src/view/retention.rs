//! The part of the view that forgets entries once they cannot matter any more.
//!
//! A quarantine and its lift only mean something together, so they have one retention. The lift
//! says until when both matter. The quarantine is forgotten then; the lift is kept for ever, in the
//! view as in the log, so that a broker that slept over everything else does not bring the
//! quarantine back. A lift is small, and quarantines are rare.

use std::collections::HashMap;

use super::View;
use crate::log::{Event, FOR_EVER_MS, LogEntry};
use crate::position::{EntryId, Position};

/// Returns the time from which an entry does not matter any more, in milliseconds since the epoch:
/// for a quarantine that was lifted, the time that its lift says.
fn matters_until_ms(entry: &LogEntry, lifted: &HashMap<EntryId, i64>) -> i64 {
    match entry.event {
        Event::Lifted(_) => FOR_EVER_MS,
        Event::Rule { .. } => lifted
            .get(&entry.id)
            .map_or(entry.retain_until_ms, |until_ms| {
                entry.retain_until_ms.min(*until_ms)
            }),
        Event::Changed(_)
        | Event::Ended { .. }
        | Event::Floor
        | Event::Resumed(_)
        | Event::Suspended(_) => entry.retain_until_ms,
    }
}

/// Returns those of some entries, in their order, that still matter at `now_ms`, in milliseconds
/// since the epoch: what a broker that starts takes out of its journal. A quarantine that was
/// lifted, and whose lift says that nothing rests on it any more, is left out wherever in the list
/// its lift stands.
#[must_use]
pub fn still_matter(entries: Vec<LogEntry>, now_ms: i64) -> Vec<LogEntry> {
    let mut lifted = HashMap::new();
    for entry in &entries {
        if let Event::Lifted(rule) = entry.event {
            lifted.insert(rule, entry.retain_until_ms);
        }
    }
    entries
        .into_iter()
        .filter(|entry| matters_until_ms(entry, &lifted) > now_ms)
        .collect()
}

impl View {
    /// Forgets every entry that cannot kill anything alive at `now_ms` or later, in milliseconds
    /// since the epoch.
    ///
    /// The log drops such entries by itself, with one exception: a quarantine, which is kept until
    /// it is lifted. The positions of the lifted quarantines that are forgotten now are returned,
    /// so that the caller can drop them from the log.
    pub fn forget(&mut self, now_ms: i64) -> Vec<Position> {
        self.endings
            .retain(|_, ending| ending.retain_until_ms > now_ms);
        self.suspensions
            .retain(|_, suspension| suspension.retain_until_ms > now_ms);
        let lifted = &self.lifted;
        let mut positions = Vec::new();
        self.entries.retain(|_, own| {
            let is_over = matters_until_ms(&own.entry, lifted) <= now_ms;
            if is_over && own.entry.retain_until_ms > now_ms {
                positions.push(own.position);
            }
            !is_over
        });
        let entries = &self.entries;
        self.rules.retain(|id| entries.contains_key(id));
        positions
    }

    /// Returns whether an entry of the view still matters at `now_ms`, in milliseconds since the
    /// epoch. A quarantine that was lifted matters as long as its lift says.
    #[must_use]
    pub fn matters(&self, entry: &LogEntry, now_ms: i64) -> bool {
        matters_until_ms(entry, &self.lifted) > now_ms
    }
}
