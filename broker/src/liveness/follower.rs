//! The loop that follows the revocation log: it reads, renews the view, and tells the rooms.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sundew_core::protocol::{Step, after_heartbeat, is_beginning_missing, is_gap};
use sundew_core::store::{Heartbeat, Report, StoreError, StoredEntry};
use sundew_core::{DocumentVersion, EntryId, Event, LogEntry, Position};

use super::repair::Repair;
use super::revocation_log::{DurableSink, HeartbeatAck, RevocationLog, entry_place, lock};
use super::store_clock::StoreClock;
use super::vouching::Vouching;
use crate::clock;

/// The number of entries that are read at a time.
pub(super) const ENTRIES_PER_READ: usize = 1000;
/// How often the log is polled while a caller waits for other brokers. A read that blocks for so
/// short a time is no replacement, because an idle Redis ends such a read up to 100 ms late.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// After so many of its bounds without a report, a broker is taken off the list (`heartbeat.lua`).
const FORGOTTEN_AFTER_BOUNDS: u32 = 10;

/// Whether an entry between these is missing.
fn has_hole(entries: &[StoredEntry]) -> bool {
    let mut neighbors = entries.iter().zip(entries.iter().skip(1));
    neighbors.any(|(one, next)| next.previous != one.id)
}

/// A room that hears every entry of the log, in the order of the log. Its methods must return
/// quickly, because the loop that calls them also renews the view.
pub(crate) trait Subscriber: Send + Sync {
    /// Hears which version of a document an entry states, before the entry's event (L22).
    fn on_document(self: Arc<Self>, _statement: &DocumentVersion) {}
    /// Hears the name of an entry that was applied to the view, before the entry's event.
    fn on_entry(self: Arc<Self>, _id: EntryId, _event: &Event) {}
    /// Hears an entry that was applied to the view.
    fn on_event(self: Arc<Self>, _event: &Event) {}
    /// Hears that the log has a gap: the store was emptied or lost something, or this broker was
    /// away for so long that the log was trimmed. Entries that said what changed may be missing, so
    /// everything that was read from the store is out of date (L4).
    fn on_gap(self: Arc<Self>) {}
}

/// The loop that follows the log. [`run`](Self::run) consumes the follower, so every room has
/// subscribed before the loop begins.
pub(crate) struct LogFollower {
    pub(super) log: Arc<RevocationLog>,
    sink: Box<dyn DurableSink>,
    subscribers: Vec<Arc<dyn Subscriber>>,
    /// The store's epoch, which changes when the store was emptied.
    epoch: Mutex<Option<String>>,
    /// The longest freshness bound in the last heartbeat. L6: brokers may have different bounds while
    /// the agreement changes, and a broker that waits for the views of others to end must wait for
    /// the longest of them.
    heard_freshness: Mutex<Duration>,
    /// The bound by which this broker renews its view: the agreed one, or a shorter one as long as
    /// some node of the store has not heard of the agreed one.
    own_freshness: Mutex<Duration>,
    primary: Mutex<Primary>,
    /// The brokers that were on the list lately, and when last.
    seen: Mutex<HashMap<String, Instant>>,
    store_clock: StoreClock,
    pub(super) vouching: Mutex<Vouching>,
    /// Whether the log was repaired, and was not read since.
    pub(super) unverified: AtomicBool,
    /// The repair of the log that was begun last, until it is over.
    pub(super) repair: Mutex<Option<Repair>>,
}

/// The primary that answered the last heartbeat.
#[derive(Default)]
pub(super) struct Primary {
    /// The name of the primary, after the first heartbeat.
    pub(super) name: Option<String>,
    /// The time until which the primary's list of brokers may be incomplete.
    pub(super) in_doubt_until: Option<Instant>,
}

impl LogFollower {
    /// Returns a follower of this log. Endings of other brokers go to `sink` before this broker
    /// reports that it has applied them.
    pub(crate) fn new(log: Arc<RevocationLog>, sink: impl DurableSink + 'static) -> Self {
        let freshness = log.freshness();
        Self {
            log,
            sink: Box::new(sink),
            subscribers: Vec::new(),
            epoch: Mutex::default(),
            heard_freshness: Mutex::new(freshness),
            own_freshness: Mutex::new(freshness),
            primary: Mutex::default(),
            seen: Mutex::default(),
            store_clock: StoreClock::new(),
            vouching: Mutex::new(Vouching::due()),
            unverified: AtomicBool::new(false),
            repair: Mutex::default(),
        }
    }

    /// Lets a room hear every entry that the loop applies.
    pub(crate) fn subscribe(&mut self, subscriber: Arc<impl Subscriber + 'static>) {
        self.subscribers.push(subscriber);
    }

    /// Follows the log and renews the view for as long as the future is polled. It never returns.
    pub(crate) async fn run(self) {
        let log = &self.log;
        // At most one read blocks at a time, and it goes on while the log is polled.
        let mut tail = None;
        loop {
            match self.cycle().await {
                Ok(()) => {
                    let unvouched = lock(&self.vouching).reason;
                    drop(log.set_degraded_reason(unvouched.map(str::to_owned)));
                }
                Err(error) => {
                    if log.set_degraded_reason(Some(error.to_string())).is_none() {
                        tracing::error!(%error, "revocation log cannot be followed");
                    }
                    tokio::time::sleep(log.freshness() / 20).await;
                    continue;
                }
            }
            let own = *lock(&self.own_freshness);
            let wait_ms = u64::try_from(own.as_millis() / 4).unwrap_or(1);
            let news =
                tail.get_or_insert_with(|| log.store.await_log(log.read().applied().0, wait_ms));
            let somebody_waits = log.progress.waiting.load(Ordering::Relaxed) > 0;
            tokio::select! {
                told = news => {
                    tail = None;
                    if told.is_err() {
                        tokio::time::sleep(POLL_INTERVAL).await;
                    }
                }
                () = tokio::time::sleep(POLL_INTERVAL), if somebody_waits => {}
            }
        }
    }

    /// Reads the log to its end and renews the view by an acknowledged heartbeat.
    pub(super) async fn cycle(&self) -> Result<(), StoreError> {
        let log = &self.log;
        loop {
            // P4: by what a repair has read that failed, the log looks as if nothing were missing.
            if !self.is_repairing() {
                self.read_on().await?;
            }
            let sent = clock::monotonic();
            let (applied, last) = log.read().applied();
            let beat = self.heartbeat(applied, last).await?;
            log.progress.tip.store(beat.tip.0.0, Ordering::Relaxed);
            let agreement = log.agreement();
            let max_skew = agreement.bounds.max_clock_skew.to_std();
            self.store_clock.check(beat.now_ms, max_skew)?;
            log.confirmed_time.note(beat.now_ms, sent);
            if beat.agreement != agreement.version {
                self.settle_agreement(beat.agreement).await?;
                continue;
            }
            let heard_ms = u64::try_from(beat.longest_freshness_ms).unwrap_or(0);
            *lock(&self.heard_freshness) = Duration::from_millis(heard_ms);
            self.notice_failover(&beat.primary, sent);
            self.notice_vanished(&beat.peers);
            let emptied = self.notice_emptied(&beat.epoch);
            let step = match self.is_repairing() {
                true => Step::Reappend,
                false => after_heartbeat(applied, last, beat.tip, emptied),
            };
            match step {
                Step::Reappend => {
                    self.reappend_lost().await?;
                    continue;
                }
                Step::ReadOn => continue,
                Step::Renew => {}
            }
            if !self.is_repaired().await? {
                self.reappend_lost().await?;
                continue;
            }
            if self.append_pending().await? {
                continue;
            }
            // An ending needs no fresh view, and so none that this broker may have.
            if let Some(beyond) = log.beyond() {
                return Err(StoreError::Misconfigured(beyond.to_string()));
            }
            if let Some(unknown) = log.unknown_root_key() {
                return Err(StoreError::Misconfigured(unknown));
            }
            if self.is_forgotten(sent) {
                self.was_forgotten();
            }
            let others = self.others();
            let unvouched = self.is_unvouched(&others).await?;
            lock(&self.vouching).reason = unvouched;
            let freshness = self.renewed_for(beat.all_replicas_acked);
            // During a pause, others append again what only they know. A view that was read before
            // the pause was over may not have it, so it is not renewed.
            log.change_window(|window| {
                let is_open = window.open_from.is_some_and(|from| sent >= from);
                if is_open && unvouched.is_none() {
                    let was_fresh = window.fresh_until.is_some_and(|until| sent < until);
                    if !was_fresh || window.steady_from.is_none() {
                        window.steady_from = Some(sent);
                    }
                    window.fresh_until = Some(sent + freshness);
                    window.renewed_at = Some(sent);
                }
            });
            let others = beat
                .peers
                .into_iter()
                .filter(|(peer, _)| *peer != log.broker);
            log.progress.acks.send_replace(HeartbeatAck {
                applied,
                all_replicas_acked: beat.all_replicas_acked,
                peers: others.map(|(_, applied)| applied).collect(),
                longest_freshness: self.longest_freshness(),
                term: log.progress.term.load(Ordering::Relaxed),
                peers_in_doubt: lock(&self.primary)
                    .in_doubt_until
                    .is_some_and(|until| sent < until),
            });
            let is_fresh = log.view().is_ok();
            return self.vouch(&beat.arrivals, is_fresh).await;
        }
    }

    /// Reports what this broker has applied.
    async fn heartbeat(&self, applied: Position, last: EntryId) -> Result<Heartbeat, StoreError> {
        let log = &self.log;
        let report = Report {
            broker: &log.broker,
            applied: (applied, last),
            freshness_ms: log.agreement().bounds.freshness.as_ms(),
            about: &log.about(),
        };
        log.store.heartbeat(report).await
    }

    /// L6: returns for how long a heartbeat renews the view that was acknowledged by every node of
    /// the store, or not. A longer bound counts only once every node has heard of it from this
    /// broker. After a failover to a node that has not, others would wait too briefly.
    pub(super) fn renewed_for(&self, by_every_node: bool) -> Duration {
        let agreed = self.log.freshness();
        let mut own = lock(&self.own_freshness);
        if by_every_node || agreed < *own {
            *own = agreed;
        }
        *own
    }

    /// Returns the longest freshness bound that a broker may have: by the agreement, or by what was
    /// heard of others.
    pub(super) fn longest_freshness(&self) -> Duration {
        (*lock(&self.heard_freshness)).max(self.log.longest_freshness())
    }

    /// Notes the brokers on the list. P4: one that is missing, though it reported a moment ago, was not
    /// forgotten by the rule, and may have a fresh view. It has left, or somebody took it off.
    fn notice_vanished(&self, peers: &[(String, Position)]) {
        let now = clock::monotonic();
        let longest = self.longest_freshness();
        let mut seen = lock(&self.seen);
        for (peer, _) in peers {
            seen.insert(peer.clone(), now);
        }
        let vanished = seen
            .iter()
            .filter(|(peer, _)| !peers.iter().any(|(listed, _)| listed == *peer))
            .map(|(_, at)| *at + longest)
            .max();
        if let Some(until) = vanished {
            self.doubt_peers_until(until);
        }
        seen.retain(|_, at| *at + longest * FORGOTTEN_AFTER_BOUNDS > now);
    }

    /// The other brokers that may know what the log has lost: those on the list, and those that were
    /// lately. A failover to a node that has not everything loses both.
    fn others(&self) -> HashSet<String> {
        let mut others: HashSet<String> = lock(&self.seen).keys().cloned().collect();
        others.remove(&self.log.broker);
        others
    }

    /// Notes the store's epoch. Returns whether the store was emptied since the last heartbeat.
    fn notice_emptied(&self, epoch: &str) -> bool {
        let emptied = lock(&self.epoch)
            .replace(epoch.to_owned())
            .is_some_and(|before| before != epoch);
        if emptied {
            tracing::error!("the store was emptied: what it had is gone");
            // The list of brokers went, and whoever is missing from it has a fresh view until the
            // bound has passed.
            self.doubt_peers_until(clock::monotonic() + self.longest_freshness());
        }
        emptied
    }

    /// Lets the rooms forget what they read.
    pub(super) fn tell_gap(&self) {
        for subscriber in &self.subscribers {
            Arc::clone(subscriber).on_gap();
        }
    }

    /// Locks what is known of the primary.
    pub(super) fn primary(&self) -> std::sync::MutexGuard<'_, Primary> {
        lock(&self.primary)
    }

    /// Reads the log from where this broker is to its end, and applies every entry.
    async fn read_on(&self) -> Result<(), StoreError> {
        loop {
            let (applied, last) = self.log.read().applied();
            let batch = self.log.store.read_log(applied, ENTRIES_PER_READ).await?;
            let Some(first) = batch.first() else {
                return Ok(());
            };
            let is_lost = match is_gap(applied, last, first.previous) {
                true => !self.is_only_trimmed(applied, last).await?,
                // Nothing is trimmed so early that a running broker has not read it yet.
                false => lock(&self.epoch).is_some() && has_hole(&batch),
            };
            if is_lost {
                tracing::error!(
                    "the store lost entries of the revocation log; appending them again"
                );
                self.reappend_lost().await?;
                continue;
            }
            if is_beginning_missing(applied, first.previous) {
                self.tell_gap();
            }
            for (stored, entry) in self.take_in(batch).await? {
                self.apply(stored.position, entry);
            }
        }
    }

    /// Returns whether this broker's view has not been fresh for so long that nobody waited for it any
    /// more, at `now`.
    fn is_forgotten(&self, now: Instant) -> bool {
        let mut ended = None;
        self.log.change_window(|window| ended = window.fresh_until);
        let longest = self.longest_freshness() * FORGOTTEN_AFTER_BOUNDS;
        ended.is_some_and(|ended| now > ended + longest)
    }

    /// Returns whether nothing is missing but entries whose time was over. L17: a broker that reads
    /// the log for the first time finds such holes wherever it pauses, and what it has read last is
    /// still there. To a broker that was running every hole is a loss: it may have missed what
    /// changed (L4). What rooms read at the start may be older than what is missing.
    async fn is_only_trimmed(&self, applied: Position, last: EntryId) -> Result<bool, StoreError> {
        if lock(&self.epoch).is_some() {
            return Ok(false);
        }
        let before = Position(applied.0.saturating_sub(1));
        let here = self.log.store.read_log(before, 1).await?;
        let is_there = |entry: &StoredEntry| entry.position == applied && entry.id == last;
        let only_trimmed = here.first().is_some_and(is_there);
        if only_trimmed {
            self.tell_gap();
        }
        Ok(only_trimmed)
    }

    /// Applies an entry to the view, and then tells the rooms.
    pub(super) fn apply(&self, position: Position, entry: LogEntry) {
        let (id, event, document) = (entry.id, entry.event.clone(), entry.document.clone());
        self.log.write().apply(position, entry);
        for subscriber in &self.subscribers {
            if let Some(statement) = &document {
                Arc::clone(subscriber).on_document(statement);
            }
            Arc::clone(subscriber).on_entry(id, &event);
            Arc::clone(subscriber).on_event(&event);
        }
    }

    /// Opens entries, and makes those of other brokers durable before anything rests on them. An
    /// error means that none of them may be applied.
    pub(super) async fn take_in(
        &self,
        batch: Vec<StoredEntry>,
    ) -> Result<Vec<(StoredEntry, LogEntry)>, StoreError> {
        let open = |stored: StoredEntry| self.open(&stored).map(|entry| (stored, entry));
        let entries: Vec<_> = batch.into_iter().map(open).collect::<Result<_, _>>()?;
        let foreign: Vec<LogEntry> = {
            let view = self.log.read();
            let ends = |entry: &&LogEntry| {
                entry.document.is_some() || !matches!(entry.event, Event::Changed(_) | Event::Floor)
            };
            entries
                .iter()
                .map(|(_, entry)| entry)
                .filter(|entry| !self.log.outbox.take_authored(&entry.id) && !view.knows(&entry.id))
                .filter(ends)
                .cloned()
                .collect()
        };
        if !foreign.is_empty() {
            self.sink.persist(foreign).await?;
        }
        Ok(entries)
    }

    /// Opens an entry. T71: an entry that was written or edited without the root key is an error,
    /// and a log with such an entry cannot be followed.
    fn open(&self, stored: &StoredEntry) -> Result<LogEntry, StoreError> {
        let altered = || {
            StoreError::Corrupt(format!(
                "entry {} of the revocation log was altered, or is under a root key that is in neither \
                 keys.root_key_file nor keys.other_root_key_files",
                stored.position.0
            ))
        };
        let bytes = self
            .log
            .root
            .untag(&entry_place(&stored.id), &stored.bytes)
            .map_err(|_| altered())?;
        LogEntry::decode(bytes).map_err(|_| altered())
    }
}
