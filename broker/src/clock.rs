//! The one place that reads the wall clock, and the one that reads the monotonic clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch; 0 if the wall clock is before it.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place of the broker that reads the wall clock"
)]
pub fn now_ms() -> i64 {
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
    Instant::now()
}

/// How long since `earlier` on the monotonic clock.
#[must_use]
pub fn since(earlier: Instant) -> Duration {
    monotonic().saturating_duration_since(earlier)
}
