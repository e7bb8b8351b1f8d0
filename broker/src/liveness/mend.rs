//! What a keeper does when the store has lost something: wait, doubt, and put it back (P4).

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sundew_core::store::StoreError;
use sundew_core::{EntryId, Event, LogEntry, Position};

use super::{BATCH, KEEP_MS, Keeper, lock};
use crate::clock;

impl Keeper {
    /// Another primary, or the same one started anew, may have lost endings that others will append
    /// again, and reports of others. Nothing is answered for one bound, and for two nobody's
    /// report is taken for all there are.
    pub(super) fn notice_failover(&self, name: &str, sent: Instant) {
        let mut primary = lock(&self.primary);
        let before = primary.name.replace(name.to_owned());
        // The first primary that a broker meets may have been promoted just before. A store that
        // cannot fail over has no names.
        if !name.is_empty() && before.as_deref() != Some(name) {
            if before.is_some() {
                tracing::warn!(
                    "the store has another primary: waiting one freshness bound for what it may have lost"
                );
            }
            drop(primary);
            self.wait_for_others(sent);
            self.doubt_peers_until(sent + self.bounds.freshness * 2);
        }
    }

    /// Nothing is answered for one bound, in which others append again what only they know; what
    /// was waited for counts for nothing.
    fn wait_for_others(&self, from: Instant) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        self.change_window(|window| {
            window.open_from = window
                .open_from
                .map(|open_from| open_from.max(from + self.bounds.freshness))
        });
    }

    pub(super) fn doubt_peers_until(&self, until: Instant) {
        let mut primary = lock(&self.primary);
        primary.in_doubt_until = primary.in_doubt_until.max(Some(until));
    }

    /// The store lost part of the log. Reads what is there, and appends what is missing after every
    /// position that tokens may be stamped with; rules that came in below those positions are
    /// repeated above them. What this broker has slept over, only others know.
    pub(super) async fn assert_again(&self) -> Result<(), StoreError> {
        self.wait_for_others(clock::monotonic());
        let (stamped, _) = self.read().applied();
        let mut known = HashSet::new();
        let mut repeat = Vec::new();
        let (mut position, mut last) = (Position(0), EntryId::default());
        loop {
            let batch = self.store.read_log(position, BATCH).await?;
            let Some(end) = batch.last() else { break };
            (position, last) = (end.position, end.id);
            for (stored, entry) in self.take_in(batch).await? {
                known.insert(stored.id);
                if stored.position <= stamped && !self.read().knows(&stored.id) {
                    repeat.push(
                        Self::entry(entry.event.clone(), entry.until_ms)
                            .map_err(|e| StoreError::Unavailable(e.to_string()))?,
                    );
                }
                self.write().apply(stored.position, entry.clone());
                (self.on_change)(&entry.event);
            }
        }
        let now_ms = clock::now_ms();
        let missing = self
            .read()
            .missing_from(&known)
            .into_iter()
            .filter(|entry| entry.until_ms > now_ms);
        let floor = Self::entry(Event::Floor, now_ms.saturating_add(KEEP_MS))
            .map_err(|e| StoreError::Unavailable(e.to_string()))?;
        let again: Vec<_> = missing
            .chain(repeat)
            .chain([floor])
            .map(|entry| self.sealed(&entry))
            .collect();
        tracing::warn!(
            entries = again.len(),
            "appending what the revocation log has lost"
        );
        self.store.append_all(&again, stamped).await?;
        self.write().rewind(position, last);
        Ok(())
    }

    /// Appends what the store could not take before; says whether there was anything. After a
    /// restart that is all that the journal has and the log has lost, so it goes in batches.
    pub(super) async fn append_pending(&self) -> Result<bool, StoreError> {
        let (pending, now_ms) = (lock(&self.pending).clone(), clock::now_ms());
        let (missing, floor): (Vec<_>, _) = {
            let view = self.read();
            // From the journal, most are in the log already.
            let missing = pending
                .iter()
                .filter(|entry| !view.is_in_log(&entry.id) && entry.until_ms > now_ms);
            (
                missing.map(|entry| self.sealed(entry)).collect(),
                view.applied().0,
            )
        };
        if !missing.is_empty() {
            lock(&self.authored).extend(missing.iter().map(|(id, ..)| *id));
            self.store.append_all(&missing, floor).await?;
        }
        let done: HashSet<_> = pending.iter().map(|entry| entry.id).collect();
        lock(&self.pending).retain(|entry| !done.contains(&entry.id));
        Ok(!missing.is_empty())
    }

    /// An entry as the store takes it.
    fn sealed(&self, entry: &LogEntry) -> (EntryId, Vec<u8>, i64) {
        (
            entry.id,
            self.root.tag(&[b"log", &entry.id.0], entry.encode()),
            entry.until_ms,
        )
    }
}
