//! The segments of a journal: how they are named, listed and read in order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{JournalError, Record};
use crate::store::chain_log::{self, ChainHash, ChainLogError};

/// The extension of a segment.
const EXTENSION: &str = ".journal";

/// A file of a journal. Segments are numbered from 1.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
}

impl Segment {
    /// The segment with a number in a folder, whether or not it is there.
    pub(super) fn of(folder: &Path, number: u64) -> Self {
        Self {
            number,
            path: folder.join(format!("{number:08}{EXTENSION}")),
        }
    }

    /// The hash that the chain of the segment must go on from, if that is known by its number.
    fn follows(&self) -> Option<ChainHash> {
        (self.number <= 1).then(ChainHash::default)
    }
}

/// Lists the segments in a folder, the oldest first. Some may be missing.
pub(super) fn list(folder: &Path) -> Result<Vec<Segment>, JournalError> {
    let fail = |e: std::io::Error| ChainLogError::Io {
        path: folder.to_owned(),
        reason: e.to_string(),
    };
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let Some(number) = name.strip_suffix(EXTENSION) else {
            continue;
        };
        let segment = number
            .parse()
            .ok()
            .map(|number| Segment::of(folder, number));
        match segment {
            Some(segment) if segment.number > 0 && segment.path == path => segments.push(segment),
            Some(_) | None => return Err(JournalError::Segments { path }),
        }
    }
    segments.sort_by_key(|segment| segment.number);
    Ok(segments)
}

/// What was read of a journal.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Extent {
    /// The number of records.
    pub records: u64,
    /// The number of the first segment; those before it were archived or removed. 0 if there is no
    /// segment at all.
    pub first: u64,
    /// The number of the last segment.
    pub last: u64,
}

/// Reads and verifies what there is of a journal in some folders, such as its archive and its own
/// folder, and hands every record to `record`, the oldest first. Segments may be missing before the
/// first one that there is, and nowhere else. A segment that is in several folders is read once, and
/// all of its copies must be the same. Returns an error if the chain does not verify.
pub fn read_all(
    folders: &[PathBuf],
    mut record: impl FnMut(Record),
) -> Result<Extent, JournalError> {
    let mut segments: BTreeMap<u64, Vec<Segment>> = BTreeMap::new();
    for folder in folders {
        for segment in list(folder)? {
            segments.entry(segment.number).or_default().push(segment);
        }
    }
    let mut extent = Extent::default();
    let mut hash = None;
    for (number, copies) in segments {
        if extent.last > 0 && number != extent.last.saturating_add(1) {
            let folder = folders.last().map_or(Path::new(""), PathBuf::as_path);
            return Err(missing(folder, extent.last.saturating_add(1)));
        }
        let mut end = None;
        for segment in copies {
            let is_first_copy = end.is_none();
            let mut take = |found| {
                if is_first_copy {
                    extent.records = extent.records.saturating_add(1);
                    record(found);
                }
            };
            let ends_at = match verify(&segment.path, hash.or(segment.follows()), &mut take) {
                Ok(ends_at) => ends_at,
                // A broker has archived it meanwhile.
                Err(_) if extent.last == 0 && !segment.path.exists() => continue,
                Err(error) => return Err(error),
            };
            if end.replace(ends_at).is_some_and(|end| end != ends_at) {
                return Err(JournalError::Segments { path: segment.path });
            }
        }
        if end.is_none() {
            continue;
        }
        hash = end;
        if extent.first == 0 {
            extent.first = number;
        }
        extent.last = number;
    }
    Ok(extent)
}

/// The error for a segment that is not there.
pub(super) fn missing(folder: &Path, number: u64) -> JournalError {
    JournalError::Missing {
        path: Segment::of(folder, number).path,
    }
}

/// Verifies a segment, which must go on from the hash `expected` if there is one. Returns the hash
/// that the segment ends at.
fn verify(
    path: &Path,
    expected: Option<ChainHash>,
    record: &mut dyn FnMut(Record),
) -> Result<ChainHash, JournalError> {
    let mut is_malformed = false;
    let (follows, end) = chain_log::read(path, |payload| match Record::decode(payload) {
        Some(found) => record(found),
        None => is_malformed = true,
    })?;
    let path = path.to_owned();
    if expected.is_some_and(|expected| follows != expected) {
        return Err(JournalError::Segments { path });
    }
    if is_malformed {
        return Err(JournalError::Malformed { path });
    }
    Ok(end)
}
