//! The gRPC services: each method names its room, its use case, and how it is served. Nothing is
//! decided here.

mod access;
mod agent;
mod anonymous;
mod dispatch;
mod enrollment;
mod registry;
mod response;

use std::sync::Arc;

use super::broker::Broker;
use super::gate::Gate;
use super::stopping::Stopping;

/// Serves agents, resource servers and operators: the workload listener.
#[derive(Clone)]
pub(super) struct Services {
    broker: Arc<Broker>,
    gate: Arc<Gate>,
    stopping: Stopping,
}

impl Services {
    /// The services of this broker, behind this gate. Streams end when the broker is asked to stop.
    pub(super) fn new(broker: &Arc<Broker>, gate: &Arc<Gate>, stopping: Stopping) -> Self {
        Self {
            broker: Arc::clone(broker),
            gate: Arc::clone(gate),
            stopping,
        }
    }
}

/// Serves those without an SVID: the enrollment listener.
#[derive(Clone)]
pub(super) struct AnonymousEnrollment {
    broker: Arc<Broker>,
    gate: Arc<Gate>,
}

impl AnonymousEnrollment {
    /// The enrollment of this broker, behind this gate.
    pub(super) fn new(broker: &Arc<Broker>, gate: &Arc<Gate>) -> Self {
        Self {
            broker: Arc::clone(broker),
            gate: Arc::clone(gate),
        }
    }
}
