//! Puts a refusal on the record, counts it, and makes the status for the caller of it (P10, P11).

use std::sync::Arc;

use tonic::{Code, Status};

use crate::journal::{self, Journal};
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::random::random_name;
use crate::refusal::Refusal;

/// The one way from a refusal to a gRPC status. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RefusalRecorder {
    journal: Arc<Journal>,
    metrics: Arc<Metrics>,
}

impl RefusalRecorder {
    /// Records in this journal and counts in these metrics.
    pub(crate) fn new(journal: Arc<Journal>, metrics: Arc<Metrics>) -> Self {
        Self { journal, metrics }
    }

    /// Counts a call that was answered.
    pub(crate) fn answered(&self, rpc: &'static str) {
        self.metrics.call(rpc, code_name(Code::Ok));
    }

    /// Puts a refusal on the record once, and answers the status for the caller. The caller hears a
    /// fixed text and a correlation id; the record has the cause.
    pub(crate) fn refuse(
        &self,
        rpc: &'static str,
        peer: Option<&Peer>,
        refusal: &Refusal,
    ) -> Status {
        let correlation = random_name().unwrap_or_default();
        let status = refusal.status(&correlation);
        self.metrics.call(rpc, code_name(status.code()));
        let mut record = journal::record("refused")
            .with("rpc", rpc)
            .with("reason", refusal)
            .with("correlation", &correlation);
        if let Some(peer) = peer {
            record = record.with("peer", peer.id()).with("remote", peer.remote());
        }
        self.journal.note(record);
        status
    }
}

/// The name of a code, as a label. T84: the set of labels is closed.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "Ok",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
