//! The store, as its callers see it: how long it takes, and how it fails.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use sundew_core::store::StoreError;

/// The label of an operation.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

/// The label of a failure.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Failure {
    kind: &'static str,
}

/// The metrics of the store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct StoreMetrics {
    durations: Family<Operation, Histogram, fn() -> Histogram>,
    errors: Family<Failure, Counter>,
}

impl StoreMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            durations: Family::new_with_constructor(super::durations),
            errors: Family::default(),
        };
        registry.register_with_unit(
            "store_duration",
            "How long operations of the store took, also those that failed",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register(
            "store_errors",
            "Operations of the store that failed, by how",
            metrics.errors.clone(),
        );
        // So that a rate is known from the first one on.
        for kind in ["corrupt", "full", "misconfigured", "unavailable"] {
            drop(metrics.errors.get_or_create(&Failure { kind }));
        }
        metrics
    }

    /// Notes how long an operation took, and whether it failed.
    pub(crate) fn took(
        &self,
        operation: &'static str,
        time: Duration,
        failed: Option<&StoreError>,
    ) {
        let durations = self.durations.get_or_create(&Operation { operation });
        durations.observe(super::seconds(time));
        let kind = match failed {
            // Another agreement is an answer.
            None | Some(StoreError::OtherAgreement) => return,
            Some(StoreError::Corrupt(_)) => "corrupt",
            Some(StoreError::Full(_)) => "full",
            Some(StoreError::Misconfigured(_)) => "misconfigured",
            Some(StoreError::Unavailable(_)) => "unavailable",
        };
        self.errors.get_or_create(&Failure { kind }).inc();
    }
}
