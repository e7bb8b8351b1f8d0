//! The gRPC services: each method names its room, its use case, and how it is served. Nothing is
//! decided here.

mod access;
mod agent;
mod anonymous;
mod enrollment;
mod registry;
mod response;

use std::sync::Arc;

use super::broker::Broker;
use super::gate::Gate;

/// Serves agents, resource servers and operators: the workload listener.
#[derive(Clone)]
pub(super) struct Services {
    broker: Arc<Broker>,
    gate: Arc<Gate>,
}

impl Services {
    /// The services of this broker, behind this gate.
    pub(super) fn new(broker: &Arc<Broker>, gate: &Arc<Gate>) -> Self {
        Self {
            broker: Arc::clone(broker),
            gate: Arc::clone(gate),
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
