//! Appending an ending, and knowing when the ending may be answered (P4).

use std::sync::atomic::Ordering;
use std::time::Instant;

use sundew_core::protocol::{CommitState, is_committed};
use sundew_core::store::StoreError;
use sundew_core::{EntryId, Event, LogEntry, Position};

use super::revocation_log::{AppendError, HeartbeatAck, RevocationLog, lock};
use crate::clock;

/// How long an ending may wait until a majority has it, in freshness bounds. The wait for other
/// brokers, of one bound at most, comes on top.
const COMMIT_WITHIN_BOUNDS: u32 = 2;

/// Endings that wait for other brokers, together.
struct Commit {
    ids: Vec<EntryId>,
    /// The position of the last of them, once the follower has read it.
    position: Option<Position>,
    term: u64,
    /// The time after which no broker can have a fresh view without the endings; `None` until a
    /// majority of the data nodes has them.
    bound: Option<Instant>,
}

impl RevocationLog {
    /// Returns whether an event takes authority away. Such an event needs nobody's leave, so it
    /// holds here before anybody else knows of it (L7). What gives authority back does not.
    pub(crate) fn is_ending(event: &Event) -> bool {
        match event {
            Event::Ended { .. } | Event::Rule { .. } | Event::Suspended(_) => true,
            Event::Changed(_) | Event::Floor | Event::Lifted(_) | Event::Resumed(_) => false,
        }
    }

    /// P4: appends an ending, and returns its position as soon as no broker can answer "active" any
    /// more for what the ending covers. The ending holds at this broker at once, also on an error
    /// and while the view is not fresh (L7).
    pub(crate) async fn append(&self, entry: LogEntry) -> Result<Position, AppendError> {
        self.append_all(vec![entry]).await
    }

    /// P4, L16: appends endings that wait together for the same acknowledgement, as
    /// [`append`](Self::append) appends one. Returns the position of the last of them.
    pub(crate) async fn append_all(&self, entries: Vec<LogEntry>) -> Result<Position, AppendError> {
        // Before the append: what was appended before a failover is nowhere, until it is found in
        // the log after it.
        let term = self.progress.term.load(Ordering::Acquire);
        self.hold_here(entries.iter().filter(|entry| Self::is_ending(&entry.event)));
        match self.append_in_order(&entries).await {
            Ok(()) => {}
            // The follower takes the other agreement at once, and appends what waits.
            Err(StoreError::OtherAgreement) => self.hold(entries.clone()),
            Err(error) => {
                self.hold(entries);
                return Err(error.into());
            }
        }
        let ids = entries.iter().map(|entry| entry.id).collect();
        // The store's answer names a position in the log of whichever primary took the entries. Only
        // what the follower has read there is in the log by which brokers answer.
        let committed = self.await_commit(ids, None, term).await;
        if committed.is_err() {
            // Some may have gone with a primary that was deposed.
            self.hold(entries);
        }
        committed
    }

    /// Appends endings without waiting for other brokers.
    async fn append_in_order(&self, entries: &[LogEntry]) -> Result<(), StoreError> {
        self.outbox.author(entries.iter().map(|entry| entry.id));
        let after = self.append_after();
        let Some((last, before)) = entries.split_last() else {
            return Ok(());
        };
        if !before.is_empty() {
            let before: Vec<_> = before.iter().map(|entry| self.sealed(entry)).collect();
            self.store.append_all(&before, after).await?;
        }
        let (id, bytes, until_ms) = self.sealed(last);
        self.store.append(id, &bytes, until_ms, after).await?;
        Ok(())
    }

    /// Lets entries hold at this broker that are not in the log. Whoever asks for this appends them
    /// too.
    fn hold_here<'a>(&self, entries: impl Iterator<Item = &'a LogEntry>) {
        let mut view = self.write();
        for entry in entries {
            if !view.is_in_log(&entry.id) {
                view.hold(entry.clone());
            }
        }
    }

    /// Lets those of these entries that are not in the log hold at this broker. They are appended
    /// as soon as that is possible.
    fn hold(&self, entries: Vec<LogEntry>) {
        self.hold_here(entries.iter());
        let view = self.read();
        for entry in entries {
            if !view.is_in_log(&entry.id) {
                self.outbox.hold(entry);
            }
        }
    }

    /// P4: waits for an ending that is known here already, and returns its position. Nothing is
    /// assumed of it: the ending may be held for a store that has not taken it, or be on its way to
    /// the other brokers. An ending that is not known is an error.
    pub(crate) async fn confirm(&self, id: EntryId) -> Result<Position, AppendError> {
        let term = self.progress.term.load(Ordering::Acquire);
        let known = self
            .read()
            .known(&id)
            .map(|(entry, position)| (entry.clone(), position));
        match known {
            Some((entry, None)) if self.outbox.has(&id) => self.append(entry).await,
            Some((_, position)) => self.await_commit(vec![id], position, term).await,
            None => Err(AppendError::Unconfirmed("the ending is not known any more")),
        }
    }

    /// Returns when endings up to this position are committed: on a majority of the data nodes, and
    /// applied by every broker that could answer. An earlier commit of a later position is enough
    /// if it was in this term.
    async fn await_commit(
        &self,
        ids: Vec<EntryId>,
        position: Option<Position>,
        term: u64,
    ) -> Result<Position, AppendError> {
        if let Some(position) = position {
            let committed = lock(&self.progress.committed_to);
            if committed.0 == term
                && committed.1 >= position
                && self.progress.term.load(Ordering::Acquire) == term
            {
                return Ok(position);
            }
        }
        let mut commit = Commit {
            ids,
            position,
            term,
            bound: None,
        };
        let is_committed = self.is_committed_in_time(&mut commit).await;
        let Some(position) = commit.position.filter(|_| is_committed) else {
            return Err(AppendError::Unconfirmed(
                "the ending is not acknowledged by everybody in time",
            ));
        };
        let mut committed = lock(&self.progress.committed_to);
        if committed.0 == commit.term {
            committed.1 = committed.1.max(position);
        } else if committed.0 < commit.term {
            *committed = (commit.term, position);
        }
        Ok(position)
    }

    /// P4: waits until the ending is on a majority and no broker that has not applied it has a
    /// fresh view. Returns whether that was so in time. An ending that was not committed in time
    /// holds all the same at every broker that has applied it; it is only not promised.
    async fn is_committed_in_time(&self, commit: &mut Commit) -> bool {
        let mut acks = self.progress.acks.subscribe();
        let longest = acks.borrow().longest_freshness.max(self.freshness());
        let latest = clock::monotonic() + longest + self.freshness() * COMMIT_WITHIN_BOUNDS;
        self.progress.waiting.fetch_add(1, Ordering::Relaxed);
        let committed = loop {
            let now = clock::monotonic();
            match self.is_committed(commit, &acks.borrow_and_update(), now) {
                Some(true) => break true,
                Some(false) => {}
                None => break false,
            }
            if now >= latest {
                break false;
            }
            // Woken at the bound at the latest: after it, a broker that has not applied the ending
            // has no fresh view, whatever that broker is doing.
            let next = commit
                .bound
                .filter(|bound| *bound > now)
                .unwrap_or(latest)
                .min(latest);
            if let Ok(Err(_)) = tokio::time::timeout_at(next.into(), acks.changed()).await {
                break false;
            }
        };
        self.progress.waiting.fetch_sub(1, Ordering::Relaxed);
        committed
    }

    /// Returns whether the ending is committed by what the last heartbeat said, and `None` if a
    /// failover has lost the ending.
    fn is_committed(&self, commit: &mut Commit, ack: &HeartbeatAck, now: Instant) -> Option<bool> {
        // After a failover, what was waited for counts for nothing: the endings may have other
        // positions now.
        if ack.term != commit.term {
            let position = self.last_of(&commit.ids)?;
            (commit.bound, commit.term, commit.position) = (None, ack.term, Some(position));
        }
        if commit.position.is_none() {
            commit.position = self.last_of(&commit.ids);
        }
        let Some(position) = commit.position else {
            return Some(false);
        };
        if commit.bound.is_none() && ack.applied >= position {
            commit.bound = Some(now + ack.longest_freshness.max(self.freshness()));
        }
        Some(is_committed(CommitState {
            position,
            majority_position: ack.applied,
            all_replicas_acked: ack.all_replicas_acked,
            peers: &ack.peers,
            bound_passed: commit.bound.is_some_and(|bound| now >= bound),
            peers_in_doubt: ack.peers_in_doubt,
        }))
    }

    /// Returns the last position of these endings in the log, and `None` if one of them is not in
    /// it.
    fn last_of(&self, ids: &[EntryId]) -> Option<Position> {
        let view = self.read();
        ids.iter()
            .map(|id| view.entry(id).map(|(position, _)| position))
            .try_fold(Position(0), |last, position| Some(last.max(position?)))
    }
}
