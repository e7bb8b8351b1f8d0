//! Appending an ending, and knowing when it may be answered (P4).

use std::sync::atomic::Ordering;

use sundew_core::protocol::{Waiting, is_settled};
use sundew_core::store::StoreError;
use sundew_core::{EntryId, LogEntry, Position};

use super::{AppendError, Keeper, MAX_PENDING, lock};
use crate::clock;

/// How long an ending may wait for a majority, in freshness bounds.
const SETTLE_WITHIN_BOUNDS: u32 = 3;

impl Keeper {
    /// P4: appends an ending, and answers when no broker can answer "active" any more for what it
    /// covers.
    pub async fn append(&self, entry: LogEntry) -> Result<Position, AppendError> {
        // Before the append: what was appended before a failover is nowhere, until it is found in
        // the log after it.
        let turn = self.turn.load(Ordering::Acquire);
        let position = match self.append_once(&entry).await {
            Ok(position) => position,
            Err(error) => {
                self.hold(entry);
                return Err(error.into());
            }
        };
        let promised = self.promised(entry.id, position, turn).await;
        if promised.is_err() && !self.read().knows(&entry.id) {
            // It went with a primary that was deposed.
            self.hold(entry);
        }
        promised
    }

    /// An ending that is not in the log holds here, and is appended as soon as that is possible.
    fn hold(&self, entry: LogEntry) {
        self.write().hold(entry.clone());
        let mut pending = lock(&self.pending);
        if pending.len() < MAX_PENDING {
            pending.push(entry);
        }
    }

    /// P4: an ending that is known here already is answered like one that was appended just now: it
    /// may be held for a store that has not taken it, or be on its way to the others.
    pub async fn confirm(&self, id: EntryId) -> Result<Position, AppendError> {
        let turn = self.turn.load(Ordering::Acquire);
        let known = self
            .read()
            .known(&id)
            .map(|(entry, position)| (entry.clone(), position));
        match known {
            Some((_, Some(position))) => self.promised(id, position, turn).await,
            Some((entry, None)) => self.append(entry).await,
            None => {
                Err(StoreError::Unavailable("the ending is not known any more".to_owned()).into())
            }
        }
    }

    async fn promised(
        &self,
        id: EntryId,
        position: Position,
        turn: u64,
    ) -> Result<Position, AppendError> {
        {
            let settled = lock(&self.settled_to);
            if settled.0 == turn
                && settled.1 >= position
                && self.turn.load(Ordering::Acquire) == turn
            {
                return Ok(position);
            }
        }
        if !self.settled(id, position, turn).await {
            return Err(StoreError::Unavailable(
                "the ending is in the log, and was not acknowledged by everybody in time"
                    .to_owned(),
            )
            .into());
        }
        let mut settled = lock(&self.settled_to);
        if settled.0 == turn {
            settled.1 = settled.1.max(position);
        } else {
            *settled = (turn, position);
        }
        Ok(position)
    }

    /// P4: waits until the ending is on a majority and nobody who has not applied it has a fresh
    /// view. An ending that does not get there in time holds all the same wherever it was
    /// applied; it is only not promised.
    async fn settled(&self, id: EntryId, mut position: Position, mut turn: u64) -> bool {
        let latest = clock::monotonic() + self.bounds.freshness * SETTLE_WITHIN_BOUNDS;
        let mut beats = self.beats.subscribe();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut bound = None;
        let settled = loop {
            let now = clock::monotonic();
            // After a failover, what was waited for counts for nothing: the ending may have another
            // place now.
            let current = self.read().entry(&id).map(|(position, _)| position);
            {
                let beat = beats.borrow_and_update();
                if beat.turn != turn {
                    let Some(place) = current else { break false };
                    (bound, turn, position) = (None, beat.turn, place);
                }
                if bound.is_none() && beat.applied >= position {
                    bound = Some(now + self.bounds.freshness);
                }
                let bound_passed = bound.is_some_and(|bound| now >= bound);
                let peers_in_doubt = beat.in_doubt_until.is_some_and(|until| now < until);
                let waiting = Waiting {
                    position,
                    own: beat.applied,
                    everywhere: beat.everywhere,
                    peers: &beat.peers,
                    bound_passed,
                    peers_in_doubt,
                };
                if is_settled(waiting) {
                    break true;
                }
            }
            if now >= latest {
                break false;
            }
            // After the bound, a broker that has not applied it has no fresh view, whatever it is
            // doing.
            let next = bound
                .filter(|bound| *bound > now)
                .unwrap_or(latest)
                .min(latest);
            if let Ok(Err(_)) = tokio::time::timeout_at(next.into(), beats.changed()).await {
                break false;
            }
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        settled
    }
}
