//! Opening a journal: how far back it is read, and what of it still matters.
//!
//! O1: a start reads the newest segment, and the segments before it only as far as their endings
//! were not carried over yet. Older segments may be gone; `sundew journal verify` reads them.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::UNIX_EPOCH;

use sundew_core::LogEntry;

use super::budget::Budgets;
use super::endings::{SegmentEndings, joined};
use super::segments::{self, Segment, missing};
use super::{Closed, Journal, JournalError, JournalSettings, Segments};
use crate::clock;
use crate::store::chain_log::{self, ChainHash, ChainLog, ChainLogError, DiskSpace};

/// The file that the broker which writes a journal has locked.
const LOCK: &str = "lock";

fn io_error(path: &Path, error: &std::io::Error) -> JournalError {
    JournalError::Log(ChainLogError::Io {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

impl Journal {
    /// Opens the journal in a folder, and hands every ending in it that still matters to `ending`,
    /// the oldest first. Nothing is kept for endings, and workloads have no budget.
    pub fn open(folder: &Path, ending: impl FnMut(LogEntry)) -> Result<Self, JournalError> {
        Self::open_with(folder, JournalSettings::default(), ending)
    }

    /// Does what [`open`](Self::open) does with these settings.
    pub fn open_with(
        folder: &Path,
        settings: JournalSettings,
        ending: impl FnMut(LogEntry),
    ) -> Result<Self, JournalError> {
        std::fs::create_dir_all(folder).map_err(|e| io_error(folder, &e))?;
        let lock = chain_log::open_lock(&folder.join(LOCK))?;
        let mut before = existing(folder)?;
        let current = before.pop().unwrap_or_else(|| Segment::of(folder, 1));
        if let Some(last) = before.last() {
            // A crash may have come before this was done.
            chain_log::release_ahead(&last.path)?;
        }

        let now_ms = clock::now_ms();
        let space = Arc::new(DiskSpace::new(settings.reserve));
        let mut newest = SegmentEndings::at(now_ms);
        let log = ChainLog::open_within(
            &current.path,
            ChainHash::default(),
            Some(Arc::clone(&space)),
            |payload| newest.take(payload),
        )?;
        if newest.is_malformed {
            return Err(JournalError::Malformed { path: current.path });
        }
        let (began_ms, carried_bytes) = (newest.began_ms, newest.carried_bytes);
        let parts = read_back(folder, &before, (&current, log.follows()), newest, now_ms)?;
        let sources = parts.len().saturating_sub(1);
        joined(parts, now_ms).into_iter().for_each(ending);
        let closed = before.into_iter().map(closed).collect::<Result<_, _>>()?;
        Ok(Self {
            budgets: Budgets::new(settings.budget),
            counts: OnceLock::new(),
            folder: folder.to_owned(),
            log,
            segments: Mutex::new(Segments {
                closed,
                current: current.number,
                began_ms: began_ms.unwrap_or(now_ms),
                carried_bytes,
                sources,
                problem: None,
            }),
            space,
            _lock: lock,
        })
    }
}

/// The segments that there are. Removes what was begun, and never became a part of the journal.
fn existing(folder: &Path) -> Result<Vec<Segment>, JournalError> {
    let fail = |e: std::io::Error| io_error(folder, &e);
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let number = path.file_stem().unwrap_or_default().to_string_lossy();
        let is_segment = number.parse::<u64>().is_ok();
        if is_segment
            && path
                .extension()
                .is_some_and(|e| e == chain_log::UNPUBLISHED)
        {
            std::fs::remove_file(&path).map_err(fail)?;
        }
    }
    let mut segments = segments::list(folder)?;
    // A file system may leave an empty file of a segment that was about to begin. There is no record
    // in a file without a header, so the segment before it goes on.
    if let Some(last) = segments.pop_if(|last| chain_log::lacks_header(&last.path).unwrap_or(false))
    {
        if segments.is_empty() && last.number > 1 {
            return Err(missing(folder, last.number.saturating_sub(1)));
        }
        tracing::warn!(path = %last.path.display(), "segment without a header is removed");
        std::fs::remove_file(&last.path).map_err(fail)?;
    }
    Ok(segments)
}

/// Reads segments from the newest one back to the last one that has everything that mattered before
/// it. Returns what they have, the oldest first. `newest` is the newest one, with the hash that it
/// goes on from.
fn read_back(
    folder: &Path,
    before: &[Segment],
    newest: (&Segment, ChainHash),
    endings: SegmentEndings,
    now_ms: i64,
) -> Result<Vec<SegmentEndings>, JournalError> {
    let (mut next, mut follows) = (newest.0.clone(), newest.1);
    let mut is_complete = endings.is_complete;
    let mut parts = vec![endings];
    let mut before = before.iter().rev();
    while next.number > 1 && !is_complete {
        let number = next.number.saturating_sub(1);
        let Some(segment) = before.next().filter(|segment| segment.number == number) else {
            return Err(missing(folder, number));
        };
        let mut endings = SegmentEndings::at(now_ms);
        let (goes_on_from, end) = chain_log::read(&segment.path, |payload| endings.take(payload))?;
        if end != follows {
            return Err(JournalError::Segments { path: next.path });
        }
        let path = segment.path.clone();
        if endings.is_malformed {
            return Err(JournalError::Malformed { path });
        }
        (next, follows) = (segment.clone(), goes_on_from);
        is_complete = endings.is_complete;
        parts.push(endings);
    }
    if next.number == 1 && follows != ChainHash::default() {
        return Err(JournalError::Segments { path: next.path });
    }
    parts.reverse();
    Ok(parts)
}

/// What is to be known of a segment that is not written any more. The time of its last record is
/// that of its last change.
fn closed(segment: Segment) -> Result<Closed, JournalError> {
    let metadata = File::open(&segment.path).and_then(|file| file.metadata());
    let metadata = metadata.map_err(|e| io_error(&segment.path, &e))?;
    let changed = metadata
        .modified()
        .map_err(|e| io_error(&segment.path, &e))?;
    let since_epoch = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Closed {
        bytes: metadata.len(),
        closed_ms: i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX),
        segment,
    })
}
