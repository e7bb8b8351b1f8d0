//! Removing what is due, for ever until it succeeds, and finding what nobody knows of.
//!
//! One worker per engine, so that a dead target holds up nobody else's leases. Leases are claimed
//! with a time-out: when a broker dies, another one takes over what it had claimed.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom as _, SystemRandom};
use sundew_core::{LeaseId, LeaseRecord};
use tokio::task::{AbortHandle, JoinSet};

use super::engine::{EngineError, Removed};
use super::overdue::Overdue;
use super::{Leases, RunningEngine};
use crate::clock;
use crate::journal;
use crate::refusal::Refusal;

/// How long a broker has a claimed lease to itself, in milliseconds.
const CLAIM_MS: i64 = 30_000;
/// Leases claimed at a time, for each connection to the target.
const CLAIM_PER_CONNECTION: usize = 16;
/// Longest wait of a worker for news, before it asks the store for what is due.
const DUE_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// How long a worker goes on with what is due before it looks at whether it is time to sweep.
const REMOVE_FOR: Duration = Duration::from_secs(10);
/// How often all leases are looked at: those that another broker made and did not live to end.
const SCAN_INTERVAL: Duration = Duration::from_secs(10);
/// How often a target is asked for what it has under our names.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Pause before a target that could not be reached is tried again, the first time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause before a target that cannot be reached is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The workers, one for each engine, by the name of the engine.
#[derive(Default)]
struct Workers {
    by_engine: HashMap<String, (Arc<RunningEngine>, AbortHandle)>,
    running: JoinSet<()>,
}

impl Workers {
    /// Ends the workers of engines that are gone or were replaced, and starts those that are
    /// missing.
    fn follow(&mut self, leases: &Arc<Leases>) {
        let engines: HashMap<_, _> = leases.engines().into_iter().collect();
        self.by_engine.retain(|name, (engine, handle)| {
            let same = engines
                .get(name)
                .is_some_and(|now| Arc::ptr_eq(now, engine));
            if !same {
                handle.abort();
            }
            same
        });
        for (name, engine) in engines {
            let running = &mut self.running;
            self.by_engine.entry(name).or_insert_with(|| {
                let work = Arc::clone(leases).work_for(Arc::clone(&engine));
                (engine, running.spawn(work))
            });
        }
    }
}

/// Removals under way at the target; each answers the lease and how it went.
type Removals = JoinSet<(LeaseId, LeaseRecord, Result<Removed, EngineError>)>;

impl Leases {
    /// Ends the leases of dead tasks and keeps a worker for each engine, for as long as it is
    /// polled.
    pub(crate) async fn keep_leases(self: Arc<Self>) {
        let mut workers = Workers::default();
        let mut scanned: Option<Instant> = None;
        loop {
            workers.follow(&self);
            let is_scan_due = scanned.is_none_or(|at| clock::since(at) >= SCAN_INTERVAL);
            if is_scan_due && !workers.by_engine.is_empty() {
                match self.look_at_all_leases().await {
                    Ok(()) => scanned = Some(clock::monotonic()),
                    Err(error) => tracing::debug!(%error, "leases"),
                }
            }
            let every = is_scan_due || self.look_at_all.swap(false, Ordering::AcqRel);
            self.end_leases_of_dead_tasks(every).await;
            if let Err(error) = self.count_leases().await {
                tracing::debug!(%error, "leases");
            }
            let _ = tokio::time::timeout(DUE_CHECK_INTERVAL, self.news.notified()).await;
        }
    }

    /// Makes the leases due of tasks that have ended or were interrupted, as far as that is known;
    /// with `every`, it looks at all watched tasks, since a rule may have killed any of them.
    pub(super) async fn end_leases_of_dead_tasks(&self, every: bool) {
        let mut tasks =
            std::mem::take(&mut *self.stopped.lock().unwrap_or_else(PoisonError::into_inner));
        if every {
            tasks = self
                .tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .names()
                .copied()
                .collect();
        }
        if !tasks.is_empty()
            && let Err(error) = self.end_leases(tasks.clone()).await
        {
            tracing::debug!(%error, "leases could not be made due yet");
            self.stopped
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(tasks);
        }
    }

    /// Counts the leases of all engines, for metrics.
    async fn count_leases(&self) -> Result<(), Refusal> {
        let mut counts = HashMap::new();
        for (name, _) in self.engines() {
            let store = self.ledger.records.store();
            let of_engine = store.lease_counts(&name, clock::now_ms()).await?;
            counts.insert(name, of_engine);
        }
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
        Ok(())
    }

    fn overdue(&self) -> MutexGuard<'_, Overdue> {
        self.overdue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches every lease there is, and makes those due whose task is gone.
    async fn look_at_all_leases(&self) -> Result<(), Refusal> {
        let (mut all, mut overdue, now_ms) = (Vec::new(), Vec::new(), clock::now_ms());
        self.each_lease(|lease| {
            if lease.record.is_being_removed(lease.due_ms, now_ms) {
                overdue.push((lease.id, lease.record.engine.clone()));
            }
            all.push((lease.id, lease.record));
        })
        .await?;
        self.overdue().replace(overdue);
        for (id, record) in all {
            match self.ledger.records.look_at_task(record.task).await? {
                Some(task) => self.watch(&task, id, &record),
                // P6: intent without a task is as due as any.
                None => {
                    self.ledger
                        .records
                        .store()
                        .lease_due(&record.engine, &[id], clock::now_ms())
                        .await?
                }
            }
        }
        Ok(())
    }

    /// Works for one engine until it is aborted: removes what is due, and sweeps now and then.
    async fn work_for(self: Arc<Self>, engine: Arc<RunningEngine>) {
        let (mut pause, mut swept): (Option<Duration>, Option<Instant>) = (None, None);
        loop {
            let result = if swept.is_none_or(|at| clock::since(at) >= SWEEP_INTERVAL) {
                let result = self.sweep_orphans(&engine).await;
                if result.is_ok() {
                    swept = Some(clock::monotonic());
                }
                result.map(|()| true)
            } else {
                self.remove_due(&engine).await
            };
            match result {
                Ok(busy) => {
                    pause = None;
                    if !busy {
                        look_whether_it_is_back(&engine).await;
                        let _ =
                            tokio::time::timeout(DUE_CHECK_INTERVAL, engine.wake.notified()).await;
                    }
                }
                Err(error) => {
                    // A target that is down is tried with one lease at a time, less and less often,
                    // and finds no crowd when it is back.
                    let next = pause.map_or(SHORTEST_PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
                    tracing::warn!(engine = engine.config.name, %error, "leases cannot be removed now");
                    pause = Some(next);
                    tokio::time::sleep(
                        next / 2 + next.mul_f64(f64::from(random() % 1000) / 2000.0),
                    )
                    .await;
                }
            }
        }
    }

    /// Removes what is due, for a while; says whether there was anything.
    async fn remove_due(self: &Arc<Self>, engine: &Arc<RunningEngine>) -> Result<bool, Refusal> {
        let (name, began) = (&engine.config.name, clock::monotonic());
        let mut removals = Removals::new();
        let (mut gone, mut unreachable): (Vec<LeaseId>, Option<EngineError>) = (Vec::new(), None);
        let (mut found, mut more) = (false, true);
        loop {
            let most = most_removals(engine);
            // The target has half of them to work on while the store is asked for the next.
            if more && removals.len() <= most / 2 {
                self.forget_leases(name, &mut gone).await?;
                let wanted = most.saturating_sub(removals.len());
                let claimed = self.begin_removals(engine, wanted, &mut removals).await?;
                found |= claimed > 0;
                more = claimed == wanted && clock::since(began) < REMOVE_FOR;
            }
            let Some(removal) = removals.join_next().await else {
                break;
            };
            let Ok((id, record, result)) = removal else {
                continue;
            };
            match result {
                Ok(removed) => {
                    self.note_removed(id, &record, &removed);
                    gone.push(id);
                }
                Err(error) => {
                    self.put_off(record, id, &error).await?;
                    if matches!(error, EngineError::Unreachable(_)) {
                        engine.set_problem(&error);
                        (unreachable, more) = (Some(error), false);
                    }
                }
            }
            if unreachable.is_none() {
                engine.set_problem("");
            }
        }
        self.forget_leases(name, &mut gone).await?;
        match unreachable {
            Some(error) => Err(Refusal::Engine(error.to_string())),
            None => Ok(found),
        }
    }

    /// Claims at most `wanted` due leases of an engine and begins their removal; answers how many.
    async fn begin_removals(
        &self,
        engine: &Arc<RunningEngine>,
        wanted: usize,
        removals: &mut Removals,
    ) -> Result<usize, Refusal> {
        // What is removed does not come back when a clock does (L8).
        let (name, now_ms) = (&engine.config.name, self.ledger.log.ending_time_ms());
        let claimed = self
            .ledger
            .records
            .store()
            .claim_leases(name, now_ms, now_ms.saturating_add(CLAIM_MS), wanted)
            .await?;
        let count = claimed.len();
        for stored in claimed {
            let record = self.open_lease(name, &stored)?;
            let engine = Arc::clone(engine);
            removals.spawn(async move {
                let result = engine.driver.remove(&record.username).await;
                (stored.id, record, result)
            });
        }
        Ok(count)
    }

    /// Puts on the record that the credential of a lease is gone, and what went with it.
    fn note_removed(&self, id: LeaseId, record: &LeaseRecord, removed: &Removed) {
        self.overdue().remove(&id);
        let noted = journal::record("lease_removed")
            .with("lease", id)
            .with("task", record.task)
            .with("workload", &record.workload);
        self.ledger.journal.note(
            noted
                .with("engine", &record.engine)
                .with("username", &record.username)
                .with_some("dropped", removed.text()),
        );
    }

    /// Takes leases whose credentials are gone off the list.
    async fn forget_leases(&self, engine: &str, gone: &mut Vec<LeaseId>) -> Result<(), Refusal> {
        if !gone.is_empty() {
            self.ledger
                .records
                .store()
                .remove_leases(engine, gone)
                .await?;
            gone.clear();
        }
        Ok(())
    }

    /// T59: nothing is ever given up; it is tried again later, and shown meanwhile.
    async fn put_off(
        &self,
        mut record: LeaseRecord,
        id: LeaseId,
        error: &EngineError,
    ) -> Result<(), Refusal> {
        self.overdue().note(id, &record.engine);
        if record.failures == 0 {
            let failed = journal::record("lease_removal_failed")
                .with("lease", id)
                .with("task", record.task)
                .with("engine", &record.engine);
            self.ledger.journal.note(failed.with("reason", error));
        }
        record.failures = record.failures.saturating_add(1);
        record.problem = error.to_string();
        let due_ms =
            clock::now_ms().saturating_add(LeaseRecord::retry_after_ms(record.failures, random()));
        let engine = record.engine.clone();
        Ok(self
            .ledger
            .records
            .store()
            .retry_lease(&engine, self.sealed_lease(id, &record, due_ms))
            .await?)
    }

    /// T58: removes what the target has under our names and no lease knows. Leases are read after
    /// the list: intent comes before creation, so whatever was listed and is wanted has one.
    async fn sweep_orphans(&self, engine: &RunningEngine) -> Result<(), Refusal> {
        let unreachable = |error: EngineError| {
            engine.set_problem(&error);
            Refusal::Engine(error.to_string())
        };
        let mut listed = Vec::new();
        for (_, prefix) in &engine.prefixes {
            listed.extend(engine.driver.list(prefix).await.map_err(unreachable)?);
        }
        engine.set_problem("");
        if listed.is_empty() {
            return Ok(());
        }
        let name = &engine.config.name;
        let leases = self.stored_leases(name).await?;
        // The name under any of the keys is known: which it is, only the lease's record tells.
        let known: HashSet<_> = leases
            .iter()
            .flat_map(|lease| engine.names(lease.id))
            .collect();
        for orphan in listed
            .into_iter()
            .filter(|name| !known.contains(name) && !engine.is_on_trial(name))
        {
            tracing::warn!(
                engine = name,
                username = orphan,
                "removing a credential that no lease knows"
            );
            let removed = engine.driver.remove(&orphan).await;
            let dropped = removed.as_ref().ok().and_then(Removed::text);
            self.ledger.journal.note(
                journal::record("orphan_removed")
                    .with("engine", name)
                    .with("username", &orphan)
                    .with_some("dropped", dropped),
            );
            if let Err(error) = removed {
                tracing::warn!(engine = name, username = orphan, %error, "it could not be removed yet");
                engine.set_problem(&error);
            }
        }
        Ok(())
    }
}

/// S11: a broker that could not reach the target, and has nothing to do there now, does not call the
/// target unreachable for ever.
async fn look_whether_it_is_back(engine: &RunningEngine) {
    if engine.is_unreachable() && engine.driver.check().await.is_ok() {
        engine.set_problem("");
    }
}

/// Most removals under way at a target. After a failure, there is one: it says whether the target is
/// back.
fn most_removals(engine: &RunningEngine) -> usize {
    if engine.problem().is_empty() {
        engine
            .config
            .max_connections
            .saturating_mul(CLAIM_PER_CONNECTION)
    } else {
        1
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Only for spreading retries: a generator that fails spreads none.
    let _ = SystemRandom::new().fill(&mut bytes);
    u32::from_le_bytes(bytes)
}
