//! Endings and rules: how many were appended, and how long it took until they held everywhere.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The metrics of endings. Cheap to clone.
#[derive(Clone)]
pub(crate) struct EndingMetrics {
    appended: Counter,
    settled: Histogram,
}

impl EndingMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            appended: Counter::default(),
            settled: super::durations(),
        };
        registry.register(
            "endings",
            "Endings and rules appended to the revocation log",
            metrics.appended.clone(),
        );
        registry.register_with_unit(
            "ending_settle",
            "How long it took until no broker answered \"active\" any more for what was ended",
            Unit::Seconds,
            metrics.settled.clone(),
        );
        metrics
    }

    /// Counts endings that are appended.
    pub(crate) fn appended(&self, count: u64) {
        self.appended.inc_by(count);
    }

    /// Notes how long an append took until it held everywhere.
    pub(crate) fn settled(&self, time: Duration) {
        self.settled.observe(super::seconds(time));
    }
}
