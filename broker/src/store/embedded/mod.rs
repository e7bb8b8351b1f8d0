//! The embedded store: one process, one file, everything in memory.
//!
//! Each change is an operation that is applied in memory and appended to a `ChainLog`; it is
//! acknowledged when durable. L19: one that could not be made durable is taken out of memory again,
//! so that a retry finds what a restart would find. An entry of the revocation log stays: an ending
//! holds whether or not it is durable, and the journal has it too. The file is compacted when it is opened and when it has outgrown what
//! it describes. What lives only as long as tasks do is small and short-lived, so an append is all
//! that a change costs; ARCHITECTURE.md has the comparison with a database.

mod apply;
mod documents;
mod leases;
mod log;
mod operation;
mod orders;
mod snapshot;
mod state;
mod tasks;
mod tokens;

use std::future::ready;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use sundew_core::store::{
    AppendAfter, BoxFuture, Claimed, Created, CreatedToken, DocumentKind, Heartbeat, NewOrder,
    NewTask, NewToken, OrderClaim, Report, Reserved, Store, StoreError, StoredEntry, StoredLease,
    StoredOrder, StoredTask, StoredToken, TaskPage, TokenPage,
};
use sundew_core::{EntryId, LeaseId, OrderId, Position, TaskId, TokenHash};
use tokio::sync::{Notify, oneshot};

use crate::clock;
use crate::store::chain_log::{ChainLog, ChainLogError};
use crate::store::refusing::Refusing;
use operation::{Operation, kind::Kind};
use state::State;

/// A store in memory with one file, for a broker that is alone.
pub struct EmbeddedStore {
    log: ChainLog,
    state: Mutex<State>,
    /// Held by whoever writes a document. Meanwhile the file may have one more than the memory.
    document_turn: tokio::sync::Mutex<()>,
    refusing: Refusing,
    /// Notified after every append to the revocation log.
    appended: Notify,
    /// What the store refuses, where a test wants to see what is left then.
    #[cfg(test)]
    pub(crate) refuses: Mutex<Option<Refused>>,
    /// The number of documents that were read, where a test counts them.
    #[cfg(test)]
    pub(crate) documents_read: std::sync::atomic::AtomicUsize,
}

/// A sort of operation that the store of a test refuses.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Refused {
    Documents,
    Entries,
}

/// Resolves when an operation is durable.
type Durable = oneshot::Receiver<Result<Vec<u8>, ChainLogError>>;

impl EmbeddedStore {
    /// Opens or creates the store's file and reads it. Returns an error if the file was altered, or
    /// cannot be read or written.
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
            document_turn: tokio::sync::Mutex::default(),
            refusing: Refusing::default(),
            appended: Notify::new(),
            #[cfg(test)]
            refuses: Mutex::default(),
            #[cfg(test)]
            documents_read: std::sync::atomic::AtomicUsize::default(),
        });
        store.compact(&mut store.lock());
        Ok(store)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Submits an operation that is not applied yet. The result resolves when it is durable.
    fn submit(&self, kind: &Kind) -> Result<Durable, StoreError> {
        #[cfg(test)]
        self.refuse(kind)?;
        let submitted = self.log.submit(encoded(kind));
        submitted.map_err(|e| log_error(&e))
    }

    /// Applies and submits an operation under one lock, so that the file has the operations in the
    /// order in which they took effect. The result resolves when the operation is durable.
    fn commit(&self, state: &mut State, kind: Kind) -> Result<Durable, StoreError> {
        let submitted = self.submit(&kind)?;
        state.apply(&kind);
        Ok(submitted)
    }

    /// Applies and submits an operation like [`commit`](Self::commit). Nobody waits for it: it
    /// becomes durable with the next operation that somebody waits for. If it does not, a restart
    /// does it once more, and that changes nothing that anybody was told.
    fn commit_unwatched(&self, state: &mut State, kind: Kind) -> Result<(), StoreError> {
        let submitted = self.log.submit_unwatched(encoded(&kind));
        submitted.map_err(|e| log_error(&e))?;
        state.apply(&kind);
        Ok(())
    }

    /// Waits until an operation is durable. If it cannot be made durable, `undo` takes it out of
    /// memory again.
    async fn settled_or(
        &self,
        durable: Durable,
        undo: impl FnOnce(&mut State),
    ) -> Result<(), StoreError> {
        self.settled(durable)
            .await
            .inspect_err(|_| undo(&mut self.lock()))
    }

    /// Waits until an operation is durable.
    async fn settled(&self, durable: Durable) -> Result<(), StoreError> {
        let settled = durable.await.unwrap_or(Err(ChainLogError::Poisoned));
        let settled = settled.map(drop).map_err(|e| log_error(&e));
        match &settled {
            Ok(()) => self.refusing.took(),
            Err(error) => self.refusing.refused(error),
        }
        settled
    }

    #[cfg(test)]
    fn refuse(&self, kind: &Kind) -> Result<(), StoreError> {
        let refuses = self.refuses.lock().unwrap_or_else(PoisonError::into_inner);
        let is_refused = match *refuses {
            Some(Refused::Documents) => matches!(kind, Kind::Document(_)),
            Some(Refused::Entries) => matches!(kind, Kind::Entry(_)),
            None => false,
        };
        if is_refused {
            Err(StoreError::Unavailable("refused by a test".to_owned()))
        } else {
            Ok(())
        }
    }

    /// Replaces the file by a snapshot of the state.
    fn compact(&self, state: &mut State) {
        let records = state
            .snapshot()
            .into_iter()
            .map(|kind| encoded(&kind))
            .collect::<Vec<_>>();
        state.operations = records.len();
        if let Err(e) = self.log.replace(records) {
            tracing::warn!(error = %e, "embedded store could not be compacted");
        }
    }
}

/// Returns an operation as the file has it.
fn encoded(kind: &Kind) -> Vec<u8> {
    let mut out = Vec::with_capacity(kind.encoded_len());
    kind.encode(&mut out);
    out
}

fn log_error(error: &ChainLogError) -> StoreError {
    match error {
        ChainLogError::Altered { .. } => StoreError::Corrupt(error.to_string()),
        ChainLogError::Busy
        | ChainLogError::Io { .. }
        | ChainLogError::OnlyReserve
        | ChainLogError::Poisoned
        | ChainLogError::TooLarge => StoreError::Unavailable(error.to_string()),
    }
}

impl Store for EmbeddedStore {
    fn has_own_clock(&self) -> bool {
        false
    }

    fn problem(&self) -> Option<String> {
        self.refusing.text()
    }

    fn describe(&self) -> String {
        "embedded".to_owned()
    }

    fn check(&self) -> BoxFuture<'_, ()> {
        Box::pin(ready(Ok(())))
    }

    fn document<'a>(&'a self, kind: DocumentKind, name: &'a str) -> BoxFuture<'a, Option<Vec<u8>>> {
        Box::pin(ready(Ok(self.read_document(kind, name))))
    }

    fn documents(&self, kind: DocumentKind) -> BoxFuture<'_, Vec<(String, Vec<u8>)>> {
        Box::pin(ready(Ok(self.read_documents(kind))))
    }

    fn replace_document<'a>(
        &'a self,
        kind: DocumentKind,
        name: &'a str,
        expected: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
    ) -> BoxFuture<'a, bool> {
        Box::pin(self.write_document(kind, name, expected, value))
    }

    fn consume<'a>(&'a self, name: &'a [u8; 32], until_ms: i64) -> BoxFuture<'a, bool> {
        Box::pin(self.take_name(name, until_ms))
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
        Box::pin(
            async move { self.reserve_place(workload, task, deadline_ms, due_ms, limit, now_ms) },
        )
    }

    fn create_task<'a>(&'a self, task: NewTask<'a>) -> BoxFuture<'a, Created> {
        Box::pin(self.write_task(task))
    }

    fn task(&self, task: TaskId) -> BoxFuture<'_, Option<StoredTask>> {
        Box::pin(ready(Ok(self.read_task(task))))
    }

    fn bind_task(&self, task: TaskId, binding: Vec<u8>, limit: usize) -> BoxFuture<'_, ()> {
        Box::pin(self.write_binding(task, binding, limit))
    }

    fn end_task(&self, task: TaskId, remains: Vec<u8>, until_ms: i64) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.shrink_task(task, remains, until_ms) })
    }

    fn release_task<'a>(&'a self, workload: &'a str, task: TaskId) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.release_place(workload, task) })
    }

    fn tasks<'a>(&'a self, workload: Option<&'a str>, limit: usize) -> BoxFuture<'a, Vec<TaskId>> {
        Box::pin(ready(Ok(self.list_tasks(workload, limit))))
    }

    fn create_order<'a>(&'a self, order: NewOrder<'a>) -> BoxFuture<'a, Option<Created>> {
        Box::pin(self.write_order(order))
    }

    fn order(&self, order: OrderId) -> BoxFuture<'_, Option<StoredOrder>> {
        Box::pin(ready(Ok(self.read_order(order))))
    }

    fn claim_order<'a>(&'a self, claim: OrderClaim<'a>) -> BoxFuture<'a, Claimed> {
        Box::pin(self.write_claim(claim))
    }

    fn orders<'a>(
        &'a self,
        dispatcher: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Vec<OrderId>> {
        Box::pin(ready(Ok(self.list_orders(dispatcher, limit))))
    }

    fn release_order<'a>(&'a self, _: &'a str, order: OrderId) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.unlist_order(order) })
    }

    fn create_token<'a>(
        &'a self,
        task: TaskId,
        token: NewToken<'a>,
        limit: u32,
    ) -> BoxFuture<'a, Option<CreatedToken>> {
        Box::pin(self.write_token(task, token, limit))
    }

    fn token<'a>(
        &'a self,
        task: TaskId,
        hash: &'a TokenHash,
    ) -> BoxFuture<'a, Option<StoredToken>> {
        Box::pin(ready(Ok(self.read_token(task, hash))))
    }

    fn tokens(&self, task: TaskId, _from: u64) -> BoxFuture<'_, TokenPage> {
        Box::pin(ready(Ok(self.read_tokens(task))))
    }

    fn scan_tasks(&self, from: u64) -> BoxFuture<'_, TaskPage> {
        Box::pin(ready(Ok(self.scan_due_list(from))))
    }

    fn count_tasks(&self) -> BoxFuture<'_, u64> {
        Box::pin(ready(Ok(self.count_due_list())))
    }

    fn attend(&self, due: Vec<(TaskId, i64)>) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.set_due_times(due) })
    }

    fn due(&self, now_ms: i64, limit: usize) -> BoxFuture<'_, Vec<TaskId>> {
        Box::pin(ready(Ok(self.due_tasks(now_ms, limit))))
    }

    fn append<'a>(
        &'a self,
        id: EntryId,
        entry: &'a [u8],
        until_ms: i64,
        after: AppendAfter,
    ) -> BoxFuture<'a, Position> {
        Box::pin(self.append_entry(id, entry, until_ms, after))
    }

    fn read_log(&self, after: Position, limit: usize) -> BoxFuture<'_, Vec<StoredEntry>> {
        Box::pin(ready(Ok(self.read_entries(after, limit))))
    }

    fn await_log(&self, after: Position, wait_ms: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.wait_for_entry(after, wait_ms).await;
            Ok(())
        })
    }

    fn trim_log<'a>(&'a self, now_ms: i64, places: &'a [Position]) -> BoxFuture<'a, ()> {
        Box::pin(self.trim_entries(now_ms, places))
    }

    fn heartbeat<'a>(&'a self, report: Report<'a>) -> BoxFuture<'a, Heartbeat> {
        Box::pin(ready(Ok(self.report(report))))
    }

    fn agreement(&self) -> BoxFuture<'_, Option<Vec<u8>>> {
        let (version, value) = self.lock().agreement.clone();
        Box::pin(ready(Ok((version > 0).then_some(value))))
    }

    fn replace_agreement<'a>(
        &'a self,
        expected: u64,
        version: u64,
        value: &'a [u8],
    ) -> BoxFuture<'a, bool> {
        Box::pin(self.write_agreement(expected, version, value))
    }

    /// A store of one broker, which needs nobody's report.
    fn reports(&self) -> BoxFuture<'_, Vec<(String, String)>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn leases_had(&self, task: TaskId) -> BoxFuture<'_, u64> {
        Box::pin(ready(Ok(self.count_of_task(task))))
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
        Box::pin(ready(Ok(self.read_lease(engine, id))))
    }

    fn leases<'a>(&'a self, engine: &'a str, _from: u64) -> BoxFuture<'a, (Vec<StoredLease>, u64)> {
        Box::pin(ready(Ok((self.read_leases(engine), 0))))
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
        Box::pin(ready(Ok(self.claim(engine, now_ms, until_ms, limit))))
    }

    fn retry_lease<'a>(&'a self, engine: &'a str, lease: StoredLease) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.rewrite_lease(engine, lease) })
    }

    fn remove_leases<'a>(&'a self, engine: &'a str, ids: &'a [LeaseId]) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.drop_leases(engine, ids) })
    }

    fn lease_counts<'a>(&'a self, engine: &'a str, now_ms: i64) -> BoxFuture<'a, (u64, u64)> {
        Box::pin(ready(Ok(self.count_leases(engine, now_ms))))
    }

    // One broker follows this log, and asks nobody.
    fn announce<'a>(&'a self, _: &'a str, _: Option<&'a [u8]>) -> BoxFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn vouch<'a>(&'a self, _: &'a str, _: &'a str, _: &'a [u8]) -> BoxFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn vouchers<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Vec<(String, Vec<u8>)>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn leave<'a>(&'a self, _broker: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(ready(Ok(())))
    }
}
