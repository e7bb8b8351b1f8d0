//! The disk under a log: how much room is left on it, and a part of that room which only some
//! records may use.
//!
//! A1: half of the reserve is allocated to the log's file ahead of its end, so that nobody else who
//! fills the disk takes it. The other half is free room, for what else must be written when
//! something ends. Records that may not use the reserve are refused once less than the whole is
//! left.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ChainLogError;
use crate::clock;

/// How often the writer of a log looks at its disk.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A writer that has not looked at its disk for so long is held up by the disk.
const HELD_UP: Duration = Duration::from_secs(5);

/// Most of a disk that is allocated ahead of a log's end, in bytes: room for a million endings.
const MOST_AHEAD: u64 = 256 << 20;

/// Whether a record may be written when only the reserve is left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum DiskShare {
    /// Only outside of the reserve.
    Unreserved,
    /// In the reserve too.
    WithReserve,
}

/// What a log's callers and its writer know of the disk.
pub(crate) struct DiskSpace {
    /// In bytes.
    reserve: u64,
    now: Mutex<Now>,
}

struct Now {
    looked: Instant,
    /// What the last look or write failed with.
    problem: Option<ChainLogError>,
    /// The room that is left for the log, in bytes.
    left: u64,
    /// The length of the log's file, in bytes.
    file: u64,
}

/// What an operator may know of the disk of a log.
#[derive(Clone, Debug)]
pub(crate) struct DiskState {
    /// The length of the log's file, in bytes.
    pub(crate) file: u64,
    /// The room that is left for the log, in bytes.
    pub(crate) left: u64,
    /// Why not every record can be written.
    pub(crate) problem: Option<String>,
}

impl DiskSpace {
    /// The space under a log of which so many bytes are reserved. Nothing is known of it until its
    /// writer has looked.
    pub(crate) fn new(reserve: u64) -> Self {
        Self {
            reserve,
            now: Mutex::new(Now {
                looked: clock::monotonic(),
                problem: None,
                left: reserve,
                file: 0,
            }),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much is to be allocated ahead of the log's end, in bytes.
    pub(super) fn wanted_ahead(&self) -> u64 {
        (self.reserve / 2).min(MOST_AHEAD)
    }

    /// Bytes after which the writer looks at the disk before the next second.
    pub(super) fn look_after(&self) -> u64 {
        (self.reserve / 16).min(MOST_AHEAD)
    }

    /// Takes over what the writer has seen: the room that is left, and the length of the file.
    pub(super) fn saw(&self, left: Result<u64, ChainLogError>, file: u64) {
        let mut now = self.now();
        now.looked = clock::monotonic();
        (now.left, now.problem) = match left {
            Ok(left) => (left, None),
            Err(problem) => (0, Some(problem)),
        };
        now.file = file;
    }

    /// Whether so much room is only that of the reserve.
    pub(super) fn is_only_reserve(&self, left: u64) -> bool {
        left < self.reserve
    }

    /// Takes over that a write failed.
    pub(super) fn failed(&self, problem: &ChainLogError) {
        self.now().problem = Some(problem.clone());
    }

    /// Whether only the reserve is left.
    pub(crate) fn is_low(&self) -> bool {
        self.is_only_reserve(self.now().left)
    }

    /// What an operator may know.
    pub(crate) fn state(&self) -> DiskState {
        let now = self.now();
        let since = clock::since(now.looked);
        let problem = if since > HELD_UP {
            Some(format!(
                "disk has not answered for {} seconds",
                since.as_secs()
            ))
        } else {
            let low = self
                .is_only_reserve(now.left)
                .then_some(ChainLogError::OnlyReserve);
            now.problem.clone().or(low).map(|p| p.to_string())
        };
        DiskState {
            file: now.file,
            left: now.left,
            problem,
        }
    }
}
