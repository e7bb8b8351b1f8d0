//! Spans of calls, and what became of them.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// The label of a span: what became of it.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

/// The number of spans by what became of them.
#[derive(Clone, Debug)]
pub(crate) struct SpanMetrics(Family<Result, Counter>);

impl SpanMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let family = Family::default();
        registry.register(
            "spans",
            "Spans of calls: sent to the collector, or lost as the queue was full or it took none",
            Family::clone(&family),
        );
        let metrics = Self(family);
        // So that a rate is known from the first one on.
        for result in ["sent", "queue_full", "unsent"] {
            drop(metrics.0.get_or_create(&Result { result }));
        }
        metrics
    }

    /// Counts spans that the collector has.
    pub(crate) fn sent(&self, count: usize) {
        self.add("sent", count);
    }

    /// Counts a span for which there was no place.
    pub(crate) fn queue_full(&self) {
        self.add("queue_full", 1);
    }

    /// Counts spans that the collector did not take.
    pub(crate) fn unsent(&self, count: usize) {
        self.add("unsent", count);
    }

    fn add(&self, result: &'static str, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.0.get_or_create(&Result { result }).inc_by(count);
    }
}
