//! Endings that this broker has to bring into the log, and those that it brought there itself.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sundew_core::{EntryId, LogEntry};

/// The most endings that are held for a store that cannot take them.
const MAX_PENDING: usize = 100_000;

/// Endings on their way from this broker into the log.
#[derive(Default)]
pub(super) struct Outbox {
    pending: Mutex<Pending>,
    /// Entries that this broker appended, and has in its journal already.
    authored: Mutex<HashSet<EntryId>>,
}

/// Endings that hold here and that the store has not taken yet, each once and in the order in which
/// they came.
#[derive(Default)]
struct Pending {
    entries: Vec<LogEntry>,
    ids: HashSet<EntryId>,
}

impl Pending {
    fn add(&mut self, entry: LogEntry) {
        if self.ids.insert(entry.id) {
            self.entries.push(entry);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    /// Adds an ending that the store could not take; an ending that is there is not added again.
    /// Beyond [`MAX_PENDING`] endings, the ending stays in the journal and the view only.
    pub(super) fn hold(&self, entry: LogEntry) {
        let mut pending = lock(&self.pending);
        if pending.entries.len() < MAX_PENDING {
            pending.add(entry);
        }
    }

    /// Adds an ending from the journal at start, however many there are.
    pub(super) fn restore(&self, entry: LogEntry) {
        lock(&self.pending).add(entry);
    }

    /// Returns the endings that wait for the store.
    pub(super) fn pending(&self) -> Vec<LogEntry> {
        lock(&self.pending).entries.clone()
    }

    /// Returns whether an ending waits for the store.
    pub(super) fn has(&self, id: &EntryId) -> bool {
        lock(&self.pending).ids.contains(id)
    }

    /// Returns the number of endings that wait for the store.
    pub(super) fn len(&self) -> usize {
        lock(&self.pending).entries.len()
    }

    /// Removes endings that are in the log now, or that nobody needs any more.
    pub(super) fn forget(&self, done: &[LogEntry]) {
        let mut pending = lock(&self.pending);
        for entry in done {
            pending.ids.remove(&entry.id);
        }
        let Pending { entries, ids } = &mut *pending;
        entries.retain(|entry| ids.contains(&entry.id));
    }

    /// Notes that this broker appends these entries, which its journal has already.
    pub(super) fn author(&self, ids: impl IntoIterator<Item = EntryId>) {
        lock(&self.authored).extend(ids);
    }

    /// Returns whether this broker appended an entry that was now read from the log. The note is
    /// removed, because an entry is read once.
    pub(super) fn take_authored(&self, id: &EntryId) -> bool {
        lock(&self.authored).remove(id)
    }
}

#[cfg(test)]
mod tests {
    use sundew_core::Event;

    use super::*;

    fn entry(number: u8) -> LogEntry {
        LogEntry {
            id: EntryId([number; 16]),
            event: Event::Floor,
            retain_until_ms: 1,
            document: None,
        }
    }

    #[test]
    fn what_is_held_or_restored_waits_until_it_is_forgotten() {
        let outbox = Outbox::default();
        outbox.hold(entry(1));
        outbox.restore(entry(2));
        outbox.hold(entry(3));
        assert_eq!(outbox.pending(), [entry(1), entry(2), entry(3)]);
        // What was held meanwhile was not in the list, and stays.
        outbox.forget(&[entry(3), entry(1)]);
        assert_eq!((outbox.pending(), outbox.len()), (vec![entry(2)], 1));
    }

    /// L7: a caller may ask again and again for an ending that is pending.
    #[test]
    fn l7_an_ending_that_is_asked_for_again_waits_once() {
        let outbox = Outbox::default();
        outbox.hold(entry(1));
        outbox.hold(entry(1));
        assert!(outbox.has(&entry(1).id) && outbox.len() == 1);
        outbox.forget(&[entry(1)]);
        assert!(!outbox.has(&entry(1).id));
        outbox.hold(entry(1));
        assert_eq!(outbox.len(), 1, "it went with a primary that was deposed");
    }

    #[test]
    fn what_this_broker_appended_is_recognised_once() {
        let outbox = Outbox::default();
        outbox.author([entry(1).id, entry(2).id]);
        assert!(outbox.take_authored(&entry(1).id));
        assert!(!outbox.take_authored(&entry(1).id));
        assert!(!outbox.take_authored(&entry(3).id));
        assert!(outbox.take_authored(&entry(2).id));
    }

    /// P12: what is held is bounded; what the journal has is not left out.
    #[test]
    fn a_store_that_takes_nothing_does_not_fill_the_memory() {
        let outbox = Outbox::default();
        lock(&outbox.pending).entries = vec![entry(1); MAX_PENDING];
        outbox.hold(entry(2));
        assert_eq!(outbox.len(), MAX_PENDING);
        outbox.restore(entry(2));
        assert_eq!(outbox.len(), MAX_PENDING + 1);
    }
}
