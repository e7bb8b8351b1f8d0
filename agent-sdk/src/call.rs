//! Calls to the broker, and which of them may be made again.

use std::time::Duration;

use sundew_proto::v1::agent_service_client::AgentServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::connection::Connection;
use crate::error::Error;

/// How often a call is made in all while the broker cannot be reached.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Returns the generated client of the agents' service on this connection.
pub(crate) fn client(connection: &Connection) -> AgentServiceClient<Channel> {
    AgentServiceClient::new(connection.channel())
}

/// Tells whether the call that was answered with `status` may succeed a little later.
pub(crate) fn is_transient(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
    ) || has_too_many_challenges(status)
}

/// Tells whether a status is that of the way to the broker, which has the transport's error as its
/// source.
pub(crate) fn is_of_the_way(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Tells whether a broker was reached, and cannot serve anybody for a while.
pub(crate) fn is_declined(status: &Status) -> bool {
    status.code() == Code::Unavailable && !is_of_the_way(status)
}

/// Tells whether the connection's other calls have taken all of its challenges for the moment.
fn has_too_many_challenges(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted
        && status
            .get_details_error_info()
            .is_some_and(|info| info.reason == "CHALLENGE_LIMIT")
}

/// Makes a call up to six times while its failure is transient, with a pause of 50 ms that doubles
/// each time. Only calls that do no harm when they arrive twice belong here.
pub(crate) async fn repeated<T, F: Future<Output = Result<T, Status>>>(
    call: impl Fn() -> F,
) -> Result<T, Error> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(status) if attempt < ATTEMPTS && is_transient(&status) => {
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2);
            }
            Err(status) => return Err(Error::of(&status)),
        }
    }
    Err(Error::Unavailable("gave up".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashMap;

    use tokio::time::Instant;
    use tonic_types::ErrorDetails;

    use super::*;

    /// Makes calls of which all before the one numbered `succeeds` fail with `code`; returns how
    /// many were made, how long that took, and what came of it.
    async fn calls(code: Code, succeeds: u32) -> (u32, Duration, Result<u32, Error>) {
        let (made, begun) = (Cell::new(0), Instant::now());
        let answer = repeated(|| async {
            made.set(made.get() + 1);
            if made.get() < succeeds {
                Err(Status::new(code, "failed"))
            } else {
                Ok(made.get())
            }
        });
        let answer = answer.await;
        (made.get(), begun.elapsed(), answer)
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_made_again_while_the_broker_is_away() {
        let (made, took, answer) = calls(Code::Unavailable, 3).await;
        assert_eq!((made, took.as_millis()), (3, 150));
        assert!(matches!(answer, Ok(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_given_up_after_six_attempts() {
        let (made, took, answer) = calls(Code::Unavailable, 100).await;
        assert_eq!((made, took.as_millis()), (6, 1550));
        assert!(matches!(answer, Err(Error::Unavailable(_))));
    }

    #[test]
    fn l17_a_challenge_is_asked_for_again_when_others_hold_all_of_them() {
        let of = |reason: &str| {
            let details = ErrorDetails::with_error_info(reason, "sundew.dev", HashMap::new());
            Status::with_error_details(Code::ResourceExhausted, "too many", details)
        };
        assert!(is_transient(&of("CHALLENGE_LIMIT")) && !is_transient(&of("TASK_LIMIT")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_final() {
        let (made, _, answer) = calls(Code::PermissionDenied, 100).await;
        assert_eq!(made, 1);
        assert!(matches!(answer, Err(Error::NotPermitted { .. })));
    }
}
