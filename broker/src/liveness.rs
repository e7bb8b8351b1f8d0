//! The keeper of the view: tails the revocation log, knows whether the view is fresh, and appends
//! endings.
//!
//! P4: an ending is answered only when its append is durable and every broker that could answer
//! "active" has applied it, or the freshness bound has passed. P5, P7: a view is fresh for a
//! bounded time after the heartbeat that renewed it was *sent*, on the monotonic clock; a view that
//! is not fresh is not asked.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use sundew_core::protocol::{Step, after_heartbeat, is_gap};
use sundew_core::store::{BoxFuture, Store, StoreError, StoredEntry};
use sundew_core::{EntryId, Event, LogEntry, Position, RootKey, View};
use tokio::sync::watch;

use crate::clock;

mod mend;
mod settle;

/// Entries read at a time.
const BATCH: usize = 1000;
/// How often the log is polled while somebody waits for other brokers. Not by a read that blocks
/// for so long: a Redis that has nothing else to do looks only every 100 ms whether the time of
/// such a read is over.
const HURRY: Duration = Duration::from_millis(2);
/// Entries are kept this long after nothing they cover can live, for brokers whose clocks differ.
const KEEP_MS: i64 = 60_000;
/// Most endings held for a store that cannot take them.
const MAX_PENDING: usize = 100_000;

/// The view is not fresh, so nothing can be answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the view of the revocation log is not fresh")]
pub struct Stale;

/// Why an ending could not be acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// The store did not take it. It holds here, and is appended as soon as that is possible.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system's random generator failed.
    #[error("no randomness")]
    Random,
}

/// Bounds of a [`Keeper`].
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long a view may be asked after it was renewed.
    pub freshness: Duration,
    /// How far this broker's clock may be from the store's.
    pub max_skew: Duration,
}

/// Where endings that other brokers appended are kept, before this one says that it has applied
/// them: whoever knows of an ending still knows of it after a restart, whatever the store has lost
/// meanwhile.
pub trait Keep: Send + Sync {
    /// Answers when they are durable.
    fn keep(&self, entries: Vec<LogEntry>) -> BoxFuture<'_, ()>;
}

/// See the module.
pub struct Keeper {
    store: Arc<dyn Store>,
    root: Arc<RootKey>,
    broker: String,
    bounds: Bounds,
    view: RwLock<View>,
    window: RwLock<Window>,
    beats: watch::Sender<Beat>,
    waiting: AtomicUsize,
    pending: Mutex<Vec<LogEntry>>,
    epoch: Mutex<Option<String>>,
    primary: Mutex<Primary>,
    turn: AtomicU64,
    /// Up to where endings are settled, in which turn.
    settled_to: Mutex<(u64, Position)>,
    /// Entries that this broker appended and has in its journal already.
    authored: Mutex<HashSet<EntryId>>,
    keep: Box<dyn Keep>,
    on_change: Box<dyn Fn(&Event) + Send + Sync>,
    on_emptied: Box<dyn Fn() + Send + Sync>,
    trouble: Mutex<Option<String>>,
    /// The latest wall-clock time known, and when on the monotonic clock that was.
    latest: Mutex<(i64, Instant)>,
}

/// When the view may be asked.
#[derive(Clone, Copy, Default)]
struct Window {
    fresh_until: Option<Instant>,
    /// Nothing is answered before: other brokers' endings may have been lost and are on their way
    /// again.
    open_from: Option<Instant>,
}

/// Who answered the last heartbeat, and until when its list of brokers is not to be relied upon.
#[derive(Default)]
struct Primary {
    name: Option<String>,
    in_doubt_until: Option<Instant>,
}

#[derive(Clone, Default)]
struct Beat {
    applied: Position,
    /// Whether every replica has acknowledged it.
    everywhere: bool,
    peers: Vec<Position>,
    /// Counts failovers, and losses that were mended.
    turn: u64,
    /// Until then, a broker with a fresh view may be missing from `peers`: there was a failover,
    /// or the list was lost.
    in_doubt_until: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keeper {
    /// A keeper with an empty view. `on_change` hears every entry, `on_emptied` that the store lost
    /// its records.
    pub fn new(
        store: Arc<dyn Store>,
        root: Arc<RootKey>,
        broker: String,
        bounds: Bounds,
        keep: impl Keep + 'static,
        on_change: impl Fn(&Event) + Send + Sync + 'static,
        on_emptied: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            store,
            root,
            broker,
            bounds,
            view: RwLock::default(),
            window: RwLock::default(),
            beats: watch::Sender::default(),
            waiting: AtomicUsize::new(0),
            pending: Mutex::default(),
            epoch: Mutex::default(),
            primary: Mutex::default(),
            turn: AtomicU64::new(0),
            settled_to: Mutex::default(),
            authored: Mutex::default(),
            keep: Box::new(keep),
            on_change: Box::new(on_change),
            on_emptied: Box::new(on_emptied),
            trouble: Mutex::default(),
            latest: Mutex::new((clock::now_ms(), clock::monotonic())),
        }
    }

    /// The name under which this broker reports.
    #[must_use]
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// The view, if it is fresh. P5, P7: looked at after the lock is taken, so that a thread that
    /// slept does not answer.
    pub fn view(&self) -> Result<RwLockReadGuard<'_, View>, Stale> {
        let view = self.read();
        let Window {
            fresh_until: until,
            open_from,
        } = *self.window.read().unwrap_or_else(PoisonError::into_inner);
        let now = clock::monotonic();
        if until.is_none_or(|until| now >= until) || open_from.is_none_or(|from| now < from) {
            return Err(Stale);
        }
        Ok(view)
    }

    fn read(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_window(&self, change: impl FnOnce(&mut Window)) {
        change(&mut self.window.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// What is wrong with it, for health; nothing if it is fresh.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.view().err().map(|stale| {
            lock(&self.trouble)
                .clone()
                .unwrap_or_else(|| stale.to_string())
        })
    }

    /// Endings that the store has not taken yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        lock(&self.pending).len()
    }

    /// Puts back endings from the journal that may never have reached the log.
    pub fn remember(&self, entries: impl IntoIterator<Item = LogEntry>) {
        let now_ms = clock::now_ms();
        let mut pending = lock(&self.pending);
        for entry in entries.into_iter().filter(|entry| entry.until_ms > now_ms) {
            self.write().hold(entry.clone());
            pending.push(entry);
        }
    }

    /// A new entry of the log with a name of its own.
    pub fn entry(event: Event, until_ms: i64) -> Result<LogEntry, AppendError> {
        let mut id = [0; 16];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut id)
            .map_err(|_| AppendError::Random)?;
        Ok(LogEntry {
            id: EntryId(id),
            event,
            until_ms,
        })
    }

    async fn append_once(&self, entry: &LogEntry) -> Result<Position, StoreError> {
        lock(&self.authored).insert(entry.id);
        let floor = self.read().applied().0;
        self.store
            .append(
                entry.id,
                &self.root.tag(&[b"log", &entry.id.0], entry.encode()),
                entry.until_ms,
                floor,
            )
            .await
    }

    /// Keeps the view for as long as it is polled. Never returns.
    pub async fn run(&self) {
        // One read at a time blocks; it goes on while the log is polled.
        let mut tail = None;
        loop {
            match self.cycle().await {
                Ok(()) => *lock(&self.trouble) = None,
                Err(error) => {
                    if lock(&self.trouble).replace(error.to_string()).is_none() {
                        tracing::error!(%error, "revocation log cannot be followed");
                    }
                    tokio::time::sleep(self.bounds.freshness / 20).await;
                    continue;
                }
            }
            let wait_ms = u64::try_from(self.bounds.freshness.as_millis() / 4).unwrap_or(1);
            let news =
                tail.get_or_insert_with(|| self.store.await_log(self.read().applied().0, wait_ms));
            tokio::select! {
                told = news => {
                    tail = None;
                    if told.is_err() {
                        tokio::time::sleep(HURRY).await;
                    }
                }
                () = tokio::time::sleep(HURRY), if self.waiting.load(Ordering::Relaxed) > 0 => {}
            }
        }
    }

    async fn cycle(&self) -> Result<(), StoreError> {
        loop {
            self.read_on().await?;
            let sent = clock::monotonic();
            let (applied, last) = self.read().applied();
            let forget_after_ms = i64::try_from(self.bounds.freshness.as_millis())
                .unwrap_or(i64::MAX)
                .saturating_mul(10);
            let beat = self
                .store
                .heartbeat(&self.broker, (applied, last), forget_after_ms)
                .await?;
            self.check_clock(beat.now_ms)?;
            self.notice_failover(&beat.primary, sent);
            let emptied = lock(&self.epoch)
                .replace(beat.epoch.clone())
                .is_some_and(|epoch| epoch != beat.epoch);
            if emptied {
                tracing::error!("the store was emptied: what it had is gone");
                (self.on_emptied)();
                // The list of brokers went, and whoever is missing from it has a fresh view until
                // the bound has passed.
                self.doubt_peers_until(clock::monotonic() + self.bounds.freshness);
            }
            match after_heartbeat(applied, last, beat.tip, emptied) {
                Step::AssertAgain => {
                    self.assert_again().await?;
                    continue;
                }
                Step::ReadOn => continue,
                Step::Renew => {}
            }
            if self.append_pending().await? {
                continue;
            }
            // What was read before a pause was over may miss what others append again in it.
            self.change_window(|window| {
                if window.open_from.is_some_and(|from| sent >= from) {
                    window.fresh_until = Some(sent + self.bounds.freshness);
                }
            });
            let peers = beat
                .peers
                .into_iter()
                .filter(|(peer, _)| *peer != self.broker)
                .map(|(_, applied)| applied)
                .collect();
            self.beats.send_replace(Beat {
                applied,
                everywhere: beat.everywhere,
                peers,
                turn: self.turn.load(Ordering::Relaxed),
                in_doubt_until: lock(&self.primary).in_doubt_until,
            });
            return Ok(());
        }
    }

    fn check_clock(&self, store_ms: i64) -> Result<(), StoreError> {
        let skew = clock::now_ms().saturating_sub(store_ms).unsigned_abs();
        if u128::from(skew) > self.bounds.max_skew.as_millis() {
            return Err(StoreError::Misconfigured(format!(
                "this machine's clock is {skew} ms away from the store's"
            )));
        }
        // P5: a clock that goes back would give tokens a longer life than they have. One that goes
        // ahead only takes some.
        let now_ms = clock::now_ms();
        let mut latest = lock(&self.latest);
        let passed_ms = i64::try_from(clock::since(latest.1).as_millis()).unwrap_or(i64::MAX);
        let expected_ms = latest.0.saturating_add(passed_ms);
        let back_ms = expected_ms.saturating_sub(now_ms);
        if back_ms > i64::try_from(self.bounds.max_skew.as_millis()).unwrap_or(i64::MAX) {
            return Err(StoreError::Misconfigured(format!(
                "this machine's clock went back by {back_ms} ms; if it is right now, restart the broker"
            )));
        }
        if back_ms <= 0 {
            *latest = (now_ms, clock::monotonic());
        }
        Ok(())
    }

    async fn read_on(&self) -> Result<(), StoreError> {
        loop {
            let (applied, last) = self.read().applied();
            let batch = self.store.read_log(applied, BATCH).await?;
            let Some(first) = batch.first() else {
                return Ok(());
            };
            if is_gap(applied, last, first.previous) {
                tracing::error!(
                    "the store lost entries of the revocation log; appending them again"
                );
                self.assert_again().await?;
                continue;
            }
            self.apply(batch).await?;
        }
    }

    async fn apply(&self, batch: Vec<StoredEntry>) -> Result<(), StoreError> {
        for (stored, entry) in self.take_in(batch).await? {
            let event = entry.event.clone();
            self.write().apply(stored.position, entry);
            (self.on_change)(&event);
        }
        Ok(())
    }

    /// Opens entries, and keeps those of other brokers before anything is made of them.
    async fn take_in(
        &self,
        batch: Vec<StoredEntry>,
    ) -> Result<Vec<(StoredEntry, LogEntry)>, StoreError> {
        let open = |stored: StoredEntry| self.open(&stored).map(|entry| (stored, entry));
        let entries: Vec<_> = batch.into_iter().map(open).collect::<Result<_, _>>()?;
        self.keep_foreign(entries.iter().map(|(_, entry)| entry))
            .await?;
        Ok(entries)
    }

    async fn keep_foreign(
        &self,
        entries: impl Iterator<Item = &LogEntry>,
    ) -> Result<(), StoreError> {
        let foreign: Vec<LogEntry> = {
            let (view, mut authored) = (self.read(), lock(&self.authored));
            let ends = |entry: &&LogEntry| !matches!(entry.event, Event::Changed(_) | Event::Floor);
            entries
                .filter(|entry| !authored.remove(&entry.id) && !view.knows(&entry.id))
                .filter(ends)
                .cloned()
                .collect()
        };
        if foreign.is_empty() {
            Ok(())
        } else {
            self.keep.keep(foreign).await
        }
    }

    /// T71: an entry that somebody else wrote or edited is no entry, and a log with it cannot be
    /// followed.
    fn open(&self, stored: &StoredEntry) -> Result<LogEntry, StoreError> {
        let altered = || {
            StoreError::Corrupt(format!(
                "entry {} of the revocation log was altered, or has another root key",
                stored.position.0
            ))
        };
        let bytes = self
            .root
            .untag(&[b"log", &stored.id.0], &stored.bytes)
            .map_err(|_| altered())?;
        LogEntry::decode(bytes).map_err(|_| altered())
    }

    /// Starts answering, at once or one freshness bound from now.
    pub fn open_after(&self, wait: Duration) {
        self.change_window(|window| window.open_from = Some(clock::monotonic() + wait));
    }

    /// Drops what cannot matter any more, here and in the store.
    pub async fn forget(&self) -> Result<(), StoreError> {
        let before = clock::now_ms().saturating_sub(KEEP_MS);
        let places = self.write().forget(before);
        self.store.trim_log(before, &places).await
    }

    /// Takes this broker off the list of those that others wait for. The view is not fresh from
    /// then on.
    pub async fn leave(&self) {
        self.change_window(|window| window.open_from = None);
        if let Err(error) = self.store.leave(&self.broker).await {
            tracing::warn!(%error, "could not leave the list of brokers; others wait one freshness bound for this one");
        }
    }
}
