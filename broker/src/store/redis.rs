//! The Redis store: Redis 7 or later, alone, behind Sentinel, or as a Cluster.
//!
//! Every script touches one hash slot: `{task}` holds a task with its tokens, `{log}` the revocation log. Lists of tasks live
//! outside and serve listing and attendance, never liveness. P7: every error is an error to the caller, none is "not there".

use std::sync::Arc;

use ::redis::streams::StreamRangeReply;
use ::redis::{FromRedisValue, RedisError, Script, Value, cmd};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sundew_core::store::{BoxFuture, Created, DocumentKind, Heartbeat, NewTask, NewToken, Reserved, Store, StoreError, StoredEntry, StoredTask};
use sundew_core::{EntryId, Position, TaskId, TokenHash};

mod link;
use link::Link;
pub use link::{RedisSettings, RedisUrl, RedisUrlError};

/// Oldest Redis that has what the scripts need (script flags, functions of streams).
const MIN_MAJOR: u32 = 7;
const LOG: &str = "sundew:{log}:stream";
const BROKERS: &str = "sundew:{log}:brokers";
const EPOCH: &str = "sundew:{log}:epoch";
const DUE: &str = "sundew:due";

/// See the module.
pub struct RedisStore {
    link: Arc<Link>,
    /// Blocking reads must not hold up the others.
    tail: Arc<Link>,
    scripts: Scripts,
    description: String,
}

struct Scripts {
    replace_document: Script,
    reserve_task: Script,
    create_task: Script,
    create_token: Script,
    append: Script,
    heartbeat: Script,
    trim: Script,
}

impl RedisStore {
    /// A store at this place. Connects when first used.
    #[must_use]
    pub fn new(settings: RedisSettings) -> Arc<Self> {
        let description = settings.url.describe();
        let settings = Arc::new(settings);
        Arc::new(Self {
            link: Arc::new(Link::new(Arc::clone(&settings))),
            tail: Arc::new(Link::new(settings)),
            scripts: Scripts {
                replace_document: Script::new(include_str!("redis/replace_document.lua")),
                reserve_task: Script::new(include_str!("redis/reserve_task.lua")),
                create_task: Script::new(include_str!("redis/create_task.lua")),
                create_token: Script::new(include_str!("redis/create_token.lua")),
                append: Script::new(include_str!("redis/append.lua")),
                heartbeat: Script::new(include_str!("redis/heartbeat.lua")),
                trim: Script::new(include_str!("redis/trim.lua")),
            },
            description,
        })
    }

    async fn script<T: FromRedisValue>(&self, invocation: &::redis::ScriptInvocation<'_>) -> Result<T, StoreError> {
        let mut connection = self.link.connection().await?;
        self.link.settle(invocation.invoke_async(&mut connection).await)
    }

    async fn query<T: FromRedisValue>(&self, command: &::redis::Cmd) -> Result<T, StoreError> {
        let mut connection = self.link.connection().await?;
        self.link.settle(command.query_async(&mut connection).await)
    }
}

fn task_key(task: TaskId) -> String {
    format!("sundew:{{{task}}}:task")
}

fn binding_key(task: TaskId) -> String {
    format!("sundew:{{{task}}}:bindings")
}

fn token_key(task: TaskId, hash: &TokenHash) -> String {
    format!("sundew:{{{task}}}:token:{}", URL_SAFE_NO_PAD.encode(hash.as_bytes()))
}

fn places_key(workload: &str) -> String {
    // SPIFFE IDs have no braces, so this is one hash tag, and `:` at the end is outside of it (T37).
    format!("sundew:{{{workload}}}:tasks")
}

fn documents_key(kind: DocumentKind) -> String {
    format!("sundew:documents:{}", kind.as_str())
}

fn task_of(member: &[u8]) -> Result<TaskId, StoreError> {
    Ok(TaskId::from_bytes(member.try_into().map_err(|_| StoreError::Corrupt("member of a task list".to_owned()))?))
}

fn entry_id(bytes: &[u8]) -> Result<EntryId, StoreError> {
    if bytes.is_empty() {
        return Ok(EntryId::default());
    }
    Ok(EntryId(bytes.try_into().map_err(|_| StoreError::Corrupt("entry id".to_owned()))?))
}

fn nonsense(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

impl Store for RedisStore {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn check(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            for node in self.link.info().await? {
                check_node(&node)?;
            }
            // Whether the user may do what Sundew does shows by doing it: a read, a write, and a script.
            let probe = self.heartbeat("probe", Position::default(), 1).await?;
            let _: Option<Vec<u8>> = self.query(cmd("HGET").arg(documents_key(DocumentKind::Meta)).arg("probe")).await?;
            self.read_log(probe.tip.0, 1).await?;
            self.leave("probe").await
        })
    }

    fn document<'a>(&'a self, kind: DocumentKind, name: &'a str) -> BoxFuture<'a, Option<Vec<u8>>> {
        Box::pin(async move { self.query(cmd("HGET").arg(documents_key(kind)).arg(name)).await })
    }

    fn documents(&self, kind: DocumentKind) -> BoxFuture<'_, Vec<(String, Vec<u8>)>> {
        Box::pin(async move {
            let mut all: Vec<(String, Vec<u8>)> = self.query(cmd("HGETALL").arg(documents_key(kind))).await?;
            all.sort();
            Ok(all)
        })
    }

    fn replace_document<'a>(&'a self, kind: DocumentKind, name: &'a str, expected: Option<&'a [u8]>, value: Option<&'a [u8]>) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let flag = |present: bool| if present { "1" } else { "0" };
            let mut invocation = self.scripts.replace_document.prepare_invoke();
            invocation.key(documents_key(kind)).arg(name).arg(flag(expected.is_some())).arg(expected.unwrap_or_default());
            invocation.arg(flag(value.is_some())).arg(value.unwrap_or_default());
            self.script(&invocation).await
        })
    }

    fn consume<'a>(&'a self, name: &'a [u8; 32], until_ms: i64) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            if until_ms <= crate::clock::now_ms() {
                return Ok(false);
            }
            let key = format!("sundew:used:{}", URL_SAFE_NO_PAD.encode(name));
            let set: Option<String> = self.query(cmd("SET").arg(key).arg("1").arg("NX").arg("PXAT").arg(until_ms)).await?;
            Ok(set.is_some())
        })
    }

    fn reserve_task<'a>(&'a self, workload: &'a str, task: TaskId, deadline_ms: i64, due_ms: i64, limit: u32, now_ms: i64) -> BoxFuture<'a, Reserved> {
        Box::pin(async move {
            let mut invocation = self.scripts.reserve_task.prepare_invoke();
            invocation.key(places_key(workload)).arg(&task.as_bytes()[..]).arg(deadline_ms).arg(limit).arg(now_ms);
            let mut due = cmd("ZADD");
            due.arg(DUE).arg("NX").arg(due_ms).arg(&task.as_bytes()[..]);
            // On the attendance list before it can live: a task that nobody watches must not exist.
            let (reserved, due) = tokio::join!(self.script::<bool>(&invocation), self.query::<i64>(&due));
            due?;
            Ok(if reserved? { Reserved::Taken } else { Reserved::Full })
        })
    }

    fn create_task<'a>(&'a self, task: NewTask<'a>) -> BoxFuture<'a, Created> {
        Box::pin(async move {
            let mut invocation = self.scripts.create_task.prepare_invoke();
            invocation.key(task_key(task.id)).key(token_key(task.id, task.token.hash));
            invocation.arg(task.record).arg(task.keep_until_ms).arg(task.token.record).arg(task.token.keep_until_ms);
            let existing: Option<Vec<u8>> = self.script(&invocation).await?;
            Ok(existing.map_or(Created::New, Created::Existing))
        })
    }

    fn task(&self, task: TaskId) -> BoxFuture<'_, Option<StoredTask>> {
        Box::pin(async move {
            let mut connection = self.link.connection().await?;
            let mut pipeline = ::redis::pipe();
            pipeline.get(task_key(task)).smembers(binding_key(task));
            let (record, bindings): (Option<Vec<u8>>, Vec<Vec<u8>>) = self.link.settle(pipeline.query_async(&mut connection).await)?;
            Ok(record.map(|record| StoredTask { record, bindings }))
        })
    }

    fn bind_task(&self, task: TaskId, binding: Vec<u8>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let expires: i64 = self.query(cmd("PEXPIRETIME").arg(task_key(task))).await?;
            if expires <= 0 {
                return Ok(());
            }
            let mut connection = self.link.connection().await?;
            let mut pipeline = ::redis::pipe();
            pipeline.atomic().sadd(binding_key(task), binding).ignore().cmd("PEXPIREAT").arg(binding_key(task)).arg(expires).ignore();
            self.link.settle(pipeline.query_async(&mut connection).await)
        })
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
            let members: Vec<Vec<u8>> = self.query(cmd("ZRANGE").arg(key).arg(0).arg(limit.saturating_sub(1))).await?;
            members.iter().map(|member| task_of(member)).collect()
        })
    }

    fn create_token<'a>(&'a self, task: TaskId, token: NewToken<'a>) -> BoxFuture<'a, Option<Created>> {
        Box::pin(async move {
            let mut invocation = self.scripts.create_token.prepare_invoke();
            invocation.key(task_key(task)).key(token_key(task, token.hash)).arg(token.record).arg(token.keep_until_ms);
            #[expect(clippy::wildcard_enum_match_arm, reason = "replies of every other kind are nonsense")]
            match self.script(&invocation).await? {
                Value::Int(0) => Ok(None),
                Value::Int(1) => Ok(Some(Created::New)),
                Value::BulkString(existing) => Ok(Some(Created::Existing(existing))),
                _ => Err(nonsense("create_token answered neither a number nor a record")),
            }
        })
    }

    fn token<'a>(&'a self, task: TaskId, hash: &'a TokenHash) -> BoxFuture<'a, Option<Vec<u8>>> {
        Box::pin(async move { self.query(cmd("GET").arg(token_key(task, hash))).await })
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
            command.arg(DUE).arg("-inf").arg(now_ms).arg("LIMIT").arg(0).arg(limit);
            let members: Vec<Vec<u8>> = self.query(&command).await?;
            members.iter().map(|member| task_of(member)).collect()
        })
    }

    fn append<'a>(&'a self, id: EntryId, entry: &'a [u8], until_ms: i64, floor: Position) -> BoxFuture<'a, Position> {
        Box::pin(async move {
            let mut invocation = self.scripts.append.prepare_invoke();
            invocation.key(LOG).arg(&id.0[..]).arg(entry).arg(until_ms).arg(floor.0);
            Ok(Position(self.script(&invocation).await?))
        })
    }

    fn read_log(&self, after: Position, limit: usize) -> BoxFuture<'_, Vec<StoredEntry>> {
        Box::pin(async move {
            let mut command = cmd("XRANGE");
            command.arg(LOG).arg(format!("({}-0", after.0)).arg("+").arg("COUNT").arg(limit);
            let reply: StreamRangeReply = self.query(&command).await?;
            reply
                .ids
                .into_iter()
                .map(|entry| {
                    let field = |name: &str| entry.get::<Vec<u8>>(name).ok_or_else(|| nonsense("log entry without its fields"));
                    Ok(StoredEntry { position: position_of(&entry.id)?, id: entry_id(&field("u")?)?, previous: entry_id(&field("p")?)?, bytes: field("d")? })
                })
                .collect()
        })
    }

    fn await_log(&self, after: Position, wait_ms: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut command = cmd("XREAD");
            command.arg("COUNT").arg(1).arg("BLOCK").arg(wait_ms.max(1)).arg("STREAMS").arg(LOG).arg(format!("{}-0", after.0));
            let mut connection = self.tail.connection().await?;
            self.tail.settle(command.query_async::<Value>(&mut connection).await).map(drop)
        })
    }

    fn trim_log(&self, now_ms: i64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut invocation = self.scripts.trim.prepare_invoke();
            invocation.key(LOG).arg(now_ms);
            // Short scripts, so that nobody waits long; what is left is for the next time.
            for _ in 0..50 {
                if self.script::<i64>(&invocation).await? < 1000 {
                    break;
                }
            }
            Ok(())
        })
    }

    fn heartbeat<'a>(&'a self, broker: &'a str, applied: Position, forget_after_ms: i64) -> BoxFuture<'a, Heartbeat> {
        Box::pin(async move {
            let mut random = [0; 16];
            ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random).map_err(|_| nonsense("no randomness"))?;
            let mut invocation = self.scripts.heartbeat.prepare_invoke();
            invocation.key(BROKERS).key(LOG).key(EPOCH).arg(broker).arg(applied.0).arg(forget_after_ms).arg(URL_SAFE_NO_PAD.encode(random));
            let (now_ms, epoch, tip, tip_id, peers): (i64, String, u64, Vec<u8>, Vec<(String, u64)>) = self.script(&invocation).await?;
            let peers = peers.into_iter().map(|(id, position)| (id, Position(position))).collect();
            Ok(Heartbeat { now_ms, epoch, tip: (Position(tip), entry_id(&tip_id)?), peers })
        })
    }

    fn leave<'a>(&'a self, broker: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.query::<i64>(cmd("HDEL").arg(BROKERS).arg(broker)).await.map(drop) })
    }
}

fn position_of(stream_id: &str) -> Result<Position, StoreError> {
    let (position, _) = stream_id.split_once('-').ok_or_else(|| nonsense("stream id"))?;
    Ok(Position(position.parse().map_err(|_| nonsense("stream id"))?))
}

/// Refuses a server that would lose or evict what must stay (T65, AC-86).
fn check_node(info: &str) -> Result<(), StoreError> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let version = field("redis_version").unwrap_or_default();
    let major: u32 = version.split('.').next().and_then(|m| m.parse().ok()).unwrap_or(0);
    if major < MIN_MAJOR {
        return Err(StoreError::Misconfigured(format!("Redis {version} is too old: {MIN_MAJOR}.0 or later is needed")));
    }
    match field("maxmemory_policy") {
        Some("noeviction") => {}
        Some(policy) => return Err(StoreError::Misconfigured(format!("maxmemory-policy is `{policy}` and would evict revocations: set it to `noeviction`"))),
        None => return Err(StoreError::Misconfigured("INFO does not tell maxmemory_policy".to_owned())),
    }
    if field("role") == Some("slave") {
        return Err(StoreError::Misconfigured("this Redis is a replica: name the primary, or use redis+sentinel://".to_owned()));
    }
    if field("aof_enabled") == Some("0") {
        tracing::warn!("Redis has no append-only file: a restart of Redis loses live tasks (endings are kept by the brokers); set `appendonly yes`");
    }
    Ok(())
}

/// T64: what each error of the server means. None of them is ever "not there".
fn store_error(error: &RedisError) -> StoreError {
    let text = error.to_string();
    match error.code() {
        Some("OOM") => StoreError::Full(text),
        Some("MISCONF" | "NOPERM" | "NOAUTH" | "WRONGPASS") => StoreError::Misconfigured(text),
        Some(_) | None if matches!(error.kind(), ::redis::ErrorKind::UnexpectedReturnType | ::redis::ErrorKind::Parse) => StoreError::Corrupt(text),
        Some(_) | None if error.kind() == ::redis::ErrorKind::AuthenticationFailed => StoreError::Misconfigured(text),
        Some(_) | None => StoreError::Unavailable(text),
    }
}
