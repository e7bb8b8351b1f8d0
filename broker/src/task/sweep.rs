//! Ending tasks that nobody ends: a task past its deadline expires, and a task that nobody attends
//! is abandoned (P5).
//!
//! Every broker sweeps the store's list of due tasks. When two brokers end one task, the task has
//! one outcome: the first in the log.

use std::sync::Arc;
use std::time::Duration;

use sundew_core::{Cause, Liveness, Outcome, TaskId};

use super::{Tasks, ending};
use crate::clock;
use crate::refusal::Refusal;

/// How often due tasks are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// How often it is looked whether reports on attended tasks are due: somewhat less than a third of
/// the shortest grace, which is one second.
const REPORT_INTERVAL: Duration = Duration::from_millis(300);
/// Most tasks that one sweep ends.
const MAX_SWEPT: usize = 256;
/// Time after which a task that a rule killed is looked at again, in milliseconds.
const REVOKED_CHECK_MS: i64 = 30_000;

impl Tasks {
    /// Reports to the store which tasks are attended here, for as long as it is polled.
    pub(crate) async fn report_attendance(self: Arc<Self>) {
        loop {
            tokio::time::sleep(REPORT_INTERVAL).await;
            let due = self.attendance.due_reports(clock::now_ms());
            if due.is_empty() {
                continue;
            }
            let tasks: Vec<_> = due.iter().map(|(task, _)| *task).collect();
            match self.ledger.records.store().attend(due).await {
                Ok(()) => self.attendance.reported(tasks),
                Err(error) => {
                    tracing::warn!(%error, "attendance could not be told to the store");
                }
            }
        }
    }

    /// Ends what is due, for as long as it is polled.
    pub(crate) async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            let store = self.ledger.records.store();
            let due = match store.due(clock::now_ms(), MAX_SWEPT).await {
                Ok(due) => due,
                Err(error) => {
                    tracing::debug!(%error, "sweep");
                    continue;
                }
            };
            for task in due {
                if let Err(error) = self.end_due(task).await {
                    tracing::warn!(%task, %error, "a task that is due could not be ended yet");
                }
            }
        }
    }

    /// Ends a task that is due, unless the task is attended here or its end is another's business.
    async fn end_due(&self, id: TaskId) -> Result<(), Refusal> {
        let store = self.ledger.records.store();
        let Some(task) = self.ledger.records.task(id).await? else {
            // Reserved and never created, or kept no longer.
            return Ok(store.release_task("", id).await?);
        };
        let now_ms = clock::now_ms();
        let liveness = self.ledger.log.view()?.task_liveness(&task, now_ms);
        let look_again_after = |wait_ms: i64| {
            let due_ms = now_ms.saturating_add(wait_ms).min(task.deadline_ms);
            store.attend(vec![(id, due_ms)])
        };
        let outcome = match liveness {
            Liveness::Dead(Cause::TaskEnded(_)) => return self.ledger.release(&task).await,
            // The clean-up after the rule counts it, takes it off the lists and puts it on the
            // record.
            Liveness::Dead(Cause::Revoked) => {
                return Ok(look_again_after(REVOKED_CHECK_MS).await?);
            }
            Liveness::Dead(cause) => cause.outcome(),
            Liveness::Alive => {
                // L12: time in which attendance could not be told counts for nobody. After an outage
                // of the store, other brokers need time to tell theirs; after a restart, agents
                // need time to come back.
                let steady_ms = i64::try_from(self.ledger.log.steady_for().as_millis());
                let just_back = steady_ms.unwrap_or(i64::MAX) < task.grace_ms;
                if just_back || self.attendance.is_attended(&id) {
                    return Ok(look_again_after(task.grace_ms).await?);
                }
                Outcome::Abandoned
            }
        };
        ending::end_task(&self.ledger, &task, outcome, None)
            .await
            .map(drop)
    }
}
