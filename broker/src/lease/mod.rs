//! Secrets that are made for one task in another system, and certainly removed there (P6).
//!
//! Intent is written before creation, under the name that the credential will have (`grant.rs`).
//! Creation, removal and listing at the target are the engines' business (`engine.rs`), due leases
//! the workers' (`worker.rs`), and the proof that all of this works at a target comes before an
//! engine is taken (`trial.rs`). The password is derived, so it is stored nowhere.

mod engine;
mod engines;
mod grant;
mod overdue;
mod postgres;
mod queue;
mod redis_acl;
#[cfg(test)]
mod tests;
mod trial;
mod worker;

pub use postgres::removal as postgres_removal;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sundew_core::store::{DocumentKind, StoredLease};
use sundew_core::{Changed, Event, KnownTask, LeaseId, LeaseRecord, Liveness, TaskId};
use sundew_proto::v1;
use tokio::sync::Notify;

use crate::ledger::Ledger;
use crate::liveness::Subscriber;
use crate::refusal::Refusal;
use crate::secret::Secrets;
use crate::task_tree_index::TaskTreeIndex;
pub(crate) use engines::RunningEngine;
pub(crate) use overdue::LeaseCounts;
use overdue::Overdue;

/// A lock for each lease that is being made.
type Making = HashMap<LeaseId, Weak<tokio::sync::Mutex<()>>>;

/// The room of leases.
pub(crate) struct Leases {
    ledger: Ledger,
    secrets: Arc<Secrets>,
    engines: Mutex<HashMap<String, Arc<RunningEngine>>>,
    /// Tasks with leases that are not due yet, as far as this broker knows.
    tasks: Mutex<TaskTreeIndex<Watched>>,
    /// Notified when tasks may have died, and when engines changed.
    news: Notify,
    /// Tasks that have ended, or were suspended or resumed, and whose leases were not looked at yet.
    stopped: Mutex<Vec<TaskId>>,
    counts: Mutex<HashMap<String, (u64, u64)>>,
    overdue: Mutex<Overdue>,
    /// What is wrong with engines that cannot be used at all.
    unusable: Mutex<Vec<String>>,
    look_at_all: AtomicBool,
    making: Mutex<Making>,
}

struct Watched {
    task: Arc<KnownTask>,
    leases: Vec<WatchedLease>,
}

struct WatchedLease {
    id: LeaseId,
    engine: String,
    /// The name of the secret that the lease is for.
    secret: String,
}

impl Leases {
    /// A room without engines; [`reload_engines`](Self::reload_engines) reads them.
    pub(crate) fn new(ledger: Ledger, secrets: Arc<Secrets>) -> Self {
        Self {
            ledger,
            secrets,
            engines: Mutex::default(),
            tasks: Mutex::default(),
            news: Notify::new(),
            stopped: Mutex::default(),
            counts: Mutex::default(),
            overdue: Mutex::default(),
            unusable: Mutex::default(),
            look_at_all: AtomicBool::new(false),
            making: Mutex::default(),
        }
    }

    fn engine(&self, name: &str) -> Option<Arc<RunningEngine>> {
        self.engines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// All engines.
    pub(crate) fn engines(&self) -> Vec<(String, Arc<RunningEngine>)> {
        self.engines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(name, engine)| (name.clone(), Arc::clone(engine)))
            .collect()
    }

    /// How many leases each engine had lately: all of them, those that were due, those that were
    /// overdue, and for how long the oldest of these has been seen.
    pub(crate) fn counts(&self) -> Vec<LeaseCounts> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let overdue = self.overdue.lock().unwrap_or_else(PoisonError::into_inner);
        let of_engine = |(engine, (all, due)): (&String, &(u64, u64))| LeaseCounts {
            engine: engine.clone(),
            all: *all,
            due: *due,
            overdue: overdue.of(engine),
        };
        counts.iter().map(of_engine).collect()
    }

    /// What is wrong with targets, for health.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self
            .engines()
            .into_iter()
            .map(|(name, engine)| (name, engine.problem()));
        let problems = problems
            .filter(|(_, problem)| !problem.is_empty())
            .map(|(name, problem)| format!("engine {name}: {problem}"));
        self.unusable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .chain(problems)
            .collect()
    }

    fn watch(&self, task: &Arc<KnownTask>, id: LeaseId, record: &LeaseRecord) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = tasks.or_insert_with(task.id, &task.record().ancestors, || Watched {
            task: Arc::clone(task),
            leases: Vec::new(),
        });
        if !watched.leases.iter().any(|known| known.id == id) {
            watched.leases.push(WatchedLease {
                id,
                engine: record.engine.clone(),
                secret: format!("{}/{}", record.engine, record.role),
            });
        }
    }
}

impl Leases {
    /// Shows every lease of every engine to `look`.
    pub(crate) async fn each_lease(&self, mut look: impl FnMut(Lease)) -> Result<(), Refusal> {
        for (name, _) in self.engines() {
            for stored in self.stored_leases(&name).await? {
                look(Lease {
                    id: stored.id,
                    record: self.open_lease(&name, &stored)?,
                    due_ms: stored.due_ms,
                });
            }
        }
        Ok(())
    }

    /// What each engine has under another root key than the active one.
    pub(crate) async fn under_other_keys(&self) -> Result<Vec<OtherLeases>, Refusal> {
        let records = &self.ledger.records;
        let mut found = Vec::new();
        for (name, _) in records.store().documents(DocumentKind::Engine).await? {
            let leases = self.stored_leases(&name).await?;
            let is_other = |lease: &&StoredLease| records.is_other_lease(&name, lease);
            let leases = leases.iter().filter(is_other).count();
            let at_target = match self.engine(&name) {
                Some(engine) => engine.names_under_other_keys().await,
                None => Err("the engine cannot be used".to_owned()),
            };
            found.push(OtherLeases {
                engine: name,
                leases,
                at_target,
            });
        }
        Ok(found)
    }

    /// All leases of an engine as they are stored, each once.
    async fn stored_leases(&self, engine: &str) -> Result<Vec<StoredLease>, Refusal> {
        let (mut all, mut seen, mut from) = (Vec::new(), HashSet::new(), 0);
        loop {
            let (page, next) = self.ledger.records.store().leases(engine, from).await?;
            all.extend(page.into_iter().filter(|lease| seen.insert(lease.id)));
            if next == 0 {
                return Ok(all);
            }
            from = next;
        }
    }

    /// Makes the leases of these tasks due, if the tasks are dead or suspended, or if the leases are
    /// of a time before the last suspension (L10).
    async fn end_leases(&self, tasks: Vec<TaskId>) -> Result<(), Refusal> {
        let mut due: HashMap<String, Vec<LeaseId>> = HashMap::new();
        {
            let view = self.ledger.log.view()?;
            let now_ms = self.ledger.log.ending_time_ms();
            let watched = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            for watched in tasks.iter().filter_map(|id| watched.get(id)) {
                let task = &watched.task;
                let has_none =
                    view.task_liveness(task, now_ms) != Liveness::Alive || view.is_suspended(task);
                let interruptions = view.interruptions(task);
                for lease in &watched.leases {
                    let root = (self.ledger.root(), task.root_key());
                    let now = LeaseRecord::id(root, task.id, &lease.secret, &interruptions);
                    if has_none || now != lease.id {
                        due.entry(lease.engine.clone()).or_default().push(lease.id);
                    }
                }
            }
        }
        let now_ms = self.ledger.log.ending_time_ms();
        for (engine, leases) in &due {
            for some in leases.chunks(500) {
                self.ledger
                    .records
                    .store()
                    .lease_due(engine, some, now_ms)
                    .await?;
            }
            if let Some(engine) = self.engine(engine) {
                engine.wake.notify_one();
            }
        }
        let due: HashSet<_> = due.into_values().flatten().collect();
        let mut watched = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for id in &tasks {
            if let Some(task) = watched.get_mut(id) {
                task.leases.retain(|lease| !due.contains(&lease.id));
                if task.leases.is_empty() {
                    watched.remove(id);
                }
            }
        }
        Ok(())
    }
}

impl Subscriber for Leases {
    fn on_event(self: Arc<Self>, event: &Event) {
        match event {
            Event::Changed(Changed::Engines) => {
                self.reload_engines_in_background();
                return;
            }
            Event::Ended { task, .. } | Event::Resumed(task) | Event::Suspended(task) => {
                let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
                let before = stopped.len();
                stopped.extend(tasks.ending_with(task).map(|(id, _)| *id));
                if stopped.len() == before {
                    return;
                }
            }
            Event::Rule { .. } => self.look_at_all.store(true, Ordering::Release),
            Event::Changed(_) | Event::Floor | Event::Lifted(_) => return,
        }
        self.news.notify_one();
    }

    fn on_gap(self: Arc<Self>) {
        self.reload_engines_in_background();
    }
}

/// What an engine has under another root key than the active one.
pub(crate) struct OtherLeases {
    pub(crate) engine: String,
    /// The number of leases whose record is under another key.
    pub(crate) leases: usize,
    /// The number of names at the target that were given under another key, or why that is not known.
    pub(crate) at_target: Result<usize, String>,
}

/// A lease, and when it is due.
pub(crate) struct Lease {
    pub(crate) id: LeaseId,
    pub(crate) record: LeaseRecord,
    pub(crate) due_ms: i64,
}

impl Lease {
    pub(crate) fn message(&self) -> v1::LeaseInfo {
        v1::LeaseInfo {
            lease_id: self.id.to_string(),
            engine: self.record.engine.clone(),
            role: self.record.role.clone(),
            task_id: self.record.task.to_string(),
            username: self.record.username.clone(),
            due_ms: self.due_ms,
            failures: self.record.failures,
            problem: self.record.problem.clone(),
        }
    }
}
