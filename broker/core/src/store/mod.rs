//! The store port. There are two implementations, Redis and embedded, and one contract suite for
//! both.
//!
//! A store keeps bytes under names, with expiry, and it keeps the revocation log. It decides
//! nothing: records are immutable and tagged, and the view decides liveness. P7: an operation that
//! may not have happened is an error.

mod log;
mod order;
mod task;

use std::future::Future;
use std::pin::Pin;

use crate::credential::TokenHash;
use crate::id::{LeaseId, OrderId, TaskId};
use crate::position::{EntryId, Position};

pub use crate::document::DocumentKind;
pub use log::{AppendAfter, Heartbeat, Report, StoredEntry};
pub use order::{Claimed, NewOrder, OrderClaim, StoredOrder};
pub use task::{
    Created, CreatedToken, NewTask, NewToken, Reserved, StoredLease, StoredTask, StoredToken,
    TaskPage, TokenPage,
};

/// The future that an operation of a store returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// The reason why an operation did not succeed. It is meant for the operator: callers get
/// `UNAVAILABLE`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// The answer of the store makes no sense.
    #[error("store answered nonsense: {0}")]
    Corrupt(String),
    /// The store is out of memory or disk.
    #[error("store is full: {0}")]
    Full(String),
    /// The settings or permissions of the store do not let Sundew work.
    #[error("store is not usable: {0}")]
    Misconfigured(String),
    /// The brokers have another agreement than the caller knows, so nothing was appended.
    #[error("the brokers have another agreement on their bounds")]
    OtherAgreement,
    /// The store cannot be reached, or did not answer in time.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
}

/// A place for everything that must outlive a process. All times are in milliseconds since the
/// epoch unless they are said to be durations.
pub trait Store: Send + Sync {
    /// Returns the kind of the store, for logs and for the health report.
    fn describe(&self) -> String;

    /// Says whether the time that the store tells in heartbeats is that of another clock than this
    /// machine's.
    fn has_own_clock(&self) -> bool;

    /// Returns what keeps the store from taking writes at this moment, for the operator.
    fn problem(&self) -> Option<String>;
    /// Fails if the store cannot keep Sundew's promises.
    fn check(&self) -> BoxFuture<'_, ()>;

    /// Returns a document, if it exists.
    fn document<'a>(&'a self, kind: DocumentKind, name: &'a str) -> BoxFuture<'a, Option<Vec<u8>>>;
    /// Returns all documents of a kind, with their names.
    fn documents(&self, kind: DocumentKind) -> BoxFuture<'_, Vec<(String, Vec<u8>)>>;
    /// Writes a document, or deletes it if `value` is absent, if its present content is `expected`.
    /// Returns whether it did.
    fn replace_document<'a>(
        &'a self,
        kind: DocumentKind,
        name: &'a str,
        expected: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
    ) -> BoxFuture<'a, bool>;

    /// Consumes a name that may be used once, and remembers it until `retain_until_ms`. Only the
    /// first call for a name returns `true`.
    fn consume<'a>(&'a self, name: &'a [u8; 32], retain_until_ms: i64) -> BoxFuture<'a, bool>;

    /// Reserves a place for a task among the tasks of its workload, of which there may be `limit`,
    /// and puts the task on the attendance list, due at `due_ms`. The place is free again at
    /// `deadline_ms`.
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
    /// Returns a task, if it exists.
    fn task(&self, task: TaskId) -> BoxFuture<'_, Option<StoredTask>>;
    /// Adds a certificate that may act for the task. Of those that were added, the newest `limit`
    /// stay.
    fn bind_task(&self, task: TaskId, binding: Vec<u8>, limit: usize) -> BoxFuture<'_, ()>;
    /// Replaces the record of a task that has ended by what remains of it, which may be deleted from
    /// `retain_until_ms` on, or from when the record could be if that is earlier. Deletes the tokens
    /// of the task. A task that does not exist stays away.
    fn end_task(&self, task: TaskId, remains: Vec<u8>, retain_until_ms: i64) -> BoxFuture<'_, ()>;
    /// Takes a task off the lists once it has ended.
    fn release_task<'a>(&'a self, workload: &'a str, task: TaskId) -> BoxFuture<'a, ()>;
    /// Takes tasks of one workload off the lists, as [`release_task`](Self::release_task) does with
    /// one.
    fn release_tasks<'a>(&'a self, workload: &'a str, tasks: &'a [TaskId]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            for task in tasks {
                self.release_task(workload, *task).await?;
            }
            Ok(())
        })
    }
    /// Returns at most `limit` of the tasks on the lists, of one workload or of all.
    fn tasks<'a>(&'a self, workload: Option<&'a str>, limit: usize) -> BoxFuture<'a, Vec<TaskId>>;

    /// Writes an order and puts it on the lists. Returns `None` if its dispatcher has as many orders
    /// on its list as it may have. The limit is not exact while orders are made at a time.
    fn create_order<'a>(&'a self, order: NewOrder<'a>) -> BoxFuture<'a, Option<Created>>;
    /// Returns an order with its claim, if it exists.
    fn order(&self, order: OrderId) -> BoxFuture<'_, Option<StoredOrder>>;
    /// Claims an order by writing its task, in one step: of all calls for one order, one returns
    /// [`Claimed::Now`], and the others what it wrote. The claim is as durable as an entry of the log
    /// before this returns.
    fn claim_order<'a>(&'a self, claim: OrderClaim<'a>) -> BoxFuture<'a, Claimed>;
    /// Returns at most `limit` of the orders on the lists, of one dispatcher or of all. Orders that
    /// cannot be claimed any more may be among them.
    fn orders<'a>(
        &'a self,
        dispatcher: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Vec<OrderId>>;
    /// Takes an order off the lists.
    fn release_order<'a>(&'a self, dispatcher: &'a str, order: OrderId) -> BoxFuture<'a, ()>;

    /// Writes a token of an existing task, which may have `limit` tokens that are still kept. Returns
    /// `None` if the task does not exist.
    fn create_token<'a>(
        &'a self,
        task: TaskId,
        token: NewToken<'a>,
        limit: u32,
    ) -> BoxFuture<'a, Option<CreatedToken>>;
    /// Returns a token with its task, if both exist, in one round trip.
    fn token<'a>(&'a self, task: TaskId, hash: &'a TokenHash)
    -> BoxFuture<'a, Option<StoredToken>>;
    /// Returns a page of the tokens of a task. `from` is 0 or the cursor of an earlier page. Tokens
    /// that have expired may be among them.
    fn tokens(&self, task: TaskId, from: u64) -> BoxFuture<'_, TokenPage>;
    /// Returns a page of the attendance list. `from` is 0 or the cursor of an earlier page. A task
    /// that is on the list from the first page to the last is on at least one page.
    fn scan_tasks(&self, from: u64) -> BoxFuture<'_, TaskPage>;

    /// Returns the number of tasks on the attendance list, of all workloads.
    fn count_tasks(&self) -> BoxFuture<'_, u64>;

    /// Sets the times at which tasks on the attendance list are due next. A task that is not on the
    /// list is not put on it.
    fn attend(&self, due: Vec<(TaskId, i64)>) -> BoxFuture<'_, ()>;
    /// Returns at most `limit` of the tasks on the attendance list that are due.
    fn due(&self, now_ms: i64, limit: usize) -> BoxFuture<'_, Vec<TaskId>>;

    /// Returns the agreement of the brokers on their bounds, if they have one.
    fn agreement(&self) -> BoxFuture<'_, Option<Vec<u8>>>;
    /// Writes the agreement of this version if the store has the one of version `expected`, where 0
    /// stands for none. Returns whether it did, once a majority of the data nodes has it.
    fn replace_agreement<'a>(
        &'a self,
        expected: u64,
        version: u64,
        value: &'a [u8],
    ) -> BoxFuture<'a, bool>;
    /// Returns what each broker on the list reported of itself, by the name of the broker. A broker
    /// of a version that says nothing has an empty text.
    fn reports(&self) -> BoxFuture<'_, Vec<(String, String)>>;

    /// Appends an entry to the log at a position above the floor, and returns the position once the
    /// entry is durable. The entry may be deleted from `retain_until_ms` on. An append may be
    /// repeated: an entry whose name is in the log keeps its position. If the agreement is another
    /// one than the caller knows, nothing is appended ([`StoreError::OtherAgreement`]).
    fn append<'a>(
        &'a self,
        id: EntryId,
        entry: &'a [u8],
        retain_until_ms: i64,
        after: AppendAfter,
    ) -> BoxFuture<'a, Position>;
    /// Appends entries that a store has lost, in this order and each above the floor. If this fails,
    /// some of the entries may be in the log. Each entry comes with its name and with the time from
    /// which it may be deleted.
    fn append_all<'a>(
        &'a self,
        entries: &'a [(EntryId, Vec<u8>, i64)],
        after: AppendAfter,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            for (id, entry, retain_until_ms) in entries {
                self.append(*id, entry, *retain_until_ms, after).await?;
            }
            Ok(())
        })
    }
    /// Returns at most `limit` of the entries after a position, in order.
    fn read_log(&self, after: Position, limit: usize) -> BoxFuture<'_, Vec<StoredEntry>>;
    /// Returns when there may be entries after a position, or after `wait_ms` milliseconds.
    fn await_log(&self, after: Position, wait_ms: u64) -> BoxFuture<'_, ()>;
    /// Deletes the entries that may be deleted at `now_ms`, and the entries at these positions. The
    /// last entry of the log is never deleted.
    fn trim_log<'a>(&'a self, now_ms: i64, positions: &'a [Position]) -> BoxFuture<'a, ()>;
    /// Reports what this broker has applied, and returns the tip of the log with the reports of the
    /// other brokers. A broker that has not reported for ten of its own freshness bounds is taken
    /// off the list, whichever broker notices.
    ///
    /// A report counts only if the log has the entry that it names, at the position that it names.
    /// Otherwise the report is about a log that was lost, and counts as nothing applied.
    fn heartbeat<'a>(&'a self, report: Report<'a>) -> BoxFuture<'a, Heartbeat>;
    /// Puts what a broker asks the others with where their heartbeats find it, or takes it away.
    fn announce<'a>(&'a self, broker: &'a str, arrival: Option<&'a [u8]>) -> BoxFuture<'a, ()>;
    /// Puts an answer of a broker to one that has arrived where that one finds it, for a minute at
    /// least.
    fn vouch<'a>(
        &'a self,
        arriving: &'a str,
        giver: &'a str,
        voucher: &'a [u8],
    ) -> BoxFuture<'a, ()>;
    /// Returns the answers to a broker that has arrived, by the names of those who gave them.
    fn vouchers<'a>(&'a self, arriving: &'a str) -> BoxFuture<'a, Vec<(String, Vec<u8>)>>;
    /// Takes this broker off the list of those that must have applied an ending.
    fn leave<'a>(&'a self, broker: &'a str) -> BoxFuture<'a, ()>;

    /// Writes a lease of a task, and remembers that the task has had it. A lease that exists keeps
    /// its due time if that is earlier.
    fn put_lease<'a>(
        &'a self,
        engine: &'a str,
        task: TaskId,
        lease: StoredLease,
    ) -> BoxFuture<'a, ()>;
    /// Returns the number of leases that a task has had.
    fn leases_had(&self, task: TaskId) -> BoxFuture<'_, u64>;
    /// Returns a lease, if it exists.
    fn lease<'a>(&'a self, engine: &'a str, id: LeaseId) -> BoxFuture<'a, Option<StoredLease>>;
    /// Returns a page of the leases of an engine, and the cursor of the next page, which is 0 after
    /// the last one. `from` is 0 or the cursor of an earlier page. A lease may be on several pages.
    fn leases<'a>(&'a self, engine: &'a str, from: u64) -> BoxFuture<'a, (Vec<StoredLease>, u64)>;
    /// Makes leases due at `due_ms`. A lease that does not exist, or that is due earlier, stays as
    /// it is.
    fn lease_due<'a>(
        &'a self,
        engine: &'a str,
        ids: &'a [LeaseId],
        due_ms: i64,
    ) -> BoxFuture<'a, ()>;
    /// Claims at most `limit` leases that are due: no other caller gets them until
    /// `claimed_until_ms`.
    fn claim_leases<'a>(
        &'a self,
        engine: &'a str,
        now_ms: i64,
        claimed_until_ms: i64,
        limit: usize,
    ) -> BoxFuture<'a, Vec<StoredLease>>;
    /// Writes the new state of a claimed lease, and the time at which it is due again. A lease that
    /// does not exist any more is not written.
    fn retry_lease<'a>(&'a self, engine: &'a str, lease: StoredLease) -> BoxFuture<'a, ()>;
    /// Deletes leases whose credentials are gone.
    fn remove_leases<'a>(&'a self, engine: &'a str, ids: &'a [LeaseId]) -> BoxFuture<'a, ()>;
    /// Returns the number of leases that an engine has, and the number of those that are due.
    fn lease_counts<'a>(&'a self, engine: &'a str, now_ms: i64) -> BoxFuture<'a, (u64, u64)>;
}
