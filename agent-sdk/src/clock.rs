//! The clocks of the SDK.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the milliseconds since the epoch.
#[expect(clippy::disallowed_methods, reason = "this is the SDK's clock")]
pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}
