//! How often something that verifiers trust is fetched.

use std::time::Duration;

/// How often a document that is fetched is fetched again.
const FETCH_INTERVAL: Duration = Duration::from_secs(300);
/// How long to wait after the first failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The pace of the fetches of one document. E12: a failure is no reason to wait for as long as a
/// document is good; each further one doubles the time.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u32,
}

impl Pace {
    /// Notes how a fetch went, and returns how long to wait before the next one.
    pub(super) fn after(&mut self, is_taken: bool) -> Duration {
        if is_taken {
            self.failures = 0;
            return FETCH_INTERVAL;
        }
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        FIRST_RETRY.saturating_mul(doubled).min(FETCH_INTERVAL)
    }

    /// Whether the last fetch failed.
    pub(super) fn is_retrying(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e12_a_fetch_that_fails_is_tried_again_soon_and_then_more_and_more_rarely() {
        let mut pace = Pace::default();
        let seconds: Vec<_> = (0..40).map(|_| pace.after(false).as_secs()).collect();
        assert_eq!(seconds[..10], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert!(seconds[10..].iter().all(|wait| *wait == 300));
        assert!(pace.is_retrying());
        assert_eq!(pace.after(true), FETCH_INTERVAL);
        assert!(!pace.is_retrying());
        assert_eq!(pace.after(false), FIRST_RETRY);
    }
}
