//! Changes of documents in the store: each under the condition that nobody else came first, and each
//! with its version (L22).

use sundew_core::DocumentVersion;

use super::Records;
use super::documents::{Document, DocumentPlace};
use crate::refusal::Refusal;

/// What is in the place of a document that is to be changed.
pub(crate) struct Before {
    /// The document, if there is one that counts.
    pub(crate) document: Option<Document>,
    /// A document that does not count: it was withdrawn and is still there, or it is older than what
    /// is known.
    pub(crate) leftover: Option<Document>,
    /// The bytes of the store, by which a change is refused if somebody else came first.
    stored: Option<Vec<u8>>,
    /// The highest version that is known or stored.
    version: u64,
    /// Whether that version is a deletion.
    deleted: bool,
}

impl Before {
    /// Whether the store has anything in this place.
    pub(crate) fn is_stored(&self) -> bool {
        self.stored.is_some()
    }

    /// Whether there is something to withdraw: in the store, or taken from it by somebody.
    pub(crate) fn is_expected(&self) -> bool {
        self.is_stored() || (self.version > 0 && !self.deleted)
    }

    /// Whether anything is known of a document in this place.
    pub(crate) fn is_known(&self) -> bool {
        self.version > 0 || self.is_stored()
    }

    /// Whether the content of the last version is here: that of the document, or of one that was
    /// withdrawn since.
    pub(crate) fn has_last_content(&self) -> bool {
        let is_last = |leftover: &Document| {
            self.deleted && leftover.version().saturating_add(1) == self.version
        };
        self.document.is_some() || self.leftover.as_ref().is_some_and(is_last)
    }

    /// The version with which the document is deleted: a new one, or that of an earlier attempt.
    pub(crate) fn deletion(&self) -> u64 {
        if self.deleted {
            self.version
        } else {
            self.version.saturating_add(1)
        }
    }
}

impl Records {
    /// Returns what is in a place that is to be changed. Something that cannot be opened is replaced
    /// like something that is not there.
    pub(crate) async fn before_change(&self, place: DocumentPlace<'_>) -> Result<Before, Refusal> {
        let stored = self.store.document(place.kind, place.name).await?;
        let found = stored
            .as_deref()
            .and_then(|stored| self.open_document(place, stored).ok());
        let known = self.versions.known(place);
        let found_version = found.as_ref().map_or(0, Document::version);
        let mut before = Before {
            document: None,
            leftover: None,
            stored,
            version: found_version,
            deleted: false,
        };
        match known {
            Some(known) if known.deleted && known.version >= found_version => {
                (before.leftover, before.deleted) = (found, true);
                before.version = known.version;
            }
            Some(known) if known.version > found_version => {
                before.leftover = found;
                before.version = known.version;
            }
            Some(_) | None => before.document = found,
        }
        Ok(before)
    }

    /// Writes a document with the next version, if the store still has what was read before.
    /// Returns what is to be announced, or `None` if somebody else came first.
    pub(crate) async fn write_document(
        &self,
        place: DocumentPlace<'_>,
        before: &Before,
        body: &[u8],
    ) -> Result<Option<DocumentVersion>, Refusal> {
        let version = before.version.saturating_add(1);
        let stored = before.stored.as_deref();
        let is_written = self.replace_bytes(place, stored, version, body).await?;
        Ok(is_written.then(|| place.with_version(version, false)))
    }

    /// Writes a document anew that says the same in other bytes, with the version that it has.
    /// Returns `false` if somebody else came first.
    pub(crate) async fn rewrite_document(
        &self,
        place: DocumentPlace<'_>,
        before: &Document,
        body: &[u8],
    ) -> Result<bool, Refusal> {
        self.replace_bytes(place, Some(&before.stored), before.version(), body)
            .await
    }

    /// Puts a document back that the store has lost, with the version that it had, unless somebody
    /// else came first. Refuses one of which a later version is known. Version 0 stands for a
    /// document that is new: it gets the next version.
    pub(crate) async fn put_back_document(
        &self,
        place: DocumentPlace<'_>,
        version: u64,
        body: &[u8],
    ) -> Result<(), Refusal> {
        let version = if version == 0 {
            let known = self.versions.known(place);
            known.map_or(1, |known| known.version.saturating_add(1))
        } else {
            self.require_current(place, version)?;
            version
        };
        let written = self.replace_bytes(place, None, version, body);
        written.await.map(drop)
    }

    async fn replace_bytes(
        &self,
        place: DocumentPlace<'_>,
        expected: Option<&[u8]>,
        version: u64,
        body: &[u8],
    ) -> Result<bool, Refusal> {
        let bytes = self.seal_document(place, version, body);
        let store = &self.store;
        let replaced = store.replace_document(place.kind, place.name, expected, Some(&bytes));
        let is_replaced = replaced.await?;
        if is_replaced {
            self.learn(&place.with_version(version, false));
            self.versions.clear(place);
        }
        Ok(is_replaced)
    }

    /// Removes a document that was withdrawn, if the store still has what was read before. Returns
    /// `false` if somebody else came first.
    pub(crate) async fn remove_document(
        &self,
        place: DocumentPlace<'_>,
        before: &Before,
    ) -> Result<bool, Refusal> {
        let Some(stored) = &before.stored else {
            return Ok(true);
        };
        let removed = self
            .store
            .replace_document(place.kind, place.name, Some(stored), None);
        let is_removed = removed.await?;
        if is_removed {
            self.versions.clear(place);
        }
        Ok(is_removed)
    }
}
