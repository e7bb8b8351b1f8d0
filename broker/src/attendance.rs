//! Who is attended, and ending what is not: a task past its deadline expires, one that nobody
//! attends is abandoned (P5).
//!
//! Every broker sweeps the store's list of what is due; that two of them end the same task gives
//! one outcome, the log's first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sundew_core::{Cause, Event, KnownTask, Liveness, Outcome, TaskId};
use tokio::sync::Notify;

use crate::broker::Broker;
use crate::clock;
use crate::journal;
use crate::kin::Kin;
use crate::records::Task;
use crate::refusal::Refusal;

const SWEEP_EVERY: Duration = Duration::from_millis(250);
/// How often attendance is told to the store, as a part of the shortest grace (1 s).
const TELL_EVERY: Duration = Duration::from_millis(300);
/// Due tasks looked at in one sweep.
const BATCH: usize = 256;
/// A task that a rule killed is looked at again after this long, in milliseconds.
const REVOKED_AGAIN_MS: i64 = 30_000;
/// Endings stay in the log this long after the task's deadline, in milliseconds.
const UNTIL_AFTER_MS: i64 = 60_000;

/// Tasks that are attended at this broker.
pub struct Attendance {
    attended: Mutex<Kin<Attended>>,
    started: Instant,
}

struct Attended {
    streams: usize,
    grace_ms: i64,
    deadline_ms: i64,
    told: Option<Instant>,
    news: Arc<Notify>,
}

/// Held by an open Attend stream.
pub(crate) struct Attending {
    broker: Arc<Broker>,
    task: TaskId,
    /// Rings when the revocation log may have said something about the task.
    pub(crate) news: Arc<Notify>,
}

impl Drop for Attending {
    fn drop(&mut self) {
        let mut attended = self.broker.attendance.lock();
        if let Some(entry) = attended.get_mut(&self.task) {
            entry.streams = entry.streams.saturating_sub(1);
            if entry.streams == 0 {
                attended.remove(&self.task);
            }
        }
    }
}

impl Default for Attendance {
    fn default() -> Self {
        Self {
            attended: Mutex::default(),
            started: clock::monotonic(),
        }
    }
}

impl Attendance {
    fn lock(&self) -> MutexGuard<'_, Kin<Attended>> {
        self.attended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn attend(broker: &Arc<Broker>, task: &Task) -> Attending {
        let fresh = || Attended {
            streams: 0,
            grace_ms: task.grace_ms,
            deadline_ms: task.deadline_ms,
            told: None,
            news: Arc::default(),
        };
        let mut attended = broker.attendance.lock();
        let entry = attended.or_insert_with(task.id, &task.record().ancestors, fresh);
        entry.streams = entry.streams.saturating_add(1);
        Attending {
            broker: Arc::clone(broker),
            task: task.id,
            news: Arc::clone(&entry.news),
        }
    }

    /// Tells the streams that an entry of the log concerns.
    pub(crate) fn tell(&self, event: &Event) {
        let mut attended = self.lock();
        match event {
            Event::Ended { task, .. } | Event::Suspended(task) | Event::Resumed(task) => {
                attended
                    .ending_with(task)
                    .for_each(|(_, entry)| entry.news.notify_waiters());
            }
            Event::Rule { .. } => attended
                .iter_mut()
                .for_each(|(_, entry)| entry.news.notify_waiters()),
            Event::Lifted(_) | Event::Changed(_) | Event::Floor => {}
        }
    }

    /// What to tell the store: tasks whose last word there is older than a third of their grace.
    fn untold(&self, now_ms: i64) -> Vec<(TaskId, i64)> {
        let mut due = Vec::new();
        for (task, entry) in self.lock().iter_mut() {
            let third = Duration::from_millis(u64::try_from(entry.grace_ms / 3).unwrap_or(0));
            if entry.told.is_none_or(|at| clock::since(at) >= third) {
                entry.told = Some(clock::monotonic());
                due.push((
                    *task,
                    now_ms.saturating_add(entry.grace_ms).min(entry.deadline_ms),
                ));
            }
        }
        due
    }
}

impl Broker {
    /// Tells the store who is attended here, for as long as it is polled.
    pub(crate) async fn keep_attendance(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            let due = self.attendance.untold(clock::now_ms());
            if !due.is_empty()
                && let Err(error) = self.records.store().attend(due).await
            {
                tracing::warn!(%error, "attendance could not be told to the store");
            }
        }
    }

    /// Ends what is due, for as long as it is polled.
    pub(crate) async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            let due = match self.records.store().due(clock::now_ms(), BATCH).await {
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

    async fn end_due(&self, id: TaskId) -> Result<(), Refusal> {
        let Some(task) = self.records.task(id).await? else {
            // Reserved and never created, or kept no longer.
            return Ok(self.records.store().release_task("", id).await?);
        };
        let now_ms = clock::now_ms();
        let liveness = self.keeper.view()?.judge_task(&task, now_ms);
        let outcome = match liveness {
            Liveness::Dead(Cause::TaskEnded(_)) => return self.release(&task).await,
            Liveness::Dead(Cause::Revoked) => {
                // The clean-up after the rule counts it, takes it off the lists and puts it on the
                // record.
                return Ok(self
                    .records
                    .store()
                    .attend(vec![(
                        id,
                        now_ms
                            .saturating_add(REVOKED_AGAIN_MS)
                            .min(task.deadline_ms),
                    )])
                    .await?);
            }
            Liveness::Dead(cause) => cause.outcome(),
            Liveness::Alive => {
                // Agents need time to come back after a restart of their broker.
                let up_ms = i64::try_from(clock::since(self.attendance.started).as_millis())
                    .unwrap_or(i64::MAX);
                if up_ms < task.grace_ms || self.attendance.lock().get(&id).is_some() {
                    let due_ms = now_ms.saturating_add(task.grace_ms).min(task.deadline_ms);
                    return Ok(self.records.store().attend(vec![(id, due_ms)]).await?);
                }
                Outcome::Abandoned
            }
        };
        self.end_task(&task, outcome, None).await.map(drop)
    }

    /// Takes an ended task off the lists.
    pub(crate) async fn release(&self, task: &KnownTask) -> Result<(), Refusal> {
        let store = self.records.store();
        store.release_task(task.workload.as_str(), task.id).await?;
        if let Some(parent) = task.record().ancestors.last() {
            store.release_task(&parent.to_string(), task.id).await?;
        }
        Ok(())
    }

    /// P4: ends a task. Answers the one outcome that it has.
    pub(crate) async fn end_task(
        &self,
        task: &KnownTask,
        outcome: Outcome,
        actor: Option<&str>,
    ) -> Result<Outcome, Refusal> {
        let known = {
            let view = self.keeper.view()?;
            view.outcome(task.id).zip(view.ended_by(task))
        };
        if let Some((ended, by)) = known {
            self.keeper.confirm(by).await?;
            return Ok(ended);
        }
        let audit = journal::record("task_ended")
            .with("task", task.id)
            .with("workload", &task.workload)
            .with("outcome", outcome.as_str());
        let audit = audit.with("actor", actor.unwrap_or("broker"));
        let until_ms = task
            .deadline_ms
            .max(clock::now_ms())
            .saturating_add(UNTIL_AFTER_MS);
        self.end(
            Event::Ended {
                task: task.id,
                outcome,
            },
            until_ms,
            audit,
        )
        .await?;
        let ended = self.keeper.view()?.outcome(task.id).unwrap_or(outcome);
        if let Err(error) = self.release(task).await {
            tracing::debug!(%error, "an ended task stays on the lists until its deadline");
        }
        Ok(ended)
    }

    /// Until when an ending of this task must be remembered.
    pub(crate) fn until_ms(task: &KnownTask) -> i64 {
        task.deadline_ms.saturating_add(UNTIL_AFTER_MS)
    }

    /// Until when a rule must be remembered whose targets may not be known: longer than any task
    /// can live.
    pub(crate) fn remembered_until(&self) -> i64 {
        clock::now_ms()
            .saturating_add(self.limits.longest_task.as_ms())
            .saturating_add(UNTIL_AFTER_MS)
    }
}
