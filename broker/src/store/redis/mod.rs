//! The Redis store: Redis 7 or later, alone, behind Sentinel, or as a Cluster.
//!
//! Every script touches one hash slot: `{task}` holds a task with its tokens, `{log}` the
//! revocation log. Lists of tasks live outside and serve listing and attendance, never liveness.
//! P7: every error is an error to the caller, none is "not there".

mod call;
mod connect;
mod documents;
mod errors;
mod executor;
mod keys;
mod leader;
mod leases;
mod link;
mod log;
mod orders;
mod primaries;
mod requirements;
mod settings;
mod slot;
mod tasks;
mod tokens;
mod url;

use std::sync::Arc;

use ::redis::cmd;
use sundew_core::store::{
    AppendAfter, BoxFuture, Claimed, Created, CreatedToken, DocumentKind, Heartbeat, NewOrder,
    NewTask, NewToken, OrderClaim, Report, Reserved, Store, StoreError, StoredEntry, StoredLease,
    StoredOrder, StoredTask, StoredToken, TaskPage, TokenPage,
};
use sundew_core::{EntryId, LeaseId, OrderId, Position, TaskId, TokenHash};

use documents::Documents;
use executor::Executor;
use keys::{ABOUT, ARRIVALS, BOUNDS, BROKERS, documents_key};
use leases::Leases;
use log::Log;
use orders::Orders;
use requirements::check_node;
pub use settings::{Durability, RedisSettings};
use tasks::Tasks;
use tokens::Tokens;
pub use url::{RedisUrl, RedisUrlError};

/// The broker that a check of the store reports as.
const PROBE: &str = "probe";

/// The fields of a hash.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A store in Redis. Each part of it owns its scripts; the parts share the connections.
pub struct RedisStore {
    settings: Arc<RedisSettings>,
    executor: Arc<Executor>,
    documents: Documents,
    leases: Leases,
    log: Log,
    orders: Orders,
    tasks: Tasks,
    tokens: Tokens,
}

impl RedisStore {
    /// Returns a store with these settings, which connects when it is first used.
    #[must_use]
    pub fn new(settings: RedisSettings) -> Arc<Self> {
        let settings = Arc::new(settings);
        let leader = Arc::default();
        let executor = Arc::new(Executor::new(Arc::clone(&settings), &leader));
        Arc::new(Self {
            documents: Documents::new(Arc::clone(&executor)),
            leases: Leases::new(Arc::clone(&executor)),
            log: Log::new(Arc::clone(&settings), leader),
            orders: Orders::new(Arc::clone(&executor)),
            tasks: Tasks::new(Arc::clone(&executor)),
            tokens: Tokens::new(Arc::clone(&executor)),
            executor,
            settings,
        })
    }

    async fn check_servers(&self) -> Result<(), StoreError> {
        for node in self.executor.info().await? {
            check_node(&node, &self.settings)?;
        }
        // Whether the user may do what Sundew does shows by doing it: a read, a write, and a
        // script.
        let tip = self.log.probe(PROBE).await?;
        let _: Option<Vec<u8>> = self
            .executor
            .query(
                cmd("HGET")
                    .arg(documents_key(DocumentKind::Meta))
                    .arg(PROBE),
            )
            .await?;
        self.log.read(tip, 1).await?;
        Ok(())
    }

    async fn leave_brokers(&self, broker: &str) -> Result<(), StoreError> {
        for list in [BROKERS, BOUNDS, ABOUT, ARRIVALS] {
            self.executor
                .query::<i64>(cmd("HDEL").arg(list).arg(broker))
                .await?;
        }
        Ok(())
    }
}

impl Store for RedisStore {
    fn describe(&self) -> String {
        self.settings.url.describe()
    }

    fn has_own_clock(&self) -> bool {
        true
    }

    fn problem(&self) -> Option<String> {
        self.executor.problem()
    }

    fn check(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.check_servers())
    }

    fn document<'a>(&'a self, kind: DocumentKind, name: &'a str) -> BoxFuture<'a, Option<Vec<u8>>> {
        Box::pin(self.documents.read(kind, name))
    }

    fn documents(&self, kind: DocumentKind) -> BoxFuture<'_, Vec<(String, Vec<u8>)>> {
        Box::pin(self.documents.read_all(kind))
    }

    fn replace_document<'a>(
        &'a self,
        kind: DocumentKind,
        name: &'a str,
        expected: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
    ) -> BoxFuture<'a, bool> {
        Box::pin(self.documents.replace(kind, name, expected, value))
    }

    fn consume<'a>(&'a self, name: &'a [u8; 32], until_ms: i64) -> BoxFuture<'a, bool> {
        Box::pin(self.documents.consume(name, until_ms))
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
            self.tasks
                .reserve(workload, task, deadline_ms, due_ms, limit, now_ms),
        )
    }

    fn create_task<'a>(&'a self, task: NewTask<'a>) -> BoxFuture<'a, Created> {
        Box::pin(self.tasks.create(task))
    }

    fn task(&self, task: TaskId) -> BoxFuture<'_, Option<StoredTask>> {
        Box::pin(self.tasks.read(task))
    }

    fn bind_task(&self, task: TaskId, binding: Vec<u8>, limit: usize) -> BoxFuture<'_, ()> {
        Box::pin(self.tasks.bind(task, binding, limit))
    }

    fn end_task(&self, task: TaskId, remains: Vec<u8>, until_ms: i64) -> BoxFuture<'_, ()> {
        Box::pin(self.tasks.end(task, remains, until_ms))
    }

    fn release_task<'a>(&'a self, workload: &'a str, task: TaskId) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.tasks.release(workload, &[task]).await })
    }

    fn release_tasks<'a>(&'a self, workload: &'a str, tasks: &'a [TaskId]) -> BoxFuture<'a, ()> {
        Box::pin(self.tasks.release(workload, tasks))
    }

    fn tasks<'a>(&'a self, workload: Option<&'a str>, limit: usize) -> BoxFuture<'a, Vec<TaskId>> {
        Box::pin(self.tasks.list(workload, limit))
    }

    fn create_order<'a>(&'a self, order: NewOrder<'a>) -> BoxFuture<'a, Option<Created>> {
        Box::pin(self.orders.create(order))
    }

    fn order(&self, order: OrderId) -> BoxFuture<'_, Option<StoredOrder>> {
        Box::pin(self.orders.read(order))
    }

    fn claim_order<'a>(&'a self, claim: OrderClaim<'a>) -> BoxFuture<'a, Claimed> {
        Box::pin(self.orders.claim(claim))
    }

    fn orders<'a>(
        &'a self,
        dispatcher: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Vec<OrderId>> {
        Box::pin(self.orders.list(dispatcher, limit))
    }

    fn release_order<'a>(&'a self, dispatcher: &'a str, order: OrderId) -> BoxFuture<'a, ()> {
        Box::pin(self.orders.release(dispatcher, order))
    }

    fn create_token<'a>(
        &'a self,
        task: TaskId,
        token: NewToken<'a>,
        limit: u32,
    ) -> BoxFuture<'a, Option<CreatedToken>> {
        Box::pin(self.tokens.create(task, token, limit))
    }

    fn token<'a>(
        &'a self,
        task: TaskId,
        hash: &'a TokenHash,
    ) -> BoxFuture<'a, Option<StoredToken>> {
        Box::pin(self.tokens.read(task, hash))
    }

    fn tokens(&self, task: TaskId, from: u64) -> BoxFuture<'_, TokenPage> {
        Box::pin(self.tokens.scan(task, from))
    }

    fn scan_tasks(&self, from: u64) -> BoxFuture<'_, TaskPage> {
        Box::pin(self.tasks.scan(from))
    }

    fn count_tasks(&self) -> BoxFuture<'_, u64> {
        Box::pin(self.tasks.count())
    }

    fn attend(&self, due: Vec<(TaskId, i64)>) -> BoxFuture<'_, ()> {
        Box::pin(self.tasks.attend(due))
    }

    fn due(&self, now_ms: i64, limit: usize) -> BoxFuture<'_, Vec<TaskId>> {
        Box::pin(self.tasks.due(now_ms, limit))
    }

    fn append<'a>(
        &'a self,
        id: EntryId,
        entry: &'a [u8],
        until_ms: i64,
        after: AppendAfter,
    ) -> BoxFuture<'a, Position> {
        Box::pin(self.log.append(id, entry, until_ms, after))
    }

    fn append_all<'a>(
        &'a self,
        entries: &'a [(EntryId, Vec<u8>, i64)],
        after: AppendAfter,
    ) -> BoxFuture<'a, ()> {
        Box::pin(self.log.append_all(entries, after))
    }

    fn read_log(&self, after: Position, limit: usize) -> BoxFuture<'_, Vec<StoredEntry>> {
        Box::pin(self.log.read(after, limit))
    }

    fn await_log(&self, after: Position, wait_ms: u64) -> BoxFuture<'_, ()> {
        Box::pin(self.log.wait(after, wait_ms))
    }

    fn trim_log<'a>(&'a self, now_ms: i64, places: &'a [Position]) -> BoxFuture<'a, ()> {
        Box::pin(self.log.trim(now_ms, places))
    }

    fn heartbeat<'a>(&'a self, report: Report<'a>) -> BoxFuture<'a, Heartbeat> {
        Box::pin(self.log.heartbeat(report))
    }

    fn announce<'a>(&'a self, broker: &'a str, arrival: Option<&'a [u8]>) -> BoxFuture<'a, ()> {
        Box::pin(self.log.announce(broker, arrival))
    }

    fn vouch<'a>(
        &'a self,
        arriving: &'a str,
        giver: &'a str,
        voucher: &'a [u8],
    ) -> BoxFuture<'a, ()> {
        Box::pin(self.log.vouch(arriving, giver, voucher))
    }

    fn vouchers<'a>(&'a self, arriving: &'a str) -> BoxFuture<'a, Vec<(String, Vec<u8>)>> {
        Box::pin(self.log.vouchers(arriving))
    }

    fn agreement(&self) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(self.log.agreement())
    }

    fn replace_agreement<'a>(
        &'a self,
        expected: u64,
        version: u64,
        value: &'a [u8],
    ) -> BoxFuture<'a, bool> {
        Box::pin(self.log.replace_agreement(expected, version, value))
    }

    fn reports(&self) -> BoxFuture<'_, Vec<(String, String)>> {
        Box::pin(self.log.reports())
    }

    fn put_lease<'a>(
        &'a self,
        engine: &'a str,
        task: TaskId,
        lease: StoredLease,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.leases.put(engine, task, &lease).await })
    }

    fn leases_had(&self, task: TaskId) -> BoxFuture<'_, u64> {
        Box::pin(self.leases.count_of_task(task))
    }

    fn lease<'a>(&'a self, engine: &'a str, id: LeaseId) -> BoxFuture<'a, Option<StoredLease>> {
        Box::pin(self.leases.read(engine, id))
    }

    fn leases<'a>(&'a self, engine: &'a str, from: u64) -> BoxFuture<'a, (Vec<StoredLease>, u64)> {
        Box::pin(self.leases.scan(engine, from))
    }

    fn lease_due<'a>(
        &'a self,
        engine: &'a str,
        ids: &'a [LeaseId],
        due_ms: i64,
    ) -> BoxFuture<'a, ()> {
        Box::pin(self.leases.make_due(engine, ids, due_ms))
    }

    fn claim_leases<'a>(
        &'a self,
        engine: &'a str,
        now_ms: i64,
        until_ms: i64,
        limit: usize,
    ) -> BoxFuture<'a, Vec<StoredLease>> {
        Box::pin(self.leases.claim(engine, now_ms, until_ms, limit))
    }

    fn retry_lease<'a>(&'a self, engine: &'a str, lease: StoredLease) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.leases.retry(engine, &lease).await })
    }

    fn remove_leases<'a>(&'a self, engine: &'a str, ids: &'a [LeaseId]) -> BoxFuture<'a, ()> {
        Box::pin(self.leases.remove(engine, ids))
    }

    fn lease_counts<'a>(&'a self, engine: &'a str, now_ms: i64) -> BoxFuture<'a, (u64, u64)> {
        Box::pin(self.leases.count(engine, now_ms))
    }

    fn leave<'a>(&'a self, broker: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(self.leave_brokers(broker))
    }
}
