//! Carrying endings over into a new segment.
//!
//! Endings are read out of the segments before, and written as records like all others, while the
//! new segment gets records already. Until all of them are durable, the segments before are needed.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sundew_core::{EntryId, Event, LogEntry, still_matter};

use super::endings::{CARRIED, CARRIED_OVER, bytes_of, look};
use super::{Durable, Journal, JournalError, Record};
use crate::store::chain_log::{self, ChainLogError, DiskShare};

/// The number of records that are on their way at a time.
const BATCH: usize = 1000;
/// Pause when the journal has too much to write.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

impl Journal {
    /// Carries over into the current segment every ending of the segments before it that still
    /// matters at `now_ms`, in milliseconds since the epoch. Blocks the thread. When `stop` is set,
    /// the rest is left for the next start.
    pub(super) fn carry_over(&self, now_ms: i64, stop: &AtomicBool) -> Result<(), JournalError> {
        let (sources, current) = self.sources();
        let mut carrying = Carrying::new(self, now_ms);
        for source in &sources {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            carrying.source.clone_from(&source.path);
            chain_log::read(&source.path, |payload| carrying.take(payload))?;
            carrying.end_segment()?;
        }
        let bytes = carrying.finish(current)?;
        self.carried_over(bytes);
        Ok(())
    }
}

struct Carrying<'a> {
    journal: &'a Journal,
    now_ms: i64,
    /// The segment that is being read.
    source: PathBuf,
    seen: HashSet<EntryId>,
    on_their_way: Vec<Durable>,
    count: u64,
    bytes: u64,
    failed: Option<JournalError>,
    /// Endings of tasks are many, and go at once. Of the others it matters what lifts what, and
    /// which comes first: they wait until all have been seen.
    others: Vec<LogEntry>,
    /// Those of the segment that is being read that were not carried into it.
    own_others: Vec<LogEntry>,
}

impl<'a> Carrying<'a> {
    fn new(journal: &'a Journal, now_ms: i64) -> Self {
        Self {
            journal,
            now_ms,
            source: PathBuf::new(),
            seen: HashSet::new(),
            on_their_way: Vec::new(),
            count: 0,
            bytes: 0,
            failed: None,
            others: Vec::new(),
            own_others: Vec::new(),
        }
    }

    /// Takes a record of a segment in.
    fn take(&mut self, payload: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        let Some(seen) = look(payload) else {
            let path = self.source.clone();
            self.failed = Some(JournalError::Malformed { path });
            return;
        };
        let Some(text) = seen.entry else { return };
        match LogEntry::decode(text.as_bytes()) {
            Ok(entry) if entry.log_retains_until_ms() <= self.now_ms => {}
            Ok(entry) if matches!(entry.event, Event::Ended { .. }) => {
                if self.seen.insert(entry.id) {
                    self.carry(text);
                }
            }
            Ok(entry) if seen.is_carried => self.others.push(entry),
            Ok(entry) => self.own_others.push(entry),
            // It says something that this version does not know; one that does may come back.
            Err(_) => self.carry(text),
        }
    }

    fn end_segment(&mut self) -> Result<(), JournalError> {
        self.others.append(&mut self.own_others);
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Writes an entry, and waits for those before it when many are on their way.
    fn carry(&mut self, entry: &str) {
        let record = super::record(CARRIED).with("entry", entry);
        self.count = self.count.saturating_add(1);
        let written = self.submit(&record).and_then(|()| {
            if self.on_their_way.len() < BATCH {
                Ok(())
            } else {
                self.wait()
            }
        });
        self.failed = written.err();
    }

    fn submit(&mut self, record: &Record) -> Result<(), JournalError> {
        let payload = record.encode();
        self.bytes = self.bytes.saturating_add(bytes_of(&payload));
        loop {
            // A1: endings that come now go before those that are in another segment all the same.
            let log = &self.journal.log;
            match log.submit_to(DiskShare::Unreserved, payload.clone()) {
                Ok(durable) => {
                    self.on_their_way.push(durable);
                    return Ok(());
                }
                Err(ChainLogError::Busy) => std::thread::sleep(BUSY_PAUSE),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until everything that is on its way is durable. P4: one that is not is an error, so
    /// that nobody takes the segment for complete.
    fn wait(&mut self) -> Result<(), JournalError> {
        for durable in self.on_their_way.drain(..) {
            durable
                .blocking_recv()
                .unwrap_or(Err(ChainLogError::Poisoned))?;
        }
        Ok(())
    }

    /// Writes the rest, and that it was all. Returns the length of what was written, in bytes.
    fn finish(mut self, segment: u64) -> Result<u64, JournalError> {
        for entry in still_matter(std::mem::take(&mut self.others), self.now_ms) {
            if self.seen.insert(entry.id) {
                self.carry(&String::from_utf8_lossy(&entry.encode()));
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
        }
        self.wait()?;
        let record = super::record(CARRIED_OVER)
            .with("segment", segment)
            .with("count", self.count);
        self.submit(&record)?;
        self.wait()?;
        Ok(self.bytes)
    }
}
