//! Sources of bundles and of the broker's own SVID: watched files, or a SPIFFE Workload API.
//!
//! A source that fails keeps the last good state until the bundle limit, then what it had is
//! withdrawn (AC-09). What one trust domain has costs no other (I5).

mod federation;
mod files;
mod workload_api;

use std::time::Duration;

use tokio::sync::Notify;

pub(super) use federation::{Federation, Partner};
pub use federation::{FederationConfig, Profile};
pub(super) use files::{FileBundles, TrustFiles, watch_certificate};
pub(super) use workload_api::WorkloadApiSource;

/// How often files, and a Workload API that failed, are looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Waits for the next look, or for somebody who asks for it now.
async fn next_look(now: &Notify) {
    let _ = tokio::time::timeout(CHECK_INTERVAL, now.notified()).await;
}
