//! Counts handshakes and puts refused ones on the record.

use std::net::SocketAddr;
use std::sync::Arc;

use sundew_attestation::spiffe::SpiffeId;

use super::gate::Gate;
use crate::journal::{self, RefusalKind, cause_text};
use crate::metrics::{HandshakeResult, Metrics};
use crate::peer::{AcceptObserver, HandshakeError};
use crate::refusal_recorder::remote_text;

/// The observer of the broker's TLS listeners.
pub(super) struct HandshakeRecorder {
    pub(super) gate: Arc<Gate>,
    pub(super) metrics: Arc<Metrics>,
}

impl AcceptObserver for HandshakeRecorder {
    fn accepted(&self) {
        self.metrics.calls().handshake(HandshakeResult::Accepted);
    }

    fn is_operator(&self, id: &SpiffeId) -> bool {
        self.gate.operators.is_operator(id)
    }

    fn refused(&self, remote: SocketAddr, cause: &HandshakeError) {
        self.metrics.calls().handshake(HandshakeResult::Refused);
        let kind = RefusalKind {
            event: "handshake_refused",
            rpc: None,
            class: class(cause),
            caller: remote_text(remote.ip()),
        };
        let cause = cause_text(cause);
        // A1: the lines of the log are bounded as the record is.
        self.gate.refusals.take(kind, &cause, "", || {
            tracing::warn!(%remote, cause, "handshake refused");
            journal::record("handshake_refused")
                .with("remote", remote)
                .with("reason", &cause)
        });
    }
}

/// The sort of a cause, under which refused handshakes are counted together.
fn class(cause: &HandshakeError) -> &'static str {
    match cause {
        HandshakeError::Closed(_) => "stopping",
        HandshakeError::NoCertificate => "no_certificate",
        HandshakeError::GaveWay => "gave_way",
        HandshakeError::Settings(_) => "settings",
        HandshakeError::Socket(_) => "socket",
        HandshakeError::Svid(_) => "svid",
        HandshakeError::TimedOut => "timed_out",
        HandshakeError::TooManyConnections(_) => "too_many",
    }
}
