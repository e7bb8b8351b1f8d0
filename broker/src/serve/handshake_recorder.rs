//! Counts handshakes and puts refused ones on the record.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::journal::{self, Journal};
use crate::metrics::{HandshakeResult, Metrics};
use crate::peer::{AcceptObserver, HandshakeError};

/// The observer of the broker's TLS listeners.
pub(super) struct HandshakeRecorder {
    pub(super) journal: Arc<Journal>,
    pub(super) metrics: Arc<Metrics>,
}

impl AcceptObserver for HandshakeRecorder {
    fn accepted(&self) {
        self.metrics.handshake(HandshakeResult::Accepted);
    }

    fn refused(&self, remote: SocketAddr, cause: &HandshakeError) {
        self.metrics.handshake(HandshakeResult::Refused);
        tracing::warn!(%remote, cause = cause.to_string(), "handshake refused");
        self.journal.note(
            journal::record("handshake_refused")
                .with("remote", remote)
                .with("reason", cause),
        );
    }
}
