//! Tasks whose records do not open (L20): they hide no other from whoever looks at all, and operators
//! hear which ones those are.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sundew_core::{KnownTask, TaskId};

use super::Records;
use crate::refusal::Refusal;

/// The most that are told.
const MAX_TOLD: usize = 8;
/// The most that are remembered.
const MAX_REMEMBERED: usize = 4096;

/// The tasks that could not be read.
#[derive(Default)]
pub(super) struct Unreadable(Mutex<BTreeSet<TaskId>>);

impl Unreadable {
    fn tasks(&self) -> MutexGuard<'_, BTreeSet<TaskId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, id: TaskId) {
        let mut tasks = self.tasks();
        if tasks.len() < MAX_REMEMBERED && tasks.insert(id) {
            tracing::error!(task = %id, "record of a task does not open");
        }
    }

    /// Returns the tasks that are not over, for an operator, one line each.
    fn lines(&self, is_over: impl Fn(TaskId) -> bool) -> Vec<String> {
        let mut tasks = self.tasks();
        tasks.retain(|id| !is_over(*id));
        let mut lines: Vec<_> = tasks.iter().take(MAX_TOLD).map(line).collect();
        let more = tasks.len().saturating_sub(lines.len());
        if more > 0 {
            lines.push(format!("and {more} more tasks whose records do not open"));
        }
        lines
    }
}

fn line(id: &TaskId) -> String {
    format!(
        "{id}: its record does not open: it was altered, or its root key is missing in \
         keys.other_root_key_files; `sundew revoke --task {id}` ends it"
    )
}

impl Records {
    /// Returns a task like [`look_at_task`](Self::look_at_task), for callers that look at all. One
    /// whose record does not open is left out and noted.
    pub(crate) async fn look_at_readable_task(
        &self,
        id: TaskId,
    ) -> Result<Option<Arc<KnownTask>>, Refusal> {
        self.readable(id, self.look_at_task(id).await)
    }

    /// Leaves out what belongs to a task and does not open, and notes the task.
    pub(crate) fn readable<T>(
        &self,
        id: TaskId,
        read: Result<Option<T>, Refusal>,
    ) -> Result<Option<T>, Refusal> {
        match read {
            Err(Refusal::Seal { .. }) => {
                self.unreadable.note(id);
                Ok(None)
            }
            read => {
                self.unreadable.tasks().remove(&id);
                read
            }
        }
    }

    /// Returns the tasks whose records do not open and that are not over, for operators, one line each.
    pub(crate) fn task_problems(&self, is_over: impl Fn(TaskId) -> bool) -> Vec<String> {
        self.unreadable.lines(is_over)
    }
}
