//! Backups: everything in a store that outlives tasks, in one file, and bringing it back.
//!
//! A backup has the documents, sealed as they are, and the revocation log with the versions of the
//! documents. It has no tasks, tokens or leases: what lived is dead after a restore. P4, L21: a
//! restore brings nothing back that has ended. The file carries a tag under the root key, so only
//! who has that key makes a backup that is taken.

mod restore;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sundew_core::store::{DocumentKind, Store, StoreError, StoredEntry};
use sundew_core::{Position, RootKey, SealError};

use crate::liveness::{append_after, each_entry};

pub use restore::{Outcome, RestoreMode, Restored, restore};

/// The form of the file. A file of another form is refused.
const FORMAT: u32 = 1;
/// The place of the tag.
const PLACE: &[&[u8]] = &[b"backup"];

/// Why a backup cannot be made or brought back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Somebody changed a document meanwhile.
    #[error("{0} was changed meanwhile: run it again")]
    Changed(String),
    /// The file is of another version of the program.
    #[error("the backup has format {0}, and this program reads format {FORMAT}")]
    Format(u32),
    /// The content is not that of a backup.
    #[error("the backup is not readable")]
    Malformed,
    /// The system's random generator failed.
    #[error("no randomness")]
    Random,
    /// The file was altered, or was made under another root key.
    #[error("the backup {0}")]
    Seal(#[from] SealError),
    /// The store did not do what it was asked for.
    #[error("store: {0}")]
    Store(#[from] StoreError),
}

/// A document in a backup.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct SavedDocument {
    kind: DocumentKind,
    name: String,
    /// Base64 of the bytes of the store.
    bytes: String,
}

/// An entry of the revocation log in a backup.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct SavedEntry {
    /// Hexadecimal.
    id: String,
    /// Base64 of the bytes of the store.
    bytes: String,
}

/// Everything in a store that outlives tasks.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Backup {
    format: u32,
    /// When it was made, in milliseconds since the epoch.
    created_at_ms: i64,
    /// The last position of the revocation log.
    position: u64,
    documents: Vec<SavedDocument>,
    entries: Vec<SavedEntry>,
}

impl Backup {
    /// Reads a store at this time, in milliseconds since the epoch. Brokers may go on meanwhile.
    ///
    /// # Errors
    ///
    /// [`BackupError::Store`] if the store cannot be read, or is under another root key: the backup
    /// would open under neither.
    pub async fn take(store: &dyn Store, root: &RootKey, now_ms: i64) -> Result<Self, BackupError> {
        append_after(store, root, Position(0)).await?;
        // The log comes first: a document may be newer than what the log of the backup says of it,
        // and never older.
        let log = read_log(store).await?;
        let mut documents = Vec::new();
        for kind in DocumentKind::ALL {
            for (name, bytes) in store.documents(kind).await? {
                let bytes = STANDARD.encode(bytes);
                documents.push(SavedDocument { kind, name, bytes });
            }
        }
        let save = |entry: &StoredEntry| SavedEntry {
            id: hex::encode(entry.id.0),
            bytes: STANDARD.encode(&entry.bytes),
        };
        Ok(Self {
            format: FORMAT,
            created_at_ms: now_ms,
            position: log.last().map_or(0, |entry| entry.position.0),
            documents,
            entries: log.iter().map(save).collect(),
        })
    }

    /// Returns when the backup was made, in milliseconds since the epoch.
    #[must_use]
    pub fn created_at_ms(&self) -> i64 {
        self.created_at_ms
    }

    /// Returns the number of documents.
    #[must_use]
    pub fn documents(&self) -> usize {
        self.documents.len()
    }

    /// Returns the last position of the revocation log.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns the content of the file.
    #[must_use]
    pub fn encode(&self, root: &RootKey) -> Vec<u8> {
        root.tag(PLACE, serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads the content of a file.
    ///
    /// # Errors
    ///
    /// [`BackupError::Seal`] if [`Backup::encode`] did not make it under this root key, and
    /// [`BackupError::Format`] if another version of the program did.
    pub fn decode(root: &RootKey, file: &[u8]) -> Result<Self, BackupError> {
        /// The part that every form has.
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let text = root.untag(PLACE, file)?;
        let form: Form = serde_json::from_slice(text).map_err(|_| BackupError::Malformed)?;
        if form.format != FORMAT {
            return Err(BackupError::Format(form.format));
        }
        serde_json::from_slice(text).map_err(|_| BackupError::Malformed)
    }
}

/// Returns the whole log of a store.
async fn read_log(store: &dyn Store) -> Result<Vec<StoredEntry>, StoreError> {
    let mut log = Vec::new();
    each_entry(store, |entry| log.push(entry)).await?;
    Ok(log)
}
