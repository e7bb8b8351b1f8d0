//! Calls by RPC: how many, how they ended, and how long they took.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The labels of a call.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Call {
    rpc: &'static str,
    code: &'static str,
}

/// The label of how long a call took.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Rpc {
    rpc: &'static str,
}

/// The label of a handshake.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Handshake {
    result: &'static str,
}

/// The label of a refusal: the sort of its cause.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// The result of a TLS handshake.
pub(crate) enum HandshakeResult {
    /// The caller was let in.
    Accepted,
    /// The caller was not let in.
    Refused,
}

/// The metrics of calls.
pub(crate) struct CallMetrics {
    calls: Family<Call, Counter>,
    durations: Family<Rpc, Histogram, fn() -> Histogram>,
    handshakes: Family<Handshake, Counter>,
    refusals: Family<Reason, Counter>,
}

impl CallMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            calls: Family::default(),
            durations: Family::new_with_constructor(super::durations),
            handshakes: Family::default(),
            refusals: Family::default(),
        };
        registry.register(
            "calls",
            "Calls by RPC and gRPC status code",
            metrics.calls.clone(),
        );
        registry.register_with_unit(
            "call_duration",
            "How long calls took by RPC; of a stream, until it began",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register(
            "handshakes",
            "TLS handshakes by result",
            metrics.handshakes.clone(),
        );
        registry.register(
            "refusals",
            "Refused calls by the sort of the reason",
            metrics.refusals.clone(),
        );
        // So that a rate is known from the first one on.
        for result in ["accepted", "refused"] {
            drop(metrics.handshakes.get_or_create(&Handshake { result }));
        }
        metrics
    }

    /// Counts a call by its gRPC status code.
    pub(crate) fn call(&self, rpc: &'static str, code: &'static str) {
        self.calls.get_or_create(&Call { rpc, code }).inc();
    }

    /// Notes how long a call took.
    pub(crate) fn took(&self, rpc: &'static str, time: Duration) {
        let durations = self.durations.get_or_create(&Rpc { rpc });
        durations.observe(super::seconds(time));
    }

    /// Counts a refusal by the sort of its reason.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a TLS handshake.
    pub(crate) fn handshake(&self, result: HandshakeResult) {
        let result = match result {
            HandshakeResult::Accepted => "accepted",
            HandshakeResult::Refused => "refused",
        };
        self.handshakes.get_or_create(&Handshake { result }).inc();
    }
}
