//! The part of the view that forgets entries once they cannot matter any more.
//!
//! A quarantine and its lift only mean something together, so they have one retention. The lift
//! says until when both matter. The quarantine is forgotten then; the lift is kept for ever, in the
//! view as in the log, so that a broker that slept over everything else does not bring the
//! quarantine back. A lift is small, and quarantines are rare.
//!
//! The versions of a document only mean something together too (L22): the last one says that the
//! earlier ones are over. So the last one is kept for ever, also that of a document that was
//! deleted, and the earlier ones are forgotten a little after it came.

use std::collections::HashMap;

use super::{Documents, Newest, View};
use crate::log::{Event, FOR_EVER_MS, LogEntry};
use crate::position::{EntryId, Position};

/// Notes what an entry says of a document, unless a later version is known.
pub(super) fn note_version(documents: &mut Documents, entry: &LogEntry) {
    let Some(statement) = &entry.document else {
        return;
    };
    let place = (statement.kind, statement.name.clone());
    let is_old = documents
        .get(&place)
        .is_some_and(|known| !statement.supersedes(&known.statement));
    if !is_old {
        let newest = Newest {
            statement: statement.clone(),
            by: entry.id,
            retain_until_ms: entry.retain_until_ms,
        };
        documents.insert(place, newest);
    }
}

/// Returns the time from which an entry does not matter any more, in milliseconds since the epoch:
/// for a quarantine that was lifted, the time that its lift says; for a version of a document, a
/// little after the next version.
fn matters_until_ms(
    entry: &LogEntry,
    lifted: &HashMap<EntryId, i64>,
    documents: &Documents,
) -> i64 {
    if let Some(statement) = &entry.document {
        let newest = documents.get(&(statement.kind, statement.name.clone()));
        return match newest.filter(|newest| newest.by != entry.id) {
            Some(newest) => entry.retain_until_ms.max(newest.retain_until_ms),
            None => FOR_EVER_MS,
        };
    }
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
/// its lift stands; so is a version of a document wherever a later one stands.
#[must_use]
pub fn still_matter(entries: Vec<LogEntry>, now_ms: i64) -> Vec<LogEntry> {
    let (mut lifted, mut documents) = (HashMap::new(), Documents::new());
    for entry in &entries {
        note_version(&mut documents, entry);
        if let Event::Lifted(rule) = entry.event {
            lifted.insert(rule, entry.retain_until_ms);
        }
    }
    entries
        .into_iter()
        .filter(|entry| matters_until_ms(entry, &lifted, &documents) > now_ms)
        .collect()
}

impl View {
    /// Forgets every entry that cannot kill anything alive at `now_ms` or later, in milliseconds
    /// since the epoch.
    ///
    /// The log drops such entries by itself, with two exceptions: a quarantine, which is kept until
    /// it is lifted, and a version of a document, which is kept until there is a later one. The
    /// positions of those that are forgotten now are returned, so that the caller can drop them
    /// from the log.
    pub fn forget(&mut self, now_ms: i64) -> Vec<Position> {
        self.endings
            .retain(|_, ending| ending.retain_until_ms > now_ms);
        self.suspensions
            .retain(|_, suspension| suspension.retain_until_ms > now_ms);
        let (lifted, documents) = (&self.lifted, &self.documents);
        let mut positions = Vec::new();
        self.entries.retain(|_, own| {
            let is_over = matters_until_ms(&own.entry, lifted, documents) <= now_ms;
            if is_over && !own.held && own.entry.log_retains_until_ms() > now_ms {
                positions.push(own.position);
            }
            !is_over
        });
        let entries = &self.entries;
        self.rules.retain(|id| entries.contains_key(id));
        positions
    }

    /// Returns whether an entry of the view still matters at `now_ms`, in milliseconds since the
    /// epoch. A quarantine that was lifted matters as long as its lift says, and a version of a
    /// document until a later one is there.
    #[must_use]
    pub fn matters(&self, entry: &LogEntry, now_ms: i64) -> bool {
        self.matters_until_ms(entry) > now_ms
    }

    /// Returns the time from which an entry of the view does not matter any more, in milliseconds
    /// since the epoch, as far as that is known.
    #[must_use]
    pub fn matters_until_ms(&self, entry: &LogEntry) -> i64 {
        matters_until_ms(entry, &self.lifted, &self.documents)
    }
}
