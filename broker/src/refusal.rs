//! Why a request is refused: the whole cause for the operator, a fixed text and code for the caller
//! (P11).
//!
//! Unknown, not yours and not allowed are one answer. Adding a cause breaks the match in
//! [`Refusal::status`], on purpose.

#![expect(
    clippy::disallowed_methods,
    reason = "P11: the one place that makes a status of a cause"
)]

use std::collections::HashMap;

use sundew_attestation::AppraisalError;
use sundew_attestation::spiffe::SvidError;
use sundew_core::store::StoreError;
use sundew_core::{Cause, Denial, SealError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::journal::JournalError;
use crate::liveness::{AppendError, Stale};

/// The `domain` of every `google.rpc.ErrorInfo`.
pub(crate) const DOMAIN: &str = "sundew.dev";

/// Why a request is refused. Its `Display` is for the record.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The evidence was not enough.
    #[error("evidence: {0}")]
    Appraisal(#[from] AppraisalError),
    /// The ending could not be appended to the log.
    #[error("revocation log: {0}")]
    Append(#[from] AppendError),
    /// The caller's certificate is not one of the task's.
    #[error("peer's certificate is not bound to the task")]
    Binding,
    /// The nonce was not issued on this connection, was used, or has expired.
    #[error("challenge is unknown, used or expired")]
    Challenge,
    /// The evidence is good, and of something else than what the task was begun on.
    #[error("evidence differs from what the task was begun on: {0}")]
    EvidenceChanged(String),
    /// Other callers changed the same thing again and again, so that this change did not get in.
    #[error("{0} is being changed by others")]
    Conflict(&'static str),
    /// A TPM did not open the credential that was made for it, or not in time.
    #[error("credential was not opened by the TPM that it was made for, or too late")]
    Credential,
    /// Policy said no.
    #[error("policy: {0}")]
    Denied(#[from] Denial),
    /// The target of an engine did not make a credential.
    #[error("engine: {0}")]
    Engine(String),
    /// The workload has as many tasks as it may have.
    #[error("workload is at its limit of tasks")]
    TaskLimit,
    /// An idempotency key was used for another request.
    #[error("idempotency key was used for another request")]
    Idempotency,
    /// A use case did not do what it must: a fault of the broker's own.
    #[error("internal: {0}")]
    Internal(&'static str),
    /// Something in the request is malformed: the field and what it must be.
    #[error("{field}: {problem}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What it must be.
        problem: String,
    },
    /// The record could not be made durable.
    #[error("journal: {0}")]
    Journal(#[from] JournalError),
    /// A join token that is unknown, used or expired.
    #[error("join token is unknown, used or expired")]
    JoinToken,
    /// More is being issued than the broker does at a time.
    #[error("overload")]
    Overload,
    /// No maker of TPMs that is trusted has certified the endorsement key.
    #[error("{0}")]
    UntrustedManufacturer(String),
    /// A quarantine covers what was asked for.
    #[error("quarantined")]
    Quarantined,
    /// Too many requests.
    #[error("rate limit")]
    RateLimit,
    /// The caller has not the role for it.
    #[error("caller lacks the role `{0}`")]
    Role(&'static str),
    /// A record does not open.
    #[error("record of {what}: {cause}")]
    Seal {
        /// Of what.
        what: &'static str,
        /// Why.
        cause: SealError,
    },
    /// A secret, task or workload that does not exist.
    #[error("{0} does not exist")]
    NotFound(&'static str),
    /// The view of the revocation log is not fresh.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// The store did not do it.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The caller's SVID is not good any more.
    #[error("peer's SVID: {0}")]
    Svid(#[from] SvidError),
    /// The task is dead or suspended.
    #[error("task is dead: {0:?}")]
    TaskDead(Cause),
    /// The caller presented no SVID.
    #[error("no SVID")]
    Unauthenticated,
    /// The caller is not registered.
    #[error("workload is not registered")]
    Unregistered,
    /// What was asked for is not configured at this broker.
    #[error("{0} is not configured at this broker")]
    Unsupported(&'static str),
}

impl Refusal {
    /// A malformed field.
    pub fn invalid(field: &'static str, problem: impl ToString) -> Self {
        Self::Invalid {
            field,
            problem: problem.to_string(),
        }
    }

    /// What the caller hears. The correlation id leads an operator to the record.
    #[must_use]
    pub fn status(&self, correlation: &str) -> Status {
        let (code, reason, text) = match self {
            Self::Appraisal(_)
            | Self::NotFound(_)
            | Self::Binding
            | Self::Challenge
            | Self::EvidenceChanged(_)
            | Self::Credential
            | Self::Denied(_)
            | Self::JoinToken
            | Self::UntrustedManufacturer(_)
            | Self::Quarantined
            | Self::Role(_)
            | Self::TaskDead(_)
            | Self::Unregistered => (
                Code::PermissionDenied,
                "NOT_PERMITTED",
                "not permitted".to_owned(),
            ),
            Self::Append(_)
            | Self::Engine(_)
            | Self::Journal(_)
            | Self::Seal { .. }
            | Self::Stale(_)
            | Self::Store(_) => (
                Code::Unavailable,
                "UNAVAILABLE",
                "cannot be answered now".to_owned(),
            ),
            Self::Conflict(_) => (
                Code::Aborted,
                "CONFLICT",
                "changed by others meanwhile; try again".to_owned(),
            ),
            Self::Internal(_) => (Code::Internal, "INTERNAL", "internal error".to_owned()),
            Self::TaskLimit => (
                Code::ResourceExhausted,
                "TASK_LIMIT",
                "too many tasks at a time".to_owned(),
            ),
            Self::Idempotency => (
                Code::AlreadyExists,
                "IDEMPOTENCY_KEY_REUSED",
                "idempotency key was used for another request".to_owned(),
            ),
            Self::Invalid { field, problem } => (
                Code::InvalidArgument,
                "INVALID_ARGUMENT",
                format!("{field}: {problem}"),
            ),
            Self::Overload => (
                Code::ResourceExhausted,
                "OVERLOAD",
                "too much is being issued now".to_owned(),
            ),
            Self::RateLimit => (
                Code::ResourceExhausted,
                "RATE_LIMIT",
                "too many requests".to_owned(),
            ),
            Self::Svid(_) | Self::Unauthenticated => (
                Code::Unauthenticated,
                "UNAUTHENTICATED",
                "a valid SVID is required".to_owned(),
            ),
            Self::Unsupported(_) => (
                Code::Unimplemented,
                "UNSUPPORTED",
                "not supported by this broker".to_owned(),
            ),
        };
        let metadata = HashMap::from([("correlation_id".to_owned(), correlation.to_owned())]);
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        if code == Code::Unavailable || code == Code::ResourceExhausted {
            details.set_retry_info(Some(std::time::Duration::from_millis(250)));
        }
        Status::with_error_details(code, text, details)
    }
}
