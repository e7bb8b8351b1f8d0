//! Metrics, as Prometheus reads them. T84: labels come from closed sets, or from those who run the
//! broker, never from callers.

mod calls;
mod endings;
mod gauges;
mod orders;
mod owner;
mod records;
mod spans;
mod store;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use calls::CallMetrics;
pub(crate) use calls::HandshakeResult;
pub(crate) use endings::EndingMetrics;
use gauges::Gauges;
pub(crate) use gauges::{LeaseReadings, Readings};
pub(crate) use orders::OrderMetrics;
use owner::OwnerMetrics;
pub(crate) use records::RecordMetrics;
pub(crate) use spans::SpanMetrics;
pub(crate) use store::StoreMetrics;

/// The upper bounds of the buckets in which durations are counted, in seconds.
const BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// A histogram of durations, in seconds.
fn durations() -> Histogram {
    Histogram::new(BUCKETS)
}

/// A duration in the unit of metrics, which is seconds.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// The broker's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    calls: CallMetrics,
    endings: EndingMetrics,
    gauges: Gauges,
    orders: OrderMetrics,
    owner_svids: OwnerMetrics,
    records: Arc<RecordMetrics>,
    refusals_counted: Counter,
    spans: SpanMetrics,
    store: StoreMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sundew");
        let version = ("version", env!("CARGO_PKG_VERSION"));
        registry.register("build", "What runs here", Info::new(vec![version]));
        let refusals_counted = Counter::default();
        registry.register(
            "refusals_counted",
            "Refusals that are on the record as a count",
            refusals_counted.clone(),
        );
        Self {
            calls: CallMetrics::register(&mut registry),
            endings: EndingMetrics::register(&mut registry),
            gauges: Gauges::register(&mut registry),
            orders: OrderMetrics::register(&mut registry),
            owner_svids: OwnerMetrics::register(&mut registry),
            records: Arc::new(RecordMetrics::register(&mut registry)),
            refusals_counted,
            spans: SpanMetrics::register(&mut registry),
            store: StoreMetrics::register(&mut registry),
            registry,
        }
    }
}

impl Metrics {
    /// The number of SVIDs of operators that the owner of the state was given: the first one
    /// (`bootstrap`), or one for an emergency (`break_glass`).
    pub(crate) fn owner_svids(&self, way: &'static str) -> Counter {
        self.owner_svids.of(way)
    }

    /// The metrics of calls and handshakes.
    pub(crate) fn calls(&self) -> &CallMetrics {
        &self.calls
    }

    /// Counts a refusal that is on the record as a count.
    pub(crate) fn refusal_counted(&self) {
        self.refusals_counted.inc();
    }

    /// The metrics of endings, for those who append them.
    pub(crate) fn endings(&self) -> EndingMetrics {
        self.endings.clone()
    }

    /// The metrics of orders, for those who make and claim them.
    pub(crate) fn orders(&self) -> OrderMetrics {
        self.orders.clone()
    }

    /// The metrics of what goes on the record, for the journal.
    pub(crate) fn records(&self) -> Arc<RecordMetrics> {
        Arc::clone(&self.records)
    }

    /// The metrics of spans, for whoever sends them.
    pub(crate) fn spans(&self) -> SpanMetrics {
        self.spans.clone()
    }

    /// The metrics of the store, for whoever calls it.
    pub(crate) fn store(&self) -> StoreMetrics {
        self.store.clone()
    }

    /// Renders all metrics in the text format of Prometheus (OpenMetrics 1.0), with what was read of
    /// the rooms at `now_ms`, in milliseconds since the epoch.
    #[must_use]
    pub(crate) fn render(&self, readings: &Readings, now_ms: i64) -> String {
        self.gauges
            .set(readings, self.records.tokens_unexpired(now_ms));
        let mut out = String::new();
        if prometheus_client::encoding::text::encode(&mut out, &self.registry).is_err() {
            out.clear();
        }
        out
    }
}
