//! The Redis store: Redis 7 or later, alone, behind Sentinel, or as a Cluster.
//!
//! Every script touches one hash slot: `{task}` holds a task with its tokens, `{log}` the
//! revocation log. Lists of tasks live outside and serve listing and attendance, never liveness.
//! P7: every error is an error to the caller, none is "not there".

use std::sync::{Arc, Mutex, PoisonError};

use ::redis::streams::StreamRangeReply;
use ::redis::{FromRedisValue, Script, Value, cmd};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sundew_core::store::{
    BoxFuture, Created, DocumentKind, Heartbeat, NewTask, NewToken, Reserved, Store, StoreError,
    StoredEntry, StoredLease, StoredTask, StoredToken, TaskPage, TokenPage,
};
use sundew_core::{EntryId, LeaseId, Position, TaskId, TokenHash, TokenId};

mod judge;
mod keys;
mod leases;
mod link;
mod primaries;
use judge::{check_node, store_error};
use keys::*;
use link::Link;
pub use link::{Durability, RedisSettings, RedisUrl, RedisUrlError};
use primaries::{Call, Primaries};

/// Entries appended in one round trip, when a log that was lost is mended.
const APPENDED_TOGETHER: usize = 256;
/// Entries that one trimming looks at, as `trim.lua` has it.
const TRIM_BATCH: u64 = 2000;

/// Fields of a hash.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;
/// What `heartbeat.lua` answers.
type Reported = (i64, String, u64, Vec<u8>, Vec<(String, u64)>, String);

/// See the module.
pub struct RedisStore {
    settings: Arc<RedisSettings>,
    link: Arc<Link>,
    /// The revocation log, where what is written must be on replicas before it counts.
    log: Primaries,
    /// Other writes of which this is demanded.
    durable: Primaries,
    /// Blocking reads must not hold up the others.
    tail: Primaries,
    scripts: Scripts,
    /// Where trimming goes on.
    trimmed: Mutex<String>,
}

struct Scripts {
    replace_document: Script,
    consume: Script,
    reserve_task: Script,
    create_task: Script,
    create_token: Script,
    reap_tokens: Script,
    append: Script,
    heartbeat: Script,
    trim: Script,
    put_lease: Script,
    retry_lease: Script,
    claim_leases: Script,
    remove_leases: Script,
}

impl RedisStore {
    /// A store at this place. Connects when first used.
    #[must_use]
    pub fn new(settings: RedisSettings) -> Arc<Self> {
        let settings = Arc::new(settings);
        let primaries = || Primaries::new(Arc::clone(&settings));
        Arc::new(Self {
            link: Arc::new(Link::new(Arc::clone(&settings), None)),
            log: primaries(),
            durable: primaries(),
            tail: primaries(),
            scripts: Scripts {
                replace_document: Script::new(include_str!("redis/replace_document.lua")),
                consume: Script::new(include_str!("redis/consume.lua")),
                reserve_task: Script::new(include_str!("redis/reserve_task.lua")),
                create_task: Script::new(include_str!("redis/create_task.lua")),
                create_token: Script::new(include_str!("redis/create_token.lua")),
                reap_tokens: Script::new(include_str!("redis/reap_tokens.lua")),
                append: Script::new(include_str!("redis/append.lua")),
                heartbeat: Script::new(include_str!("redis/heartbeat.lua")),
                trim: Script::new(include_str!("redis/trim.lua")),
                put_lease: Script::new(include_str!("redis/put_lease.lua")),
                retry_lease: Script::new(include_str!("redis/retry_lease.lua")),
                claim_leases: Script::new(include_str!("redis/claim_leases.lua")),
                remove_leases: Script::new(include_str!("redis/remove_leases.lua")),
            },
            trimmed: Mutex::new("-".to_owned()),
            settings,
        })
    }

    async fn script<T: FromRedisValue>(&self, call: &Call<'_>) -> Result<T, StoreError> {
        let mut connection = self.link.connection().await?;
        self.link.settle(call.on(&mut connection).await)
    }

    /// Runs a script that writes something that should not be lost.
    async fn write<T: FromRedisValue>(&self, call: &Call<'_>) -> Result<T, StoreError> {
        match self.settings.durability {
            Durability::Primary => self.script(call).await,
            Durability::Replicated => self.durable.call(call, self.majority()).await,
        }
    }

    /// Adds to a set that lives as long as its task's record; nothing if there is no such task.
    async fn add_to_task(&self, task: TaskId, key: &str, member: &[u8]) -> Result<(), StoreError> {
        let expires: i64 = self.query(cmd("PEXPIRETIME").arg(task_key(task))).await?;
        if expires <= 0 {
            return Ok(());
        }
        let mut connection = self.link.connection().await?;
        let mut pipeline = ::redis::pipe();
        pipeline
            .atomic()
            .sadd(key, member)
            .ignore()
            .cmd("PEXPIREAT")
            .arg(key)
            .arg(expires)
            .ignore();
        self.link
            .settle(pipeline.query_async(&mut connection).await)
    }

    /// How many replicas must have something besides the primary for a majority of the nodes to
    /// have it.
    fn majority(&self) -> u32 {
        sundew_core::protocol::replicas_for_majority(self.settings.replicas)
    }

    async fn query<T: FromRedisValue>(&self, command: &::redis::Cmd) -> Result<T, StoreError> {
        let mut connection = self.link.connection().await?;
        self.link.settle(command.query_async(&mut connection).await)
    }
}

impl Store for RedisStore {
    fn describe(&self) -> String {
        self.settings.url.describe()
    }

    fn check(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            for node in self.link.info().await? {
                check_node(&node, &self.settings)?;
            }
            // Whether the user may do what Sundew does shows by doing it: a read, a write, and a
            // script.
            let probe = self.heartbeat("probe", Default::default(), 1).await?;
            let _: Option<Vec<u8>> = self
                .query(
                    cmd("HGET")
                        .arg(documents_key(DocumentKind::Meta))
                        .arg("probe"),
                )
                .await?;
            self.read_log(probe.tip.0, 1).await?;
            self.leave("probe").await
        })
    }

    fn document<'a>(&'a self, kind: DocumentKind, name: &'a str) -> BoxFuture<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            self.query(cmd("HGET").arg(documents_key(kind)).arg(name))
                .await
        })
    }

    fn documents(&self, kind: DocumentKind) -> BoxFuture<'_, Vec<(String, Vec<u8>)>> {
        Box::pin(async move {
            let mut all: Vec<(String, Vec<u8>)> =
                self.query(cmd("HGETALL").arg(documents_key(kind))).await?;
            all.sort();
            Ok(all)
        })
    }

    fn replace_document<'a>(
        &'a self,
        kind: DocumentKind,
        name: &'a str,
        expected: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
    ) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let flag = |present: bool| if present { "1" } else { "0" };
            let call = Call::new(&self.scripts.replace_document, &[&documents_key(kind)])
                .arg(name)
                .arg(flag(expected.is_some()));
            let call = call
                .arg(expected.unwrap_or_default())
                .arg(flag(value.is_some()))
                .arg(value.unwrap_or_default());
            self.write(&call).await
        })
    }

    fn consume<'a>(&'a self, name: &'a [u8; 32], until_ms: i64) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            if until_ms <= crate::clock::now_ms() {
                return Ok(false);
            }
            let key = format!("sundew:used:{}", URL_SAFE_NO_PAD.encode(name));
            self.write(&Call::new(&self.scripts.consume, &[&key]).arg(until_ms))
                .await
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
            let place = Call::new(&self.scripts.reserve_task, &[&places_key(workload)])
                .arg(&task.as_bytes()[..])
                .arg(deadline_ms)
                .arg(limit)
                .arg(now_ms);
            let mut due = cmd("ZADD");
            due.arg(DUE).arg("NX").arg(due_ms).arg(&task.as_bytes()[..]);
            // On the attendance list before it can live: a task that nobody watches must not exist.
            let (reserved, due) =
                tokio::join!(self.script::<bool>(&place), self.query::<i64>(&due));
            due?;
            Ok(if reserved? {
                Reserved::Taken
            } else {
                Reserved::Full
            })
        })
    }

    fn create_task<'a>(&'a self, task: NewTask<'a>) -> BoxFuture<'a, Created> {
        Box::pin(async move {
            let call = Call::new(
                &self.scripts.create_task,
                &[&task_key(task.id), &tokens_key(task.id)],
            )
            .arg(task.record.as_slice())
            .arg(task.retain_until_ms);
            let call = call
                .arg(&task.token.hash.token_id().as_bytes()[..])
                .arg(token_value(&task.token))
                .arg(task.token.retain_until_ms);
            let existing: Option<Vec<u8>> = self.write(&call).await?;
            Ok(existing.map_or(Created::New, Created::Existing))
        })
    }

    fn task(&self, task: TaskId) -> BoxFuture<'_, Option<StoredTask>> {
        Box::pin(async move {
            let mut connection = self.link.connection().await?;
            let mut pipeline = ::redis::pipe();
            pipeline.get(task_key(task)).smembers(binding_key(task));
            let (record, bindings): (Option<Vec<u8>>, Vec<Vec<u8>>) = self
                .link
                .settle(pipeline.query_async(&mut connection).await)?;
            Ok(record.map(|record| StoredTask { record, bindings }))
        })
    }

    fn bind_task(&self, task: TaskId, binding: Vec<u8>) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.add_to_task(task, &binding_key(task), &binding).await })
    }

    fn release_task<'a>(&'a self, workload: &'a str, task: TaskId) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let (mut places, mut due) = (cmd("ZREM"), cmd("ZREM"));
            places.arg(places_key(workload)).arg(&task.as_bytes()[..]);
            due.arg(DUE).arg(&task.as_bytes()[..]);
            let (places, due) = tokio::join!(self.query::<i64>(&places), self.query::<i64>(&due));
            places.and(due).map(drop)
        })
    }

    fn tasks<'a>(&'a self, workload: Option<&'a str>, limit: usize) -> BoxFuture<'a, Vec<TaskId>> {
        Box::pin(async move {
            let key = workload.map_or_else(|| DUE.to_owned(), places_key);
            let members: Vec<Vec<u8>> = self
                .query(cmd("ZRANGE").arg(key).arg(0).arg(limit.saturating_sub(1)))
                .await?;
            members.iter().map(|member| task_of(member)).collect()
        })
    }

    fn create_token<'a>(
        &'a self,
        task: TaskId,
        token: NewToken<'a>,
    ) -> BoxFuture<'a, Option<Created>> {
        Box::pin(async move {
            let call = Call::new(
                &self.scripts.create_token,
                &[&task_key(task), &tokens_key(task)],
            );
            let call = call
                .arg(&token.hash.token_id().as_bytes()[..])
                .arg(token_value(&token))
                .arg(token.retain_until_ms)
                .arg(crate::clock::now_ms());
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "replies of every other kind are nonsense"
            )]
            match self.write(&call).await? {
                Value::Int(0) => Ok(None),
                Value::Int(1) => Ok(Some(Created::New)),
                Value::BulkString(existing) => {
                    Ok(Some(Created::Existing(token_record(&existing)?)))
                }
                _ => Err(nonsense(
                    "create_token answered neither a number nor a record",
                )),
            }
        })
    }

    fn token<'a>(
        &'a self,
        task: TaskId,
        hash: &'a TokenHash,
    ) -> BoxFuture<'a, Option<StoredToken>> {
        Box::pin(async move {
            let mut connection = self.link.connection().await?;
            let mut pipeline = ::redis::pipe();
            pipeline
                .get(task_key(task))
                .hget(tokens_key(task), &hash.token_id().as_bytes()[..]);
            let (record, token): (Option<Vec<u8>>, Option<Vec<u8>>) = self
                .link
                .settle(pipeline.query_async(&mut connection).await)?;
            let (Some(task), Some(token)) = (record, token) else {
                return Ok(None);
            };
            Ok(Some(StoredToken {
                task,
                record: token_record(&token)?,
            }))
        })
    }

    fn tokens(&self, task: TaskId, from: u64) -> BoxFuture<'_, TokenPage> {
        Box::pin(async move {
            let (next, found): (u64, Fields) = self
                .query(
                    cmd("HSCAN")
                        .arg(tokens_key(task))
                        .arg(from)
                        .arg("COUNT")
                        .arg(500),
                )
                .await?;
            let token = |(id, value): (Vec<u8>, Vec<u8>)| {
                Ok((
                    TokenId::from_bytes(
                        id.as_slice().try_into().map_err(|_| nonsense("token id"))?,
                    ),
                    token_record(&value)?,
                ))
            };
            Ok(TokenPage {
                tokens: found
                    .into_iter()
                    .map(token)
                    .collect::<Result<_, StoreError>>()?,
                next,
            })
        })
    }

    fn scan_tasks(&self, from: u64) -> BoxFuture<'_, TaskPage> {
        Box::pin(async move {
            let (next, found): (u64, Vec<(Vec<u8>, f64)>) = self
                .query(cmd("ZSCAN").arg(DUE).arg(from).arg("COUNT").arg(200))
                .await?;
            Ok(TaskPage {
                tasks: found
                    .iter()
                    .map(|(member, _)| task_of(member))
                    .collect::<Result<_, _>>()?,
                next,
            })
        })
    }

    fn reap_tokens(&self, task: TaskId) -> BoxFuture<'_, u64> {
        Box::pin(async move {
            self.script(&Call::new(&self.scripts.reap_tokens, &[&tokens_key(task)]))
                .await
        })
    }

    fn attend(&self, due: Vec<(TaskId, i64)>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if due.is_empty() {
                return Ok(());
            }
            let mut command = cmd("ZADD");
            command.arg(DUE).arg("XX");
            for (task, at) in &due {
                command.arg(*at).arg(&task.as_bytes()[..]);
            }
            self.query::<i64>(&command).await.map(drop)
        })
    }

    fn due(&self, now_ms: i64, limit: usize) -> BoxFuture<'_, Vec<TaskId>> {
        Box::pin(async move {
            let mut command = cmd("ZRANGEBYSCORE");
            command
                .arg(DUE)
                .arg("-inf")
                .arg(now_ms)
                .arg("LIMIT")
                .arg(0)
                .arg(limit);
            let members: Vec<Vec<u8>> = self.query(&command).await?;
            members.iter().map(|member| task_of(member)).collect()
        })
    }

    fn append<'a>(
        &'a self,
        id: EntryId,
        entry: &'a [u8],
        until_ms: i64,
        floor: Position,
    ) -> BoxFuture<'a, Position> {
        Box::pin(async move {
            let call = Call::new(&self.scripts.append, &[LOG])
                .arg(&id.0[..])
                .arg(entry)
                .arg(until_ms)
                .arg(floor.0);
            // Not waited for here: an ending counts once a heartbeat after it was acknowledged by a
            // majority.
            Ok(Position(self.log.call(&call, 0).await?))
        })
    }

    fn append_all<'a>(
        &'a self,
        entries: &'a [(EntryId, Vec<u8>, i64)],
        floor: Position,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let call = |(id, entry, until_ms): &(EntryId, Vec<u8>, i64)| {
                Call::new(&self.scripts.append, &[LOG])
                    .arg(&id.0[..])
                    .arg(entry.as_slice())
                    .arg(*until_ms)
                    .arg(floor.0)
            };
            for some in entries.chunks(APPENDED_TOGETHER) {
                self.log
                    .call_all(&some.iter().map(call).collect::<Vec<_>>())
                    .await?;
            }
            Ok(())
        })
    }

    fn read_log(&self, after: Position, limit: usize) -> BoxFuture<'_, Vec<StoredEntry>> {
        Box::pin(async move {
            let mut command = cmd("XRANGE");
            command
                .arg(LOG)
                .arg(format!("({}-0", after.0))
                .arg("+")
                .arg("COUNT")
                .arg(limit);
            let reply: StreamRangeReply = self.log.query(LOG, &command).await?;
            reply
                .ids
                .into_iter()
                .map(|entry| {
                    let field = |name: &str| {
                        entry
                            .get::<Vec<u8>>(name)
                            .ok_or_else(|| nonsense("log entry without its fields"))
                    };
                    Ok(StoredEntry {
                        position: position_of(&entry.id)?,
                        id: entry_id(&field("u")?)?,
                        previous: entry_id(&field("p")?)?,
                        bytes: field("d")?,
                    })
                })
                .collect()
        })
    }

    fn await_log(&self, after: Position, wait_ms: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut command = cmd("XREAD");
            command
                .arg("COUNT")
                .arg(1)
                .arg("BLOCK")
                .arg(wait_ms.max(1))
                .arg("STREAMS")
                .arg(LOG)
                .arg(format!("{}-0", after.0));
            self.tail.query::<Value>(LOG, &command).await.map(drop)
        })
    }

    fn trim_log<'a>(&'a self, now_ms: i64, places: &'a [Position]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut places: Vec<String> = places
                .iter()
                .map(|place| format!("{}-0", place.0))
                .collect();
            // Short scripts, so that nobody waits long; what is left is for the next time.
            for _ in 0..20 {
                let from = self
                    .trimmed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                let call = Call::new(&self.scripts.trim, &[LOG])
                    .arg(now_ms)
                    .arg(from)
                    .arg(std::mem::take(&mut places));
                let (looked_at, last): (u64, String) = self.log.call(&call, 0).await?;
                let done = looked_at < TRIM_BATCH;
                *self.trimmed.lock().unwrap_or_else(PoisonError::into_inner) = if done {
                    "-".to_owned()
                } else {
                    format!("({last}")
                };
                if done {
                    break;
                }
            }
            Ok(())
        })
    }

    fn heartbeat<'a>(
        &'a self,
        broker: &'a str,
        applied: (Position, EntryId),
        forget_after_ms: i64,
    ) -> BoxFuture<'a, Heartbeat> {
        Box::pin(async move {
            let mut random = [0; 16];
            ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
                .map_err(|_| nonsense("no randomness"))?;
            let call = Call::new(&self.scripts.heartbeat, &[BROKERS, LOG]);
            let call = call
                .arg(broker)
                .arg(applied.0.0)
                .arg(forget_after_ms)
                .arg(URL_SAFE_NO_PAD.encode(random))
                .arg(&applied.1.0[..]);
            let (reported, all_replicas_acked) = self
                .log
                .call_everywhere(&call, self.majority(), self.settings.replicas)
                .await?;
            let (now_ms, epoch, tip, tip_id, peers, primary): Reported = reported;
            let peers = peers
                .into_iter()
                .map(|(id, position)| (id, Position(position)))
                .collect();
            Ok(Heartbeat {
                now_ms,
                epoch,
                primary,
                all_replicas_acked,
                tip: (Position(tip), entry_id(&tip_id)?),
                peers,
            })
        })
    }

    fn put_lease<'a>(
        &'a self,
        engine: &'a str,
        task: TaskId,
        lease: StoredLease,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let (written, noted) = tokio::join!(
                self.write_lease(engine, &lease, false),
                self.note_lease(task, lease.id)
            );
            written.and(noted)
        })
    }

    fn leases_had(&self, task: TaskId) -> BoxFuture<'_, u64> {
        Box::pin(async move { self.query(cmd("SCARD").arg(leases_key(task))).await })
    }

    fn lease<'a>(&'a self, engine: &'a str, id: LeaseId) -> BoxFuture<'a, Option<StoredLease>> {
        Box::pin(self.read_lease(engine, id))
    }

    fn leases<'a>(&'a self, engine: &'a str, from: u64) -> BoxFuture<'a, (Vec<StoredLease>, u64)> {
        Box::pin(self.read_leases(engine, from))
    }

    fn lease_due<'a>(
        &'a self,
        engine: &'a str,
        ids: &'a [LeaseId],
        due_ms: i64,
    ) -> BoxFuture<'a, ()> {
        Box::pin(self.make_due(engine, ids, due_ms))
    }

    fn claim_leases<'a>(
        &'a self,
        engine: &'a str,
        now_ms: i64,
        until_ms: i64,
        limit: usize,
    ) -> BoxFuture<'a, Vec<StoredLease>> {
        Box::pin(self.claim(engine, now_ms, until_ms, limit))
    }

    fn retry_lease<'a>(&'a self, engine: &'a str, lease: StoredLease) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.write_lease(engine, &lease, true).await })
    }

    fn remove_leases<'a>(&'a self, engine: &'a str, ids: &'a [LeaseId]) -> BoxFuture<'a, ()> {
        Box::pin(self.drop_leases(engine, ids))
    }

    fn lease_counts<'a>(&'a self, engine: &'a str, now_ms: i64) -> BoxFuture<'a, (u64, u64)> {
        Box::pin(self.count_leases(engine, now_ms))
    }

    fn leave<'a>(&'a self, broker: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.query::<i64>(cmd("HDEL").arg(BROKERS).arg(broker))
                .await
                .map(drop)
        })
    }
}
