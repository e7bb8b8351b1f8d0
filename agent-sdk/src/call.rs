//! Calls to the broker, and which of them may be made again.

use std::time::Duration;

use sundew_proto::v1::agent_service_client::AgentServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

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
    )
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
