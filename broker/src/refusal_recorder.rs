//! Puts a refusal on the record, counts it, and makes the status for the caller of it (P10, P11).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tonic::{Code, Status};

use crate::clock;
use crate::journal::{self, Journal, JournalError, RefusalCounts, RefusalKind, cause_text};
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::random::random_name;
use crate::refusal::Refusal;

/// Refusals of a kind that are written whole in each minute, if nothing else is configured.
pub(crate) const WHOLE_REFUSALS: u64 = 10;

/// A refusal that is on the record.
pub(crate) struct Refused {
    /// The sort of its cause.
    pub(crate) class: &'static str,
    /// The id that the record and the caller have of it.
    pub(crate) correlation: String,
    /// What the caller hears.
    pub(crate) status: Status,
}

/// The one way from a refusal to a gRPC status. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RefusalRecorder {
    counts: Arc<RefusalCounts>,
    metrics: Arc<Metrics>,
}

impl RefusalRecorder {
    /// Records in this journal and counts in these metrics.
    #[cfg(test)]
    pub(crate) fn new(journal: Arc<Journal>, metrics: Arc<Metrics>) -> Self {
        Self::with_whole(journal, metrics, WHOLE_REFUSALS)
    }

    /// Records in this journal, so many refusals of a kind whole in each minute, and counts in
    /// these metrics.
    pub(crate) fn with_whole(journal: Arc<Journal>, metrics: Arc<Metrics>, whole: u64) -> Self {
        Self {
            counts: Arc::new(RefusalCounts::new(journal, whole)),
            metrics,
        }
    }

    /// Counts a call that was answered.
    pub(crate) fn answered(&self, rpc: &'static str) {
        self.metrics.calls().call(rpc, code_name(Code::Ok));
    }

    /// Notes how long a call took since it came.
    pub(crate) fn took(&self, rpc: &'static str, came: Instant) {
        self.metrics.calls().took(rpc, clock::since(came));
    }

    /// The counts of refusals that are not on the record whole.
    pub(crate) fn counts(&self) -> &RefusalCounts {
        &self.counts
    }

    /// Puts a refusal on the record once, and answers the status for the caller. The caller hears a
    /// fixed text and a correlation id; the record has the cause.
    pub(crate) fn refuse(
        &self,
        rpc: &'static str,
        peer: Option<&Peer>,
        refusal: &Refusal,
    ) -> Status {
        self.refuse_at(rpc, peer, None, refusal).status
    }

    /// Does what [`refuse`](Self::refuse) does for a caller of whom nothing is known but where he
    /// is, and answers also under which id and sort it did.
    pub(crate) fn refuse_at(
        &self,
        rpc: &'static str,
        peer: Option<&Peer>,
        remote: Option<IpAddr>,
        refusal: &Refusal,
    ) -> Refused {
        let correlation = random_name().unwrap_or_default();
        let status = refusal.status(&correlation);
        let class = class(refusal);
        self.metrics.calls().call(rpc, code_name(status.code()));
        self.metrics.calls().refused(class);
        let cause = cause_text(refusal);
        let caller = match (peer, remote) {
            (Some(peer), _) => peer.id().to_string(),
            (None, Some(remote)) => remote_text(remote),
            (None, None) => String::new(),
        };
        let kind = RefusalKind {
            event: "refused",
            rpc: Some(rpc),
            class,
            caller,
        };
        self.take(kind, &cause, &correlation, || {
            let record = journal::record("refused")
                .with("rpc", rpc)
                .with("reason", &cause)
                .with("correlation", &correlation);
            match peer {
                Some(peer) => record.with("peer", peer.id()).with("remote", peer.remote()),
                None => record.with_some("remote", remote),
            }
        });
        Refused {
            class,
            correlation,
            status,
        }
    }

    /// Puts on the record whole, or counts, what was refused without a call of an RPC.
    pub(crate) fn take(
        &self,
        kind: RefusalKind,
        cause: &str,
        correlation: &str,
        record: impl FnOnce() -> journal::Record,
    ) -> bool {
        let counted = self.counts.take(kind, cause, correlation, record);
        if counted {
            self.metrics.refusal_counted();
        }
        counted
    }
}

/// A remote as refusals are counted by it: of IPv6, the network that one host usually has.
pub(crate) fn remote_text(remote: IpAddr) -> String {
    match remote.to_canonical() {
        IpAddr::V4(remote) => remote.to_string(),
        IpAddr::V6(remote) => {
            let [a, b, c, d, ..] = remote.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

/// The sort of a cause, under which refusals are counted together. T84: a closed set.
fn class(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Absent(_) => "not_found",
        Refusal::Appraisal(_) => "evidence",
        Refusal::Append(_) => "log",
        Refusal::BeyondBounds { .. } | Refusal::OutOfSight(_) => "bounds",
        Refusal::Binding => "binding",
        Refusal::Challenge => "challenge",
        Refusal::ChallengeLimit => "challenge_limit",
        Refusal::EvidenceChanged(_) => "evidence_changed",
        Refusal::Conflict(_) => "conflict",
        Refusal::Credential => "credential",
        Refusal::Denied(_) => "policy",
        Refusal::EndingPending(_) => "ending_pending",
        Refusal::Engine(_) => "engine",
        Refusal::GroundsTooOld | Refusal::GroundsWithdrawn => "grounds",
        Refusal::NodeGone => "node_gone",
        Refusal::TaskLimit => "task_limit",
        Refusal::Idempotency => "idempotency",
        Refusal::Internal(_) => "internal",
        Refusal::Invalid { .. } => "invalid",
        Refusal::Journal(JournalError::Budget) => "journal_budget",
        Refusal::Journal(_) => "journal",
        Refusal::JoinToken => "join_token",
        Refusal::OpenCalls => "open_calls",
        Refusal::Unfinished => "unfinished",
        Refusal::UnfinishedBytes => "unfinished_bytes",
        Refusal::Outdated { .. } => "outdated",
        Refusal::Overload => "overload",
        Refusal::TpmBarred => "tpm_barred",
        Refusal::UntrustedManufacturer(_) => "manufacturer",
        Refusal::Quarantined => "quarantined",
        Refusal::RateLimit => "rate_limit",
        Refusal::OtherRole(_) | Refusal::Role(_) => "role",
        Refusal::Seal { .. } => "seal",
        Refusal::NotFound(_) => "not_found",
        Refusal::Stale(_) => "stale",
        Refusal::Stopping => "stopping",
        Refusal::Store(_) => "store",
        Refusal::Svid(_) => "svid",
        Refusal::TargetBusy => "target_busy",
        Refusal::OrderLimit => "order_limit",
        Refusal::TicketUsed { .. } => "ticket_used",
        Refusal::TaskDead(_) => "task_dead",
        Refusal::TokenDead(_) => "token_dead",
        Refusal::TokenLimit => "token_limit",
        Refusal::Unauthenticated => "unauthenticated",
        Refusal::Unregistered => "unregistered",
        Refusal::Unsupported(_) => "unsupported",
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
