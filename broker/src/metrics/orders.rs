//! Orders: how many were made and claimed, and how often a used ticket was shown again.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// The label of what became of orders.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Step {
    step: &'static str,
}

/// The counters of orders, for those who count in them.
#[derive(Clone)]
pub(crate) struct OrderMetrics {
    /// Orders that were made.
    pub(crate) made: Counter,
    /// Orders that were claimed.
    pub(crate) claimed: Counter,
    /// Orders that their dispatchers canceled.
    pub(crate) canceled: Counter,
    /// Tickets that somebody showed again after they were used. Each is an alarm.
    pub(crate) reused: Counter,
}

impl OrderMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let family: Family<Step, Counter> = Family::default();
        registry.register(
            "orders",
            "Orders by what became of them; a ticket that was shown again (`reused`) is an alarm",
            family.clone(),
        );
        let of = |step| family.get_or_create(&Step { step }).clone();
        Self {
            made: of("made"),
            claimed: of("claimed"),
            canceled: of("canceled"),
            reused: of("reused"),
        }
    }
}
