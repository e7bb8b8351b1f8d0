//! The clocks of the SDK, which are read nowhere else.

#![expect(
    clippy::disallowed_methods,
    reason = "everything else gets the time from here"
)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Returns the time by the runtime's clock, which tests can pause.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Returns the monotonic time, for waiting without a runtime.
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}

/// Returns the milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// Returns the instant at which it will be `epoch_ms`, in milliseconds since the epoch.
pub(crate) fn instant_of(epoch_ms: i64) -> Instant {
    // A deadline that no clock holds is a year away: the broker's own clock decides in any case.
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
    let left = u64::try_from(epoch_ms.saturating_sub(now_ms())).unwrap_or(0);
    now() + Duration::from_millis(left).min(LONGEST)
}
