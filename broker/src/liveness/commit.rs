//! Appending an ending, and knowing when the ending may be answered (P4).

use std::sync::atomic::Ordering;
use std::time::Instant;

use sundew_core::protocol::{CommitState, is_committed};
use sundew_core::store::StoreError;
use sundew_core::{EntryId, LogEntry, Position};

use super::revocation_log::{AppendError, HeartbeatAck, RevocationLog, lock};
use crate::clock;

/// How long an ending may wait until a majority has it, in freshness bounds. The wait for other
/// brokers, of one bound at most, comes on top.
const COMMIT_WITHIN_BOUNDS: u32 = 2;

/// An ending that waits for other brokers.
struct Commit {
    id: EntryId,
    position: Position,
    term: u64,
    /// The time after which no broker can have a fresh view without the ending; `None` until a
    /// majority of the data nodes has the ending.
    bound: Option<Instant>,
}

impl RevocationLog {
    /// P4: appends an ending, and returns its position as soon as no broker can answer "active" any
    /// more for what the ending covers. On an error the ending holds at this broker all the same.
    pub(crate) async fn append(&self, entry: LogEntry) -> Result<Position, AppendError> {
        // Before the append: what was appended before a failover is nowhere, until it is found in
        // the log after it.
        let term = self.progress.term.load(Ordering::Acquire);
        let position = match self.append_once(&entry).await {
            Ok(position) => position,
            Err(error) => {
                self.hold(entry);
                return Err(error.into());
            }
        };
        let committed = self.await_commit(entry.id, position, term).await;
        if committed.is_err() && !self.read().knows(&entry.id) {
            // It went with a primary that was deposed.
            self.hold(entry);
        }
        committed
    }

    /// Appends an ending without waiting for other brokers, and returns its position.
    async fn append_once(&self, entry: &LogEntry) -> Result<Position, StoreError> {
        self.outbox.author([entry.id]);
        let floor = self.read().applied().0;
        let (id, bytes, until_ms) = self.sealed(entry);
        self.store.append(id, &bytes, until_ms, floor).await
    }

    /// Lets an ending that is not in the log hold at this broker. It is appended as soon as that is
    /// possible.
    fn hold(&self, entry: LogEntry) {
        self.write().hold(entry.clone());
        self.outbox.hold(entry);
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
            Some((_, Some(position))) => self.await_commit(id, position, term).await,
            Some((entry, None)) => self.append(entry).await,
            None => Err(AppendError::Unconfirmed("the ending is not known any more")),
        }
    }

    /// Returns when an ending at this position is committed: on a majority of the data nodes, and
    /// applied by every broker that could answer. An earlier commit of a later position is enough
    /// if it was in this term.
    async fn await_commit(
        &self,
        id: EntryId,
        position: Position,
        term: u64,
    ) -> Result<Position, AppendError> {
        {
            let committed = lock(&self.progress.committed_to);
            if committed.0 == term
                && committed.1 >= position
                && self.progress.term.load(Ordering::Acquire) == term
            {
                return Ok(position);
            }
        }
        let commit = Commit {
            id,
            position,
            term,
            bound: None,
        };
        if !self.is_committed_in_time(commit).await {
            return Err(AppendError::Unconfirmed(
                "the ending is in the log, and was not acknowledged by everybody in time",
            ));
        }
        let mut committed = lock(&self.progress.committed_to);
        if committed.0 == term {
            committed.1 = committed.1.max(position);
        } else {
            *committed = (term, position);
        }
        Ok(position)
    }

    /// P4: waits until the ending is on a majority and no broker that has not applied it has a
    /// fresh view. Returns whether that was so in time. An ending that was not committed in time
    /// holds all the same at every broker that has applied it; it is only not promised.
    async fn is_committed_in_time(&self, mut commit: Commit) -> bool {
        let mut acks = self.progress.acks.subscribe();
        let longest = acks.borrow().longest_freshness.max(self.bounds.freshness);
        let latest = clock::monotonic() + longest + self.bounds.freshness * COMMIT_WITHIN_BOUNDS;
        self.progress.waiting.fetch_add(1, Ordering::Relaxed);
        let committed = loop {
            let now = clock::monotonic();
            match self.is_committed(&mut commit, &acks.borrow_and_update(), now) {
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
        // After a failover, what was waited for counts for nothing: the ending may have another
        // position now.
        if ack.term != commit.term {
            let position = self
                .read()
                .entry(&commit.id)
                .map(|(position, _)| position)?;
            (commit.bound, commit.term, commit.position) = (None, ack.term, position);
        }
        if commit.bound.is_none() && ack.applied >= commit.position {
            commit.bound = Some(now + ack.longest_freshness.max(self.bounds.freshness));
        }
        Some(is_committed(CommitState {
            position: commit.position,
            majority_position: ack.applied,
            all_replicas_acked: ack.all_replicas_acked,
            peers: &ack.peers,
            bound_passed: commit.bound.is_some_and(|bound| now >= bound),
            peers_in_doubt: ack.in_doubt_until.is_some_and(|until| now < until),
        }))
    }
}
