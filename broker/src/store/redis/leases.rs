//! Leases in Redis: a hash of records and a list by time for each engine, in one slot.

use ::redis::{Value, cmd};
use sundew_core::store::{StoreError, StoredLease};
use sundew_core::{LeaseId, TaskId};

use super::primaries::Call;
use super::{Fields, RedisStore, leases_key, nonsense};

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

impl RedisStore {
    pub(super) async fn write_lease(
        &self,
        engine: &str,
        lease: &StoredLease,
        again: bool,
    ) -> Result<(), StoreError> {
        let (records, due) = keys(engine);
        let script = if again {
            &self.scripts.retry_lease
        } else {
            &self.scripts.put_lease
        };
        let call = Call::new(script, &[&records, &due])
            .arg(&lease.id.as_bytes()[..])
            .arg(&lease.record)
            .arg(lease.due_ms);
        self.write::<i64>(&call).await.map(drop)
    }

    pub(super) async fn note_lease(&self, task: TaskId, id: LeaseId) -> Result<(), StoreError> {
        self.add_to_task(task, &leases_key(task), id.as_bytes())
            .await
    }

    pub(super) async fn read_lease(
        &self,
        engine: &str,
        id: LeaseId,
    ) -> Result<Option<StoredLease>, StoreError> {
        let (records, due) = keys(engine);
        let mut connection = self.link.connection().await?;
        let mut pipeline = ::redis::pipe();
        pipeline
            .hget(records, &id.as_bytes()[..])
            .zscore(due, &id.as_bytes()[..]);
        let (record, due): (Option<Vec<u8>>, Option<f64>) = self
            .link
            .settle(pipeline.query_async(&mut connection).await)?;
        Ok(record.map(|record| StoredLease {
            id,
            record,
            due_ms: time(due),
        }))
    }

    pub(super) async fn read_leases(
        &self,
        engine: &str,
        from: u64,
    ) -> Result<(Vec<StoredLease>, u64), StoreError> {
        let (records, due) = keys(engine);
        let (next, flat): (u64, Fields) = self
            .query(cmd("HSCAN").arg(records).arg(from).arg("COUNT").arg(500))
            .await?;
        if flat.is_empty() {
            return Ok((Vec::new(), next));
        }
        let mut scores = cmd("ZMSCORE");
        scores.arg(due);
        for (id, _) in &flat {
            scores.arg(id.as_slice());
        }
        let scores: Vec<Option<f64>> = self.query(&scores).await?;
        let lease = |((id, record), due): ((Vec<u8>, Vec<u8>), Option<f64>)| {
            Ok(StoredLease {
                id: lease_id(&id)?,
                record,
                due_ms: time(due),
            })
        };
        Ok((
            flat.into_iter()
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
        self.query::<i64>(&command).await.map(drop)
    }

    pub(super) async fn claim(
        &self,
        engine: &str,
        now_ms: i64,
        until_ms: i64,
        limit: usize,
    ) -> Result<Vec<StoredLease>, StoreError> {
        let (records, due) = keys(engine);
        let call = Call::new(&self.scripts.claim_leases, &[&records, &due])
            .arg(now_ms)
            .arg(until_ms)
            .arg(limit);
        let found: Fields = self.script(&call).await?;
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

    pub(super) async fn drop_leases(
        &self,
        engine: &str,
        ids: &[LeaseId],
    ) -> Result<(), StoreError> {
        let (records, due) = keys(engine);
        let mut call = Call::new(&self.scripts.remove_leases, &[&records, &due]);
        for id in ids {
            call = call.arg(&id.as_bytes()[..]);
        }
        self.script::<Value>(&call).await.map(drop)
    }

    pub(super) async fn count_leases(
        &self,
        engine: &str,
        now_ms: i64,
    ) -> Result<(u64, u64), StoreError> {
        let (records, due) = keys(engine);
        let mut connection = self.link.connection().await?;
        let mut pipeline = ::redis::pipe();
        pipeline.hlen(records).zcount(due, "-inf", now_ms);
        self.link
            .settle(pipeline.query_async(&mut connection).await)
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "scores are milliseconds, whole and far below 2^53"
)]
fn time(score: Option<f64>) -> i64 {
    score.map_or(0, |score| score as i64)
}
