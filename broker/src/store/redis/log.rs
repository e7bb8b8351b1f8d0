//! The revocation log in Redis: one stream, beside the list of brokers that follow it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ::redis::streams::{StreamId, StreamRangeReply};
use ::redis::{Script, Value, cmd};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sundew_core::store::{AppendAfter, Heartbeat, Report, StoreError, StoredEntry};
use sundew_core::{EntryId, Position};

use super::call::Call;
use super::keys::{
    ABOUT, AGREEMENT, ARRIVALS, BOUNDS, BROKERS, LOG, PROBED_ABOUT, PROBED_ARRIVALS, PROBED_BOUNDS,
    PROBED_BROKERS, entry_id, nonsense, position_of, vouchers_key,
};
use super::leader::Leader;
use super::primaries::Primaries;
use super::requirements::check_replicas;
use super::settings::RedisSettings;

/// How many entries are appended in one round trip, when a log that was lost is repaired.
const APPENDED_TOGETHER: usize = 256;
/// The number of entries that one call of `trim.lua` looks at; the script has the same number.
const ENTRIES_PER_TRIM: u64 = 2000;
/// The most calls of `trim.lua` in one trimming.
const MAX_TRIMS: usize = 20;
/// The field of the list of brokers that is no broker; `heartbeat.lua` has the same name.
const EPOCH: &str = "=epoch";
/// The longest freshness bound of a broker; `heartbeat.lua` has the same number.
const LONGEST_BOUND_MS: i64 = 60_000;
/// How long the answers to a broker that has arrived stay, in milliseconds.
const VOUCHERS_LIVE_MS: u64 = 60_000;
/// The start of the range that a trimming looks at: the oldest entry.
const OLDEST: &str = "-";

/// The answer of `heartbeat.lua`: time, epoch, position and name of the last entry, reports of all
/// brokers, primary, longest freshness bound, version of the agreement, number of replicas, and what
/// brokers ask with that have arrived.
type Reported = (
    i64,
    String,
    u64,
    Vec<u8>,
    Vec<(String, u64)>,
    String,
    i64,
    u64,
    u32,
    Vec<(String, Vec<u8>)>,
);

/// The revocation log. What is written to it must be on replicas before it counts.
pub(super) struct Log {
    settings: Arc<RedisSettings>,
    /// Is told by the heartbeats which primary it is.
    leader: Arc<Leader>,
    primaries: Primaries,
    /// Blocking reads have connections of their own, so that they do not hold up the other calls.
    tail: Primaries,
    agree: Script,
    append: Script,
    heartbeat: Script,
    trim: Script,
    /// The entry at which the next trimming goes on.
    trimmed: Mutex<String>,
}

impl Log {
    pub(super) fn new(settings: Arc<RedisSettings>, leader: Arc<Leader>) -> Self {
        Self {
            primaries: Primaries::new(Arc::clone(&settings), None),
            tail: Primaries::new(Arc::clone(&settings), Some(Arc::clone(&leader))),
            leader,
            agree: Script::new(include_str!("agree.lua")),
            append: Script::new(include_str!("append.lua")),
            heartbeat: Script::new(include_str!("heartbeat.lua")),
            trim: Script::new(include_str!("trim.lua")),
            trimmed: Mutex::new(OLDEST.to_owned()),
            settings,
        }
    }

    pub(super) async fn append(
        &self,
        id: EntryId,
        entry: &[u8],
        until_ms: i64,
        after: AppendAfter,
    ) -> Result<Position, StoreError> {
        let call = self.append_call(id, entry, until_ms, after);
        // Replicas are not waited for here: an ending counts once a heartbeat after it was
        // acknowledged by a majority.
        match self.primaries.call(&call, 0).await? {
            0 => Err(StoreError::OtherAgreement),
            position => Ok(Position(position)),
        }
    }

    pub(super) async fn append_all(
        &self,
        entries: &[(EntryId, Vec<u8>, i64)],
        after: AppendAfter,
    ) -> Result<(), StoreError> {
        for some in entries.chunks(APPENDED_TOGETHER) {
            let calls: Vec<_> = some
                .iter()
                .map(|(id, entry, until_ms)| self.append_call(*id, entry, *until_ms, after))
                .collect();
            if self.primaries.call_all::<u64>(&calls).await?.contains(&0) {
                return Err(StoreError::OtherAgreement);
            }
        }
        Ok(())
    }

    fn append_call(
        &self,
        id: EntryId,
        entry: &[u8],
        until_ms: i64,
        after: AppendAfter,
    ) -> Call<'_> {
        Call::new(&self.append, &[LOG, AGREEMENT])
            .arg(&id.0[..])
            .arg(entry)
            .arg(until_ms)
            .arg(after.floor.0)
            .arg(after.agreement)
    }

    pub(super) async fn agreement(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let mut command = cmd("HGET");
        command.arg(AGREEMENT).arg("d");
        self.primaries.query(AGREEMENT, &command).await
    }

    pub(super) async fn replace_agreement(
        &self,
        expected: u64,
        version: u64,
        value: &[u8],
    ) -> Result<bool, StoreError> {
        let call = Call::new(&self.agree, &[AGREEMENT])
            .arg(expected)
            .arg(version)
            .arg(value);
        let replicas = self.settings.replicas;
        let majority = sundew_core::protocol::replicas_for_majority(replicas);
        let (replaced, _): (bool, _) = self
            .primaries
            .call_replicated(&call, majority, replicas)
            .await?;
        Ok(replaced)
    }

    pub(super) async fn reports(&self) -> Result<Vec<(String, String)>, StoreError> {
        let hash = |key: &'static str| async move {
            let mut all = cmd("HGETALL");
            all.arg(key);
            self.primaries
                .query::<HashMap<String, String>>(key, &all)
                .await
        };
        let (seconds, _): (i64, i64) = self.primaries.query(BROKERS, &cmd("TIME")).await?;
        let (brokers, bounds) = (hash(BROKERS).await?, hash(BOUNDS).await?);
        let mut about = hash(ABOUT).await?;
        // Where no broker runs, nobody takes those off the list that have died.
        let is_there = |(name, report): &(String, String)| {
            let at_ms = report
                .split_once(' ')
                .and_then(|(_, at)| at.parse::<i64>().ok());
            let bound = bounds.get(name).and_then(|bound| bound.parse::<i64>().ok());
            let longest_ms = bound.unwrap_or(LONGEST_BOUND_MS).min(LONGEST_BOUND_MS);
            let passed_ms = seconds
                .saturating_mul(1000)
                .saturating_sub(at_ms.unwrap_or(0));
            name != EPOCH && passed_ms <= longest_ms.saturating_mul(10)
        };
        let report = |(name, _): (String, String)| {
            let text = about.remove(&name).unwrap_or_default();
            (name, text)
        };
        Ok(brokers.into_iter().filter(is_there).map(report).collect())
    }

    pub(super) async fn read(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, StoreError> {
        let mut command = cmd("XRANGE");
        command
            .arg(LOG)
            .arg(format!("({}-0", after.0))
            .arg("+")
            .arg("COUNT")
            .arg(limit);
        let reply: StreamRangeReply = self.primaries.query(LOG, &command).await?;
        reply.ids.iter().map(stored_entry).collect()
    }

    pub(super) async fn wait(&self, after: Position, wait_ms: u64) -> Result<(), StoreError> {
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
    }

    pub(super) async fn trim(&self, now_ms: i64, places: &[Position]) -> Result<(), StoreError> {
        let mut places: Vec<String> = places
            .iter()
            .map(|place| format!("{}-0", place.0))
            .collect();
        // Short scripts, so that nobody waits long; what is left is for the next time.
        for _ in 0..MAX_TRIMS {
            let from = self
                .trimmed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let call = Call::new(&self.trim, &[LOG])
                .arg(now_ms)
                .arg(from)
                .arg(std::mem::take(&mut places));
            let (looked_at, last): (u64, String) = self.primaries.call(&call, 0).await?;
            let done = looked_at < ENTRIES_PER_TRIM;
            *self.trimmed.lock().unwrap_or_else(PoisonError::into_inner) = if done {
                OLDEST.to_owned()
            } else {
                format!("({last}")
            };
            if done {
                break;
            }
        }
        Ok(())
    }

    pub(super) async fn heartbeat(&self, report: Report<'_>) -> Result<Heartbeat, StoreError> {
        self.report_in([BROKERS, LOG, BOUNDS, AGREEMENT, ABOUT, ARRIVALS], report)
            .await
    }

    /// Does what a heartbeat does, to lists that nobody follows, and returns the tip of the log.
    /// L1: nobody may wait for a broker that only tries a store, and such a broker must take no
    /// other broker off the list.
    pub(super) async fn probe(&self, prober: &str) -> Result<Position, StoreError> {
        let lists = [
            PROBED_BROKERS,
            LOG,
            PROBED_BOUNDS,
            AGREEMENT,
            PROBED_ABOUT,
            PROBED_ARRIVALS,
        ];
        let report = Report {
            broker: prober,
            applied: Default::default(),
            freshness_ms: 1000,
            about: "",
        };
        let reported = self.report_in(lists, report).await?;
        for list in [PROBED_BROKERS, PROBED_BOUNDS, PROBED_ABOUT] {
            let mut forget = cmd("HDEL");
            forget.arg(list).arg(prober).arg(EPOCH);
            self.primaries.query::<i64>(list, &forget).await?;
        }
        Ok(reported.tip.0)
    }

    async fn report_in(
        &self,
        lists: [&'static str; 6],
        report: Report<'_>,
    ) -> Result<Heartbeat, StoreError> {
        // A store without an epoch gets this one; a broker that finds another epoch than before
        // knows by it that the store was emptied.
        let mut epoch = [0; 16];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut epoch)
            .map_err(|_| nonsense("no randomness"))?;
        let call = Call::new(&self.heartbeat, &lists)
            .arg(report.broker)
            .arg(report.applied.0.0)
            .arg(report.freshness_ms)
            .arg(URL_SAFE_NO_PAD.encode(epoch))
            .arg(&report.applied.1.0[..])
            .arg(report.about);
        let replicas = self.settings.replicas;
        let majority = sundew_core::protocol::replicas_for_majority(replicas);
        let (reported, all_replicas_acked) = self
            .primaries
            .call_replicated(&call, majority, replicas)
            .await?;
        let (
            now_ms,
            epoch,
            tip,
            tip_id,
            peers,
            primary,
            longest_ms,
            agreement,
            attached,
            arrivals,
        ): Reported = reported;
        check_replicas(attached, &self.settings)?;
        self.leader.acknowledged(&primary);
        let peers = peers
            .into_iter()
            .map(|(id, position)| (id, Position(position)))
            .collect();
        Ok(Heartbeat {
            now_ms,
            agreement,
            epoch,
            primary,
            longest_freshness_ms: longest_ms,
            all_replicas_acked,
            tip: (Position(tip), entry_id(&tip_id)?),
            peers,
            arrivals,
        })
    }

    pub(super) async fn announce(
        &self,
        broker: &str,
        arrival: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let mut command = cmd(if arrival.is_some() { "HSET" } else { "HDEL" });
        command.arg(ARRIVALS).arg(broker).arg(arrival);
        self.primaries.query::<i64>(ARRIVALS, &command).await?;
        Ok(())
    }

    pub(super) async fn vouch(
        &self,
        arriving: &str,
        giver: &str,
        voucher: &[u8],
    ) -> Result<(), StoreError> {
        let key = vouchers_key(arriving);
        let mut set = cmd("HSET");
        set.arg(&key).arg(giver).arg(voucher);
        self.primaries.query::<i64>(&key, &set).await?;
        let mut expire = cmd("PEXPIRE");
        expire.arg(&key).arg(VOUCHERS_LIVE_MS);
        self.primaries.query::<i64>(&key, &expire).await?;
        Ok(())
    }

    pub(super) async fn vouchers(
        &self,
        arriving: &str,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let key = vouchers_key(arriving);
        let mut all = cmd("HGETALL");
        all.arg(&key);
        self.primaries.query(&key, &all).await
    }
}

/// Reads an entry as `append.lua` writes it.
fn stored_entry(entry: &StreamId) -> Result<StoredEntry, StoreError> {
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
}
