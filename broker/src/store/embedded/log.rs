//! The revocation log in the embedded store. One broker follows it: the process that has the store.

use std::time::Duration;

use sundew_core::store::{AppendAfter, Heartbeat, Report, StoreError, StoredEntry};
use sundew_core::{EntryId, Position};

use super::EmbeddedStore;
use super::operation::{self, kind::Kind};
use crate::clock;

/// How many operations the file may have, beyond twice as many as a snapshot needs, before it is
/// compacted.
const SLACK_OPERATIONS: usize = 200_000;
/// The epoch of every embedded store: the log is never lost while the process lives.
const EPOCH: &str = "embedded";

impl EmbeddedStore {
    pub(super) async fn append_entry(
        &self,
        id: EntryId,
        entry: &[u8],
        until_ms: i64,
        after: AppendAfter,
    ) -> Result<Position, StoreError> {
        let (position, durable) = {
            let mut state = self.lock();
            if state.agreement.0 != after.agreement {
                return Err(StoreError::OtherAgreement);
            }
            let position = Position(state.tip.0.max(after.floor).0.saturating_add(1));
            let change = operation::Entry {
                position: position.0,
                id: id.0.to_vec(),
                entry: entry.to_vec(),
                until_ms,
            };
            (position, self.commit(&mut state, Kind::Entry(change))?)
        };
        // The ending holds from now on, durable or not; it is acknowledged when durable.
        self.appended.notify_waiters();
        self.settled(durable).await?;
        Ok(position)
    }

    pub(super) fn read_entries(&self, after: Position, limit: usize) -> Vec<StoredEntry> {
        let state = self.lock();
        let from = state
            .entries
            .partition_point(|(entry, _)| entry.position <= after);
        state
            .entries
            .range(from..)
            .map(|(entry, _)| entry.clone())
            .take(limit)
            .collect()
    }

    pub(super) async fn wait_for_entry(&self, after: Position, wait_ms: u64) {
        let appended = self.appended.notified();
        if self.lock().tip.0 <= after {
            let _ = tokio::time::timeout(Duration::from_millis(wait_ms), appended).await;
        }
    }

    /// What is deleted before its time stays away also after a restart.
    pub(super) async fn trim_entries(
        &self,
        now_ms: i64,
        places: &[Position],
    ) -> Result<(), StoreError> {
        let dropped = {
            let mut state = self.lock();
            let there = |(entry, _): &(StoredEntry, i64)| {
                places.contains(&entry.position).then_some(entry.position.0)
            };
            let positions: Vec<_> = state.entries.iter().filter_map(there).collect();
            let dropped = operation::Dropped { positions };
            (!dropped.positions.is_empty())
                .then(|| self.commit(&mut state, Kind::Dropped(dropped)))
                .transpose()?
        };
        if let Some(durable) = dropped {
            self.settled(durable).await?;
        }
        self.purge_entries(now_ms);
        Ok(())
    }

    fn purge_entries(&self, now_ms: i64) {
        let mut state = self.lock();
        let live = state.purge(now_ms);
        if state.operations > live.saturating_mul(2).saturating_add(SLACK_OPERATIONS)
            // A document that is being written is in the file and not in the state.
            && let Ok(_turn) = self.document_turn.try_lock()
        {
            self.compact(&mut state);
        }
    }

    pub(super) async fn write_agreement(
        &self,
        expected: u64,
        version: u64,
        value: &[u8],
    ) -> Result<bool, StoreError> {
        let durable = {
            let mut state = self.lock();
            if state.agreement.0 != expected {
                return Ok(false);
            }
            let agreement = operation::Agreement {
                version,
                value: value.to_vec(),
            };
            self.commit(&mut state, Kind::Agreement(agreement))?
        };
        self.settled(durable).await?;
        Ok(true)
    }

    pub(super) fn report(&self, report: Report<'_>) -> Heartbeat {
        let state = self.lock();
        Heartbeat {
            now_ms: clock::now_ms(),
            agreement: state.agreement.0,
            epoch: EPOCH.to_owned(),
            primary: String::new(),
            longest_freshness_ms: report.freshness_ms,
            all_replicas_acked: true,
            tip: state.tip,
            peers: vec![(report.broker.to_owned(), report.applied.0)],
            arrivals: Vec::new(),
        }
    }
}
