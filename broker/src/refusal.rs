//! Why a request is refused: the whole cause for the operator, a fixed text and code for the caller
//! (P11).
//!
//! Unknown, not yours and not allowed are one answer. Adding a cause breaks the match in
//! `Refusal::answer`, on purpose.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use sundew_attestation::AppraisalError;
use sundew_attestation::spiffe::{SpiffeId, SvidError};
use sundew_core::store::StoreError;
use sundew_core::{Cause, Denial, OrderId, SealError, version_text};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::journal::JournalError;
use crate::liveness::{AppendError, Stale};

/// The `domain` of every `google.rpc.ErrorInfo`.
pub(crate) const DOMAIN: &str = "sundew.dev";
/// How long a caller waits before it sends a request again that may succeed later.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// Why a request is refused. Its `Display` is the whole cause, for the record.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The ending could not be appended to the revocation log, or was not acknowledged in time.
    #[error("revocation log: {0}")]
    Append(#[from] AppendError),
    /// The evidence was not enough.
    #[error("evidence: {0}")]
    Appraisal(#[from] AppraisalError),
    /// An operator has the role, and not over what it asks for (O4).
    #[error("beyond the bounds of the role `{role}`: {what}")]
    BeyondBounds {
        /// The role.
        role: &'static str,
        /// What the operator asked for.
        what: String,
    },
    /// The caller's certificate is not one of those that may act for the task.
    #[error("peer's certificate is not bound to the task")]
    Binding,
    /// The nonce was not issued on this connection, was used before, or has expired.
    #[error("challenge is unknown, used or expired")]
    Challenge,
    /// The connection has as many open challenges as it may have (L17).
    #[error("too many challenges are open on the connection")]
    ChallengeLimit,
    /// The workload has as many open calls as it may have.
    #[error("the workload has too many open calls")]
    OpenCalls,
    /// A message did not come to its end in time.
    #[error("a message was not sent to its end in time")]
    Unfinished,
    /// Too much of messages that are not whole is held for the caller, or for all callers.
    #[error("too many bytes of unfinished messages")]
    UnfinishedBytes,
    /// Other callers changed what this call was to change again and again, so that this change did
    /// not get in.
    #[error("{0} is being changed by others")]
    Conflict(&'static str),
    /// A TPM did not open the credential that was made for it, or did not open it in time.
    #[error("credential was not opened by the TPM that it was made for, or too late")]
    Credential,
    /// Policy does not permit the request.
    #[error("policy: {0}")]
    Denied(#[from] Denial),
    /// The ending is on the record and holds at this broker, and it is not known to be in force at
    /// every other one. It is appended as soon as that is possible (L7).
    #[error("the ending holds at this broker, and not everywhere yet: {0}")]
    EndingPending(AppendError),
    /// The target of an engine did not make a credential.
    #[error("engine: {0}")]
    Engine(String),
    /// The evidence is good, but it is not of what the task was begun on.
    #[error("evidence differs from what the task was begun on: {0}")]
    EvidenceChanged(String),
    /// An idempotency key was used for another request before.
    #[error("idempotency key was used for another request")]
    Idempotency,
    /// A use case did not do what it must, which is a fault of the broker.
    #[error("internal: {0}")]
    Internal(&'static str),
    /// A field of the request is malformed. The caller is told which field, and what it must be.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// A text that says what the field must be.
        problem: String,
    },
    /// A join token is unknown, used or expired.
    #[error("join token is unknown, used or expired")]
    JoinToken,
    /// The record of the decision could not be made durable.
    #[error("journal: {0}")]
    Journal(#[from] JournalError),
    /// The secret, task or workload that the request names does not exist.
    #[error("{0} does not exist")]
    NotFound(&'static str),
    /// An operator named something that does not exist. Whoever has the role may know that.
    #[error("there is no such {0}")]
    Absent(&'static str),
    /// An operator named something that exists beyond the bounds of its role (O4).
    #[error("{0} is beyond the bounds of the caller's role")]
    OutOfSight(&'static str),
    /// A document of the store is older than what this broker knows: somebody put it back (L22).
    #[error(
        "record of {what}: altered: the store has version {}, and version {} is known",
        version_text(*stored),
        version_text(*known)
    )]
    Outdated {
        /// The kind of record.
        what: &'static str,
        /// The version in the store.
        stored: u64,
        /// The last version that is known.
        known: u64,
    },
    /// The broker is issuing as much as it does at a time.
    #[error("overload")]
    Overload,
    /// A quarantine covers what was asked for.
    #[error("quarantined")]
    Quarantined,
    /// The caller has sent too many requests.
    #[error("rate limit")]
    RateLimit,
    /// The caller does not have the role that the request needs.
    #[error("caller lacks the role `{0}`")]
    Role(&'static str),
    /// An operator lacks a role for this, and has another one.
    #[error("operator lacks the role `{0}`")]
    OtherRole(&'static str),
    /// A stored record does not open.
    #[error("record of {what}: {cause}")]
    Seal {
        /// The kind of record.
        what: &'static str,
        /// Why the record does not open.
        cause: SealError,
    },
    /// The view of the revocation log is not fresh.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// The broker is being stopped, and others go on.
    #[error("the broker was asked to stop")]
    Stopping,
    /// The store did not do what it was asked for.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The caller's SVID is not valid any more.
    #[error("peer's SVID: {0}")]
    Svid(#[from] SvidError),
    /// The dispatcher has as many orders as it may have.
    #[error("dispatcher is at its limit of orders")]
    OrderLimit,
    /// A ticket was shown again that has claimed its task already.
    #[error("ticket was used before: order {order}, claimed by {by}")]
    TicketUsed {
        /// The order.
        order: OrderId,
        /// Who has claimed it.
        by: SpiffeId,
    },
    /// As many calls wait for the target of an engine as may.
    #[error("too many calls wait for the target of the engine")]
    TargetBusy,
    /// The task is dead or suspended.
    #[error("task is dead: {0}")]
    TaskDead(Cause),
    /// The token that a retry asks for again is dead, or a rule came while it was decided.
    #[error("token is dead: {0}")]
    TokenDead(Cause),
    /// The workload has as many tasks as it may have.
    #[error("workload is at its limit of tasks")]
    TaskLimit,
    /// The task has as many tokens as it may have.
    #[error("task is at its limit of tokens")]
    TokenLimit,
    /// The caller presented no SVID.
    #[error("no SVID")]
    Unauthenticated,
    /// The caller is not registered.
    #[error("workload is not registered")]
    Unregistered,
    /// What was shown for the identity is too long ago for another renewal.
    #[error("SVID: nothing was shown for it within identity.renew_within; enroll again")]
    GroundsTooOld,
    /// What was shown for the identity was taken back.
    #[error("SVID: what it was given for is trusted no more; enroll again")]
    GroundsWithdrawn,
    /// The task of the node whose word the identity rests on is not there any more.
    #[error("node: its task is gone, and its word with it")]
    NodeGone,
    /// An operator took the TPM or its key back.
    #[error(
        "an operator took this TPM or its key back; `sundew trust remove tpm2_barred` lets it \
         activate keys again"
    )]
    TpmBarred,
    /// The request needs something that is not configured at this broker.
    #[error("{0} is not configured at this broker")]
    Unsupported(&'static str),
    /// No trusted manufacturer of TPMs has certified the endorsement key.
    #[error("{0}")]
    UntrustedManufacturer(String),
}

/// The part of a refusal that the caller hears.
struct Answer {
    code: Code,
    /// The `reason` of the answer's `google.rpc.ErrorInfo`.
    reason: &'static str,
    text: Cow<'static, str>,
}

impl Answer {
    fn new(code: Code, reason: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            reason,
            text: text.into(),
        }
    }

    /// Returns whether the same request may succeed a little later.
    fn may_be_retried(&self) -> bool {
        matches!(
            self.code,
            Code::Aborted | Code::ResourceExhausted | Code::Unavailable
        )
    }
}

impl Refusal {
    /// Returns the refusal of a malformed field, with a text that says what the field must be.
    pub fn invalid(field: &'static str, problem: impl ToString) -> Self {
        Self::Invalid {
            field,
            problem: problem.to_string(),
        }
    }

    /// Returns the refusal for a caller who has proven the role of the call. C6: whoever may see all
    /// that the call is about may know that there is no such thing.
    #[must_use]
    pub fn for_operator(self) -> Self {
        if let Self::NotFound(what) = self {
            return Self::Absent(what);
        }
        self
    }

    /// Returns the refusal of something beyond the caller's bounds that the caller cannot know. P11: it
    /// is answered like that of something that does not exist, and the record says which it was.
    pub(crate) fn out_of_sight(self, what: &'static str) -> Self {
        if matches!(self, Self::BeyondBounds { .. } | Self::OutOfSight(_)) {
            return Self::OutOfSight(what);
        }
        if matches!(self, Self::NotFound(_)) {
            return Self::NotFound(what);
        }
        self
    }

    /// Returns the status that the caller hears: a fixed code and text for the kind of cause, and
    /// the correlation id that leads an operator to the record.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "P11: this is where every refusal becomes a status"
    )]
    pub fn status(&self, correlation: &str) -> Status {
        let answer = self.answer();
        let metadata = HashMap::from([("correlation_id".to_owned(), correlation.to_owned())]);
        let mut details = ErrorDetails::with_error_info(answer.reason, DOMAIN, metadata);
        if answer.may_be_retried() {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        Status::with_error_details(answer.code, answer.text, details)
    }

    fn answer(&self) -> Answer {
        match self {
            // One answer for what is unknown, not the caller's and not allowed, so that a caller
            // does not learn from a refusal what exists.
            Self::Appraisal(_)
            | Self::Binding
            | Self::Challenge
            | Self::Credential
            | Self::Denied(_)
            | Self::EvidenceChanged(_)
            | Self::GroundsTooOld
            | Self::GroundsWithdrawn
            | Self::JoinToken
            | Self::NodeGone
            | Self::NotFound(_)
            | Self::Quarantined
            | Self::Role(_)
            | Self::TaskDead(_)
            | Self::TicketUsed { .. }
            | Self::TokenDead(_)
            | Self::TpmBarred
            | Self::Unregistered
            | Self::UntrustedManufacturer(_) => {
                Answer::new(Code::PermissionDenied, "NOT_PERMITTED", "not permitted")
            }
            Self::Journal(JournalError::Budget) | Self::RateLimit => {
                Answer::new(Code::ResourceExhausted, "RATE_LIMIT", "too many requests")
            }
            Self::Absent(what) | Self::OutOfSight(what) => {
                let text = format!("there is no such {what}");
                Answer::new(Code::NotFound, "NOT_FOUND", text)
            }
            Self::OtherRole(role) => {
                let text = format!("not permitted: this needs the role `{role}`");
                Answer::new(Code::PermissionDenied, "MISSING_ROLE", text)
            }
            Self::BeyondBounds { role, what } => Answer::new(
                Code::PermissionDenied,
                "BEYOND_BOUNDS",
                format!("not permitted: beyond the bounds of the role `{role}`: {what}"),
            ),
            Self::Append(_)
            | Self::Engine(_)
            | Self::Journal(_)
            | Self::Outdated { .. }
            | Self::Seal { .. }
            | Self::Stale(_)
            | Self::Store(_) => {
                Answer::new(Code::Unavailable, "UNAVAILABLE", "cannot be answered now")
            }
            Self::EndingPending(_) => Answer::new(
                Code::Unavailable,
                "ENDING_PENDING",
                "in force at this broker, and pending everywhere else",
            ),
            Self::Conflict(_) => Answer::new(
                Code::Aborted,
                "CONFLICT",
                "changed by others meanwhile; try again",
            ),
            Self::Idempotency => Answer::new(
                Code::AlreadyExists,
                "IDEMPOTENCY_KEY_REUSED",
                "idempotency key was used for another request",
            ),
            Self::Internal(_) => Answer::new(Code::Internal, "INTERNAL", "internal error"),
            Self::Invalid { field, problem } => Answer::new(
                Code::InvalidArgument,
                "INVALID_ARGUMENT",
                format!("{field}: {problem}"),
            ),
            Self::ChallengeLimit => Answer::new(
                Code::ResourceExhausted,
                "CHALLENGE_LIMIT",
                "too many challenges wait for an answer",
            ),
            Self::OpenCalls => Answer::new(
                Code::ResourceExhausted,
                "OPEN_CALLS",
                "too many calls of this workload are open",
            ),
            Self::Unfinished => Answer::new(
                Code::DeadlineExceeded,
                "UNFINISHED",
                "the message was not sent to its end in time",
            ),
            Self::UnfinishedBytes => Answer::new(
                Code::ResourceExhausted,
                "UNFINISHED_BYTES",
                "too much is being sent at a time",
            ),
            Self::Stopping => Answer::new(
                Code::Unavailable,
                "STOPPING",
                "this broker stops; go on at another",
            ),
            Self::Overload => Answer::new(
                Code::ResourceExhausted,
                "OVERLOAD",
                "too much is being issued now",
            ),
            Self::Svid(_) | Self::Unauthenticated => Answer::new(
                Code::Unauthenticated,
                "UNAUTHENTICATED",
                "a valid SVID is required",
            ),
            Self::TargetBusy => Answer::new(
                Code::ResourceExhausted,
                "TARGET_BUSY",
                "too many calls wait for this secret",
            ),
            Self::OrderLimit => Answer::new(
                Code::ResourceExhausted,
                "ORDER_LIMIT",
                "too many orders at a time",
            ),
            Self::TaskLimit => Answer::new(
                Code::ResourceExhausted,
                "TASK_LIMIT",
                "too many tasks at a time",
            ),
            Self::TokenLimit => Answer::new(
                Code::ResourceExhausted,
                "TOKEN_LIMIT",
                "too many tokens of one task at a time",
            ),
            Self::Unsupported(_) => Answer::new(
                Code::Unimplemented,
                "UNSUPPORTED",
                "not supported by this broker",
            ),
        }
    }
}

#[cfg(test)]
#[path = "refusal_tests.rs"]
mod tests;
