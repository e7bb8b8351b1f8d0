//! The error that all calls of the SDK return.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::ended::Ended;

/// Why something did not work. The text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The task has ended.
    #[error("the task has ended: {0}")]
    Ended(Ended),
    /// The broker asks for evidence that nobody here collects, or that could not be collected.
    #[error("evidence of kind `{kind}`: {problem}")]
    Evidence {
        /// The kind of evidence.
        kind: String,
        /// The evidence that is missing, or why collecting failed.
        problem: String,
    },
    /// The handshake failed: the broker is not the one that was meant, or it does not trust the
    /// agent's SVID.
    #[error("handshake with the broker failed: {0}")]
    Handshake(String),
    /// There is no SVID; the text says where it was looked for and why it was not there.
    #[error(
        "no SVID: {0}; set SPIFFE_ENDPOINT_SOCKET to a Workload API, or SUNDEW_SVID_DIR to a folder with svid.pem, key.pem and bundle.pem"
    )]
    Identity(String),
    /// Something in the request is malformed.
    #[error("{0}")]
    Invalid(String),
    /// A limit of the broker was reached. The call may succeed later.
    #[error("broker's limit was reached: {0}")]
    Limit(String),
    /// The broker refused, and does not tell the agent why. The operator finds the cause in the
    /// broker's journal by the correlation ID.
    #[error(
        "broker refused: not permitted (correlation id {correlation}); its journal has the reason"
    )]
    NotPermitted {
        /// Names the refusal in the broker's journal.
        correlation: String,
    },
    /// The broker refused, and the task is known to be suspended: `Task::resume` proves anew who and
    /// what the agent is.
    #[error(
        "the task is suspended (correlation id {correlation}); resuming it takes fresh evidence"
    )]
    Suspended {
        /// Names the refusal in the broker's journal.
        correlation: String,
    },
    /// The broker could not be reached, or answered `UNAVAILABLE` until the SDK gave up.
    #[error("broker is unavailable: {0}; is SUNDEW_BROKER right? `sundew doctor` finds out more")]
    Unavailable(String),
}

impl Error {
    /// Translates the status with which the broker, or the way to it, answered a call.
    pub(crate) fn of(status: &Status) -> Self {
        let correlation = status
            .get_details_error_info()
            .and_then(|info| info.metadata.get("correlation_id").cloned())
            .unwrap_or_default();
        match status.code() {
            Code::PermissionDenied => Self::NotPermitted { correlation },
            Code::Unauthenticated => Self::Handshake(status.message().to_owned()),
            // What is there does not know the call at all, and says nothing.
            Code::Unimplemented if status.message().is_empty() => Self::Unavailable(
                "what listens there does not serve this call; a broker serves it on \
                 `listen.workloads`, not on the ports for enrollment or operations"
                    .to_owned(),
            ),
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

/// Returns the status's text with the texts of its sources: a transport error's own text says
/// little.
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_refusal_is_named_by_its_correlation_id() {
        let metadata = HashMap::from([("correlation_id".to_owned(), "c-17".to_owned())]);
        let details = ErrorDetails::with_error_info("NOT_PERMITTED", "sundew", metadata);
        let status = Status::with_error_details(Code::PermissionDenied, "no", details);
        assert_eq!(
            Error::of(&status).to_string(),
            "broker refused: not permitted (correlation id c-17); its journal has the reason"
        );
        let bare = Error::of(&Status::permission_denied("no"));
        assert!(matches!(bare, Error::NotPermitted { correlation } if correlation.is_empty()));
    }

    #[test]
    fn each_code_of_the_broker_has_its_error() {
        let of = |code| Error::of(&Status::new(code, "said"));
        for code in [
            Code::InvalidArgument,
            Code::AlreadyExists,
            Code::OutOfRange,
            Code::Unimplemented,
        ] {
            assert!(matches!(of(code), Error::Invalid(text) if text == "said"));
        }
        for code in [
            Code::Unavailable,
            Code::Internal,
            Code::NotFound,
            Code::DeadlineExceeded,
        ] {
            assert!(matches!(of(code), Error::Unavailable(text) if text == "said"));
        }
        let elsewhere = Error::of(&Status::new(Code::Unimplemented, ""));
        assert!(elsewhere.to_string().contains("listen.workloads"));
        assert!(matches!(of(Code::Unauthenticated), Error::Handshake(_)));
        assert!(matches!(of(Code::ResourceExhausted), Error::Limit(_)));
    }

    #[test]
    fn what_lies_behind_a_transport_error_is_said() {
        let refused = std::io::Error::other("connection refused");
        let status = Status::from_error(Box::new(refused));
        let text = Error::of(&status).to_string();
        assert!(text.contains("connection refused"), "{text}");
    }
}
