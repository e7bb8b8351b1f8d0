//! What can go wrong for a program that uses the SDK.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::ended::Ended;

/// Why something did not work, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker could not be reached, or answered `UNAVAILABLE` until the SDK gave up.
    #[error("broker is unavailable: {0}; is SUNDEW_BROKER right? `sundew doctor` finds out more")]
    Unavailable(String),
    /// No SVID: where it was looked for, and why it was not there.
    #[error(
        "no SVID: {0}; set SPIFFE_ENDPOINT_SOCKET to a Workload API, or SUNDEW_SVID_DIR to a folder with svid.pem, key.pem and bundle.pem"
    )]
    Identity(String),
    /// The broker does not accept this, or does not tell why. The operator finds the cause by the
    /// correlation id.
    #[error(
        "broker refused: not permitted (correlation id {correlation}); its journal has the reason"
    )]
    NotPermitted {
        /// Names the refusal in the broker's journal.
        correlation: String,
    },
    /// The broker, or the handshake with it, is not to be trusted.
    #[error("handshake with the broker failed: {0}")]
    Handshake(String),
    /// Something in the request is malformed.
    #[error("{0}")]
    Invalid(String),
    /// A limit was reached; try again later.
    #[error("broker's limit was reached: {0}")]
    Limit(String),
    /// Evidence that the broker asks for and that nobody here collects, or that could not be
    /// collected.
    #[error("evidence of kind `{kind}`: {problem}")]
    Evidence {
        /// Which kind.
        kind: String,
        /// What is missing.
        problem: String,
    },
    /// The task has ended.
    #[error("the task has ended: {0}")]
    Ended(Ended),
}

impl Error {
    pub(crate) fn of(status: &Status) -> Self {
        let correlation = status
            .get_details_error_info()
            .and_then(|info| info.metadata.get("correlation_id").cloned())
            .unwrap_or_default();
        match status.code() {
            Code::PermissionDenied => Self::NotPermitted { correlation },
            Code::Unauthenticated => Self::Handshake(status.message().to_owned()),
            Code::InvalidArgument
            | Code::AlreadyExists
            | Code::OutOfRange
            | Code::Unimplemented => Self::Invalid(status.message().to_owned()),
            Code::ResourceExhausted => Self::Limit(status.message().to_owned()),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::Unavailable(cause(status)),
        }
    }
}

/// A transport error's own text says little; its sources say more.
fn cause(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        source = error.source();
    }
    text
}
