//! The upkeep of a journal while it is written: new segments begin, and endings are carried over
//! (O1).
//!
//! P7: what is over is judged by a clock that the store agrees with, which a fresh
//! view says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Journal, JournalError, cause_text};
use crate::clock;
use crate::liveness::RevocationLog;
use crate::store::chain_log::ChainLogError;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after something failed.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// When segments end.
#[derive(Clone, Debug)]
pub struct SegmentRules {
    /// The length at which a segment ends, in bytes. What was carried over into it is not counted.
    pub segment_bytes: u64,
    /// The age at which a segment ends that has any record of its own.
    pub segment_age: Duration,
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
}

/// The length of a segment without a record, in bytes.
const EMPTY_BYTES: u64 = 44;
