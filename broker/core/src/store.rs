//! The store port. Two implementations, Redis and embedded, and one contract suite for both.
//!
//! A store keeps bytes in named places, with expiry, and the revocation log. It decides nothing:
//! records are immutable and tagged, and liveness is the view's. P7: an operation that may not have
//! happened is an error.

use std::future::Future;
use std::pin::Pin;

use crate::credential::TokenHash;
use crate::id::{LeaseId, TaskId, TokenId};
use crate::log::{EntryId, Position};

/// What the operations return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Why an operation did not succeed. For the operator; callers get `UNAVAILABLE`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// The store answered something that makes no sense.
    #[error("store answered nonsense: {0}")]
    Corrupt(String),
    /// The store is out of memory or disk.
    #[error("store is full: {0}")]
    Full(String),
    /// The store's settings or permissions do not let Sundew work.
    #[error("store is not usable: {0}")]
    Misconfigured(String),
    /// The store cannot be reached, or not in time.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
}

/// Families of small documents that are kept until deleted.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum DocumentKind {
    /// Engines that make credentials in other systems, sealed where they hold some.
    Engine,
    /// Keys of the broker, sealed.
    Meta,
    /// Actions of responders, with how far their clean-up is.
    Response,
    /// Stored secrets, sealed.
    Secret,
    /// What verifiers trust.
    Trust,
    /// Registrations.
    Workload,
}

impl DocumentKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Engine,
        Self::Meta,
        Self::Response,
        Self::Secret,
        Self::Trust,
        Self::Workload,
    ];

    /// A short name for keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Meta => "meta",
            Self::Response => "response",
            Self::Secret => "secret",
            Self::Trust => "trust",
            Self::Workload => "workload",
        }
    }
}

/// Result of creating something that may exist already.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum Created {
    /// It is there now.
    New,
    /// It was there before, as this.
    Existing(Vec<u8>),
}

/// Result of reserving a place for a task.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Reserved {
    /// The workload has as many tasks as it may have.
    Full,
    /// Reserved, or reserved before.
    Taken,
}

/// A task as the store has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredTask {
    /// The record.
    pub record: Vec<u8>,
    /// SHA-256 of certificates that the task was moved to (SVID rotation), tagged by the broker.
    pub bindings: Vec<Vec<u8>>,
}

/// A new task with its first token. Times are milliseconds since the epoch.
#[derive(Clone, Debug)]
pub struct NewTask<'a> {
    /// Its name.
    pub id: TaskId,
    /// Its record.
    pub record: Vec<u8>,
    /// Until when the record is kept.
    pub keep_until_ms: i64,
    /// Its first token.
    pub token: NewToken<'a>,
}

/// A new token.
#[derive(Clone, Debug)]
pub struct NewToken<'a> {
    /// What it is found by.
    pub hash: &'a TokenHash,
    /// Its record.
    pub record: Vec<u8>,
    /// Until when the record is kept, in milliseconds since the epoch.
    pub keep_until_ms: i64,
}

/// A token as the store has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredToken {
    /// Its task's record.
    pub task: Vec<u8>,
    /// Its record.
    pub record: Vec<u8>,
}

/// Some of the tokens of a task.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TokenPage {
    /// Names and records.
    pub tokens: Vec<(TokenId, Vec<u8>)>,
    /// Where to go on; 0 at the end.
    pub next: u64,
}

/// Some of the tasks on the attendance list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TaskPage {
    /// Names; one may come twice.
    pub tasks: Vec<TaskId>,
    /// Where to go on; 0 at the end.
    pub next: u64,
}

/// A credential in another system that must be removed, as the store has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredLease {
    /// Its name.
    pub id: LeaseId,
    /// Its record.
    pub record: Vec<u8>,
    /// When it is to be removed, in milliseconds since the epoch.
    pub due_ms: i64,
}

/// One entry as the log has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredEntry {
    /// Where it is.
    pub position: Position,
    /// Its name.
    pub id: EntryId,
    /// The name of the entry before it.
    pub previous: EntryId,
    /// The entry.
    pub bytes: Vec<u8>,
}

/// What a heartbeat brings back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Heartbeat {
    /// The store's wall clock, in milliseconds since the epoch.
    pub now_ms: i64,
    /// Which life of the store this is: another value means that the store was emptied, or at
    /// least its list of brokers.
    pub epoch: String,
    /// Which primary answered: another value means that there was a failover, and that `peers` may
    /// be missing some.
    pub primary: String,
    /// Whether every replica has acknowledged it, and not only a majority.
    pub everywhere: bool,
    /// The last entry of the log.
    pub tip: (Position, EntryId),
    /// What every broker known to the store had applied when it last reported, by broker; the
    /// caller included.
    pub peers: Vec<(String, Position)>,
}

/// Where Sundew keeps what must outlive a process.
pub trait Store: Send + Sync {
    /// What kind of store this is, for logs and health.
    fn describe(&self) -> String;
    /// Refuses a store that cannot keep Sundew's promises.
    fn check(&self) -> BoxFuture<'_, ()>;

    /// A document, if it is there.
    fn document<'a>(&'a self, kind: DocumentKind, name: &'a str) -> BoxFuture<'a, Option<Vec<u8>>>;
    /// All documents of a kind, by name.
    fn documents(&self, kind: DocumentKind) -> BoxFuture<'_, Vec<(String, Vec<u8>)>>;
    /// Writes a document if what is there is still `expected`; says whether it did.
    fn replace_document<'a>(
        &'a self,
        kind: DocumentKind,
        name: &'a str,
        expected: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
    ) -> BoxFuture<'a, bool>;

    /// Takes a single-use name; only the first call for it gets `true`, until `until_ms`.
    fn consume<'a>(&'a self, name: &'a [u8; 32], until_ms: i64) -> BoxFuture<'a, bool>;

    /// Makes room for a task among its workload's, and puts it on the attendance list, due at
    /// `due_ms`.
    fn reserve_task<'a>(
        &'a self,
        workload: &'a str,
        task: TaskId,
        deadline_ms: i64,
        due_ms: i64,
        limit: u32,
        now_ms: i64,
    ) -> BoxFuture<'a, Reserved>;
    /// Writes a task and its first token at once.
    fn create_task<'a>(&'a self, task: NewTask<'a>) -> BoxFuture<'a, Created>;
    /// A task, if it is there.
    fn task(&self, task: TaskId) -> BoxFuture<'_, Option<StoredTask>>;
    /// Lets another certificate act for the task.
    fn bind_task(&self, task: TaskId, binding: Vec<u8>) -> BoxFuture<'_, ()>;
    /// Takes a task off the lists once it has ended.
    fn release_task<'a>(&'a self, workload: &'a str, task: TaskId) -> BoxFuture<'a, ()>;
    /// Tasks on the lists, of one workload or of all.
    fn tasks<'a>(&'a self, workload: Option<&'a str>, limit: usize) -> BoxFuture<'a, Vec<TaskId>>;

    /// Writes a token of an existing task; `None` if the task is not there.
    fn create_token<'a>(
        &'a self,
        task: TaskId,
        token: NewToken<'a>,
    ) -> BoxFuture<'a, Option<Created>>;
    /// A token with its task, if both are there. One round trip.
    fn token<'a>(&'a self, task: TaskId, hash: &'a TokenHash)
    -> BoxFuture<'a, Option<StoredToken>>;
    /// Tokens of a task from a place that an earlier page named, or 0; those that have expired may
    /// be among them.
    fn tokens(&self, task: TaskId, from: u64) -> BoxFuture<'_, TokenPage>;
    /// Tasks on the attendance list from a place that an earlier page named, or 0: each that is
    /// there all the while comes at least once.
    fn scan_tasks(&self, from: u64) -> BoxFuture<'_, TaskPage>;
    /// Removes the tokens of a dead task; the task's record stays. Answers how many there were.
    fn reap_tokens(&self, task: TaskId) -> BoxFuture<'_, u64>;

    /// Says when tasks on the attendance list are due next; never puts one on it.
    fn attend(&self, due: Vec<(TaskId, i64)>) -> BoxFuture<'_, ()>;
    /// Tasks that are due.
    fn due(&self, now_ms: i64, limit: usize) -> BoxFuture<'_, Vec<TaskId>>;

    /// Appends to the log, after `floor` at least, and answers the position once it is durable. May
    /// be repeated.
    fn append<'a>(
        &'a self,
        id: EntryId,
        entry: &'a [u8],
        until_ms: i64,
        floor: Position,
    ) -> BoxFuture<'a, Position>;
    /// Appends several in this order, each after `floor` at least; if it fails, some of them may be
    /// there. For what a store has lost.
    fn append_all<'a>(
        &'a self,
        entries: &'a [(EntryId, Vec<u8>, i64)],
        floor: Position,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            for (id, entry, until_ms) in entries {
                self.append(*id, entry, *until_ms, floor).await?;
            }
            Ok(())
        })
    }
    /// Entries after a position, at most `limit`.
    fn read_log(&self, after: Position, limit: usize) -> BoxFuture<'_, Vec<StoredEntry>>;
    /// Returns when there may be entries after a position, or after `wait_ms`.
    fn await_log(&self, after: Position, wait_ms: u64) -> BoxFuture<'_, ()>;
    /// Drops entries that cannot matter any more and the ones at these places; never the last one.
    fn trim_log<'a>(&'a self, now_ms: i64, places: &'a [Position]) -> BoxFuture<'a, ()>;
    /// Reports what this broker has applied, and which entry was the last of it; with it, the tip
    /// of the log and the other brokers' reports. A report counts only if this log has that
    /// entry there: otherwise it is about a log that was lost, and counts as nothing applied.
    fn heartbeat<'a>(
        &'a self,
        broker: &'a str,
        applied: (Position, EntryId),
        forget_after_ms: i64,
    ) -> BoxFuture<'a, Heartbeat>;
    /// Writes a lease of a task; one that is there keeps its time if that is earlier. The task is
    /// remembered to have had it.
    fn put_lease<'a>(
        &'a self,
        engine: &'a str,
        task: TaskId,
        lease: StoredLease,
    ) -> BoxFuture<'a, ()>;
    /// How many leases a task has had.
    fn leases_had(&self, task: TaskId) -> BoxFuture<'_, u64>;
    /// A lease, if it is there.
    fn lease<'a>(&'a self, engine: &'a str, id: LeaseId) -> BoxFuture<'a, Option<StoredLease>>;
    /// Leases of an engine from a place that an earlier call named, or 0, and where to go on, 0 at
    /// the end. One may come twice.
    fn leases<'a>(&'a self, engine: &'a str, from: u64) -> BoxFuture<'a, (Vec<StoredLease>, u64)>;
    /// Makes leases due at this time, those of them that are there and due later.
    fn lease_due<'a>(
        &'a self,
        engine: &'a str,
        ids: &'a [LeaseId],
        due_ms: i64,
    ) -> BoxFuture<'a, ()>;
    /// Takes leases that are due: nobody else gets them until `until_ms`.
    fn claim_leases<'a>(
        &'a self,
        engine: &'a str,
        now_ms: i64,
        until_ms: i64,
        limit: usize,
    ) -> BoxFuture<'a, Vec<StoredLease>>;
    /// Writes what became of a lease that was claimed, and when it is due again; nothing if it is
    /// gone.
    fn retry_lease<'a>(&'a self, engine: &'a str, lease: StoredLease) -> BoxFuture<'a, ()>;
    /// Removes leases whose credentials are gone.
    fn remove_leases<'a>(&'a self, engine: &'a str, ids: &'a [LeaseId]) -> BoxFuture<'a, ()>;
    /// How many leases an engine has, and how many of them are due.
    fn lease_counts<'a>(&'a self, engine: &'a str, now_ms: i64) -> BoxFuture<'a, (u64, u64)>;

    /// Takes this broker off the list of those that must have applied an ending.
    fn leave<'a>(&'a self, broker: &'a str) -> BoxFuture<'a, ()>;
}
