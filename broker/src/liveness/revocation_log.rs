//! The revocation log as every room uses it: a view that may be asked, and a way to append to it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use sundew_core::store::{AppendAfter, BoxFuture, Store, StoreError};
use sundew_core::{
    Agreement, DocumentVersion, EntryId, Event, LogEntry, Position, RootKey, SharedBounds, View,
};
use tokio::sync::watch;

use super::outbox::Outbox;
use super::store_clock::ConfirmedTime;
use crate::clock;

/// How long entries are kept after nothing that they cover can be alive, in milliseconds, for
/// brokers whose clocks differ.
pub(super) const RETAIN_AFTER_END_MS: i64 = 60_000;

/// The view is not fresh, so nothing can be answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the view of the revocation log is not fresh")]
pub struct Stale;

/// Why an ending could not be acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// The system's random generator failed.
    #[error("no randomness")]
    Random,
    /// The store did not take the ending. The ending holds at this broker, and is appended as soon
    /// as that is possible.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ending is in the log, or was, and this broker does not know whether every other broker
    /// has applied it.
    #[error("{0}")]
    Unconfirmed(&'static str),
}

/// A place that keeps the endings of other brokers. This broker reports that it has applied an
/// ending only after the ending is durable there. So a broker that knows of an ending still knows
/// of it after a restart, whatever the store has lost meanwhile.
pub(crate) trait DurableSink: Send + Sync {
    /// Returns when the entries are durable.
    fn persist(&self, entries: Vec<LogEntry>) -> BoxFuture<'_, ()>;
}

/// This broker's view of the revocation log, and its way of appending to it.
pub(crate) struct RevocationLog {
    pub(super) store: Arc<dyn Store>,
    pub(super) root: Arc<RootKey>,
    pub(super) broker: String,
    /// The bounds that this broker's file allows.
    pub(super) allowed: SharedBounds,
    /// The agreement of all brokers, as this one has taken it.
    pub(super) agreement: ArcSwap<Agreement>,
    view: RwLock<View>,
    window: RwLock<Window>,
    pub(super) outbox: Outbox,
    pub(super) progress: Progress,
    degraded_reason: Mutex<Option<String>>,
    /// Why this broker could not read what another one writes, if so.
    pub(super) unknown_root_key: Mutex<Option<String>>,
    pub(super) confirmed_time: ConfirmedTime,
    /// The time at which this broker began to follow the log, in milliseconds since the epoch, and
    /// the monotonic time.
    began: (i64, Instant),
    /// Whether brokers of an older version may be on the list, which vouch for nothing.
    pub(super) beside_older_brokers: AtomicBool,
}

/// How far endings are committed, for the callers that wait for that.
#[derive(Default)]
pub(super) struct Progress {
    /// The last heartbeat, as far as it was acknowledged.
    pub(super) acks: watch::Sender<HeartbeatAck>,
    /// The number of endings that wait for other brokers at this moment.
    pub(super) waiting: AtomicUsize,
    /// The last position of the log, as the last heartbeat told it.
    pub(super) tip: AtomicU64,
    /// The number of failovers and of losses that were repaired. An acknowledgement of an earlier
    /// term counts for nothing.
    pub(super) term: AtomicU64,
    /// A term, and the last position that is known to be committed in it.
    pub(super) committed_to: Mutex<(u64, Position)>,
}

/// The time in which the view may be asked.
#[derive(Clone, Copy, Default)]
pub(super) struct Window {
    /// The end of the view's freshness; `None` before the view was renewed for the first time.
    pub(super) fresh_until: Option<Instant>,
    /// The time before which nothing is answered, because endings of other brokers may have been
    /// lost and are on their way again. Nothing is ever answered while this is `None`.
    pub(super) open_from: Option<Instant>,
    /// Since when the view has been renewed without interruption.
    pub(super) steady_from: Option<Instant>,
    /// When the heartbeat was sent that renewed the view last.
    pub(super) renewed_at: Option<Instant>,
}

/// How far this broker's heartbeats were acknowledged, and what they said of the other brokers.
#[derive(Clone, Default)]
pub(super) struct HeartbeatAck {
    /// The position that this broker had applied when it sent the heartbeat.
    pub(super) applied: Position,
    /// Whether every replica has acknowledged the heartbeat.
    pub(super) all_replicas_acked: bool,
    /// The position that each of the other brokers has applied.
    pub(super) peers: Vec<Position>,
    /// The longest freshness bound of all brokers. A broker that is not heard of may have a fresh
    /// view for so long.
    pub(super) longest_freshness: Duration,
    /// The term in which the heartbeat was sent.
    pub(super) term: u64,
    /// Whether a broker with a fresh view may be missing from `peers`, because there was a failover or
    /// the list was lost a short time before the heartbeat was sent.
    pub(super) peers_in_doubt: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The parts over which the tag of an entry goes, beside the entry.
pub(crate) fn entry_place(id: &EntryId) -> [&[u8]; 2] {
    [b"log", &id.0]
}

/// Returns an entry as the store takes it: its name, its tagged bytes, and the time until which the
/// log keeps it, in milliseconds since the epoch.
pub(crate) fn sealed_entry(root: &RootKey, entry: &LogEntry) -> (EntryId, Vec<u8>, i64) {
    (
        entry.id,
        root.tag(&entry_place(&entry.id), entry.encode()),
        entry.log_retains_until_ms(),
    )
}

impl RevocationLog {
    /// Returns a log of which nothing was read yet, for a broker with this agreement whose file
    /// allows these bounds. The view is stale until a [`LogFollower`](super::LogFollower) runs and
    /// [`open_after`](Self::open_after) was called.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        root: Arc<RootKey>,
        broker: String,
        agreement: Agreement,
        allowed: SharedBounds,
    ) -> Self {
        Self {
            store,
            root,
            broker,
            allowed,
            agreement: ArcSwap::from_pointee(agreement),
            view: RwLock::default(),
            window: RwLock::default(),
            outbox: Outbox::default(),
            progress: Progress::default(),
            degraded_reason: Mutex::default(),
            unknown_root_key: Mutex::default(),
            confirmed_time: ConfirmedTime::default(),
            began: (clock::now_ms(), clock::monotonic()),
            beside_older_brokers: AtomicBool::new(false),
        }
    }

    /// Lets this broker answer beside brokers of an older version, which vouch for nothing.
    pub(crate) fn allow_older_brokers(&self) {
        self.beside_older_brokers.store(true, Ordering::Relaxed);
    }

    /// Returns the name under which this broker reports.
    pub(crate) fn broker(&self) -> &str {
        &self.broker
    }

    /// Returns the view if it is fresh. P5, P7: the time is looked at after the lock is taken, so
    /// that a thread that slept does not answer.
    pub(crate) fn view(&self) -> Result<RwLockReadGuard<'_, View>, Stale> {
        let view = self.read();
        let Window {
            fresh_until,
            open_from,
            ..
        } = *self.window.read().unwrap_or_else(PoisonError::into_inner);
        let now = clock::monotonic();
        if fresh_until.is_none_or(|until| now >= until) || open_from.is_none_or(|from| now < from) {
            return Err(Stale);
        }
        Ok(view)
    }

    /// Returns the view, fresh or not, for whoever takes authority away: an ending needs no fresh
    /// view (L7). What gives authority, or says that something is alive, asks [`view`](Self::view).
    pub(crate) fn latest_view(&self) -> RwLockReadGuard<'_, View> {
        self.read()
    }

    /// Returns the view, fresh or not, for this broker's own bookkeeping and never for an answer.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the view for a change.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the time in which the view may be asked.
    pub(super) fn change_window(&self, change: impl FnOnce(&mut Window)) {
        change(&mut self.window.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns why the view is not fresh, for health, and `None` if it is fresh.
    pub(crate) fn degraded_reason(&self) -> Option<String> {
        self.view().err().map(|stale| {
            lock(&self.degraded_reason)
                .clone()
                .unwrap_or_else(|| stale.to_string())
        })
    }

    /// Notes why the log cannot be followed, or that it can be. Returns the reason that was noted
    /// before.
    pub(super) fn set_degraded_reason(&self, reason: Option<String>) -> Option<String> {
        std::mem::replace(&mut *lock(&self.degraded_reason), reason)
    }

    /// Returns for how long the view has been fresh without interruption: so long every broker could
    /// read and write the store, as far as this one knows. Zero for a view that is not fresh.
    pub(crate) fn steady_for(&self) -> Duration {
        if self.view().is_err() {
            return Duration::ZERO;
        }
        let window = *self.window.read().unwrap_or_else(PoisonError::into_inner);
        window.steady_from.map_or(Duration::ZERO, clock::since)
    }

    /// Returns how long ago the heartbeat was sent that renewed the view, or this broker began.
    pub(crate) fn view_age(&self) -> Duration {
        let window = *self.window.read().unwrap_or_else(PoisonError::into_inner);
        clock::since(window.renewed_at.unwrap_or(self.began.1))
    }

    /// Returns by how many positions this broker is behind the end of the log, as far as it knows.
    pub(crate) fn behind(&self) -> u64 {
        let tip = self.progress.tip.load(Ordering::Relaxed);
        tip.saturating_sub(self.read().applied().0.0)
    }

    /// Returns the time for whatever ends something for good because its time is over, in
    /// milliseconds since the epoch. L8: it is this machine's time, and no later than the store's.
    /// A wall clock that jumps ahead refuses what has expired by it until the jump is noticed, but
    /// ends nothing: others would hear of that ending.
    pub(crate) fn ending_time_ms(&self) -> i64 {
        let now_ms = clock::now_ms();
        let max_skew_ms = self.agreement.load().bounds.max_clock_skew.as_ms();
        let latest = self.confirmed_time.latest_ms();
        latest.map_or(now_ms, |latest| {
            now_ms.min(latest.saturating_add(max_skew_ms))
        })
    }

    /// Returns the time for whatever forgets something because its time is over, in milliseconds since
    /// the epoch. L8: what a jump of the wall clock made this broker forget would be alive again after
    /// the jump. So a store with a clock of its own must have said what time it is; beside another
    /// one, time goes no faster than the monotonic clock since this broker began.
    pub(super) fn forgetting_time_ms(&self) -> i64 {
        if self.store.has_own_clock() {
            let confirmed = self.confirmed_time.latest_ms();
            return confirmed.map_or(i64::MIN, |_| self.ending_time_ms());
        }
        let (from_ms, from) = self.began;
        let passed = i64::try_from(clock::since(from).as_millis()).unwrap_or(i64::MAX);
        self.ending_time_ms().min(from_ms.saturating_add(passed))
    }

    /// Returns the number of endings that the store has not taken yet.
    pub(crate) fn pending(&self) -> usize {
        self.outbox.len()
    }

    /// Returns the endings that hold here and that are not in the log yet, as far as this broker
    /// has read the log.
    pub(crate) fn pending_entries(&self) -> Vec<LogEntry> {
        let mut pending = self.outbox.pending();
        let view = self.read();
        pending.retain(|entry| !view.is_in_log(&entry.id));
        pending
    }

    /// Puts back endings from the journal that still matter and may never have reached the log.
    pub(crate) fn restore(&self, entries: impl IntoIterator<Item = LogEntry>) {
        for entry in entries {
            self.write().hold(entry.clone());
            self.outbox.restore(entry);
        }
    }

    /// Returns a new entry with a random name. The log keeps the entry until `until_ms`, in
    /// milliseconds since the epoch.
    pub(crate) fn entry(event: Event, until_ms: i64) -> Result<LogEntry, AppendError> {
        let mut id = [0; 16];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut id)
            .map_err(|_| AppendError::Random)?;
        Ok(LogEntry {
            id: EntryId(id),
            event,
            retain_until_ms: until_ms,
            document: None,
        })
    }

    /// Returns the entry that makes this statement about a document, if no later one is known.
    pub(crate) fn announced(&self, statement: &DocumentVersion) -> Option<EntryId> {
        let view = self.read();
        view.document(statement.kind, &statement.name)
            .filter(|(known, _)| known.says_the_same(statement))
            .map(|(_, by)| by)
    }

    /// Returns an entry as the store takes it: its name, its tagged bytes, and the time until which
    /// the log keeps it, in milliseconds since the epoch.
    pub(super) fn sealed(&self, entry: &LogEntry) -> (EntryId, Vec<u8>, i64) {
        sealed_entry(&self.root, entry)
    }

    /// Returns the conditions of an append at this moment.
    pub(super) fn append_after(&self) -> AppendAfter {
        AppendAfter {
            agreement: self.agreement.load().version,
            floor: self.read().applied().0,
        }
    }

    /// Lets the view be asked after a wait, if it is fresh by then. A broker that starts waits one
    /// freshness bound for endings that only other brokers know.
    pub(crate) fn open_after(&self, wait: Duration) {
        self.change_window(|window| window.open_from = Some(clock::monotonic() + wait));
    }

    /// Drops entries that cannot matter any more, here and in the store.
    pub(crate) async fn forget(&self) -> Result<(), StoreError> {
        let before = self
            .forgetting_time_ms()
            .saturating_sub(RETAIN_AFTER_END_MS);
        let positions = self.write().forget(before);
        self.store.trim_log(before, &positions).await
    }

    /// Takes this broker off the list of those that others wait for. The view is not fresh from
    /// then on.
    pub(crate) async fn leave(&self) {
        self.change_window(|window| window.open_from = None);
        if let Err(error) = self.store.leave(&self.broker).await {
            tracing::warn!(%error, "could not leave the list of brokers; others wait one freshness bound for this one");
        }
    }
}
