//! What every room shares: the typed records, the revocation log, and the journal.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use sundew_core::{
    Cause, Changed, Event, KnownTask, KnownToken, Liveness, LogEntry, Position, RootKey, TaskId,
};

use crate::clock;
use crate::journal::{Journal, Record};
use crate::liveness::RevocationLog;
use crate::records::Records;
use crate::refusal::Refusal;

/// Endings stay in the log this long after the task's deadline, in milliseconds.
const RETAIN_AFTER_DEADLINE_MS: i64 = 60_000;
/// How long an entry that tells brokers to read something anew stays in the log, in milliseconds.
const RETAIN_CHANGE_MS: i64 = 60_000;

/// The three things that a use case writes to, and the steps that need more than one of them. Cheap
/// to clone.
#[derive(Clone)]
pub(crate) struct Ledger {
    /// Typed records over the store.
    pub(crate) records: Arc<Records>,
    /// The view of the revocation log, and the way into it.
    pub(crate) log: Arc<RevocationLog>,
    /// The record of every decision.
    pub(crate) journal: Arc<Journal>,
    /// Counts endings and rules that were appended.
    endings: Counter,
}

impl Ledger {
    /// A ledger of these; `endings` counts what is appended through it.
    pub(crate) fn new(
        records: Records,
        log: Arc<RevocationLog>,
        journal: Arc<Journal>,
        endings: Counter,
    ) -> Self {
        Self {
            records: Arc::new(records),
            log,
            journal,
            endings,
        }
    }

    /// The root key.
    pub(crate) fn root(&self) -> &RootKey {
        self.records.root()
    }

    /// P4, P10: puts an ending on the record and appends it. Once this answers, nobody answers
    /// "active" for what the ending covers.
    pub(crate) async fn end(
        &self,
        event: Event,
        until_ms: i64,
        record: Record,
    ) -> Result<Position, Refusal> {
        self.end_as(RevocationLog::entry(event, until_ms)?, record)
            .await
    }

    /// Does what [`end`](Self::end) does for an entry that has its name already.
    pub(crate) async fn end_as(
        &self,
        entry: LogEntry,
        record: Record,
    ) -> Result<Position, Refusal> {
        let text = String::from_utf8_lossy(&entry.encode()).into_owned();
        self.journal.write(record.with("entry", text)).await?;
        self.endings.inc();
        Ok(self.log.append(entry).await?)
    }

    /// Tells every broker to read something anew; answers when they have.
    pub(crate) async fn announce(&self, what: Changed) -> Result<(), Refusal> {
        let entry = RevocationLog::entry(
            Event::Changed(what),
            clock::now_ms().saturating_add(RETAIN_CHANGE_MS),
        )?;
        self.log.append(entry).await?;
        Ok(())
    }

    /// P4, P5, P7: refuses unless the task may be used at this moment.
    pub(crate) fn require_usable(&self, task: &KnownTask) -> Result<(), Refusal> {
        let view = self.log.view()?;
        match view.task_liveness(task, clock::now_ms()) {
            Liveness::Dead(cause) => Err(Refusal::TaskDead(cause)),
            Liveness::Alive if view.is_suspended(task) => Err(Refusal::TaskDead(Cause::Suspended)),
            Liveness::Alive => Ok(()),
        }
    }

    /// AC-4A: refuses if a quarantine forbids this token.
    pub(crate) fn require_not_quarantined(&self, token: &KnownToken) -> Result<(), Refusal> {
        if self.log.view()?.is_token_quarantined(token) {
            Err(Refusal::Quarantined)
        } else {
            Ok(())
        }
    }

    /// Takes an ended task off the lists of its workload and of its parent.
    pub(crate) async fn release(&self, task: &KnownTask) -> Result<(), Refusal> {
        self.release_from(task.workload.as_str(), task.id).await?;
        if let Some(parent) = task.record().ancestors.last() {
            self.release_from(&parent.to_string(), task.id).await?;
        }
        Ok(())
    }

    async fn release_from(&self, list: &str, task: TaskId) -> Result<(), Refusal> {
        Ok(self.records.store().release_task(list, task).await?)
    }

    /// Until when an ending of this task must be remembered, in milliseconds since the epoch.
    pub(crate) fn retain_until_ms(task: &KnownTask) -> i64 {
        task.deadline_ms.saturating_add(RETAIN_AFTER_DEADLINE_MS)
    }

    /// Until when an ending of this moment must be remembered at least, in milliseconds since the
    /// epoch.
    pub(crate) fn retain_from_now_ms() -> i64 {
        clock::now_ms().saturating_add(RETAIN_AFTER_DEADLINE_MS)
    }

    /// Until when a rule must be remembered whose targets may not be known, in milliseconds since
    /// the epoch: longer than any task can live.
    pub(crate) fn retain_rule_until_ms(longest_task: sundew_core::Ttl) -> i64 {
        Self::retain_from_now_ms().saturating_add(longest_task.as_ms())
    }
}
