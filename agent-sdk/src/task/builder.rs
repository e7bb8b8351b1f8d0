//! A task that is being described, and how it is begun.

use std::sync::Arc;
use std::time::Duration;

use sundew_core::client::{BindingPurpose, ScopeSet};
use sundew_proto::v1::BeginTaskRequest;
use tokio::task::JoinError;
use tonic::Status;

use super::token::ttl_ms;
use super::{Task, random_key};
use crate::agent::Agent;
use crate::call::client;
use crate::connection::Connection;
use crate::error::Error;

/// A task that is being described. Nothing happens before [`TaskBuilder::begin`].
#[derive(Debug)]
pub struct TaskBuilder {
    agent: Agent,
    request: BeginTaskRequest,
}

impl Agent {
    /// Begins to describe a task; nothing happens before [`TaskBuilder::begin`].
    #[must_use]
    pub fn task(&self, purpose: &str) -> TaskBuilder {
        TaskBuilder {
            agent: self.clone(),
            request: BeginTaskRequest {
                purpose: purpose.to_owned(),
                ..BeginTaskRequest::default()
            },
        }
    }
}

impl TaskBuilder {
    /// Says what the agent was told to do. The broker keeps the text with the task.
    #[must_use]
    pub fn instruction(mut self, instruction: &str) -> Self {
        instruction.clone_into(&mut self.request.instruction);
        self
    }

    /// Adds one thing that the task may do, such as `secret:demo/api-key`.
    #[must_use]
    pub fn scope(mut self, scope: &str) -> Self {
        self.request.scopes.push(scope.to_owned());
        self
    }

    /// Asks for a time to live. The broker may allow less.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.request.ttl_ms = ttl_ms(ttl);
        self
    }

    /// Adds an audience of the first token.
    #[must_use]
    pub fn audience(mut self, audience: &str) -> Self {
        self.request.audience.push(audience.to_owned());
        self
    }

    /// Opens the task below the task of another workload, which gave this grant
    /// ([`Task::delegate`]).
    #[must_use]
    pub fn under(mut self, grant: &str) -> Self {
        grant.clone_into(&mut self.request.grant);
        self
    }

    /// Claims the task of an order by its ticket. The purpose, the instruction and, if none are named,
    /// the scopes are those of the order.
    #[must_use]
    pub fn ordered(mut self, ticket: &str) -> Self {
        ticket.clone_into(&mut self.request.order_ticket);
        self
    }

    /// Sets the idempotency key: calls with equal keys give one task. Without a key, each call
    /// gives another task.
    #[must_use]
    pub fn idempotency_key(mut self, key: &str) -> Self {
        key.clone_into(&mut self.request.idempotency_key);
        self
    }

    /// Proves who and what the agent is, and opens the task.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a scope is malformed, [`Error::Evidence`] if evidence that the broker
    /// asks for cannot be collected, [`Error::NotPermitted`] if the broker refuses, and
    /// [`Error::Unavailable`] if it cannot be reached.
    pub async fn begin(mut self) -> Result<Task, Error> {
        // The grammar is the broker's own: what would be refused there is refused here.
        let is_ordered = !self.request.order_ticket.is_empty();
        if !is_ordered || !self.request.scopes.is_empty() {
            ScopeSet::parse(&self.request.scopes)
                .map_err(|e| Error::Invalid(format!("scopes: {e}")))?;
        }
        if self.request.idempotency_key.is_empty() {
            self.request.idempotency_key = random_key()?;
        }
        let (agent, request) = (self.agent, self.request);
        // A retry with the old key gives one task, even if the first call did arrive.
        let call = |connection, nonce, evidence| {
            let request = BeginTaskRequest {
                nonce,
                evidence,
                ..request.clone()
            };
            begun(agent.clone(), connection, request)
        };
        agent
            .call_with_evidence(BindingPurpose::BeginTask, || agent.connection(), call)
            .await?
    }
}

/// Begins a task in the background: if nobody waits for the answer any more, the task that it brings
/// is dropped, and so ended.
async fn begun(
    agent: Agent,
    connection: Arc<Connection>,
    request: BeginTaskRequest,
) -> Result<Result<Task, Error>, Status> {
    let begun = tokio::spawn(async move {
        let answer = client(&connection).begin_task(request).await?;
        Ok(Task::start(agent, connection, answer.into_inner()))
    });
    match begun.await.map_err(JoinError::try_into_panic) {
        Ok(answer) => answer,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime is being shut down.
        Err(Err(_)) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use sundew_proto::v1::Outcome;
    use tokio::sync::watch;

    use super::*;
    use crate::identity::IdentitySource;
    use crate::testing;

    /// C3: whoever stops waiting for a task does not get one that nobody ends.
    #[tokio::test(start_paused = true)]
    async fn c3_a_task_whose_beginning_nobody_waits_for_is_ended() {
        let mut broker = testing::broker(Duration::from_secs(1));
        let (_identities, source) = watch::channel(testing::identity());
        let source = IdentitySource::following(source);
        let connection = Connection::over(broker.channel, source.current());
        let agent = Agent::over(connection, source, Vec::new());
        let begun = agent.task("x").scope("exec:git").begin();
        let begun = tokio::time::timeout(Duration::from_millis(500), begun).await;
        assert!(begun.is_err(), "the program gave up first");
        let completed = broker.completed.recv().await.expect("an ending");
        assert_eq!(completed.task_id, "task-1");
        assert_eq!(completed.outcome(), Outcome::Canceled);
    }
}
