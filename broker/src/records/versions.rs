//! The highest version of each document that this broker knows, and what the store has instead of
//! some (L22).
//!
//! A tag says that a document is genuine, and not how old it is. So whoever writes the store could
//! put back what was there before. The log says which version is the last; this is what a broker
//! remembers of it, for as long as it runs. After a start, it comes from the journal and the log.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sundew_core::store::DocumentKind;
use sundew_core::{DocumentVersion, version_text};

use super::documents::{CaKeys, DocumentPlace, KEYRING};
use crate::clock;
use crate::refusal::Refusal;

/// How long after a withdrawal the document may still be in the store without being a problem: the
/// broker that withdraws it removes it last.
const REMOVED_WITHIN: Duration = Duration::from_secs(10);
/// The most problems that are told.
const MAX_TOLD: usize = 8;
/// The most problems that are remembered.
const MAX_PROBLEMS: usize = 4096;

/// What is known of the last version of a document.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) version: u64,
    pub(super) deleted: bool,
    /// When this was learned.
    since: Instant,
}

/// What the version of a stored document says.
pub(super) enum Verdict {
    /// It is the last version, as far as this broker knows.
    Current,
    /// The document was withdrawn, and is not removed yet: there is none.
    Withdrawn,
}

/// The versions that a broker knows, and the problems that it has found.
#[derive(Default)]
pub(super) struct Versions {
    known: RwLock<HashMap<(DocumentKind, String), Known>>,
    /// By family and name, so that they are told in the same order each time.
    problems: Mutex<BTreeMap<(&'static str, String), String>>,
}

impl Versions {
    /// Returns what is known of a document.
    pub(super) fn known(&self, place: DocumentPlace<'_>) -> Option<Known> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(place.kind, place.name.to_owned()))
            .copied()
    }

    /// Learns what somebody says of a document. What is known already is never unlearned.
    pub(super) fn learn(&self, statement: &DocumentVersion) {
        let place = (statement.kind, statement.name.clone());
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(&place).map(|known| DocumentVersion {
            version: known.version,
            deleted: known.deleted,
            ..statement.clone()
        });
        let is_news = before.is_none_or(|before| {
            !statement.says_the_same(&before) && statement.supersedes(&before)
        });
        if is_news {
            let learned = Known {
                version: statement.version,
                deleted: statement.deleted,
                since: clock::monotonic(),
            };
            known.insert(place, learned);
            // Whether it is still so is seen when the document is read again.
            self.clear(DocumentPlace::new(statement.kind, &statement.name));
        }
    }

    /// Judges the version of a document that was read, and learns from it.
    pub(super) fn judge(&self, place: DocumentPlace<'_>, version: u64) -> Result<Verdict, Refusal> {
        let known = self.known(place);
        match known {
            Some(known) if known.deleted && version.saturating_add(1) == known.version => {
                if clock::since(known.since) > REMOVED_WITHIN {
                    self.note(place, "it was withdrawn, and the store has it");
                }
                return Ok(Verdict::Withdrawn);
            }
            Some(known)
                if version < known.version || (version == known.version && known.deleted) =>
            {
                let known = known.version;
                let (found, last) = (version_text(version), version_text(known));
                self.note(
                    place,
                    format!("the store has version {found}, and version {last} is known"),
                );
                return Err(Refusal::Outdated {
                    what: place.what(),
                    stored: version,
                    known,
                });
            }
            Some(known) if version == known.version => {}
            Some(_) | None => self.learn(&place.with_version(version, false)),
        }
        self.clear(place);
        Ok(Verdict::Current)
    }

    /// Refuses a version that is not the last one.
    pub(super) fn require_current(
        &self,
        place: DocumentPlace<'_>,
        version: u64,
    ) -> Result<(), Refusal> {
        match self.known(place) {
            Some(known) if known.version > version => Err(Refusal::Outdated {
                what: place.what(),
                stored: version,
                known: known.version,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns the names of the documents of a family that should be there, with their versions.
    pub(super) fn expected(&self, kind: DocumentKind) -> Vec<(String, u64)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .filter(|((family, _), known)| *family == kind && !known.deleted)
            .map(|((_, name), known)| (name.clone(), known.version))
            .collect()
    }

    fn problems(&self) -> MutexGuard<'_, BTreeMap<(&'static str, String), String>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is wrong with a document in the store, and tells the operator's log once.
    pub(super) fn note(&self, place: DocumentPlace<'_>, problem: impl Into<String>) {
        let (key, problem) = ((place.what(), place.name.to_owned()), problem.into());
        let mut problems = self.problems();
        if problems.get(&key) != Some(&problem) && problems.len() < MAX_PROBLEMS {
            let (what, name) = &key;
            // An emptied store may lack ten thousand; the metric counts them.
            match problems.len().cmp(&MAX_TOLD) {
                Ordering::Less => {
                    tracing::error!(what, name, problem, "a document of the store was altered");
                }
                Ordering::Equal => tracing::error!("more documents of the store were altered"),
                Ordering::Greater => {}
            }
            problems.insert(key, problem);
        }
    }

    /// Notes that nothing is wrong with a document any more.
    pub(super) fn clear(&self, place: DocumentPlace<'_>) {
        let mut problems = self.problems();
        if !problems.is_empty() {
            problems.remove(&(place.what(), place.name.to_owned()));
        }
    }

    /// Returns the number of problems.
    pub(super) fn problem_count(&self) -> usize {
        self.problems().len()
    }

    /// Returns the problems for an operator, one line each.
    pub(super) fn problem_lines(&self) -> Vec<String> {
        let problems = self.problems();
        let mut lines: Vec<_> = problems
            .iter()
            .take(MAX_TOLD)
            .map(|((what, name), problem)| {
                let remedy = if [KEYRING, CaKeys::WHAT].contains(what) {
                    "rotate it at a broker that ran before, or restore a backup"
                } else {
                    "name its root key in keys.other_root_key_files if one is missing there; \
                     otherwise write it again, or remove it"
                };
                format!("{what} {name}: altered: {problem}: {remedy}")
            })
            .collect();
        let more = problems.len().saturating_sub(lines.len());
        if more > 0 {
            lines.push(format!(
                "and {more} more documents of the store were altered"
            ));
        }
        lines
    }
}
