//! The embedded store: one process, one file, everything in memory.
//!
//! Each change is an operation that is applied in memory and appended to a [`ChainLog`]; it is
//! acknowledged when durable. The file is compacted when it is opened and when it has outgrown what
//! it describes. What lives only as long as tasks do is small and short-lived, so an append is all
//! that a change costs; ARCHITECTURE.md has the comparison with a database.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message as _;
use sundew_core::store::{
    BoxFuture, Created, DocumentKind, Heartbeat, NewTask, NewToken, Reserved, Store, StoreError,
    StoredEntry, StoredLease, StoredTask, StoredToken, TaskPage, TokenPage,
};
use sundew_core::{EntryId, LeaseId, Position, TaskId, TokenHash, TokenId};
use tokio::sync::{Notify, oneshot};

use crate::clock;
use crate::store::chain_log::{ChainLog, ChainLogError};

mod leases;
mod operation;
use operation::{Operation, kind::Kind};

/// Compacted when the file has so many operations more than what a snapshot needs.
const SLACK_OPERATIONS: usize = 200_000;
/// Tasks in one page of a scan.
const PAGE: usize = 512;

/// See the module.
pub struct EmbeddedStore {
    log: ChainLog,
    state: Mutex<State>,
    appended: Notify,
    epoch: String,
}

#[derive(Default)]
struct State {
    documents: HashMap<(&'static str, String), Vec<u8>>,
    used: HashMap<[u8; 32], i64>,
    tasks: HashMap<TaskId, Task>,
    /// Workload to its tasks and their deadlines.
    places: HashMap<String, HashMap<TaskId, i64>>,
    due: BTreeSet<(i64, TaskId)>,
    due_at: BTreeMap<TaskId, i64>,
    entries: VecDeque<(StoredEntry, i64)>,
    /// By engine: record and when it is due.
    leases: HashMap<String, HashMap<LeaseId, (Vec<u8>, i64)>>,
    tip: (Position, EntryId),
    operations: usize,
}

struct Task {
    record: Vec<u8>,
    retain_until_ms: i64,
    bindings: Vec<Vec<u8>>,
    /// Leases that it has had.
    leases: BTreeSet<LeaseId>,
    tokens: HashMap<[u8; 32], (Vec<u8>, i64)>,
}

type Durable = oneshot::Receiver<Result<Vec<u8>, ChainLogError>>;

impl EmbeddedStore {
    /// Opens or creates the store's file.
    pub fn open(path: &Path) -> Result<Arc<Self>, StoreError> {
        let mut state = State::default();
        let mut malformed = false;
        let log = ChainLog::open(path, [0; 32], |payload| {
            match Operation::decode(payload).ok().and_then(|o| o.kind) {
                Some(kind) => state.apply(&kind),
                None => malformed = true,
            }
        })
        .map_err(|e| log_error(&e))?;
        if malformed {
            return Err(StoreError::Corrupt(format!(
                "{}: an operation is malformed",
                path.display()
            )));
        }
        state.purge(clock::now_ms());
        let store = Arc::new(Self {
            log,
            state: Mutex::new(state),
            appended: Notify::new(),
            epoch: "embedded".to_owned(),
        });
        store.compact(&mut store.lock());
        Ok(store)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies and submits under one lock, so that the file has the operations in the order in
    /// which they took effect.
    fn commit(&self, state: &mut State, kind: Kind) -> Result<Durable, StoreError> {
        Self::commit_by(state, kind, |payload| self.log.submit(payload))
    }

    /// The same for what becomes durable with the next operation that somebody waits for.
    fn commit_unwatched(&self, state: &mut State, kind: Kind) -> Result<(), StoreError> {
        Self::commit_by(state, kind, |payload| self.log.submit_unwatched(payload))
    }

    fn commit_by<T>(
        state: &mut State,
        kind: Kind,
        submit: impl FnOnce(Vec<u8>) -> Result<T, ChainLogError>,
    ) -> Result<T, StoreError> {
        let operation = Operation { kind: Some(kind) };
        let submitted = submit(operation.encode_to_vec()).map_err(|e| log_error(&e))?;
        operation.kind.iter().for_each(|kind| state.apply(kind));
        Ok(submitted)
    }

    fn compact(&self, state: &mut State) {
        let records = state
            .snapshot()
            .into_iter()
            .map(|kind| Operation { kind: Some(kind) }.encode_to_vec())
            .collect::<Vec<_>>();
        state.operations = records.len();
        if let Err(e) = self.log.replace(records) {
            tracing::warn!(error = %e, "embedded store could not be compacted");
        }
    }
}

async fn settled(durable: Durable) -> Result<(), StoreError> {
    durable
        .await
        .unwrap_or(Err(ChainLogError::Poisoned))
        .map(drop)
        .map_err(|e| log_error(&e))
}

fn log_error(error: &ChainLogError) -> StoreError {
    match error {
        ChainLogError::Altered { .. } => StoreError::Corrupt(error.to_string()),
        ChainLogError::Busy
        | ChainLogError::Io { .. }
        | ChainLogError::Poisoned
        | ChainLogError::TooLarge => StoreError::Unavailable(error.to_string()),
    }
}

impl Store for EmbeddedStore {
    fn describe(&self) -> String {
        "embedded".to_owned()
    }

    fn check(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn document<'a>(&'a self, kind: DocumentKind, name: &'a str) -> BoxFuture<'a, Option<Vec<u8>>> {
        let found = self
            .lock()
            .documents
            .get(&(kind.as_str(), name.to_owned()))
            .cloned();
        Box::pin(async move { Ok(found) })
    }

    fn documents(&self, kind: DocumentKind) -> BoxFuture<'_, Vec<(String, Vec<u8>)>> {
        let mut found: Vec<_> = self
            .lock()
            .documents
            .iter()
            .filter(|((k, _), _)| *k == kind.as_str())
            .map(|((_, name), value)| (name.clone(), value.clone()))
            .collect();
        found.sort();
        Box::pin(async move { Ok(found) })
    }

    fn replace_document<'a>(
        &'a self,
        kind: DocumentKind,
        name: &'a str,
        expected: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
    ) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let durable = {
                let mut state = self.lock();
                if state
                    .documents
                    .get(&(kind.as_str(), name.to_owned()))
                    .map(Vec::as_slice)
                    != expected
                {
                    return Ok(false);
                }
                let change = operation::Document {
                    kind: kind.as_str().to_owned(),
                    name: name.to_owned(),
                    value: value.map(<[u8]>::to_vec),
                };
                self.commit(&mut state, Kind::Document(change))?
            };
            settled(durable).await?;
            Ok(true)
        })
    }

    fn consume<'a>(&'a self, name: &'a [u8; 32], until_ms: i64) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let durable = {
                let mut state = self.lock();
                if until_ms <= clock::now_ms() || state.used.contains_key(name) {
                    return Ok(false);
                }
                self.commit(
                    &mut state,
                    Kind::Used(operation::Used {
                        name: name.to_vec(),
                        until_ms,
                    }),
                )?
            };
            settled(durable).await?;
            Ok(true)
        })
    }

    fn reserve_task<'a>(
        &'a self,
        workload: &'a str,
        task: TaskId,
        deadline_ms: i64,
        due_ms: i64,
        limit: u32,
        now_ms: i64,
    ) -> BoxFuture<'a, Reserved> {
        Box::pin(async move {
            let mut state = self.lock();
            let places = state.places.entry(workload.to_owned()).or_default();
            if places.contains_key(&task) {
                return Ok(Reserved::Taken);
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
        })
    }

    fn create_task<'a>(&'a self, task: NewTask<'a>) -> BoxFuture<'a, Created> {
        Box::pin(async move {
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
            settled(durable).await?;
            Ok(Created::New)
        })
    }

    fn task(&self, task: TaskId) -> BoxFuture<'_, Option<StoredTask>> {
        let found = self.lock().tasks.get(&task).map(|t| StoredTask {
            record: t.record.clone(),
            bindings: t.bindings.clone(),
        });
        Box::pin(async move { Ok(found) })
    }

    fn bind_task(&self, task: TaskId, binding: Vec<u8>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let durable = {
                let mut state = self.lock();
                if !state.tasks.contains_key(&task) {
                    return Ok(());
                }
                self.commit(
                    &mut state,
                    Kind::Binding(operation::Binding {
                        task: task.as_bytes().to_vec(),
                        binding,
                    }),
                )?
            };
            settled(durable).await
        })
    }

    fn release_task<'a>(&'a self, workload: &'a str, task: TaskId) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let release = operation::Release {
                workload: workload.to_owned(),
                task: task.as_bytes().to_vec(),
            };
            self.commit_unwatched(&mut self.lock(), Kind::Release(release))
        })
    }

    fn tasks<'a>(&'a self, workload: Option<&'a str>, limit: usize) -> BoxFuture<'a, Vec<TaskId>> {
        let state = self.lock();
        let found: Vec<TaskId> = match workload {
            Some(workload) => state
                .places
                .get(workload)
                .map(|p| p.keys().copied().take(limit).collect())
                .unwrap_or_default(),
            None => state.due_at.keys().copied().take(limit).collect(),
        };
        Box::pin(async move { Ok(found) })
    }

    fn create_token<'a>(
        &'a self,
        task: TaskId,
        token: NewToken<'a>,
    ) -> BoxFuture<'a, Option<Created>> {
        Box::pin(async move {
            let durable = {
                let mut state = self.lock();
                let Some(found) = state.tasks.get(&task) else {
                    return Ok(None);
                };
                if let Some((record, _)) = found.tokens.get(token.hash.as_bytes()) {
                    return Ok(Some(Created::Existing(record.clone())));
                }
                self.commit(&mut state, Kind::Token(new_token(task, token)))?
            };
            settled(durable).await?;
            Ok(Some(Created::New))
        })
    }

    fn token<'a>(
        &'a self,
        task: TaskId,
        hash: &'a TokenHash,
    ) -> BoxFuture<'a, Option<StoredToken>> {
        let state = self.lock();
        let found = state.tasks.get(&task).and_then(|task| {
            let (record, _) = task.tokens.get(hash.as_bytes())?;
            Some(StoredToken {
                task: task.record.clone(),
                record: record.clone(),
            })
        });
        Box::pin(async move { Ok(found) })
    }

    fn tokens(&self, task: TaskId, _from: u64) -> BoxFuture<'_, TokenPage> {
        let state = self.lock();
        let tokens = state.tasks.get(&task).map(|task| {
            let name = |hash: &[u8; 32]| TokenHash::from_bytes(*hash).token_id();
            task.tokens
                .iter()
                .map(|(hash, (record, _))| (name(hash), record.clone()))
                .collect::<Vec<(TokenId, Vec<u8>)>>()
        });
        let page = TokenPage {
            tokens: tokens.unwrap_or_default(),
            next: 0,
        };
        Box::pin(async move { Ok(page) })
    }

    fn scan_tasks(&self, from: u64) -> BoxFuture<'_, TaskPage> {
        // Places are prefixes of ids, so that what comes and goes meanwhile moves nothing else.
        let state = self.lock();
        let first = TaskId::from_bytes(u128::from(from).wrapping_shl(64).to_be_bytes());
        let mut tasks: Vec<TaskId> = state
            .due_at
            .range(first..)
            .map(|(task, _)| *task)
            .take(PAGE)
            .collect();
        let mut next = 0;
        if tasks.len() == PAGE {
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
        Box::pin(async move { Ok(TaskPage { tasks, next }) })
    }

    fn reap_tokens(&self, task: TaskId) -> BoxFuture<'_, u64> {
        Box::pin(async move {
            let mut state = self.lock();
            let count = state.tasks.get(&task).map_or(0, |task| task.tokens.len());
            if count > 0 {
                self.commit_unwatched(
                    &mut state,
                    Kind::Reaped(operation::Reaped {
                        task: task.as_bytes().to_vec(),
                    }),
                )?;
            }
            Ok(u64::try_from(count).unwrap_or(u64::MAX))
        })
    }

    fn attend(&self, due: Vec<(TaskId, i64)>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut state = self.lock();
            for (task, due_ms) in due {
                if state.due_at.contains_key(&task) {
                    self.commit_unwatched(
                        &mut state,
                        Kind::Due(operation::Due {
                            task: task.as_bytes().to_vec(),
                            due_ms,
                        }),
                    )?;
                }
            }
            Ok(())
        })
    }

    fn due(&self, now_ms: i64, limit: usize) -> BoxFuture<'_, Vec<TaskId>> {
        let found = self
            .lock()
            .due
            .iter()
            .take_while(|(at, _)| *at <= now_ms)
            .map(|(_, task)| *task)
            .take(limit)
            .collect();
        Box::pin(async move { Ok(found) })
    }

    fn append<'a>(
        &'a self,
        id: EntryId,
        entry: &'a [u8],
        until_ms: i64,
        floor: Position,
    ) -> BoxFuture<'a, Position> {
        Box::pin(async move {
            let (position, durable) = {
                let mut state = self.lock();
                let position = Position(state.tip.0.max(floor).0.saturating_add(1));
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
            settled(durable).await?;
            Ok(position)
        })
    }

    fn read_log(&self, after: Position, limit: usize) -> BoxFuture<'_, Vec<StoredEntry>> {
        let state = self.lock();
        let from = state
            .entries
            .partition_point(|(entry, _)| entry.position <= after);
        let found = state
            .entries
            .range(from..)
            .map(|(entry, _)| entry.clone())
            .take(limit)
            .collect();
        Box::pin(async move { Ok(found) })
    }

    fn await_log(&self, after: Position, wait_ms: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let appended = self.appended.notified();
            if self.lock().tip.0 <= after {
                let _ = tokio::time::timeout(Duration::from_millis(wait_ms), appended).await;
            }
            Ok(())
        })
    }

    fn trim_log<'a>(&'a self, now_ms: i64, places: &'a [Position]) -> BoxFuture<'a, ()> {
        let mut state = self.lock();
        let tip = state.tip.0;
        state
            .entries
            .retain(|(entry, _)| entry.position == tip || !places.contains(&entry.position));
        let live = state.purge(now_ms);
        if state.operations > live.saturating_mul(2).saturating_add(SLACK_OPERATIONS) {
            self.compact(&mut state);
        }
        Box::pin(async { Ok(()) })
    }

    fn heartbeat<'a>(
        &'a self,
        broker: &'a str,
        applied: (Position, EntryId),
        _forget_after_ms: i64,
    ) -> BoxFuture<'a, Heartbeat> {
        let tip = self.lock().tip;
        let heartbeat = Heartbeat {
            now_ms: clock::now_ms(),
            epoch: self.epoch.clone(),
            primary: String::new(),
            all_replicas_acked: true,
            tip,
            peers: vec![(broker.to_owned(), applied.0)],
        };
        Box::pin(async move { Ok(heartbeat) })
    }

    fn leases_had(&self, task: TaskId) -> BoxFuture<'_, u64> {
        let had = self
            .lock()
            .tasks
            .get(&task)
            .map_or(0, |task| task.leases.len());
        Box::pin(async move { Ok(u64::try_from(had).unwrap_or(u64::MAX)) })
    }

    fn put_lease<'a>(
        &'a self,
        engine: &'a str,
        task: TaskId,
        lease: StoredLease,
    ) -> BoxFuture<'a, ()> {
        Box::pin(self.write_lease(engine, task, lease))
    }

    fn lease<'a>(&'a self, engine: &'a str, id: LeaseId) -> BoxFuture<'a, Option<StoredLease>> {
        let found = self.read_lease(engine, id);
        Box::pin(async move { Ok(found) })
    }

    fn leases<'a>(&'a self, engine: &'a str, _from: u64) -> BoxFuture<'a, (Vec<StoredLease>, u64)> {
        let found = self.read_leases(engine);
        Box::pin(async move { Ok((found, 0)) })
    }

    fn lease_due<'a>(
        &'a self,
        engine: &'a str,
        ids: &'a [LeaseId],
        due_ms: i64,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.make_due(engine, ids, due_ms) })
    }

    fn claim_leases<'a>(
        &'a self,
        engine: &'a str,
        now_ms: i64,
        until_ms: i64,
        limit: usize,
    ) -> BoxFuture<'a, Vec<StoredLease>> {
        let claimed = self.claim(engine, now_ms, until_ms, limit);
        Box::pin(async move { Ok(claimed) })
    }

    fn retry_lease<'a>(&'a self, engine: &'a str, lease: StoredLease) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.rewrite_lease(engine, lease) })
    }

    fn remove_leases<'a>(&'a self, engine: &'a str, ids: &'a [LeaseId]) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.drop_leases(engine, ids) })
    }

    fn lease_counts<'a>(&'a self, engine: &'a str, now_ms: i64) -> BoxFuture<'a, (u64, u64)> {
        let counts = self.count_leases(engine, now_ms);
        Box::pin(async move { Ok(counts) })
    }

    fn leave<'a>(&'a self, _broker: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}

fn new_token(task: TaskId, token: NewToken<'_>) -> operation::NewToken {
    operation::NewToken {
        task: task.as_bytes().to_vec(),
        hash: token.hash.as_bytes().to_vec(),
        record: token.record,
        retain_until_ms: token.retain_until_ms,
    }
}
