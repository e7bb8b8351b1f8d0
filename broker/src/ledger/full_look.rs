//! When a room looks at everything of a sort, for what nobody could tell it: at the start, after a gap
//! in the log, and now and then.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Ledger;
use crate::clock;

/// The times at which everything is looked at.
pub(crate) struct FullLook {
    interval: Duration,
    /// The last look that found everything, and the gaps of the log that were known before it.
    last: Mutex<Option<(Instant, u64)>>,
}

impl FullLook {
    /// A look that was never taken, and that is due again after this time.
    pub(crate) const fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: Mutex::new(None),
        }
    }

    /// Returns the number of gaps that are known, if the look is due. What others know is known once
    /// the view is fresh, so it is not due before.
    pub(crate) fn is_due(&self, ledger: &Ledger) -> Option<u64> {
        let gaps = ledger.records.gaps();
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due =
            last.is_none_or(|(at, seen)| seen != gaps || clock::since(at) >= self.interval);
        (is_due && ledger.log.view().is_ok()).then_some(gaps)
    }

    /// Notes that everything was looked at, with the gaps that were known before.
    pub(crate) fn taken(&self, gaps: u64) {
        let taken = Some((clock::monotonic(), gaps));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = taken;
    }
}
