//! The upkeep of a journal while it is written: new segments begin, endings are carried over, and
//! what is not kept goes (O1).
//!
//! P7: what is over, and what is old, is judged by a clock that the store agrees with, which a fresh
//! view says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::archive::{Archive, remove};
use super::segments::Segment;
use super::{Closed, Journal, JournalError, cause_text, record};
use crate::clock;
use crate::liveness::RevocationLog;
use crate::store::chain_log::ChainLogError;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after something failed.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// When segments end, and how long they are kept in the journal's folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SegmentRules {
    /// The length at which a segment ends, in bytes. What was carried over into it is not counted.
    pub segment_bytes: u64,
    /// The age at which a segment ends that has any record of its own.
    pub segment_age: Duration,
    /// How long a segment is kept after its last record.
    pub keep_for: Option<Duration>,
    /// The length of all segments, in bytes, above which the oldest ones go.
    pub keep_bytes: Option<u64>,
    /// Where segments go that are not kept. Without rules about what is kept, a segment goes there
    /// as soon as it has ended; without an archive, what is not kept is removed.
    pub archive: Option<Archive>,
}

/// The one who looks after a journal.
pub struct Upkeep {
    journal: Arc<Journal>,
    rules: SegmentRules,
    /// Set when the upkeep ends, for the thread that carries endings over.
    stop: Arc<AtomicBool>,
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Upkeep {
    /// The upkeep of a journal by these rules.
    #[must_use]
    pub fn new(journal: Arc<Journal>, rules: SegmentRules) -> Self {
        Self {
            journal,
            rules,
            stop: Arc::default(),
        }
    }

    /// Looks after the journal for as long as the future is polled. It never returns.
    pub(crate) async fn run(self, log: Arc<RevocationLog>) {
        let mut failed: Option<Instant> = None;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            self.journal.budgets.forget();
            let is_early = failed.is_some_and(|at| clock::since(at) < RETRY_AFTER);
            if is_early || log.view().is_err() {
                continue;
            }
            let looked = self.look(clock::now_ms()).await;
            failed = looked.is_err().then(clock::monotonic);
            let problem = looked.err().map(cause_text);
            self.journal.segments().problem = problem;
        }
    }

    /// Does what is due at `now_ms`, in milliseconds since the epoch.
    pub async fn look(&self, now_ms: i64) -> Result<(), JournalError> {
        self.carry_over(now_ms).await?;
        if self.is_roll_due(now_ms) {
            match self.journal.roll(now_ms).await {
                // The journal says itself that its disk is full. It goes on in this segment.
                Err(JournalError::Log(ChainLogError::OnlyReserve)) => {}
                rolled => rolled?,
            }
            self.carry_over(now_ms).await?;
        }
        while let Some(segment) = self.next_to_go(now_ms) {
            self.let_go(&segment).await?;
        }
        Ok(())
    }

    async fn carry_over(&self, now_ms: i64) -> Result<(), JournalError> {
        if self.journal.segments().sources == 0 {
            return Ok(());
        }
        let (journal, stop) = (Arc::clone(&self.journal), Arc::clone(&self.stop));
        let carried = tokio::task::spawn_blocking(move || journal.carry_over(now_ms, &stop));
        carried
            .await
            .unwrap_or_else(|_| Err(ChainLogError::Poisoned.into()))
    }

    /// Whether the current segment has ended. One that was not completed goes on, so that never more
    /// than two segments are needed. The length of what was carried counts against a new one, so that
    /// carrying costs no more than the records themselves.
    fn is_roll_due(&self, now_ms: i64) -> bool {
        let length = self.journal.space.state().file;
        let segments = self.journal.segments();
        let own = length.saturating_sub(segments.carried_bytes);
        let age_ms = now_ms.saturating_sub(segments.began_ms);
        let is_old = u128::try_from(age_ms).unwrap_or(0) >= self.rules.segment_age.as_millis();
        let is_long = own >= self.rules.segment_bytes.max(segments.carried_bytes);
        segments.sources == 0 && (is_long || (is_old && own > EMPTY_BYTES))
    }

    /// The oldest segment, if it is not to be kept and not needed.
    pub(super) fn next_to_go(&self, now_ms: i64) -> Option<Segment> {
        let SegmentRules {
            keep_for,
            keep_bytes,
            archive,
            ..
        } = &self.rules;
        let bytes = self.journal.state().bytes;
        let segments = self.journal.segments();
        if segments.closed.len() <= segments.sources {
            return None;
        }
        let Closed {
            segment, closed_ms, ..
        } = segments.closed.front()?;
        let age_ms = u128::try_from(now_ms.saturating_sub(*closed_ms)).unwrap_or(0);
        let is_old = keep_for.is_some_and(|keep| age_ms >= keep.as_millis());
        let is_much = keep_bytes.is_some_and(|keep| bytes > keep);
        let goes_at_once = keep_for.is_none() && keep_bytes.is_none() && archive.is_some();
        (is_old || is_much || goes_at_once).then(|| segment.clone())
    }

    /// Archives the oldest segment, and removes it.
    async fn let_go(&self, segment: &Segment) -> Result<(), JournalError> {
        let fail = |cause| JournalError::Archive {
            path: segment.path.clone(),
            cause: cause_text(cause),
        };
        let gone = record("segment_gone").with("segment", segment.number);
        let gone = match &self.rules.archive {
            Some(archive) => {
                archive.take(&segment.path).await.map_err(fail)?;
                gone.with("to", archive)
            }
            None => gone,
        };
        let path = segment.path.clone();
        tokio::task::spawn_blocking(move || remove(&path))
            .await
            .unwrap_or(Ok(()))
            .map_err(fail)?;
        self.journal.segments().closed.pop_front();
        self.journal.note(gone);
        Ok(())
    }
}

/// The length of a segment without a record, in bytes.
pub(super) const EMPTY_BYTES: u64 = 44;
