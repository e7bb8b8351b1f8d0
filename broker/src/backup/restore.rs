//! Bringing a backup back.
//!
//! L21: there are two ways. To fill writes what the store lacks, as it was; where the log or the
//! store knows something newer, that stays. Each broker judges what was written by what it knows
//! itself. A new epoch makes the content of the backup count whatever anybody knows: each document
//! gets a version above all from before, and an entry of the log under the root key says so to
//! every broker. Only there does content fall, and everything that falls is told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sundew_core::store::{DocumentKind, Store};
use sundew_core::{
    DocumentVersion, EntryId, Event, LogEntry, Position, RootKey, first_version_of_epoch,
    still_matter,
};

use super::{Backup, BackupError, SavedDocument, SavedEntry, read_log};
use crate::liveness::{append_after, entry_place, sealed_entry};
use crate::records::{Document, DocumentPlace, Records};

/// How long an entry about a document stays in the log after a later one, in milliseconds.
const RETAIN_CHANGE_MS: i64 = 60_000;

/// What a restore may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RestoreMode {
    /// Nothing: it is only told what would happen.
    Check {
        /// Whether in a new epoch.
        new_epoch: bool,
    },
    /// To write what the store lacks or has older.
    Fill,
    /// To let the content of the backup count, whatever is known.
    NewEpoch,
}

/// What becomes of a document.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A later version is known, and the content of the backup counts from now on.
    Fell,
    /// The log knows that it was deleted since, and that stays so.
    Deleted,
    /// A later version is known, or it is in the store and not in the backup. It stays.
    Kept,
    /// The log knows a later version, which the store has lost. The older one is not written.
    Lost,
    /// The log knows it, and neither the store nor the backup has it.
    Missing,
    /// It does not open under the root key, and is left out.
    Unreadable,
    /// The store has it as the backup does.
    Unchanged,
    /// The log knew it, and it counts as deleted from now on.
    Withdrawn,
    /// It is written.
    Written,
}

/// A document, and what became of it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Restored {
    /// The family.
    pub kind: DocumentKind,
    /// The name.
    pub name: String,
    /// What becomes of it.
    pub outcome: Outcome,
    /// The version in the backup; 0 if it has none.
    pub saved: u64,
    /// The last version that the store and its log know; 0 if none is known.
    pub known: u64,
}

/// A restore that is under way.
struct Restore<'a> {
    store: &'a dyn Store,
    root: &'a RootKey,
    records: Records,
    mode: RestoreMode,
    now_ms: i64,
    /// The last statement about each document, of the store's log and the backup's.
    known: HashMap<(DocumentKind, String), DocumentVersion>,
    /// The version of everything that is written in a new epoch.
    epoch: u64,
    /// What is told to the brokers when everything is written.
    statements: Vec<DocumentVersion>,
}

/// Brings a backup back at this time, in milliseconds since the epoch, and returns what became of
/// each document. It may be repeated.
///
/// # Errors
///
/// [`BackupError::Changed`] if somebody changes documents meanwhile, and [`BackupError::Store`] if
/// the store does not take something. What was written until then stays.
pub async fn restore(
    store: &Arc<dyn Store>,
    root: &Arc<RootKey>,
    backup: &Backup,
    mode: RestoreMode,
    now_ms: i64,
) -> Result<Vec<Restored>, BackupError> {
    let mut restore = Restore {
        store: store.as_ref(),
        root: root.as_ref(),
        records: Records::new(Arc::clone(store), Arc::clone(root)),
        mode,
        now_ms,
        known: HashMap::new(),
        epoch: first_version_of_epoch(now_ms),
        statements: Vec::new(),
    };
    restore.restore_log(&backup.entries).await?;
    let mut told = Vec::new();
    for saved in &backup.documents {
        told.push(restore.document(saved).await?);
    }
    restore.others(&backup.documents, &mut told).await?;
    restore.announce().await?;
    told.sort_by(|a, b| (a.kind.as_str(), &a.name).cmp(&(b.kind.as_str(), &b.name)));
    Ok(told)
}

impl Restore<'_> {
    fn writes(&self) -> bool {
        !matches!(self.mode, RestoreMode::Check { .. })
    }

    fn is_new_epoch(&self) -> bool {
        matches!(
            self.mode,
            RestoreMode::NewEpoch | RestoreMode::Check { new_epoch: true }
        )
    }

    /// Puts back what the log has lost and still matters, before anything rests on it.
    async fn restore_log(&mut self, saved: &[SavedEntry]) -> Result<(), BackupError> {
        let mut in_log = HashSet::new();
        for stored in read_log(self.store).await? {
            in_log.insert(stored.id);
            let bytes = self.root.untag(&entry_place(&stored.id), &stored.bytes)?;
            self.note(&LogEntry::decode(bytes).map_err(|_| BackupError::Malformed)?);
        }
        let mut entries = Vec::new();
        for saved in saved {
            let mut id = [0; 16];
            hex::decode_to_slice(&saved.id, &mut id).map_err(|_| BackupError::Malformed)?;
            let bytes = decoded(&saved.bytes)?;
            let bytes = self.root.untag(&entry_place(&EntryId(id)), &bytes)?;
            entries.push(LogEntry::decode(bytes).map_err(|_| BackupError::Malformed)?);
        }
        for entry in &entries {
            self.note(entry);
        }
        let lost = still_matter(entries, self.now_ms);
        let lost: Vec<_> = lost
            .iter()
            .filter(|entry| !in_log.contains(&entry.id) && self.is_last(entry))
            .map(|entry| sealed_entry(self.root, entry))
            .collect();
        if self.writes() {
            let after = append_after(self.store, self.root, Position(0)).await?;
            self.store.append_all(&lost, after).await?;
        }
        Ok(())
    }

    fn note(&mut self, entry: &LogEntry) {
        if let Some(statement) = &entry.document {
            let place = (statement.kind, statement.name.clone());
            let known = self.known.get(&place);
            if known.is_none_or(|known| statement.supersedes(known)) {
                self.known.insert(place, statement.clone());
            }
        }
    }

    /// Whether an entry says nothing of a document, or is the last one that does.
    fn is_last(&self, entry: &LogEntry) -> bool {
        entry.document.as_ref().is_none_or(|statement| {
            let place = (statement.kind, statement.name.clone());
            self.known
                .get(&place)
                .is_some_and(|known| known.says_the_same(statement))
        })
    }

    /// Brings one document back.
    async fn document(&mut self, saved: &SavedDocument) -> Result<Restored, BackupError> {
        let place = DocumentPlace::new(saved.kind, &saved.name);
        let saved_bytes = decoded(&saved.bytes)?;
        let stored = self.store.document(saved.kind, &saved.name).await?;
        let mut told = Restored {
            kind: saved.kind,
            name: saved.name.clone(),
            outcome: Outcome::Unreadable,
            saved: 0,
            known: 0,
        };
        // What is under a former root key is written under the active one.
        let Some(bytes) = self.under_active(place, &saved_bytes) else {
            return Ok(told);
        };
        let is_unchanged = stored
            .as_ref()
            .is_some_and(|stored| [&saved_bytes, &bytes].contains(&stored));
        if !DocumentPlace::is_versioned(saved.kind, &saved.name) {
            told.outcome = match stored {
                Some(_) if is_unchanged => Outcome::Unchanged,
                Some(_) => Outcome::Kept,
                None => {
                    self.replace(place, None, &bytes).await?;
                    Outcome::Written
                }
            };
            return Ok(told);
        }
        let Ok(document) = self.records.open_document(place, &bytes) else {
            return Ok(told);
        };
        let current = stored
            .as_deref()
            .and_then(|stored| self.under_active(place, stored))
            .and_then(|stored| self.records.open_document(place, &stored).ok());
        let current_version = current.as_ref().map_or(0, Document::version);
        let statement = self.known.get(&(saved.kind, saved.name.clone()));
        told.saved = document.version();
        told.known = statement
            .map_or(0, |known| known.version)
            .max(current_version);
        let is_deleted =
            statement.is_some_and(|known| known.deleted && known.version >= current_version);
        let is_newer = told.known > told.saved || is_deleted;
        let is_keyring = saved.kind == DocumentKind::Meta;
        told.outcome = if self.is_new_epoch() {
            // Keys only come: an older keyring would leave secrets that nobody can open.
            let content = current
                .filter(|current| is_keyring && current.version() > told.saved)
                .unwrap_or(document);
            let sealed = self
                .records
                .seal_document(place, self.epoch, content.body());
            self.replace(place, stored, &sealed).await?;
            self.statements.push(DocumentVersion {
                content_of: Some(content.version()),
                ..place.with_version(self.epoch, false)
            });
            if is_newer {
                Outcome::Fell
            } else {
                Outcome::Written
            }
        } else if is_unchanged {
            Outcome::Unchanged
        } else if is_deleted {
            Outcome::Deleted
        } else if is_newer && stored.is_none() {
            Outcome::Lost
        } else if is_newer || (is_keyring && current.is_some()) {
            Outcome::Kept
        } else {
            self.replace(place, stored, &bytes).await?;
            Outcome::Written
        };
        Ok(told)
    }

    /// Returns a document as it is under the active root key, if it is under one of the keys.
    fn under_active(&self, place: DocumentPlace<'_>, bytes: &[u8]) -> Option<Vec<u8>> {
        let rewritten = self.records.under_active(place, bytes).ok()?;
        Some(rewritten.unwrap_or_else(|| bytes.to_vec()))
    }

    /// Tells what becomes of documents that are not in the backup.
    async fn others(
        &mut self,
        saved: &[SavedDocument],
        told: &mut Vec<Restored>,
    ) -> Result<(), BackupError> {
        let saved: HashSet<_> = saved
            .iter()
            .map(|saved| (saved.kind, &*saved.name))
            .collect();
        let mut stored = HashSet::new();
        for kind in DocumentKind::ALL {
            for (name, _) in self.store.documents(kind).await? {
                if !saved.contains(&(kind, &*name)) {
                    told.push(self.other(kind, &name, Outcome::Kept));
                }
                stored.insert((kind, name));
            }
        }
        let lost: Vec<_> = self
            .known
            .iter()
            .filter(|((kind, name), known)| {
                !known.deleted
                    && !stored.contains(&(*kind, name.clone()))
                    && !saved.contains(&(*kind, &**name))
            })
            .map(|(place, _)| place.clone())
            .collect();
        for (kind, name) in lost {
            let outcome = if self.is_new_epoch() {
                let place = DocumentPlace::new(kind, &name);
                self.statements.push(place.with_version(self.epoch, true));
                Outcome::Withdrawn
            } else {
                Outcome::Missing
            };
            told.push(self.other(kind, &name, outcome));
        }
        Ok(())
    }

    fn other(&self, kind: DocumentKind, name: &str, outcome: Outcome) -> Restored {
        let known = self.known.get(&(kind, name.to_owned()));
        Restored {
            kind,
            name: name.to_owned(),
            outcome,
            saved: 0,
            known: known.map_or(0, |known| known.version),
        }
    }

    async fn replace(
        &self,
        place: DocumentPlace<'_>,
        stored: Option<Vec<u8>>,
        bytes: &[u8],
    ) -> Result<(), BackupError> {
        if !self.writes() {
            return Ok(());
        }
        let store = self.store;
        let replaced =
            store.replace_document(place.kind, place.name, stored.as_deref(), Some(bytes));
        if replaced.await? {
            Ok(())
        } else {
            Err(BackupError::Changed(format!(
                "{} {}",
                place.what(),
                place.name
            )))
        }
    }

    /// Tells the brokers of a new epoch, once everything of it is written.
    async fn announce(&self) -> Result<(), BackupError> {
        let mut entries = Vec::new();
        for statement in &self.statements {
            let mut id = [0; 16];
            ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut id)
                .map_err(|_| BackupError::Random)?;
            let entry = LogEntry {
                id: EntryId(id),
                event: Event::beside(statement),
                retain_until_ms: self.now_ms.saturating_add(RETAIN_CHANGE_MS),
                document: Some(statement.clone()),
            };
            entries.push(sealed_entry(self.root, &entry));
        }
        if self.writes() {
            let after = append_after(self.store, self.root, Position(0)).await?;
            self.store.append_all(&entries, after).await?;
        }
        Ok(())
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, BackupError> {
    STANDARD.decode(text).map_err(|_| BackupError::Malformed)
}
