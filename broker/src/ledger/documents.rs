//! Changes of documents: the one way in which a room writes, repeats or withdraws one.
//!
//! L5: a change has several steps, and a broker may die or the store may fail between any two. So a
//! retry makes every step happen again, also where the document is as it should be already, and
//! what ends something comes first. L22: each change has a version, which every broker hears of.

use sundew_core::{DocumentVersion, Event};

use super::{Ledger, RETAIN_CHANGE_MS, with_entry};
use crate::clock;
use crate::journal::{self, Record};
use crate::liveness::RevocationLog;
use crate::records::{Before, DocumentPlace};
use crate::refusal::Refusal;

/// How often a withdrawal is tried while others write the document.
const WITHDRAW_ATTEMPTS: usize = 8;

/// What becomes of a document.
pub(crate) enum Change {
    /// The document is as it should be: an earlier attempt wrote it.
    Keep,
    /// The document gets this body, after this record is durable (P10).
    Write(Vec<u8>, Record),
}

/// What ends everything that rests on a document that is withdrawn.
pub(crate) trait Dependents: Sync {
    /// What is told of the endings.
    type Ended: Send;
    /// Ends what rests on the document. It may be repeated.
    fn end(&self, before: &Before) -> impl Future<Output = Result<Self::Ended, Refusal>> + Send;
}

/// Nothing rests on the document.
pub(crate) struct NoDependents;

impl Dependents for NoDependents {
    type Ended = ();
    async fn end(&self, _: &Before) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Ledger {
    /// Returns what is in a place that is to be changed.
    pub(crate) async fn before_change(&self, place: DocumentPlace<'_>) -> Result<Before, Refusal> {
        self.records.before_change(place).await
    }

    /// L5: brings a change about, and returns `answer` once every broker has heard of it: also of a
    /// document that an earlier attempt wrote. Returns `None` if somebody else changed the document
    /// meanwhile, so that the caller has to look again.
    pub(crate) async fn put_document<T>(
        &self,
        place: DocumentPlace<'_>,
        before: &Before,
        change: Change,
        answer: T,
    ) -> Result<Option<T>, Refusal> {
        let written = match change {
            Change::Write(body, record) => {
                self.journal.write(record).await?;
                self.records.write_document(place, before, &body).await?
            }
            Change::Keep => match &before.document {
                Some(document) if document.version() > 0 => {
                    Some(place.with_version(document.version(), false))
                }
                // From before there were versions.
                Some(document) => {
                    let body = document.body();
                    self.records.write_document(place, before, body).await?
                }
                None => return Err(Refusal::Internal("nothing to keep")),
            },
        };
        let Some(statement) = written else {
            return Ok(None);
        };
        self.announce(&statement).await?;
        // Somebody may have withdrawn the document who had not seen this version.
        Ok((!self.records.is_withdrawn_unseen(&statement)).then_some(answer))
    }

    /// P4, L5: withdraws a document, and ends what rests on it. Returns whether there was one, and
    /// what is told of the endings.
    ///
    /// The endings come before the withdrawal, so that a broker that dies in between leaves a
    /// document that can be withdrawn again, and nothing that lives on. They come once more after
    /// it: whoever has applied the last of them has applied the withdrawal before them, so nothing
    /// is begun on the document after its end. The bytes go last, so that a retry finds everything
    /// that it has to end. What rests on something absent is ended too.
    pub(crate) async fn withdraw_document<D: Dependents>(
        &self,
        place: DocumentPlace<'_>,
        record: Record,
        dependents: &D,
    ) -> Result<(bool, D::Ended), Refusal> {
        let mut record = Some(record);
        let mut existed = false;
        for _ in 0..WITHDRAW_ATTEMPTS {
            let before = self.before_change(place).await?;
            existed |= before.is_stored();
            if let Some(record) = record.take_if(|_| existed) {
                self.journal.write(record).await?;
            }
            let mut ended = dependents.end(&before).await?;
            if before.is_known() {
                let deletion = place.with_version(before.deletion(), true);
                self.announce(&deletion).await?;
                ended = dependents.end(&before).await?;
            }
            if self.records.remove_document(place, &before).await? {
                return Ok((existed, ended));
            }
        }
        Err(Refusal::Conflict(place.what()))
    }

    /// L21: looks at every document of the store, for what is wrong with it. L5: tells every broker
    /// of changes that nobody has announced, because whoever wrote them died and has not come back.
    pub(crate) async fn look_at_documents(&self) -> Result<(), Refusal> {
        for statement in self.records.look_at_documents().await? {
            if statement.version > 0 && self.log.announced(&statement).is_none() {
                self.announce(&statement).await?;
            }
        }
        Ok(())
    }

    /// L5, L22: tells every broker the version of a document, and returns when all of them have
    /// heard of it. If the log has the statement already, only waits for that.
    async fn announce(&self, statement: &DocumentVersion) -> Result<(), Refusal> {
        // It holds here at once, whatever becomes of the entry.
        self.records.learn(statement);
        if let Some(id) = self.log.announced(statement) {
            self.log.confirm(id).await?;
            return Ok(());
        }
        let until_ms = clock::now_ms().saturating_add(RETAIN_CHANGE_MS);
        let mut entry = RevocationLog::entry(Event::beside(statement), until_ms)?;
        entry.document = Some(statement.clone());
        let record = journal::record("document_changed")
            .with("kind", statement.kind.as_str())
            .with("name", &statement.name)
            .with("version", statement.version);
        // From the journal, a broker that starts takes back what the log has lost.
        let written = self.journal.write(with_entry(record, &entry));
        let (written, appended) = tokio::join!(written, self.log.append(entry));
        written?;
        appended?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "documents_tests.rs"]
mod tests;
