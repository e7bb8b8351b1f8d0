//! The one place that reads the wall clock, and the one that reads the monotonic clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch; 0 if the wall clock is before it.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place of the broker that reads the wall clock"
)]
pub fn now_ms() -> i64 {
    #[cfg(test)]
    if let Some((wall_ms, _)) = testing::stopped_at() {
        return wall_ms;
    }
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// The monotonic clock, for bounds (P5).
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place of the broker that reads the monotonic clock"
)]
pub fn monotonic() -> Instant {
    #[cfg(test)]
    if let Some((_, monotonic)) = testing::stopped_at() {
        return monotonic;
    }
    Instant::now()
}

/// The time since `earlier` on the monotonic clock.
#[must_use]
pub fn since(earlier: Instant) -> Duration {
    monotonic().saturating_duration_since(earlier)
}

/// Both clocks of one thread, stopped and moved by a test. Everything that a test on a runtime of
/// the current thread spawns sees the same clocks.
#[cfg(test)]
pub(crate) mod testing {
    use std::cell::Cell;
    use std::time::{Duration, Instant};

    thread_local! {
        static STOPPED_AT: Cell<Option<(i64, Instant)>> = const { Cell::new(None) };
    }

    /// Where this thread's clocks stand, if they are stopped.
    pub(super) fn stopped_at() -> Option<(i64, Instant)> {
        STOPPED_AT.get()
    }

    /// Keeps the clocks of this thread stopped until it is dropped.
    #[must_use]
    pub(crate) struct StoppedClock(());

    /// Stops both clocks of this thread where they are.
    pub(crate) fn stop() -> StoppedClock {
        STOPPED_AT.set(Some((super::now_ms(), super::monotonic())));
        StoppedClock(())
    }

    /// Moves both clocks of this thread ahead.
    pub(crate) fn advance(by: Duration) {
        let (wall_ms, monotonic) = stopped_at().expect("the clocks are stopped");
        let by_ms = i64::try_from(by.as_millis()).expect("milliseconds");
        STOPPED_AT.set(Some((wall_ms + by_ms, monotonic + by)));
    }

    /// Moves both clocks of this thread ahead to a moment, in milliseconds since the epoch.
    pub(crate) fn advance_to(at_ms: i64) {
        let ahead_ms = at_ms - super::now_ms();
        advance(Duration::from_millis(
            u64::try_from(ahead_ms).expect("a moment that is ahead"),
        ));
    }

    impl Drop for StoppedClock {
        fn drop(&mut self) {
            STOPPED_AT.set(None);
        }
    }
}
