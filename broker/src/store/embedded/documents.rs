//! Documents and single-use names in the embedded store.
//!
//! L19: a document is in memory once it is in the file. Whoever reads an old one that is about to be
//! replaced reads what a restart would read. So documents are written one after the other.

use sundew_core::store::{DocumentKind, StoreError};

use super::EmbeddedStore;
use super::operation::{self, kind::Kind};
use super::state::State;
use crate::clock;

impl EmbeddedStore {
    pub(super) fn read_document(&self, kind: DocumentKind, name: &str) -> Option<Vec<u8>> {
        #[cfg(test)]
        self.count_read(1);
        self.lock()
            .documents
            .get(&(kind.as_str(), name.to_owned()))
            .cloned()
    }

    pub(super) fn read_documents(&self, kind: DocumentKind) -> Vec<(String, Vec<u8>)> {
        let mut found: Vec<_> = self
            .lock()
            .documents
            .iter()
            .filter(|((k, _), _)| *k == kind.as_str())
            .map(|((_, name), value)| (name.clone(), value.clone()))
            .collect();
        found.sort();
        #[cfg(test)]
        self.count_read(found.len());
        found
    }

    #[cfg(test)]
    fn count_read(&self, count: usize) {
        let ordering = std::sync::atomic::Ordering::Relaxed;
        self.documents_read.fetch_add(count, ordering);
    }

    pub(super) async fn write_document(
        &self,
        kind: DocumentKind,
        name: &str,
        expected: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<bool, StoreError> {
        let _turn = self.document_turn.lock().await;
        if self.read_document(kind, name).as_deref() != expected {
            return Ok(false);
        }
        let change = Kind::Document(operation::Document {
            kind: kind.as_str().to_owned(),
            name: name.to_owned(),
            value: value.map(<[u8]>::to_vec),
        });
        self.settled(self.submit(&change)?).await?;
        self.lock().apply(&change);
        Ok(true)
    }

    pub(super) async fn take_name(
        &self,
        name: &[u8; 32],
        until_ms: i64,
    ) -> Result<bool, StoreError> {
        let durable = {
            let mut state = self.lock();
            if until_ms <= clock::now_ms() || state.used.contains_key(name) {
                return Ok(false);
            }
            let used = operation::Used {
                name: name.to_vec(),
                until_ms,
            };
            self.commit(&mut state, Kind::Used(used))?
        };
        let undo = |state: &mut State| {
            state.used.remove(name);
        };
        self.settled_or(durable, undo).await?;
        Ok(true)
    }
}
