//! What the store has under another root key than the active one, and writing documents anew.
//!
//! L22: a document that is written anew says the same with the version that it has. A writer who
//! comes first wins, and writes under the active key of its broker.

use std::collections::BTreeSet;

use sundew_core::store::{DocumentKind, StoredLease};
use sundew_core::{LeaseId, SealError, TaskId};

use super::Records;
use super::documents::{DocumentPlace, versioned_place};
use crate::refusal::Refusal;

/// What the names of counters of evidence begin with, among the documents of the broker's own.
const COUNTER: &str = "counter/";

/// The documents of a family that are not, or were not, under the active root key.
#[derive(Default)]
pub(crate) struct OtherDocuments {
    /// Under another key.
    pub(crate) names: Vec<String>,
    /// Under none of the keys.
    pub(crate) unreadable: Vec<String>,
}

/// The tasks on the lists that are not under the active root key.
#[derive(Default)]
pub(crate) struct OtherTasks {
    /// Under another key.
    pub(crate) found: BTreeSet<TaskId>,
    /// The last of their deadlines, in milliseconds since the epoch.
    pub(crate) until_ms: i64,
    /// Under none of the keys.
    pub(crate) unreadable: BTreeSet<TaskId>,
}

/// The parts over which the tag of a lease goes, beside the lease.
pub(crate) fn lease_place<'a>(engine: &'a str, id: &'a LeaseId) -> [&'a [u8]; 3] {
    [b"lease", engine.as_bytes(), id.as_bytes()]
}

/// The parts over which the tag of a counter of evidence goes, beside the counter.
pub(crate) fn counter_place(source: &[u8]) -> [&[u8]; 2] {
    [b"counter", source]
}

impl Records {
    /// Returns the bytes of a document as they are under the active root key, and `None` if they are.
    pub(crate) fn under_active(
        &self,
        place: DocumentPlace<'_>,
        stored: &[u8],
    ) -> Result<Option<Vec<u8>>, SealError> {
        let has_keys =
            place.kind == DocumentKind::Meta && DocumentPlace::is_versioned(place.kind, place.name);
        if let Ok((record, key)) = self.root.untag_by(&versioned_place(place), stored) {
            let (version, body) = record.split_first_chunk().ok_or(SealError::Opening)?;
            let wrapped = match has_keys {
                true => self.wrapped_under_active(place.name, body)?,
                false => None,
            };
            if key == self.root.active() && wrapped.is_none() {
                return Ok(None);
            }
            let body = wrapped.as_deref().unwrap_or(body);
            let sealed = self.seal_document(place, u64::from_be_bytes(*version), body);
            return Ok(Some(sealed));
        }
        if has_keys {
            return self.wrapped_under_active(place.name, stored);
        }
        // Counters, actions of responders, and documents from before there were versions.
        let source = place.name.strip_prefix(COUNTER);
        let source = source.and_then(|digits| hex::decode(digits).ok());
        let place: [&[u8]; 2] = match &source {
            Some(source) if place.kind == DocumentKind::Meta => counter_place(source),
            _ => [place.kind.as_str().as_bytes(), place.name.as_bytes()],
        };
        let (record, key) = self.root.untag_by(&place, stored)?;
        let is_other = key != self.root.active();
        Ok(is_other.then(|| self.root.tag(&place, record.to_vec())))
    }

    fn wrapped_under_active(
        &self,
        name: &str,
        sealed: &[u8],
    ) -> Result<Option<Vec<u8>>, SealError> {
        let (value, key) = self.root.unwrap_by(name, sealed)?;
        let is_other = key != self.root.active();
        let wrap = || self.root.wrap(name, value.expose());
        is_other.then(wrap).transpose()
    }

    /// Looks for documents of a family that are not under the active root key; with `write`, writes
    /// them anew. What somebody else changes meanwhile is left to the next look.
    pub(crate) async fn other_documents(
        &self,
        kind: DocumentKind,
        write: bool,
    ) -> Result<OtherDocuments, Refusal> {
        let mut other = OtherDocuments::default();
        for (name, stored) in self.store.documents(kind).await? {
            match self.under_active(DocumentPlace::new(kind, &name), &stored) {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    if write {
                        let (before, after) = (Some(&*stored), Some(&*bytes));
                        let written = self.store.replace_document(kind, &name, before, after);
                        written.await?;
                    }
                    other.names.push(name);
                }
                Err(_) => other.unreadable.push(name),
            }
        }
        Ok(other)
    }

    /// Returns whether a lease is under another root key than the active one, or under none.
    pub(crate) fn is_other_lease(&self, engine: &str, lease: &StoredLease) -> bool {
        let opened = self
            .root
            .untag_by(&lease_place(engine, &lease.id), &lease.record);
        opened.map_or(true, |(_, key)| key != self.root.active())
    }

    /// Returns the tasks on the lists that began under another root key than the active one. They end
    /// by their deadlines, and what belongs to them.
    pub(crate) async fn other_tasks(&self) -> Result<OtherTasks, Refusal> {
        let (mut other, mut from) = (OtherTasks::default(), 0);
        loop {
            let page = self.store.scan_tasks(from).await?;
            for id in page.tasks {
                match self.orphan(id).await {
                    Ok(Some(task)) if task.root_key() != self.root.active() => {
                        other.until_ms = other.until_ms.max(task.deadline_ms);
                        other.found.insert(id);
                    }
                    Ok(_) => {}
                    Err(Refusal::Seal { .. }) => drop(other.unreadable.insert(id)),
                    Err(failed) => return Err(failed),
                }
            }
            if page.next == 0 {
                return Ok(other);
            }
            from = page.next;
        }
    }
}
