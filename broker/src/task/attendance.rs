//! Tasks that are attended at this broker: those with an open Attend stream.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sundew_core::protocol::{is_report_due, is_unreported};
use sundew_core::{Event, TaskId};
use tokio::sync::Notify;

use crate::clock;
use crate::liveness::Subscriber;
use crate::records::Task;
use crate::task_tree_index::TaskTreeIndex;

/// The attended tasks, each with the number of its streams.
#[derive(Default)]
pub(crate) struct Attendance {
    attended: Mutex<TaskTreeIndex<Attended>>,
}

/// An attended task.
struct Attended {
    /// The number of open streams.
    streams: usize,
    grace_ms: i64,
    deadline_ms: i64,
    attended_from: Instant,
    /// When the store last got a report of the task.
    reported_at: Option<Instant>,
    /// Whether the store may have lost the task since it was read.
    in_question: bool,
    news: Arc<Notify>,
}

/// An open Attend stream; the task is attended until this is dropped.
pub(super) struct Attending {
    attendance: Arc<Attendance>,
    task: TaskId,
    /// Notified when the revocation log may have said something about the task.
    pub(super) news: Arc<Notify>,
}

impl Attended {
    fn grace(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.grace_ms).unwrap_or(0))
    }
}

impl Attending {
    /// Says whether the task is to be read again, because the store may have lost it.
    pub(super) fn is_in_question(&self) -> bool {
        let attended = self.attendance.lock();
        attended
            .get(&self.task)
            .is_some_and(|entry| entry.in_question)
    }

    /// Notes that the store has the task.
    pub(super) fn is_there(&self) {
        if let Some(entry) = self.attendance.lock().get_mut(&self.task) {
            entry.in_question = false;
        }
    }

    /// Says whether the store has had no report of the task for too long.
    pub(super) fn is_unreported(&self) -> bool {
        self.attendance.lock().get(&self.task).is_some_and(|entry| {
            let last = entry.reported_at.unwrap_or(entry.attended_from);
            is_unreported(clock::since(last), entry.grace())
        })
    }
}

impl Drop for Attending {
    fn drop(&mut self) {
        let mut attended = self.attendance.lock();
        if let Some(entry) = attended.get_mut(&self.task) {
            entry.streams = entry.streams.saturating_sub(1);
            if entry.streams == 0 {
                attended.remove(&self.task);
            }
        }
    }
}

impl Attendance {
    fn lock(&self) -> MutexGuard<'_, TaskTreeIndex<Attended>> {
        self.attended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts another stream of a task.
    pub(super) fn attend(self: &Arc<Self>, task: &Task) -> Attending {
        let fresh = || Attended {
            streams: 0,
            grace_ms: task.grace_ms,
            deadline_ms: task.deadline_ms,
            attended_from: clock::monotonic(),
            reported_at: None,
            in_question: false,
            news: Arc::default(),
        };
        let mut attended = self.lock();
        let entry = attended.or_insert_with(task.id, &task.record().ancestors, fresh);
        entry.streams = entry.streams.saturating_add(1);
        Attending {
            attendance: Arc::clone(self),
            task: task.id,
            news: Arc::clone(&entry.news),
        }
    }

    /// Says whether a task has a stream at this broker.
    pub(super) fn is_attended(&self, task: &TaskId) -> bool {
        self.lock().get(task).is_some()
    }

    /// The number of tasks that are attended at this broker.
    pub(crate) fn count(&self) -> usize {
        self.lock().iter().count()
    }

    /// Answers the tasks that the store must get a report of now, because the last report is older
    /// than a third of their grace. With each comes the time at which the task is due if no other
    /// report follows, in milliseconds since the epoch. A task stays in the answer until
    /// [`reported`](Self::reported) says that the store has its report (L12).
    pub(super) fn due_reports(&self, now_ms: i64) -> Vec<(TaskId, i64)> {
        let mut due = Vec::new();
        for (task, entry) in self.lock().iter() {
            if is_report_due(entry.reported_at.map(clock::since), entry.grace()) {
                due.push((
                    *task,
                    now_ms.saturating_add(entry.grace_ms).min(entry.deadline_ms),
                ));
            }
        }
        due
    }

    /// Notes that the store has the reports of these tasks.
    pub(super) fn reported(&self, tasks: impl IntoIterator<Item = TaskId>) {
        let now = clock::monotonic();
        let mut attended = self.lock();
        for task in tasks {
            if let Some(entry) = attended.get_mut(&task) {
                entry.reported_at = Some(now);
            }
        }
    }
}

impl Subscriber for Attendance {
    /// Wakes the streams that an entry of the log concerns.
    fn on_event(self: Arc<Self>, event: &Event) {
        match event {
            Event::Ended { task, .. } | Event::Suspended(task) | Event::Resumed(task) => {
                self.lock()
                    .ending_with(task)
                    .for_each(|(_, entry)| entry.news.notify_waiters());
            }
            Event::Rule { .. } => self
                .lock()
                .iter_mut()
                .for_each(|(_, entry)| entry.news.notify_waiters()),
            Event::Changed(_) | Event::Floor | Event::Lifted(_) => {}
        }
    }

    /// What was attended before is looked for in the store again.
    fn on_gap(self: Arc<Self>) {
        self.lock().iter_mut().for_each(|(_, entry)| {
            entry.in_question = true;
            entry.news.notify_waiters();
        });
    }
}
