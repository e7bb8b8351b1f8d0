//! How a command fails: one line on standard error, for people or as JSON, and an exit code.

use std::process::ExitCode;

use anyhow::Error;
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::output::{escape, escape_prose, is_closed_pipe, note, visible_json};

/// The longest text of an error, in characters.
const MAX_TEXT: usize = 8192;

/// The answer of a broker that is an error, in words that say what to do next.
#[derive(Debug)]
pub(crate) struct CallError {
    code: Code,
    text: String,
    /// The name under which the broker's journal has the reason.
    correlation_id: Option<String>,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for CallError {}

impl CallError {
    /// Returns the error for a status. Its text ends with the correlation id under which the
    /// broker's journal has the reason, if the broker sent an id and the caller cannot mend the
    /// request by reading the message.
    pub(crate) fn new(status: &Status) -> Self {
        let correlation_id = status
            .get_details_error_info()
            .and_then(|info| info.metadata.get("correlation_id").cloned());
        let next = if status.code() == Code::PermissionDenied {
            " — the broker's journal has the reason"
        } else if is_outage(status.code()) {
            " — `sundew doctor` finds out more"
        } else {
            ""
        };
        let said = escape_prose(status.message(), MAX_TEXT);
        let correlation = correlation_id
            .as_deref()
            .filter(|_| !matches!(status.code(), Code::InvalidArgument | Code::NotFound));
        let text = match correlation {
            Some(id) => format!("{said}{next} (correlation id {})", escape(id, 64)),
            None => format!("{said}{next}"),
        };
        Self {
            code: status.code(),
            text,
            correlation_id,
        }
    }
}

fn is_outage(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled)
}

/// An error, as JSON has it: one line on standard error.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Failure {
    /// Always `error`.
    kind: &'static str,
    /// What went wrong, and what to do.
    message: String,
    /// What sort of error it is: the name of the gRPC code for an answer of a broker, `usage` for a
    /// command line that makes no sense, and `other` for all else.
    code: String,
    /// The name under which the broker's journal has the reason.
    correlation_id: Option<String>,
}

impl Failure {
    fn of(error: &Error) -> Self {
        let call = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<CallError>());
        Self {
            kind: "error",
            message: format!("{error:#}"),
            code: call.map_or_else(|| "other".to_owned(), |call| format!("{:?}", call.code)),
            correlation_id: call.and_then(|call| call.correlation_id.clone()),
        }
    }
}

/// Tells of an error, and returns the exit code for it. A closed pipe is the end of a command and no
/// error (C6).
pub(crate) fn fail(error: &Error, json: bool) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    if json {
        tell_json(&Failure::of(error));
    } else {
        note(&format!("sundew: {error:#}"));
    }
    ExitCode::FAILURE
}

/// Tells of a command line that makes no sense, and returns the exit code for it; or prints the help
/// that was asked for.
pub(crate) fn usage(error: &clap::Error, json: bool) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(cause) => fail(&Error::from(cause).context("standard output"), json),
        };
    }
    if json {
        tell_json(&Failure {
            kind: "error",
            message: error.to_string(),
            code: "usage".to_owned(),
            correlation_id: None,
        });
    } else {
        let _ = error.print();
    }
    ExitCode::from(2)
}

fn tell_json(failure: &Failure) {
    let json = serde_json::to_string(failure).unwrap_or_default();
    note(&visible_json(&json));
}

/// The shape of an error.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    let schema = schemars::schema_for!(Failure);
    vec![("error", crate::shapes::with_kind("error", schema))]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn text(code: Code) -> String {
        CallError::new(&Status::new(code, "m")).to_string()
    }

    #[test]
    fn a_status_says_what_to_do_next() {
        for (code, expected) in [
            (Code::Cancelled, "m — `sundew doctor` finds out more"),
            (Code::FailedPrecondition, "m"),
            (Code::InvalidArgument, "m"),
            (Code::NotFound, "m"),
            (
                Code::PermissionDenied,
                "m — the broker's journal has the reason",
            ),
            (Code::Unavailable, "m — `sundew doctor` finds out more"),
            (Code::Unknown, "m — `sundew doctor` finds out more"),
        ] {
            assert_eq!(text(code), expected);
        }
    }

    fn with_correlation(code: Code) -> CallError {
        let metadata = HashMap::from([("correlation_id".to_owned(), "c-1".to_owned())]);
        let details = ErrorDetails::with_error_info("reason", "sundew", metadata);
        CallError::new(&Status::with_error_details(code, "m", details))
    }

    #[test]
    fn a_correlation_id_is_shown_where_the_message_alone_does_not_help() {
        assert_eq!(
            with_correlation(Code::PermissionDenied).to_string(),
            "m — the broker's journal has the reason (correlation id c-1)"
        );
        assert_eq!(with_correlation(Code::InvalidArgument).to_string(), "m");
    }

    #[test]
    fn c6_an_error_in_json_has_its_code_and_its_correlation_id() {
        let error = Error::from(with_correlation(Code::PermissionDenied)).context("workload a");
        let json = serde_json::to_value(Failure::of(&error)).unwrap();
        assert_eq!(json["kind"], "error");
        assert_eq!(json["code"], "PermissionDenied");
        assert_eq!(json["correlation_id"], "c-1");
        assert!(
            json["message"]
                .as_str()
                .unwrap()
                .starts_with("workload a: m")
        );
        let json = serde_json::to_value(Failure::of(&anyhow::anyhow!("x"))).unwrap();
        assert_eq!(
            (&json["code"], &json["message"]),
            (&"other".into(), &"x".into())
        );
    }

    /// What a broker says cannot move the cursor of a terminal.
    #[test]
    fn c6_the_text_of_a_status_is_escaped() {
        let status = Status::new(Code::FailedPrecondition, "a\x1b[2Jb");
        assert_eq!(CallError::new(&status).to_string(), "a\\u{1b}[2Jb");
    }
}
