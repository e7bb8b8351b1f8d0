//! Ending tasks that nobody ends: a task past its deadline expires, and a task that nobody attends
//! is abandoned (P5).
//!
//! Every broker sweeps the store's list of due tasks. When two brokers end one task, the task has
//! one outcome: the first in the log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sundew_core::protocol::is_abandoned;
use sundew_core::{Cause, KnownTask, Liveness, Outcome, TaskId};
use tokio::task::JoinSet;

use super::{Tasks, ending};
use crate::clock;
use crate::refusal::Refusal;

/// How often due tasks are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// How often it is looked whether reports on attended tasks are due: somewhat less than a third of
/// the shortest grace, which is one second.
const REPORT_INTERVAL: Duration = Duration::from_millis(300);
/// How often tasks are counted, for metrics.
const COUNT_INTERVAL: Duration = Duration::from_secs(2);
/// A store that takes longer than this to answer may have been away: somewhat less than two thirds of
/// the shortest grace, which is how long a report may be late.
const SLOW: Duration = Duration::from_millis(500);
/// Most tasks that one sweep ends. L16: they wait together, for a freshness bound while another
/// broker stands still, so this is also how many end in that time.
const MAX_SWEPT: usize = 4096;
/// Most due tasks that are looked at together.
const LOOKED_AT_TOGETHER: usize = 64;
/// Time after which a task that a rule killed is looked at again, in milliseconds.
const REVOKED_CHECK_MS: i64 = 30_000;

/// What is left after a sweep.
enum Swept {
    /// Nothing, or only what cannot be ended now.
    AllThatCanBe,
    /// More may be due than one sweep looks at.
    Full,
}

/// For how long the store has answered this broker's sweeps. L12: an outage that is shorter than the
/// freshness bound does not show in the view, and may be longer than a grace.
pub(super) struct Answered(Mutex<Option<Instant>>);

impl Answered {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Some(clock::monotonic())))
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the store has not answered.
    fn none(&self) {
        *self.since() = None;
    }

    /// Notes that the store has answered a sweep that asked it at `asked`, and returns for how long
    /// it has answered. A store that took long may have been away.
    fn one(&self, asked: Instant) -> Duration {
        let mut since = self.since();
        if clock::since(asked) > SLOW {
            *since = None;
        }
        clock::since(*since.get_or_insert_with(clock::monotonic))
    }
}

/// What is known of sweeps, for metrics.
pub(super) struct SweepState(Mutex<LastSweep>);

#[derive(Clone, Copy)]
struct LastSweep {
    /// When a sweep ended, or the broker started.
    ended: Instant,
    /// When tasks were counted.
    counted: Option<Instant>,
    tasks: u64,
}

impl SweepState {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LastSweep {
            ended: clock::monotonic(),
            counted: None,
            tasks: 0,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, LastSweep> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long ago a sweep ended, and how many tasks there were lately.
    pub(super) fn read(&self) -> (Duration, u64) {
        let last = *self.lock();
        (clock::since(last.ended), last.tasks)
    }

    /// Notes that a sweep ended.
    fn end(&self) {
        self.lock().ended = clock::monotonic();
    }

    fn is_count_due(&self) -> bool {
        let counted = self.lock().counted;
        counted.is_none_or(|at| clock::since(at) >= COUNT_INTERVAL)
    }

    /// Notes how many tasks there are.
    fn count(&self, tasks: u64) {
        let mut last = self.lock();
        (last.counted, last.tasks) = (Some(clock::monotonic()), tasks);
    }
}

impl Tasks {
    /// Reports to the store which tasks are attended here, for as long as it is polled.
    pub(crate) async fn report_attendance(self: Arc<Self>) {
        let mut is_failing = false;
        loop {
            tokio::time::sleep(REPORT_INTERVAL).await;
            let due = self.attendance.due_reports(clock::now_ms());
            if due.is_empty() {
                continue;
            }
            let tasks: Vec<_> = due.iter().map(|(task, _)| *task).collect();
            match self.ledger.records.store().attend(due).await {
                Ok(()) => {
                    self.attendance.reported(tasks);
                    if std::mem::take(&mut is_failing) {
                        tracing::info!("the store is told of attendance again");
                    }
                }
                // Once for an outage, which may be long.
                Err(error) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::warn!(%error, "attendance cannot be told to the store");
                }
                Err(_) => {}
            }
        }
    }

    /// Ends what is due, for as long as it is polled.
    pub(crate) async fn sweep(self: Arc<Self>) {
        loop {
            match self.sweep_once().await {
                // More is due than one sweep ends: nobody may say that all of it is done.
                Ok(Swept::Full) => continue,
                Ok(Swept::AllThatCanBe) => self.swept.end(),
                Err(error) => {
                    self.answered.none();
                    tracing::debug!(%error, "sweep");
                }
            }
            if self.swept.is_count_due() {
                match self.ledger.records.store().count_tasks().await {
                    Ok(tasks) => self.swept.count(tasks),
                    Err(error) => tracing::debug!(%error, "tasks are not counted"),
                }
            }
            tokio::time::sleep(SWEEP_INTERVAL).await;
        }
    }

    /// Looks at the tasks that are due, and ends those that must end, together: their endings wait
    /// for the other brokers once (L16).
    async fn sweep_once(self: &Arc<Self>) -> Result<Swept, Refusal> {
        let store = self.ledger.records.store();
        let asked = clock::monotonic();
        let due = store
            .due(self.ledger.log.ending_time_ms(), MAX_SWEPT)
            .await?;
        let answers_for = self.answered.one(asked);
        let (mut ending, mut put_off) = (Vec::new(), Vec::new());
        for some in due.chunks(LOOKED_AT_TOGETHER) {
            let mut looks = JoinSet::new();
            for id in some.iter().copied() {
                let tasks = Arc::clone(self);
                looks.spawn(async move { (id, tasks.verdict(id, answers_for).await) });
            }
            for (id, verdict) in looks.join_all().await {
                match verdict {
                    Ok(verdict) => ending.extend(verdict),
                    Err(error) => put_off.push((id, error)),
                }
            }
        }
        let mut is_blocked = !put_off.is_empty();
        if let Some((first, error)) = put_off.first() {
            let tasks = put_off.len();
            tracing::warn!(tasks, %first, %error, "tasks that are due could not be looked at yet");
        }
        let tasks = ending.len();
        if let Err(error) = ending::end_many(&self.ledger, ending).await {
            is_blocked = true;
            self.answered.none();
            tracing::warn!(tasks, %error, "tasks that are due could not be ended yet");
        }
        // What could not be ended would be found again at once.
        Ok(if due.len() == MAX_SWEPT && !is_blocked {
            Swept::Full
        } else {
            Swept::AllThatCanBe
        })
    }

    /// What a task that is due must end as, if the store has answered for `answers_for`; nothing if it
    /// lives on or has ended. Puts off when it is looked at again, or takes it off the lists.
    async fn verdict(
        &self,
        id: TaskId,
        answers_for: Duration,
    ) -> Result<Option<(Arc<KnownTask>, Outcome)>, Refusal> {
        let store = self.ledger.records.store();
        let Some(task) = self.ledger.records.task(id).await? else {
            let Some(orphan) = self.ledger.records.orphan(id).await? else {
                // Reserved and never created, or kept no longer.
                store.release_task("", id).await?;
                return Ok(None);
            };
            // A2: what remained of a task above it is gone, so it is dead. How it ended is to be on
            // the record.
            let view = self.ledger.log.view()?;
            return Ok(
                match view.task_liveness(&orphan, self.ledger.log.ending_time_ms()) {
                    Liveness::Dead(cause) => Some((orphan, cause.outcome())),
                    Liveness::Alive => Some((orphan, Outcome::Canceled)),
                },
            );
        };
        let now_ms = self.ledger.log.ending_time_ms();
        let liveness = self.ledger.log.view()?.task_liveness(&task, now_ms);
        let look_again_after = |wait_ms: i64| {
            let due_ms = now_ms.saturating_add(wait_ms).min(task.deadline_ms);
            store.attend(vec![(id, due_ms)])
        };
        let outcome = match liveness {
            Liveness::Dead(Cause::TaskEnded(_)) => {
                self.ledger.release(&task).await?;
                return Ok(None);
            }
            // The clean-up after the rule counts it, takes it off the lists and puts it on the
            // record.
            Liveness::Dead(Cause::Revoked) => {
                look_again_after(REVOKED_CHECK_MS).await?;
                return Ok(None);
            }
            Liveness::Dead(cause) => cause.outcome(),
            Liveness::Alive => {
                let grace = Duration::from_millis(u64::try_from(task.grace_ms).unwrap_or(0));
                let steady_for = self.ledger.log.steady_for().min(answers_for);
                if !is_abandoned(self.attendance.is_attended(&id), steady_for, grace) {
                    look_again_after(task.grace_ms).await?;
                    return Ok(None);
                }
                Outcome::Abandoned
            }
        };
        Ok(Some((Arc::clone(&task.known), outcome)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The view may be fresh for longer than an outage, and a grace may be shorter.
    #[test]
    fn l12_a_store_that_was_away_has_answered_only_since_then() {
        let _stopped = clock::testing::stop();
        let answered = Answered::new();
        let second = Duration::from_secs(1);
        clock::testing::advance(second);
        assert_eq!(answered.one(clock::monotonic()), second);
        answered.none();
        assert_eq!(answered.one(clock::monotonic()), Duration::ZERO);
        clock::testing::advance(second);
        let asked = clock::monotonic();
        clock::testing::advance(SLOW);
        assert_eq!(answered.one(asked), second + SLOW);
        clock::testing::advance(Duration::from_millis(1));
        assert_eq!(answered.one(asked), Duration::ZERO, "it took too long");
    }
}
