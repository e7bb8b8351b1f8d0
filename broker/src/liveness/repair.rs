//! The repair of a revocation log that has lost something: waiting, doubting, and putting the
//! entries back (P4).

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sundew_core::store::{AppendAfter, Store, StoreError, StoredEntry};
use sundew_core::{EntryId, Event, LogEntry, Position};

use super::follower::{ENTRIES_PER_READ, LogFollower};
use super::revocation_log::{AppendError, RETAIN_AFTER_END_MS, RevocationLog, lock};
use crate::clock;

/// Returns the error for an entry that could not be made.
fn no_new_entry(error: AppendError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// Gives every entry of a store's log to `take`, in order.
pub(crate) async fn each_entry(
    store: &dyn Store,
    mut take: impl FnMut(StoredEntry),
) -> Result<(), StoreError> {
    let mut position = Position(0);
    loop {
        let batch = store.read_log(position, ENTRIES_PER_READ).await?;
        let Some(end) = batch.last() else {
            return Ok(());
        };
        position = end.position;
        batch.into_iter().for_each(&mut take);
    }
}

/// A repair that is not over.
#[derive(Default)]
pub(super) struct Repair {
    /// The position up to which this broker may have stamped tokens.
    stamped: Position,
    /// The rules that are new here and that stand below `stamped`.
    repeat: Vec<LogEntry>,
}

impl LogFollower {
    /// Notes which primary has answered a heartbeat that was sent at `sent`. A new primary, or an
    /// old one that was started anew, may have lost endings, which other brokers append again, and
    /// reports of other brokers. Therefore nothing is answered for one freshness bound, and the
    /// list of brokers is not taken for complete for two.
    pub(super) fn notice_failover(&self, name: &str, sent: Instant) {
        let mut primary = self.primary();
        let before = primary.name.replace(name.to_owned());
        // The first primary that a broker meets may have been promoted just before. A store that
        // cannot fail over has no names.
        if !name.is_empty() && before.as_deref() != Some(name) {
            if before.is_some() {
                tracing::warn!(
                    "the store has another primary: waiting one freshness bound for what it may have lost"
                );
            }
            drop(primary);
            self.wait_for_others(sent);
            self.doubt_peers_until(sent + self.longest_freshness() * 2);
        }
    }

    /// Begins a new term. Nothing is answered for one freshness bound after `from`, in which other
    /// brokers append again what only they know. Callers that wait for a commit begin anew.
    fn wait_for_others(&self, from: Instant) {
        let log = &self.log;
        log.progress.term.fetch_add(1, Ordering::Relaxed);
        self.need_voucher();
        log.change_window(|window| {
            window.open_from = window
                .open_from
                .map(|open_from| open_from.max(from + self.longest_freshness()));
            // Whoever attends tasks elsewhere may have been away as well.
            window.steady_from = None;
        });
    }

    /// Does not take the list of brokers for complete before `until`.
    pub(super) fn doubt_peers_until(&self, until: Instant) {
        let mut primary = self.primary();
        primary.in_doubt_until = primary.in_doubt_until.max(Some(until));
    }

    /// Repairs a log of which the store lost a part. Reads what is there, and appends what is
    /// missing after every position that tokens may be stamped with. Rules that are new here, below
    /// those positions, are repeated above them. Entries that this broker has slept over are put
    /// back by others, for whom this broker waits.
    ///
    /// After an error the repair is not over. It is made again before the log is read on: what it has
    /// read is in the view by then, so nothing else would tell that something is missing.
    pub(super) async fn reappend_lost(&self) -> Result<(), StoreError> {
        let log = &self.log;
        self.wait_for_others(clock::monotonic());
        // Before anything is answered again: nothing is while the broker waits for others.
        self.tell_gap();
        let stamped = self.begin_repair(log.read().applied().0);
        let mut known = HashSet::new();
        let (mut position, mut last) = (Position(0), EntryId::default());
        loop {
            let batch = log.store.read_log(position, ENTRIES_PER_READ).await?;
            let Some(end) = batch.last() else { break };
            (position, last) = (end.position, end.id);
            for (stored, entry) in self.take_in(batch).await? {
                known.insert(stored.id);
                // A rule kills what is stamped below it. This one is new here and stands below
                // stamps that this broker has given, so it is repeated above them. The version of a
                // document means the same wherever it stands.
                let is_below = stored.position <= stamped && entry.document.is_none();
                if is_below && !log.read().knows(&stored.id) {
                    self.repeat(entry.clone());
                }
                self.apply(stored.position, entry);
            }
        }
        let now_ms = self.log.forgetting_time_ms();
        // Only now is it known what was lifted: a quarantine that was forgotten by everybody else
        // must not come back (L2).
        let (mut again, repeat) = {
            let (view, mut repeat) = (log.read(), self.repeated());
            let matters = |entry: &LogEntry| view.matters(entry, now_ms);
            let mut missing = view.missing_from(&known);
            missing.retain(matters);
            repeat.retain(matters);
            (missing, repeat)
        };
        for entry in repeat {
            again.push(
                RevocationLog::entry(entry.event, entry.retain_until_ms).map_err(no_new_entry)?,
            );
        }
        // The floor makes the log as long as it was, so that no position is given twice.
        let floor = RevocationLog::entry(Event::Floor, now_ms.saturating_add(RETAIN_AFTER_END_MS))
            .map_err(no_new_entry)?;
        again.push(floor);
        let until_ms = log.rule_stands_until_ms();
        let standing = again
            .into_iter()
            .map(|entry| entry.standing_until(until_ms));
        let again: Vec<_> = standing.map(|entry| log.sealed(&entry)).collect();
        tracing::warn!(
            entries = again.len(),
            "appending what the revocation log has lost"
        );
        let after = AppendAfter {
            floor: stamped,
            ..log.append_after()
        };
        log.store.append_all(&again, after).await?;
        log.write().rewind(position, last);
        self.unverified.store(true, Ordering::Relaxed);
        lock(&self.repair).take();
        Ok(())
    }

    /// Returns whether a repair was begun and has failed.
    pub(super) fn is_repairing(&self) -> bool {
        lock(&self.repair).is_some()
    }

    /// Begins a repair, or goes on with one that has failed. Returns the position above which this
    /// broker has stamped nothing.
    fn begin_repair(&self, applied: Position) -> Position {
        let mut repair = lock(&self.repair);
        let repair = repair.get_or_insert_default();
        repair.stamped = repair.stamped.max(applied);
        repair.stamped
    }

    /// Notes that a rule must be repeated above this broker's stamps.
    fn repeat(&self, rule: LogEntry) {
        lock(&self.repair).get_or_insert_default().repeat.push(rule);
    }

    /// Returns the rules that must be repeated.
    fn repeated(&self) -> Vec<LogEntry> {
        let repair = lock(&self.repair);
        repair
            .as_ref()
            .map_or_else(Vec::new, |repair| repair.repeat.clone())
    }

    /// Returns whether the log has everything that was appended again in a repair, by reading it from
    /// its beginning. A store that was set back between the repair and the next heartbeat ends as it
    /// ended before the repair, so its tip tells nothing.
    pub(super) async fn is_repaired(&self) -> Result<bool, StoreError> {
        let log = &self.log;
        if !self.unverified.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let mut known = HashSet::new();
        each_entry(log.store.as_ref(), |stored| {
            known.insert(stored.id);
        })
        .await?;
        let now_ms = self.log.forgetting_time_ms();
        let is_lost = {
            let view = log.read();
            let missing = view.missing_from(&known);
            missing
                .iter()
                .any(|entry| view.is_in_log(&entry.id) && view.matters(entry, now_ms))
        };
        self.unverified.store(is_lost, Ordering::Relaxed);
        Ok(!is_lost)
    }

    /// Appends the endings that the store could not take before. Returns whether there were any.
    /// After a restart these are all endings that the journal has and the log has lost.
    pub(super) async fn append_pending(&self) -> Result<bool, StoreError> {
        let log = &self.log;
        let (pending, now_ms) = (log.outbox.pending(), log.forgetting_time_ms());
        let until_ms = log.rule_stands_until_ms();
        // L3: what was made for shorter tasks than may live now is not over when it says so.
        let outlives = log.agreement().outlives(&log.allowed, now_ms);
        let (missing, done): (Vec<_>, Vec<_>) = {
            let view = log.read();
            let matters = |entry: &LogEntry| {
                view.matters(entry, now_ms) || (outlives && entry.retain_until_ms <= now_ms)
            };
            // From the journal, most are in the log already. What was appended waits until it was
            // read back: a store that took it may have been set back since.
            pending
                .into_iter()
                .partition(|entry| !view.is_in_log(&entry.id) && matters(entry))
        };
        log.outbox.forget(&done);
        let sealed = |entry: LogEntry| log.sealed(&entry.standing_until(until_ms));
        let missing: Vec<_> = missing.into_iter().map(sealed).collect();
        if !missing.is_empty() {
            log.outbox.author(missing.iter().map(|(id, ..)| *id));
            log.store.append_all(&missing, log.append_after()).await?;
        }
        Ok(!missing.is_empty())
    }
}
