//! The check of this machine's wall clock, which must be near the store's and never go back (P5).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sundew_core::store::StoreError;

use crate::clock;

/// The latest wall-clock time that is known, in milliseconds since the epoch, and the monotonic
/// time at which it was read.
pub(super) struct StoreClock(Mutex<(i64, Instant)>);

/// The last time that the store confirmed, in milliseconds since the epoch, and the monotonic time
/// before which it did so.
#[derive(Default)]
pub(super) struct ConfirmedTime(Mutex<Option<(i64, Instant)>>);

impl ConfirmedTime {
    /// Notes what the store said in answer to something that was sent at `sent`.
    pub(super) fn note(&self, store_ms: i64, sent: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((store_ms, sent));
    }

    /// Returns the latest time that it can be by the store's clock, in milliseconds since the epoch;
    /// `None` before the store said anything.
    pub(super) fn latest_ms(&self) -> Option<i64> {
        let confirmed = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        confirmed.map(|(store_ms, sent)| {
            let passed = i64::try_from(clock::since(sent).as_millis()).unwrap_or(i64::MAX);
            store_ms.saturating_add(passed)
        })
    }
}

impl StoreClock {
    /// Returns a check that takes the wall clock of this moment for right.
    pub(super) fn new() -> Self {
        Self(Mutex::new((clock::wall_ms(), clock::monotonic())))
    }

    /// Compares this machine's clock with the store's, which is `store_ms` in milliseconds since
    /// the epoch, and with its own past. Returns an error if this machine's clock is further off
    /// than `max_skew`. L8: until this is noticed, [`clock::now_ms`] gives nothing a longer life.
    pub(super) fn check(&self, store_ms: i64, max_skew: Duration) -> Result<(), StoreError> {
        let now_ms = clock::wall_ms();
        let skew = now_ms.saturating_sub(store_ms).unsigned_abs();
        if u128::from(skew) > max_skew.as_millis() {
            return Err(StoreError::Misconfigured(format!(
                "this machine's clock is {skew} ms away from the store's"
            )));
        }
        // P5: a clock that goes back would give tokens a longer life than they have. One that goes
        // ahead only takes some.
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed_ms = i64::try_from(clock::since(latest.1).as_millis()).unwrap_or(i64::MAX);
        let expected_ms = latest.0.saturating_add(passed_ms);
        let back_ms = expected_ms.saturating_sub(now_ms);
        if back_ms > i64::try_from(max_skew.as_millis()).unwrap_or(i64::MAX) {
            return Err(StoreError::Misconfigured(format!(
                "this machine's clock went back by {back_ms} ms; if it is right now, restart the broker"
            )));
        }
        if back_ms <= 0 {
            *latest = (now_ms, clock::monotonic());
        }
        clock::take_back_jump(now_ms.max(expected_ms), max_skew);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_SKEW: Duration = Duration::from_secs(1);

    #[test]
    fn a_clock_within_the_bound_of_the_stores_is_believed_and_one_beyond_it_is_not() {
        let _stopped = clock::testing::stop();
        let (now_ms, store_clock) = (clock::now_ms(), StoreClock::new());
        for skew_ms in [-1000, 0, 1000] {
            assert_eq!(store_clock.check(now_ms + skew_ms, MAX_SKEW), Ok(()));
        }
        for skew_ms in [-1001, 1001, i64::MAX - now_ms] {
            assert!(matches!(
                store_clock.check(now_ms + skew_ms, MAX_SKEW),
                Err(StoreError::Misconfigured(_))
            ));
        }
    }

    /// P5: a token would live longer.
    #[test]
    fn a_clock_that_went_back_is_not_believed_though_the_stores_went_back_too() {
        let _stopped = clock::testing::stop();
        let now_ms = clock::now_ms();
        let seen = |ahead_ms| StoreClock(Mutex::new((now_ms + ahead_ms, clock::monotonic())));
        assert_eq!(seen(1000).check(now_ms, MAX_SKEW), Ok(()));
        assert!(matches!(
            seen(1001).check(now_ms, MAX_SKEW),
            Err(StoreError::Misconfigured(_))
        ));
    }

    #[test]
    fn a_clock_that_stood_still_while_time_passed_went_back() {
        let _stopped = clock::testing::stop();
        let long_ago = clock::monotonic()
            .checked_sub(Duration::from_secs(2))
            .unwrap();
        let store_clock = StoreClock(Mutex::new((clock::now_ms(), long_ago)));
        assert!(store_clock.check(clock::now_ms(), MAX_SKEW).is_err());
    }

    #[test]
    fn time_that_passes_on_both_clocks_is_no_skew() {
        let _stopped = clock::testing::stop();
        let store_clock = StoreClock::new();
        for _ in 0..3 {
            clock::testing::advance(Duration::from_secs(3600));
            assert_eq!(store_clock.check(clock::now_ms(), MAX_SKEW), Ok(()));
        }
    }
}
