//! The endings that a segment has: its own, and those that were carried over from the segments
//! before it.
//!
//! P4: a broker that starts must know of every ending that still matters, and a quarantine may be as
//! old as the journal. So a new segment gets all of them from the segments before it. The record
//! [`CARRIED_OVER`] says that it has them; a start reads back to the last segment with that record.

use std::collections::HashSet;

use sundew_core::{LogEntry, glance, still_matter};

/// The event of a record with an ending of an earlier segment.
pub(super) const CARRIED: &str = "ending_carried";
/// The event of the record that comes after the last [`CARRIED`].
pub(super) const CARRIED_OVER: &str = "endings_carried_over";
/// The circumstance that has an entry of the revocation log.
const ENTRY: &str = "entry";
/// What a record has in a file beside its payload, in bytes.
const FRAME_BYTES: u64 = 36;

/// A record of a segment, as far as endings need it.
pub(super) struct Seen<'a> {
    /// The time of the record, in milliseconds since the epoch.
    pub(super) at_ms: i64,
    pub(super) is_carried: bool,
    pub(super) is_carried_over: bool,
    /// The entry of the revocation log that the record has.
    pub(super) entry: Option<&'a str>,
    /// The length of the record in the file, in bytes.
    pub(super) bytes: u64,
}

/// Looks at an encoded record; `None` if it is malformed.
pub(super) fn look(payload: &[u8]) -> Option<Seen<'_>> {
    let seen = glance(payload, ENTRY)?;
    Some(Seen {
        at_ms: seen.at_ms,
        is_carried: seen.event == CARRIED,
        is_carried_over: seen.event == CARRIED_OVER,
        entry: seen.value,
        bytes: bytes_of(payload),
    })
}

/// The length that a payload has in a file, in bytes.
pub(super) fn bytes_of(payload: &[u8]) -> u64 {
    u64::try_from(payload.len())
        .unwrap_or(u64::MAX)
        .saturating_add(FRAME_BYTES)
}

/// What a segment has, as far as a start needs it.
pub(super) struct SegmentEndings {
    now_ms: i64,
    carried: Vec<LogEntry>,
    own: Vec<LogEntry>,
    /// Whether the segment has every ending of the segments before it that still mattered.
    pub(super) is_complete: bool,
    pub(super) is_malformed: bool,
    /// The time of the first record, in milliseconds since the epoch.
    pub(super) began_ms: Option<i64>,
    /// The length of what was carried over, in bytes.
    pub(super) carried_bytes: u64,
}

impl SegmentEndings {
    /// Nothing yet. What is over at `now_ms`, in milliseconds since the epoch, is dropped at once, so
    /// that memory does not grow with the journal.
    pub(super) fn at(now_ms: i64) -> Self {
        Self {
            now_ms,
            carried: Vec::new(),
            own: Vec::new(),
            is_complete: false,
            is_malformed: false,
            began_ms: None,
            carried_bytes: 0,
        }
    }

    /// Takes a record in.
    pub(super) fn take(&mut self, payload: &[u8]) {
        let Some(seen) = look(payload) else {
            self.is_malformed = true;
            return;
        };
        self.began_ms.get_or_insert(seen.at_ms);
        self.is_complete |= seen.is_carried_over;
        if seen.is_carried || seen.is_carried_over {
            self.carried_bytes = self.carried_bytes.saturating_add(seen.bytes);
        }
        let entry = seen.entry.and_then(|e| LogEntry::decode(e.as_bytes()).ok());
        let Some(entry) = entry.filter(|e| e.log_retains_until_ms() > self.now_ms) else {
            return;
        };
        if seen.is_carried {
            self.carried.push(entry);
        } else {
            self.own.push(entry);
        }
    }
}

/// Returns the endings of some segments, the oldest segment first, that still matter at `now_ms`, in
/// milliseconds since the epoch: each once, in the order in which they were first on the record.
/// Endings are carried over while a segment gets others already, so those that were carried come
/// first.
pub(super) fn joined(segments: Vec<SegmentEndings>, now_ms: i64) -> Vec<LogEntry> {
    let mut seen = HashSet::new();
    let mut endings = Vec::new();
    for segment in segments {
        let both = segment.carried.into_iter().chain(segment.own);
        endings.extend(both.filter(|entry| seen.insert(entry.id)));
    }
    still_matter(endings, now_ms)
}
