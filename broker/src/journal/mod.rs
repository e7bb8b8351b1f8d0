//! The journal: a record of every decision, durable before the decision takes effect (P10). The
//! journal is a folder of segments, with one hash chain over all of them.
//!
//! P9: nothing here takes a credential or a secret.

mod cause;
mod refusals;
mod share;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sundew_core::LogEntry;
pub use sundew_core::Record;
use sundew_core::store::{BoxFuture, StoreError};

use crate::clock;
use crate::store::chain_log::{self, ChainHash, ChainLog, ChainLogError, DiskSpace, DiskState};
pub(crate) use cause::cause_text;
pub(crate) use refusals::{RefusalCounts, RefusalKind};
use share::share_of;

/// How long a caller waits until its record is durable before it gives up (T75).
const DURABLE_WITHIN: Duration = Duration::from_secs(3);
/// The size of a segment, in bytes, after which the next start begins a new segment.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Why something could not be put on the record. What cannot be put on the record must not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written, or was altered.
    #[error(transparent)]
    Log(#[from] ChainLogError),
    /// A record is intact, but does not have the form of a record.
    #[error("{path}: a record is malformed")]
    Malformed {
        /// The segment.
        path: PathBuf,
    },
    /// A segment is missing, or does not go on where the segment before it ended.
    #[error("{path}: does not follow the segment before it")]
    Segments {
        /// The segment.
        path: PathBuf,
    },
    /// The record was not durable within 3 seconds.
    #[error("record was not durable in time")]
    Timeout,
}

/// Returns a record of something that happens at this moment.
#[must_use]
pub fn record(event: &str) -> Record {
    Record::new(event, clock::now_ms())
}

/// The writing end of the journal.
pub struct Journal {
    log: ChainLog,
    /// The length of the segments before the one that is written, in bytes.
    before: u64,
    space: Arc<DiskSpace>,
}

/// What an operator may know of a journal.
#[derive(Clone, Debug)]
pub(crate) struct JournalState {
    /// The length of all segments, in bytes.
    pub(crate) bytes: u64,
    /// The room that is left for the journal, in bytes.
    pub(crate) free: u64,
    /// Why not every record can be written.
    pub(crate) problem: Option<String>,
}

impl Journal {
    /// Opens the journal in a folder, verifies the chain, and hands every record to `take`.
    pub fn open(folder: &Path, take: impl FnMut(Record)) -> Result<Self, JournalError> {
        Self::open_with_reserve(folder, 0, take)
    }

    /// Does what [`open`](Self::open) does for a journal that keeps so many bytes of its disk for
    /// endings and for operators' records.
    pub fn open_with_reserve(
        folder: &Path,
        reserve: u64,
        mut take: impl FnMut(Record),
    ) -> Result<Self, JournalError> {
        std::fs::create_dir_all(folder).map_err(|e| ChainLogError::Io {
            path: folder.to_owned(),
            reason: e.to_string(),
        })?;
        // All segments but the last are only read. The last one is read by the log that goes on
        // writing to it, unless it is full: then the log begins the next segment.
        let mut segments = segments(folder)?;
        let last = segments
            .pop()
            .unwrap_or_else(|| folder.join(segment_name(1)));
        let mut hash = verify_all(&segments, &mut take)?;
        let full = std::fs::metadata(&last).is_ok_and(|m| m.len() > SEGMENT_BYTES);
        let current = if full {
            hash = verify_one(&last, hash, &mut take)?;
            chain_log::release_ahead(&last)?;
            folder.join(segment_name(segments.len().saturating_add(2)))
        } else {
            if last.exists() {
                let (follows, _) = chain_log::read(&last, |_| {})?;
                if follows != hash.unwrap_or_default() {
                    return Err(JournalError::Segments { path: last });
                }
            }
            last
        };
        let space = Arc::new(DiskSpace::new(reserve));
        let mut malformed = false;
        let log = ChainLog::open_within(
            &current,
            hash.unwrap_or_default(),
            Some(Arc::clone(&space)),
            |payload| match Record::decode(payload) {
                Some(record) => take(record),
                None => malformed = true,
            },
        )?;
        if malformed {
            Err(JournalError::Malformed { path: current })
        } else {
            let before = bytes_of(folder)?.saturating_sub(space.state().file);
            Ok(Self { log, before, space })
        }
    }

    /// Writes a record; once this answers, it is durable. A1: what may not use the reserve is
    /// refused when the disk has nothing else left.
    pub async fn write(&self, record: Record) -> Result<(), JournalError> {
        let share = share_of(&record.event);
        let durable = self.log.submit_to(share, record.encode())?;
        match tokio::time::timeout(DURABLE_WITHIN, durable).await {
            Ok(Ok(result)) => Ok(result.map(drop)?),
            Ok(Err(_)) => Err(ChainLogError::Poisoned.into()),
            Err(_) => Err(JournalError::Timeout),
        }
    }

    /// Writes a record that nothing waits for: of refusals, where nothing takes effect. One that may
    /// not use the reserve is left out when the disk has nothing else left.
    pub fn note(&self, record: Record) {
        let share = share_of(&record.event);
        if let Err(e) = self.log.submit_unwatched_to(share, record.encode()) {
            tracing::error!(error = %e, event = record.event, "record was lost");
        }
    }

    /// Whether only the reserve of the disk is left, so that nothing is issued.
    pub(crate) fn is_low(&self) -> bool {
        self.space.is_low()
    }

    /// What an operator may know.
    pub(crate) fn state(&self) -> JournalState {
        let DiskState {
            file,
            left,
            problem,
        } = self.space.state();
        JournalState {
            bytes: self.before.saturating_add(file),
            free: left,
            problem,
        }
    }
}

impl crate::liveness::DurableSink for Arc<Journal> {
    fn persist(&self, entries: Vec<LogEntry>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut records = entries.iter().map(|entry| {
                record("ending_heard").with("entry", String::from_utf8_lossy(&entry.encode()))
            });
            let last = records.next_back();
            records.for_each(|record| self.note(record));
            // The last one is durable only with those before it.
            match last {
                Some(last) => self.write(last).await.map_err(|e| {
                    StoreError::Unavailable(format!("endings of other brokers cannot be kept: {e}"))
                }),
                None => Ok(()),
            }
        })
    }
}

/// Reads and verifies a whole journal, and hands every record to `record`, the oldest first.
/// Returns an error if the chain does not verify.
pub fn read(folder: &Path, mut record: impl FnMut(Record)) -> Result<(), JournalError> {
    verify_all(&segments(folder)?, &mut record).map(drop)
}

/// Verifies segments that follow each other from the first one. Returns the hash that the last of
/// them ends at; `None` if there is no segment.
fn verify_all(
    segments: &[PathBuf],
    record: &mut dyn FnMut(Record),
) -> Result<Option<ChainHash>, JournalError> {
    segments
        .iter()
        .try_fold(None, |hash, path| verify_one(path, hash, record))
}

/// Verifies a segment that must go on from the hash `expected`. Returns the hash that it ends at.
fn verify_one(
    path: &Path,
    expected: Option<ChainHash>,
    record: &mut dyn FnMut(Record),
) -> Result<Option<ChainHash>, JournalError> {
    let mut malformed = false;
    let (follows, end) = chain_log::read(path, |payload| match Record::decode(payload) {
        Some(found) => record(found),
        None => malformed = true,
    })?;
    if follows != expected.unwrap_or_default() {
        return Err(JournalError::Segments {
            path: path.to_owned(),
        });
    }
    if malformed {
        Err(JournalError::Malformed {
            path: path.to_owned(),
        })
    } else {
        Ok(Some(end))
    }
}

/// The length of all segments of a folder, in bytes.
fn bytes_of(folder: &Path) -> Result<u64, JournalError> {
    let lengths = segments(folder)?
        .into_iter()
        .map(|path| std::fs::metadata(path).map_or(0, |segment| segment.len()));
    Ok(lengths.fold(0, u64::saturating_add))
}

fn segment_name(number: usize) -> String {
    format!("{number:08}.journal")
}

/// Returns the paths of the segments in order, and an error if one of them is missing.
fn segments(folder: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let fail = |e: std::io::Error| ChainLogError::Io {
        path: folder.to_owned(),
        reason: e.to_string(),
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let name = entry
            .map_err(fail)?
            .file_name()
            .to_string_lossy()
            .into_owned();
        if name.ends_with(".journal") {
            names.push(name);
        }
    }
    names.sort();
    for (index, name) in names.iter().enumerate() {
        if *name != segment_name(index.saturating_add(1)) {
            return Err(JournalError::Segments {
                path: folder.join(name),
            });
        }
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

#[cfg(test)]
mod tests;
