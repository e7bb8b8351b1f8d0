//! Leases in the embedded store, by engine: each with its record and when it is due.

use sundew_core::store::{StoreError, StoredLease};
use sundew_core::{LeaseId, TaskId};

use super::EmbeddedStore;
use super::operation::{self, kind::Kind};
use super::state::State;

impl EmbeddedStore {
    pub(super) async fn write_lease(
        &self,
        engine: &str,
        task: TaskId,
        lease: StoredLease,
    ) -> Result<(), StoreError> {
        let id = lease.id;
        let (before, durable) = {
            let mut state = self.lock();
            let leases = state.leases.get(engine);
            let before = leases.and_then(|leases| leases.get(&id)).cloned();
            let earlier = before.as_ref().map_or(i64::MAX, |(_, due_ms)| *due_ms);
            let had = operation::Had {
                task: task.as_bytes().to_vec(),
                lease: lease.id.as_bytes().to_vec(),
            };
            self.commit_unwatched(&mut state, Kind::Had(had))?;
            let due_ms = lease.due_ms.min(earlier);
            let change = change(engine, id, Some(lease.record), due_ms);
            (before, self.commit(&mut state, change)?)
        };
        let undo = |state: &mut State| {
            let leases = state.leases.entry(engine.to_owned()).or_default();
            match before {
                Some(before) => drop(leases.insert(id, before)),
                None => drop(leases.remove(&id)),
            }
        };
        self.settled_or(durable, undo).await
    }

    /// Returns how many leases a task has had.
    pub(super) fn count_of_task(&self, task: TaskId) -> u64 {
        let had = self
            .lock()
            .tasks
            .get(&task)
            .map_or(0, |task| task.leases.len());
        u64::try_from(had).unwrap_or(u64::MAX)
    }

    pub(super) fn read_lease(&self, engine: &str, id: LeaseId) -> Option<StoredLease> {
        let (record, due_ms) = self.lock().leases.get(engine)?.get(&id)?.clone();
        Some(StoredLease { id, record, due_ms })
    }

    pub(super) fn read_leases(&self, engine: &str) -> Vec<StoredLease> {
        let stored = |(id, (record, due_ms)): (&LeaseId, &(Vec<u8>, i64))| StoredLease {
            id: *id,
            record: record.clone(),
            due_ms: *due_ms,
        };
        self.lock()
            .leases
            .get(engine)
            .map(|leases| leases.iter().map(stored).collect())
            .unwrap_or_default()
    }

    pub(super) fn make_due(
        &self,
        engine: &str,
        ids: &[LeaseId],
        due_ms: i64,
    ) -> Result<(), StoreError> {
        let mut state = self.lock();
        for id in ids {
            let found = state
                .leases
                .get(engine)
                .and_then(|leases| leases.get(id))
                .filter(|(_, due)| *due > due_ms)
                .map(|(record, _)| record.clone());
            if let Some(record) = found {
                self.commit_unwatched(&mut state, change(engine, *id, Some(record), due_ms))?;
            }
        }
        Ok(())
    }

    pub(super) fn claim(
        &self,
        engine: &str,
        now_ms: i64,
        until_ms: i64,
        limit: usize,
    ) -> Vec<StoredLease> {
        let mut claimed = Vec::new();
        // In memory only: after a restart, what was claimed is due again.
        if let Some(leases) = self.lock().leases.get_mut(engine) {
            for (id, (record, due_ms)) in leases
                .iter_mut()
                .filter(|(_, (_, due_ms))| *due_ms <= now_ms)
                .take(limit)
            {
                *due_ms = until_ms;
                claimed.push(StoredLease {
                    id: *id,
                    record: record.clone(),
                    due_ms: until_ms,
                });
            }
        }
        claimed
    }

    pub(super) fn rewrite_lease(&self, engine: &str, lease: StoredLease) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state
            .leases
            .get(engine)
            .is_none_or(|leases| !leases.contains_key(&lease.id))
        {
            return Ok(());
        }
        self.commit_unwatched(
            &mut state,
            change(engine, lease.id, Some(lease.record), lease.due_ms),
        )
    }

    pub(super) fn drop_leases(&self, engine: &str, ids: &[LeaseId]) -> Result<(), StoreError> {
        let mut state = self.lock();
        ids.iter()
            .try_for_each(|id| self.commit_unwatched(&mut state, change(engine, *id, None, 0)))
    }

    /// Returns how many leases an engine has, and how many of them are due.
    pub(super) fn count_leases(&self, engine: &str, now_ms: i64) -> (u64, u64) {
        let state = self.lock();
        let Some(leases) = state.leases.get(engine) else {
            return (0, 0);
        };
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        (
            count(leases.len()),
            count(
                leases
                    .values()
                    .filter(|(_, due_ms)| *due_ms <= now_ms)
                    .count(),
            ),
        )
    }
}

/// Returns the operation that writes a lease, or removes it if there is no record.
fn change(engine: &str, id: LeaseId, record: Option<Vec<u8>>, due_ms: i64) -> Kind {
    Kind::Lease(operation::Lease {
        engine: engine.to_owned(),
        id: id.as_bytes().to_vec(),
        record,
        due_ms,
    })
}
