//! The journal: a record of every decision, durable before the decision takes effect (P10). The
//! journal is a folder of segments, with one hash chain over all of them. Segments end while the
//! journal is written; each new one gets the endings that still matter from those before it, so that
//! a start needs no others (O1).
//!
//! P9: nothing here takes a credential or a secret.

mod archive;
mod budget;
mod carrying;
mod cause;
mod endings;
mod opening;
mod refusals;
mod segments;
mod share;
mod upkeep;

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use sundew_core::LogEntry;
pub use sundew_core::Record;
use sundew_core::store::{BoxFuture, StoreError};

use crate::clock;
use crate::metrics::RecordMetrics;
use crate::store::chain_log::{ChainLog, ChainLogError, DiskShare, DiskSpace, DiskState};
pub use archive::Archive;
use budget::Budgets;
pub use budget::RecordBudget;
pub(crate) use cause::cause_text;
pub(crate) use refusals::{RefusalCounts, RefusalKind};
use segments::Segment;
pub use segments::{Extent, read_all};
use share::share_of;
pub use upkeep::{SegmentRules, Upkeep};

/// Resolves, to the record's memory, when a record is durable.
type Durable = tokio::sync::oneshot::Receiver<Result<Vec<u8>, ChainLogError>>;

/// How long a caller waits until its record is durable before it gives up (T75).
const DURABLE_WITHIN: Duration = Duration::from_secs(3);

/// Why something could not be put on the record. What cannot be put on the record must not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// A segment is not to be kept in the journal's folder, and could not be brought elsewhere.
    #[error("{path}: segment could not be archived: {cause}")]
    Archive {
        /// The segment.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
    /// The workload of the record has filled its part of the journal for now (A1).
    #[error("rate limit: workload has used up its bytes of the journal")]
    Budget,
    /// The file cannot be read or written, or was altered.
    #[error(transparent)]
    Log(#[from] ChainLogError),
    /// A record is intact, but does not have the form of a record.
    #[error("{path}: a record is malformed")]
    Malformed {
        /// The segment.
        path: PathBuf,
    },
    /// A segment is not there, and is needed.
    #[error("{path}: segment is missing")]
    Missing {
        /// The segment.
        path: PathBuf,
    },
    /// A segment does not go on where the segment before it ended, or is none of this journal.
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

/// The settings of a journal that is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct JournalSettings {
    /// What is kept of the disk for endings and for operators' records, in bytes.
    pub reserve: u64,
    /// What one workload may fill; nothing is counted without it.
    pub budget: Option<RecordBudget>,
}

/// The writing end of the journal.
pub struct Journal {
    budgets: Budgets,
    /// Where records are counted, from when somebody wants that.
    counts: OnceLock<Arc<RecordMetrics>>,
    folder: PathBuf,
    log: ChainLog,
    segments: Mutex<Segments>,
    space: Arc<DiskSpace>,
    /// Locked, so that no other broker writes this journal.
    _lock: File,
}

/// The segments of a journal that is written.
struct Segments {
    /// Those before the current one that are in the journal's folder, the oldest first.
    closed: VecDeque<Closed>,
    /// The number of the one that is written.
    current: u64,
    /// When the current one began, in milliseconds since the epoch.
    began_ms: i64,
    /// The length of what was carried over into the current one, in bytes.
    carried_bytes: u64,
    /// How many segments before the current one have endings that are to be carried over.
    sources: usize,
    /// Why the upkeep cannot do what is due.
    problem: Option<String>,
}

/// A segment that is not written any more.
struct Closed {
    segment: Segment,
    /// Its length, in bytes.
    bytes: u64,
    /// The time of its last record, in milliseconds since the epoch.
    closed_ms: i64,
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
    /// The number of segments in the journal's folder.
    pub(crate) segments: usize,
    /// Why segments do not end, or do not go, as they should.
    pub(crate) upkeep_problem: Option<String>,
}

impl Journal {
    /// Writes a record; once this answers, it is durable. A1: what may not use the reserve is
    /// refused when the disk has nothing else left, or when its workload has used up its budget.
    pub async fn write(&self, record: Record) -> Result<(), JournalError> {
        let durable = self.submit(&record)?;
        match tokio::time::timeout(DURABLE_WITHIN, durable).await {
            Ok(Ok(result)) => drop(result?),
            Ok(Err(_)) => return Err(ChainLogError::Poisoned.into()),
            Err(_) => return Err(JournalError::Timeout),
        }
        self.count(&record);
        Ok(())
    }

    /// Writes records that nothing may be left out of; once this answers, all of them are durable.
    async fn write_all(&self, records: impl Iterator<Item = Record>) -> Result<(), JournalError> {
        let submitted = records.map(|record| self.submit(&record));
        let submitted: Vec<_> = submitted.collect::<Result<_, _>>()?;
        let all_durable = async {
            for durable in submitted {
                durable.await.unwrap_or(Err(ChainLogError::Poisoned))?;
            }
            Ok(())
        };
        tokio::time::timeout(DURABLE_WITHIN, all_durable)
            .await
            .unwrap_or(Err(JournalError::Timeout))
    }

    fn submit(&self, record: &Record) -> Result<Durable, JournalError> {
        let share = share_of(&record.event);
        let payload = record.encode();
        if share == DiskShare::Unreserved {
            self.budgets.charge(record, payload.len())?;
        }
        Ok(self.log.submit_to(share, payload)?)
    }

    /// Counts every record from now on.
    pub(crate) fn count_in(&self, counts: Arc<RecordMetrics>) {
        self.counts.get_or_init(|| counts);
    }

    fn count(&self, record: &Record) {
        if let Some(counts) = self.counts.get() {
            counts.count(record);
        }
    }

    /// Writes a record that nothing waits for: of refusals, where nothing takes effect. One that may
    /// not use the reserve is left out when the disk has nothing else left.
    pub fn note(&self, record: Record) {
        let share = share_of(&record.event);
        if let Err(e) = self.log.submit_unwatched_to(share, record.encode()) {
            tracing::error!(error = %e, event = record.event, "record was lost");
            return;
        }
        self.count(&record);
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
        let segments = self.segments();
        let closed = segments.closed.iter().map(|closed| closed.bytes);
        JournalState {
            bytes: closed.fold(file, u64::saturating_add),
            free: left,
            problem,
            segments: segments.closed.len().saturating_add(1),
            upkeep_problem: segments.problem.clone(),
        }
    }

    fn segments(&self) -> MutexGuard<'_, Segments> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the current segment and begins the next one, at `now_ms`, in milliseconds since the
    /// epoch. On an error, the current segment goes on.
    async fn roll(&self, now_ms: i64) -> Result<(), JournalError> {
        let current = self.segments().current;
        let segment = Segment::of(&self.folder, current);
        let next = current.saturating_add(1);
        self.log.roll(Segment::of(&self.folder, next).path).await?;
        let bytes = std::fs::metadata(&segment.path).map_or(0, |segment| segment.len());
        let mut segments = self.segments();
        segments.closed.push_back(Closed {
            segment,
            bytes,
            closed_ms: now_ms,
        });
        segments.current = next;
        segments.began_ms = now_ms;
        segments.carried_bytes = 0;
        segments.sources = 1;
        Ok(())
    }

    /// The segments whose endings are to be carried over, the oldest first, and the number of the
    /// segment that gets them.
    fn sources(&self) -> (Vec<Segment>, u64) {
        let segments = self.segments();
        let kept = segments.closed.len().saturating_sub(segments.sources);
        let sources = segments.closed.iter().skip(kept);
        let sources = sources.map(|closed| closed.segment.clone()).collect();
        (sources, segments.current)
    }

    /// Notes that the current segment has every ending of those before it, in so many bytes.
    fn carried_over(&self, bytes: u64) {
        let mut segments = self.segments();
        segments.sources = 0;
        segments.carried_bytes = segments.carried_bytes.saturating_add(bytes);
    }
}

impl crate::liveness::DurableSink for Arc<Journal> {
    fn persist(&self, entries: Vec<LogEntry>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let heard = entries.iter().map(|entry| {
                record("ending_heard").with("entry", String::from_utf8_lossy(&entry.encode()))
            });
            self.write_all(heard).await.map_err(|e| {
                StoreError::Unavailable(format!("endings of other brokers cannot be kept: {e}"))
            })
        })
    }
}

/// Reads and verifies the journal in a folder as [`read_all`] does.
pub fn read(folder: &Path, record: impl FnMut(Record)) -> Result<(), JournalError> {
    read_all(&[folder.to_owned()], record).map(drop)
}

#[cfg(test)]
mod archive_tests;
#[cfg(test)]
mod segment_tests;
#[cfg(test)]
mod tests;
