//! Tasks in the embedded store: their records, their places among their workload's, and when they
//! are due.

use sundew_core::TaskId;
use sundew_core::store::{Created, NewTask, Reserved, StoreError, StoredTask, TaskPage};

use super::EmbeddedStore;
use super::operation::{self, kind::Kind};
use super::state::State;
use super::tokens::new_token;

/// The number of tasks in one page of a scan.
const TASKS_PER_PAGE: usize = 512;

impl EmbeddedStore {
    pub(super) fn reserve_place(
        &self,
        workload: &str,
        task: TaskId,
        deadline_ms: i64,
        due_ms: i64,
        limit: u32,
        now_ms: i64,
    ) -> Result<Reserved, StoreError> {
        let mut state = self.lock();
        let places = state.places.entry(workload.to_owned()).or_default();
        if places.contains_key(&task) {
            return Ok(Reserved::Held);
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if places.len() >= limit {
            places.retain(|_, deadline| *deadline > now_ms);
        }
        if places.len() >= limit {
            return Ok(Reserved::Full);
        }
        let place = operation::Place {
            workload: workload.to_owned(),
            task: task.as_bytes().to_vec(),
            deadline_ms,
            due_ms,
        };
        // Durable with the task that follows it; a place alone means nothing.
        self.commit_unwatched(&mut state, Kind::Place(place))?;
        Ok(Reserved::Taken)
    }

    pub(super) async fn write_task(&self, task: NewTask<'_>) -> Result<Created, StoreError> {
        let id = task.id;
        let durable = {
            let mut state = self.lock();
            if let Some(found) = state.tasks.get(&task.id) {
                return Ok(Created::Existing(found.record.clone()));
            }
            let change = operation::NewTask {
                id: task.id.as_bytes().to_vec(),
                record: task.record,
                retain_until_ms: task.retain_until_ms,
                token: Some(new_token(task.id, task.token)),
            };
            self.commit(&mut state, Kind::Task(change))?
        };
        self.settled_or(durable, |state| drop(state.tasks.remove(&id)))
            .await?;
        Ok(Created::New)
    }

    pub(super) fn read_task(&self, task: TaskId) -> Option<StoredTask> {
        self.lock().tasks.get(&task).map(|t| StoredTask {
            record: t.record.clone(),
            bindings: t.bindings.clone(),
        })
    }

    pub(super) async fn write_binding(
        &self,
        task: TaskId,
        binding: Vec<u8>,
        limit: usize,
    ) -> Result<(), StoreError> {
        let (durable, was_known) = {
            let mut state = self.lock();
            let Some(known) = state.tasks.get(&task) else {
                return Ok(());
            };
            let was_known = known.bindings.contains(&binding);
            // One that is known already becomes the newest.
            let binding = operation::Binding {
                task: task.as_bytes().to_vec(),
                binding: binding.clone(),
                limit: u32::try_from(limit).unwrap_or(u32::MAX),
            };
            (self.commit(&mut state, Kind::Binding(binding))?, was_known)
        };
        let undo = |state: &mut State| {
            if let Some(task) = state.tasks.get_mut(&task)
                && !was_known
            {
                task.bindings.retain(|known| *known != binding);
            }
        };
        self.settled_or(durable, undo).await
    }

    pub(super) fn shrink_task(
        &self,
        task: TaskId,
        remains: Vec<u8>,
        retain_until_ms: i64,
    ) -> Result<(), StoreError> {
        let mut state = self.lock();
        if !state.tasks.contains_key(&task) {
            return Ok(());
        }
        let ended = operation::Ended {
            task: task.as_bytes().to_vec(),
            remains,
            retain_until_ms,
        };
        self.commit_unwatched(&mut state, Kind::Ended(ended))
    }

    pub(super) fn release_place(&self, workload: &str, task: TaskId) -> Result<(), StoreError> {
        let release = operation::Release {
            workload: workload.to_owned(),
            task: task.as_bytes().to_vec(),
        };
        self.commit_unwatched(&mut self.lock(), Kind::Release(release))
    }

    pub(super) fn list_tasks(&self, workload: Option<&str>, limit: usize) -> Vec<TaskId> {
        let state = self.lock();
        match workload {
            Some(workload) => state
                .places
                .get(workload)
                .map(|p| p.keys().copied().take(limit).collect())
                .unwrap_or_default(),
            None => state.due_at.keys().copied().take(limit).collect(),
        }
    }

    pub(super) fn scan_due_list(&self, from: u64) -> TaskPage {
        // Places are prefixes of ids, so that what comes and goes meanwhile moves nothing else.
        let state = self.lock();
        let first = TaskId::from_bytes(u128::from(from).wrapping_shl(64).to_be_bytes());
        let mut tasks: Vec<TaskId> = state
            .due_at
            .range(first..)
            .map(|(task, _)| *task)
            .take(TASKS_PER_PAGE)
            .collect();
        let mut next = 0;
        if tasks.len() == TASKS_PER_PAGE {
            let prefix = |task: &TaskId| {
                u64::try_from(u128::from_be_bytes(*task.as_bytes()) >> 64).unwrap_or(0)
            };
            next = tasks.last().map_or(0, prefix);
            if next == from {
                // More than a page with one prefix: ids are derived, so this is nobody's doing, and
                // all of them are taken at once.
                tasks = state
                    .due_at
                    .range(first..)
                    .map(|(task, _)| *task)
                    .take_while(|task| prefix(task) == from)
                    .collect();
                next = from.wrapping_add(1);
            }
        }
        TaskPage { tasks, next }
    }

    pub(super) fn set_due_times(&self, due: Vec<(TaskId, i64)>) -> Result<(), StoreError> {
        let mut state = self.lock();
        for (task, due_ms) in due {
            if state.due_at.contains_key(&task) {
                let due = operation::Due {
                    task: task.as_bytes().to_vec(),
                    due_ms,
                };
                self.commit_unwatched(&mut state, Kind::Due(due))?;
            }
        }
        Ok(())
    }

    /// Returns how many tasks there are on the attendance list.
    pub(super) fn count_due_list(&self) -> u64 {
        u64::try_from(self.lock().due.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn due_tasks(&self, now_ms: i64, limit: usize) -> Vec<TaskId> {
        self.lock()
            .due
            .iter()
            .take_while(|(at, _)| *at <= now_ms)
            .map(|(_, task)| *task)
            .take(limit)
            .collect()
    }
}
