//! A store whose operations are timed and whose failures are counted, whichever store it is.

use std::sync::Arc;
use std::time::Instant;

use sundew_core::store::{
    AppendAfter, BoxFuture, Claimed, Created, CreatedToken, DocumentKind, Heartbeat, NewOrder,
    NewTask, NewToken, OrderClaim, Report, Reserved, Store, StoredEntry, StoredLease, StoredOrder,
    StoredTask, StoredToken, TaskPage, TokenPage,
};
use sundew_core::{EntryId, LeaseId, OrderId, Position, TaskId, TokenHash};

use crate::clock;
use crate::metrics::StoreMetrics;

/// A store, and where its operations are counted.
struct MeasuredStore {
    store: Arc<dyn Store>,
    metrics: StoreMetrics,
}

/// Returns a store of which every operation is measured from now on.
pub(crate) fn measured(store: Arc<dyn Store>, metrics: StoreMetrics) -> Arc<dyn Store> {
    Arc::new(MeasuredStore { store, metrics })
}

impl MeasuredStore {
    /// The result of work that began when its future was made: a store that answers from memory has
    /// done it by then.
    fn timed<'a, T: 'a>(
        &'a self,
        operation: &'static str,
        began: Instant,
        work: BoxFuture<'a, T>,
    ) -> BoxFuture<'a, T> {
        Box::pin(async move {
            let result = work.await;
            let failed = result.as_ref().err();
            self.metrics.took(operation, clock::since(began), failed);
            result
        })
    }
}

/// Waiting for news of the log takes as long as there are none, so that it is not timed.
impl Store for MeasuredStore {
    fn describe(&self) -> String {
        self.store.describe()
    }

    fn has_own_clock(&self) -> bool {
        self.store.has_own_clock()
    }

    fn problem(&self) -> Option<String> {
        self.store.problem()
    }

    fn check(&self) -> BoxFuture<'_, ()> {
        self.store.check()
    }

    fn document<'a>(&'a self, kind: DocumentKind, name: &'a str) -> BoxFuture<'a, Option<Vec<u8>>> {
        self.timed(
            "document",
            clock::monotonic(),
            self.store.document(kind, name),
        )
    }

    fn documents(&self, kind: DocumentKind) -> BoxFuture<'_, Vec<(String, Vec<u8>)>> {
        self.timed("documents", clock::monotonic(), self.store.documents(kind))
    }

    fn replace_document<'a>(
        &'a self,
        kind: DocumentKind,
        name: &'a str,
        expected: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
    ) -> BoxFuture<'a, bool> {
        self.timed(
            "replace_document",
            clock::monotonic(),
            self.store.replace_document(kind, name, expected, value),
        )
    }

    fn consume<'a>(&'a self, name: &'a [u8; 32], retain_until_ms: i64) -> BoxFuture<'a, bool> {
        self.timed(
            "consume",
            clock::monotonic(),
            self.store.consume(name, retain_until_ms),
        )
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
        self.timed(
            "reserve_task",
            clock::monotonic(),
            self.store
                .reserve_task(workload, task, deadline_ms, due_ms, limit, now_ms),
        )
    }

    fn create_task<'a>(&'a self, task: NewTask<'a>) -> BoxFuture<'a, Created> {
        self.timed(
            "create_task",
            clock::monotonic(),
            self.store.create_task(task),
        )
    }

    fn create_order<'a>(&'a self, order: NewOrder<'a>) -> BoxFuture<'a, Option<Created>> {
        self.timed(
            "create_order",
            clock::monotonic(),
            self.store.create_order(order),
        )
    }

    fn order(&self, order: OrderId) -> BoxFuture<'_, Option<StoredOrder>> {
        self.timed("order", clock::monotonic(), self.store.order(order))
    }

    fn claim_order<'a>(&'a self, claim: OrderClaim<'a>) -> BoxFuture<'a, Claimed> {
        self.timed(
            "claim_order",
            clock::monotonic(),
            self.store.claim_order(claim),
        )
    }

    fn orders<'a>(
        &'a self,
        dispatcher: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Vec<OrderId>> {
        self.timed(
            "orders",
            clock::monotonic(),
            self.store.orders(dispatcher, limit),
        )
    }

    fn release_order<'a>(&'a self, dispatcher: &'a str, order: OrderId) -> BoxFuture<'a, ()> {
        self.timed(
            "release_order",
            clock::monotonic(),
            self.store.release_order(dispatcher, order),
        )
    }

    fn task(&self, task: TaskId) -> BoxFuture<'_, Option<StoredTask>> {
        self.timed("task", clock::monotonic(), self.store.task(task))
    }

    fn bind_task(&self, task: TaskId, binding: Vec<u8>, limit: usize) -> BoxFuture<'_, ()> {
        self.timed(
            "bind_task",
            clock::monotonic(),
            self.store.bind_task(task, binding, limit),
        )
    }

    fn end_task(&self, task: TaskId, remains: Vec<u8>, retain_until_ms: i64) -> BoxFuture<'_, ()> {
        self.timed(
            "end_task",
            clock::monotonic(),
            self.store.end_task(task, remains, retain_until_ms),
        )
    }

    fn release_task<'a>(&'a self, workload: &'a str, task: TaskId) -> BoxFuture<'a, ()> {
        self.timed(
            "release_task",
            clock::monotonic(),
            self.store.release_task(workload, task),
        )
    }

    fn release_tasks<'a>(&'a self, workload: &'a str, tasks: &'a [TaskId]) -> BoxFuture<'a, ()> {
        self.timed(
            "release_tasks",
            clock::monotonic(),
            self.store.release_tasks(workload, tasks),
        )
    }

    fn tasks<'a>(&'a self, workload: Option<&'a str>, limit: usize) -> BoxFuture<'a, Vec<TaskId>> {
        self.timed(
            "tasks",
            clock::monotonic(),
            self.store.tasks(workload, limit),
        )
    }

    fn create_token<'a>(
        &'a self,
        task: TaskId,
        token: NewToken<'a>,
        limit: u32,
    ) -> BoxFuture<'a, Option<CreatedToken>> {
        self.timed(
            "create_token",
            clock::monotonic(),
            self.store.create_token(task, token, limit),
        )
    }

    fn token<'a>(
        &'a self,
        task: TaskId,
        hash: &'a TokenHash,
    ) -> BoxFuture<'a, Option<StoredToken>> {
        self.timed("token", clock::monotonic(), self.store.token(task, hash))
    }

    fn tokens(&self, task: TaskId, from: u64) -> BoxFuture<'_, TokenPage> {
        self.timed("tokens", clock::monotonic(), self.store.tokens(task, from))
    }

    fn scan_tasks(&self, from: u64) -> BoxFuture<'_, TaskPage> {
        self.timed(
            "scan_tasks",
            clock::monotonic(),
            self.store.scan_tasks(from),
        )
    }

    fn count_tasks(&self) -> BoxFuture<'_, u64> {
        self.timed("count_tasks", clock::monotonic(), self.store.count_tasks())
    }

    fn attend(&self, due: Vec<(TaskId, i64)>) -> BoxFuture<'_, ()> {
        self.timed("attend", clock::monotonic(), self.store.attend(due))
    }

    fn due(&self, now_ms: i64, limit: usize) -> BoxFuture<'_, Vec<TaskId>> {
        self.timed("due", clock::monotonic(), self.store.due(now_ms, limit))
    }

    fn agreement(&self) -> BoxFuture<'_, Option<Vec<u8>>> {
        self.timed("agreement", clock::monotonic(), self.store.agreement())
    }

    fn replace_agreement<'a>(
        &'a self,
        expected: u64,
        version: u64,
        value: &'a [u8],
    ) -> BoxFuture<'a, bool> {
        self.timed(
            "replace_agreement",
            clock::monotonic(),
            self.store.replace_agreement(expected, version, value),
        )
    }

    fn reports(&self) -> BoxFuture<'_, Vec<(String, String)>> {
        self.timed("reports", clock::monotonic(), self.store.reports())
    }

    fn append<'a>(
        &'a self,
        id: EntryId,
        entry: &'a [u8],
        retain_until_ms: i64,
        after: AppendAfter,
    ) -> BoxFuture<'a, Position> {
        self.timed(
            "append",
            clock::monotonic(),
            self.store.append(id, entry, retain_until_ms, after),
        )
    }

    fn append_all<'a>(
        &'a self,
        entries: &'a [(EntryId, Vec<u8>, i64)],
        after: AppendAfter,
    ) -> BoxFuture<'a, ()> {
        self.timed(
            "append_all",
            clock::monotonic(),
            self.store.append_all(entries, after),
        )
    }

    fn read_log(&self, after: Position, limit: usize) -> BoxFuture<'_, Vec<StoredEntry>> {
        self.timed(
            "read_log",
            clock::monotonic(),
            self.store.read_log(after, limit),
        )
    }

    fn await_log(&self, after: Position, wait_ms: u64) -> BoxFuture<'_, ()> {
        self.store.await_log(after, wait_ms)
    }

    fn trim_log<'a>(&'a self, now_ms: i64, positions: &'a [Position]) -> BoxFuture<'a, ()> {
        self.timed(
            "trim_log",
            clock::monotonic(),
            self.store.trim_log(now_ms, positions),
        )
    }

    fn heartbeat<'a>(&'a self, report: Report<'a>) -> BoxFuture<'a, Heartbeat> {
        self.timed(
            "heartbeat",
            clock::monotonic(),
            self.store.heartbeat(report),
        )
    }

    fn announce<'a>(&'a self, broker: &'a str, arrival: Option<&'a [u8]>) -> BoxFuture<'a, ()> {
        self.timed(
            "announce",
            clock::monotonic(),
            self.store.announce(broker, arrival),
        )
    }

    fn vouch<'a>(
        &'a self,
        arriving: &'a str,
        giver: &'a str,
        voucher: &'a [u8],
    ) -> BoxFuture<'a, ()> {
        self.timed(
            "vouch",
            clock::monotonic(),
            self.store.vouch(arriving, giver, voucher),
        )
    }

    fn vouchers<'a>(&'a self, arriving: &'a str) -> BoxFuture<'a, Vec<(String, Vec<u8>)>> {
        self.timed(
            "vouchers",
            clock::monotonic(),
            self.store.vouchers(arriving),
        )
    }

    fn leave<'a>(&'a self, broker: &'a str) -> BoxFuture<'a, ()> {
        self.timed("leave", clock::monotonic(), self.store.leave(broker))
    }

    fn put_lease<'a>(
        &'a self,
        engine: &'a str,
        task: TaskId,
        lease: StoredLease,
    ) -> BoxFuture<'a, ()> {
        self.timed(
            "put_lease",
            clock::monotonic(),
            self.store.put_lease(engine, task, lease),
        )
    }

    fn leases_had(&self, task: TaskId) -> BoxFuture<'_, u64> {
        self.timed(
            "leases_had",
            clock::monotonic(),
            self.store.leases_had(task),
        )
    }

    fn lease<'a>(&'a self, engine: &'a str, id: LeaseId) -> BoxFuture<'a, Option<StoredLease>> {
        self.timed("lease", clock::monotonic(), self.store.lease(engine, id))
    }

    fn leases<'a>(&'a self, engine: &'a str, from: u64) -> BoxFuture<'a, (Vec<StoredLease>, u64)> {
        self.timed(
            "leases",
            clock::monotonic(),
            self.store.leases(engine, from),
        )
    }

    fn lease_due<'a>(
        &'a self,
        engine: &'a str,
        ids: &'a [LeaseId],
        due_ms: i64,
    ) -> BoxFuture<'a, ()> {
        self.timed(
            "lease_due",
            clock::monotonic(),
            self.store.lease_due(engine, ids, due_ms),
        )
    }

    fn claim_leases<'a>(
        &'a self,
        engine: &'a str,
        now_ms: i64,
        claimed_until_ms: i64,
        limit: usize,
    ) -> BoxFuture<'a, Vec<StoredLease>> {
        self.timed(
            "claim_leases",
            clock::monotonic(),
            self.store
                .claim_leases(engine, now_ms, claimed_until_ms, limit),
        )
    }

    fn retry_lease<'a>(&'a self, engine: &'a str, lease: StoredLease) -> BoxFuture<'a, ()> {
        self.timed(
            "retry_lease",
            clock::monotonic(),
            self.store.retry_lease(engine, lease),
        )
    }

    fn remove_leases<'a>(&'a self, engine: &'a str, ids: &'a [LeaseId]) -> BoxFuture<'a, ()> {
        self.timed(
            "remove_leases",
            clock::monotonic(),
            self.store.remove_leases(engine, ids),
        )
    }

    fn lease_counts<'a>(&'a self, engine: &'a str, now_ms: i64) -> BoxFuture<'a, (u64, u64)> {
        self.timed(
            "lease_counts",
            clock::monotonic(),
            self.store.lease_counts(engine, now_ms),
        )
    }
}
