//! The state that every room shares: the typed records, the revocation log, and the journal.

mod documents;
mod full_look;

use std::collections::HashMap;
use std::sync::Arc;

use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{
    AskedIdentity, Cause, EntryId, Event, Grounds, KnownOrder, KnownTask, KnownToken, Liveness,
    LogEntry, Position, RootKey, TaskId,
};
use tokio::task::JoinSet;

use crate::clock;
use crate::journal::{Journal, Record};
use crate::liveness::RevocationLog;
use crate::metrics::EndingMetrics;
use crate::records::Records;
use crate::refusal::Refusal;
pub(crate) use documents::{Change, Dependents, NoDependents};
pub(crate) use full_look::FullLook;

/// How long an ending stays in the log after the deadline of its task, in milliseconds.
const RETAIN_AFTER_DEADLINE_MS: i64 = 60_000;
/// How long an entry that tells brokers to read something anew stays in the log after a later one
/// about the same document, in milliseconds.
const RETAIN_CHANGE_MS: i64 = 60_000;

/// The three things that a use case writes to, and the steps that need more than one of them. A
/// clone is cheap and shares everything.
#[derive(Clone)]
pub(crate) struct Ledger {
    /// The typed records over the store.
    pub(crate) records: Arc<Records>,
    /// The view of the revocation log, and the way into it.
    pub(crate) log: Arc<RevocationLog>,
    /// The journal, which has every decision.
    pub(crate) journal: Arc<Journal>,
    /// The endings and rules that went into the log from here.
    endings: EndingMetrics,
}

impl Ledger {
    /// Returns a ledger that counts in `endings` what it appends to the log.
    pub(crate) fn new(
        records: Records,
        log: Arc<RevocationLog>,
        journal: Arc<Journal>,
        endings: EndingMetrics,
    ) -> Self {
        Self {
            records: Arc::new(records),
            log,
            journal,
            endings,
        }
    }

    /// Returns the root key, under which records are tagged and sealed.
    pub(crate) fn root(&self) -> &RootKey {
        self.records.root()
    }

    /// P4, P10: puts an ending on the record, and then appends it to the log, which retains it
    /// until `until_ms`, in milliseconds since the epoch. Returns the ending's position as soon as
    /// no broker answers "active" any more for what the ending covers. If the record cannot be made
    /// durable, nothing is appended and nothing holds. If the append fails, the refusal is
    /// [`Refusal::EndingPending`]: the ending holds at this broker, and is appended later (L7).
    pub(crate) async fn end(
        &self,
        event: Event,
        until_ms: i64,
        record: Record,
    ) -> Result<Position, Refusal> {
        self.end_as(RevocationLog::entry(event, until_ms)?, record)
            .await
    }

    /// Puts an ending on the record and appends it, like [`end`](Self::end), if its entry was made
    /// before.
    pub(crate) async fn end_as(
        &self,
        entry: LogEntry,
        record: Record,
    ) -> Result<Position, Refusal> {
        let is_ending = RevocationLog::is_ending(&entry.event);
        self.journal.write(with_entry(record, &entry)).await?;
        self.endings.appended(1);
        let began = clock::monotonic();
        let appended = self.log.append(entry).await;
        if appended.is_ok() {
            self.endings.settled(clock::since(began));
        }
        appended.map_err(|cause| {
            if is_ending {
                Refusal::EndingPending(cause)
            } else {
                cause.into()
            }
        })
    }

    /// L16: puts many endings on the record and appends them, like [`end`](Self::end), so that all
    /// of them wait together. An ending whose record cannot be made durable is not appended, and
    /// makes the whole an error.
    pub(crate) async fn end_all(&self, endings: Vec<(Event, i64, Record)>) -> Result<(), Refusal> {
        let mut writes = JoinSet::new();
        for (event, until_ms, record) in endings {
            let entry = RevocationLog::entry(event, until_ms)?;
            let journal = Arc::clone(&self.journal);
            writes.spawn(async move {
                journal.write(with_entry(record, &entry)).await?;
                Ok::<_, Refusal>(entry)
            });
        }
        let (mut entries, mut failed) = (Vec::new(), None);
        for written in writes.join_all().await {
            match written {
                Ok(entry) => entries.push(entry),
                Err(error) => failed = Some(error),
            }
        }
        if !entries.is_empty() {
            let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
            self.endings.appended(count);
            let began = clock::monotonic();
            let appended = self.log.append_all(entries).await;
            appended.map_err(Refusal::EndingPending)?;
            self.endings.settled(clock::since(began));
        }
        failed.map_or(Ok(()), Err)
    }

    /// P4: waits until an ending that is known here is in force everywhere, and returns its
    /// position.
    pub(crate) async fn confirm(&self, id: EntryId) -> Result<Position, Refusal> {
        self.log.confirm(id).await.map_err(Refusal::EndingPending)
    }

    /// I1: refuses what rests on the word of a node whose task does not live any more; answers when
    /// that task ends, in milliseconds since the epoch.
    pub(crate) async fn require_node(&self, task: Option<TaskId>) -> Result<i64, Refusal> {
        let Some(task) = task else {
            return Ok(i64::MAX);
        };
        let task = self.records.task(task).await?;
        let task = task.ok_or(Refusal::NodeGone)?;
        self.require_issuable(&task)?;
        Ok(task.deadline_ms)
    }

    /// E9: returns the time, in milliseconds since the epoch, before which everything counts as given
    /// until now by any broker: the clocks of two brokers may be on different sides of the store's.
    pub(crate) fn given_before_ms(&self) -> i64 {
        let skew_ms = self.log.agreement().bounds.max_clock_skew.as_ms();
        clock::now_ms().saturating_add(skew_ms.saturating_mul(2))
    }

    /// E9: refuses an identity whose grounds were taken back. Without marks there is nothing that could
    /// be, whatever is known of rules.
    pub(crate) fn require_not_taken_back(
        &self,
        id: &SpiffeId,
        grounds: &Grounds,
    ) -> Result<(), Refusal> {
        if !grounds.marks.is_empty() && self.log.view()?.takes_grounds_back(id, grounds) {
            return Err(Refusal::GroundsWithdrawn);
        }
        Ok(())
    }

    /// I1, E9: refuses an SVID of this identity whose grounds have ended. One that says nothing of its
    /// grounds rests on nothing that could.
    pub(crate) async fn require_grounds(
        &self,
        id: &SpiffeId,
        grounds: Option<&Grounds>,
    ) -> Result<(), Refusal> {
        let Some(grounds) = grounds else {
            return Ok(());
        };
        self.require_node(grounds.node).await?;
        self.require_not_taken_back(id, grounds)
    }

    /// I1: returns a refusal if a rule forbids to give this identity.
    pub(crate) fn require_not_forbidden(&self, asked: &AskedIdentity<'_>) -> Result<(), Refusal> {
        if self.log.view()?.forbids_identity(asked, clock::now_ms()) {
            return Err(Refusal::Quarantined);
        }
        Ok(())
    }

    /// P4, P5, P7: returns a refusal unless the task is alive and not suspended at this moment.
    pub(crate) fn require_usable(&self, task: &KnownTask) -> Result<(), Refusal> {
        let view = self.log.view()?;
        match view.task_liveness(task, clock::now_ms()) {
            Liveness::Dead(cause) => Err(Refusal::TaskDead(cause)),
            Liveness::Alive if view.is_suspended(task) => Err(Refusal::TaskDead(Cause::Suspended)),
            Liveness::Alive => Ok(()),
        }
    }

    /// P4, AC-4A: returns a refusal unless authority may be given for the task at this moment: the
    /// task is usable, and no quarantine covers it.
    pub(crate) fn require_issuable(&self, task: &KnownTask) -> Result<(), Refusal> {
        self.require_usable(task)?;
        if self.log.view()?.is_quarantined(task) {
            return Err(Refusal::Quarantined);
        }
        Ok(())
    }

    /// P4, AC-4A: returns a refusal unless an order that nobody has claimed can be claimed at this
    /// moment.
    pub(crate) fn require_claimable(&self, order: &KnownOrder) -> Result<(), Refusal> {
        let view = self.log.view()?;
        if let Liveness::Dead(cause) = view.order_liveness(order, clock::now_ms()) {
            return Err(Refusal::TaskDead(cause));
        }
        if view.is_order_quarantined(order) {
            return Err(Refusal::Quarantined);
        }
        Ok(())
    }

    /// P4, AC-4A: returns a refusal unless the token is alive at this moment, and no quarantine
    /// forbids it. So nobody is answered with a token that is dead already, by a rule that came
    /// while it was decided, or since it was given for the first time.
    pub(crate) fn require_token_issuable(&self, token: &KnownToken) -> Result<(), Refusal> {
        let view = self.log.view()?;
        if let Liveness::Dead(cause) = view.token_liveness(token, clock::now_ms()) {
            return Err(Refusal::TokenDead(cause));
        }
        if view.is_token_quarantined(token) {
            return Err(Refusal::Quarantined);
        }
        Ok(())
    }

    /// Leaves of an ended task what remains of it, and takes it off the list of its workload, and off
    /// the list of its parent if it was delegated.
    pub(crate) async fn release(&self, task: &KnownTask) -> Result<(), Refusal> {
        let (ended, released) =
            tokio::join!(self.records.end_task(task), self.release_places(task));
        ended.and(released)
    }

    /// Does with many tasks what [`release`](Self::release) does with one, in one step for each list.
    /// The tasks leave the lists last: whoever begins again looks there for what is left.
    pub(crate) async fn release_all(&self, tasks: &[Arc<KnownTask>]) -> Result<(), Refusal> {
        let mut endings = JoinSet::new();
        for task in tasks {
            let (records, task) = (Arc::clone(&self.records), Arc::clone(task));
            endings.spawn(async move { records.end_task(&task).await });
        }
        for ended in endings.join_all().await {
            ended?;
        }
        let mut lists: HashMap<String, Vec<TaskId>> = HashMap::new();
        for task in tasks {
            let parent = task.record().ancestors.last().map(ToString::to_string);
            for list in parent.into_iter().chain([task.workload.to_string()]) {
                lists.entry(list).or_default().push(task.id);
            }
        }
        for (list, released) in lists {
            let store = self.records.store();
            store.release_tasks(&list, &released).await?;
        }
        Ok(())
    }

    /// Takes a task that has ended, or that did not begin, off the lists.
    pub(crate) async fn release_places(&self, task: &KnownTask) -> Result<(), Refusal> {
        self.release_from(task.workload.as_str(), task.id).await?;
        if let Some(parent) = task.record().ancestors.last() {
            self.release_from(&parent.to_string(), task.id).await?;
        }
        Ok(())
    }

    async fn release_from(&self, list: &str, task: TaskId) -> Result<(), Refusal> {
        Ok(self.records.store().release_task(list, task).await?)
    }

    /// Returns the time until which an ending of this task must be retained, in milliseconds since
    /// the epoch.
    pub(crate) fn retain_until_ms(task: &KnownTask) -> i64 {
        task.deadline_ms.saturating_add(RETAIN_AFTER_DEADLINE_MS)
    }

    /// Returns the time until which an ending of this moment must be retained at least, in
    /// milliseconds since the epoch.
    pub(crate) fn retain_from_now_ms() -> i64 {
        clock::now_ms().saturating_add(RETAIN_AFTER_DEADLINE_MS)
    }
}

/// Adds an entry of the log to a record, from which a broker that starts takes it back.
fn with_entry(record: Record, entry: &LogEntry) -> Record {
    record.with("entry", String::from_utf8_lossy(&entry.encode()))
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
