//! Leases in Redis: a hash of records and a list by time for each engine, in one slot.

use std::sync::Arc;

use ::redis::{Script, Value, cmd};
use sundew_core::store::{StoreError, StoredLease};
use sundew_core::{LeaseId, TaskId};

use super::Fields;
use super::call::Call;
use super::executor::Executor;
use super::keys::{leases_key, nonsense};

/// How many leases one step of a scan asks for.
const LEASES_PER_SCAN: usize = 500;

/// The leases of all engines, and beside each task the names of the leases that it has had.
pub(super) struct Leases {
    executor: Arc<Executor>,
    put: Script,
    retry: Script,
    claim: Script,
    remove: Script,
}

impl Leases {
    pub(super) fn new(executor: Arc<Executor>) -> Self {
        Self {
            executor,
            put: Script::new(include_str!("put_lease.lua")),
            retry: Script::new(include_str!("retry_lease.lua")),
            claim: Script::new(include_str!("claim_leases.lua")),
            remove: Script::new(include_str!("remove_leases.lua")),
        }
    }

    pub(super) async fn put(
        &self,
        engine: &str,
        task: TaskId,
        lease: &StoredLease,
    ) -> Result<(), StoreError> {
        let leases = leases_key(task);
        let (written, noted) = tokio::join!(
            self.write(&self.put, engine, lease),
            self.executor
                .add_to_task(task, &leases, lease.id.as_bytes())
        );
        written.and(noted)
    }

    pub(super) async fn retry(&self, engine: &str, lease: &StoredLease) -> Result<(), StoreError> {
        self.write(&self.retry, engine, lease).await
    }

    async fn write(
        &self,
        script: &Script,
        engine: &str,
        lease: &StoredLease,
    ) -> Result<(), StoreError> {
        let (records, due) = keys(engine);
        let call = Call::new(script, &[&records, &due])
            .arg(&lease.id.as_bytes()[..])
            .arg(&lease.record)
            .arg(lease.due_ms);
        self.executor.write::<i64>(&call).await.map(drop)
    }

    /// Returns how many leases a task has had.
    pub(super) async fn count_of_task(&self, task: TaskId) -> Result<u64, StoreError> {
        self.executor
            .query(cmd("SCARD").arg(leases_key(task)))
            .await
    }

    pub(super) async fn read(
        &self,
        engine: &str,
        id: LeaseId,
    ) -> Result<Option<StoredLease>, StoreError> {
        let (records, due) = keys(engine);
        let mut pipeline = ::redis::pipe();
        pipeline
            .hget(records, &id.as_bytes()[..])
            .zscore(due, &id.as_bytes()[..]);
        let (record, due): (Option<Vec<u8>>, Option<f64>) =
            self.executor.pipeline(&pipeline).await?;
        Ok(record.map(|record| StoredLease {
            id,
            record,
            due_ms: due_ms(due),
        }))
    }

    pub(super) async fn scan(
        &self,
        engine: &str,
        from: u64,
    ) -> Result<(Vec<StoredLease>, u64), StoreError> {
        let (records, due) = keys(engine);
        let (next, found): (u64, Fields) = self
            .executor
            .query(
                cmd("HSCAN")
                    .arg(records)
                    .arg(from)
                    .arg("COUNT")
                    .arg(LEASES_PER_SCAN),
            )
            .await?;
        if found.is_empty() {
            return Ok((Vec::new(), next));
        }
        let mut scores = cmd("ZMSCORE");
        scores.arg(due);
        for (id, _) in &found {
            scores.arg(id.as_slice());
        }
        let scores: Vec<Option<f64>> = self.executor.query(&scores).await?;
        let lease = |((id, record), due): ((Vec<u8>, Vec<u8>), Option<f64>)| {
            Ok(StoredLease {
                id: lease_id(&id)?,
                record,
                due_ms: due_ms(due),
            })
        };
        Ok((
            found
                .into_iter()
                .zip(scores)
                .map(lease)
                .collect::<Result<_, StoreError>>()?,
            next,
        ))
    }

    pub(super) async fn make_due(
        &self,
        engine: &str,
        ids: &[LeaseId],
        due_ms: i64,
    ) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut command = cmd("ZADD");
        command.arg(keys(engine).1).arg("XX").arg("LT");
        for id in ids {
            command.arg(due_ms).arg(&id.as_bytes()[..]);
        }
        self.executor.query::<i64>(&command).await.map(drop)
    }

    pub(super) async fn claim(
        &self,
        engine: &str,
        now_ms: i64,
        until_ms: i64,
        limit: usize,
    ) -> Result<Vec<StoredLease>, StoreError> {
        let (records, due) = keys(engine);
        let call = Call::new(&self.claim, &[&records, &due])
            .arg(now_ms)
            .arg(until_ms)
            .arg(limit);
        let found: Fields = self.executor.script(&call).await?;
        found
            .into_iter()
            .map(|(id, record)| {
                Ok(StoredLease {
                    id: lease_id(&id)?,
                    record,
                    due_ms: until_ms,
                })
            })
            .collect()
    }

    pub(super) async fn remove(&self, engine: &str, ids: &[LeaseId]) -> Result<(), StoreError> {
        let (records, due) = keys(engine);
        let mut call = Call::new(&self.remove, &[&records, &due]);
        for id in ids {
            call = call.arg(&id.as_bytes()[..]);
        }
        self.executor.script::<Value>(&call).await.map(drop)
    }

    pub(super) async fn count(&self, engine: &str, now_ms: i64) -> Result<(u64, u64), StoreError> {
        let (records, due) = keys(engine);
        let mut pipeline = ::redis::pipe();
        pipeline.hlen(records).zcount(due, "-inf", now_ms);
        self.executor.pipeline(&pipeline).await
    }
}

fn keys(engine: &str) -> (String, String) {
    // Names of engines have no braces: they are secrets' names.
    (
        format!("sundew:{{lease {engine}}}:records"),
        format!("sundew:{{lease {engine}}}:due"),
    )
}

fn lease_id(bytes: &[u8]) -> Result<LeaseId, StoreError> {
    Ok(LeaseId::from_bytes(
        bytes.try_into().map_err(|_| nonsense("lease id"))?,
    ))
}

/// Returns the time that a score stands for, in milliseconds since the epoch; 0 without a score.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "scores are milliseconds, whole and far below 2^53"
)]
fn due_ms(score: Option<f64>) -> i64 {
    score.map_or(0, |score| score as i64)
}
