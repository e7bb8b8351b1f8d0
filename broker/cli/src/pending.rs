//! Endings that hold at the broker that was asked, and not everywhere yet.

use std::process::ExitCode;

use tonic::Status;
use tonic_types::StatusExt as _;

/// The exit code of a command whose ending is in force at the broker that was asked, and pending at
/// the others.
const PENDING: u8 = 4;
/// The reason in the `google.rpc.ErrorInfo` of an answer that says so.
const REASON: &str = "ENDING_PENDING";

/// What `--help` says of the exit code.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  in force at every broker
  1  nothing was done, or it is not known
  4  in force at the broker that was asked, which goes on until the others have it";

/// Returns the exit code of a pending ending.
pub(crate) fn exit_code() -> ExitCode {
    ExitCode::from(PENDING)
}

/// Returns whether a status says that an ending is pending.
pub(crate) fn is_pending(status: &Status) -> bool {
    status
        .get_details_error_info()
        .is_some_and(|info| info.reason == REASON)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::is_pending;

    #[test]
    fn l7_an_ending_is_pending_if_the_broker_says_so_and_not_whenever_it_cannot_answer() {
        let status = |reason| {
            let details = ErrorDetails::with_error_info(reason, "sundew.dev", HashMap::new());
            Status::with_error_details(Code::Unavailable, "m", details)
        };
        assert!(is_pending(&status("ENDING_PENDING")));
        assert!(!is_pending(&status("UNAVAILABLE")));
        assert!(!is_pending(&Status::unavailable("m")));
    }
}
