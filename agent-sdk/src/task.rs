//! A task: begun, attended in the background, and ended on every way out.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use sundew_core::client::BindingPurpose;
use sundew_proto::v1::{
    self, CompleteTaskRequest, MintTokenRequest, Outcome, ResumeTaskRequest, SuspendTaskRequest,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::agent::Agent;
use crate::call::{client, repeated};
use crate::clock;
use crate::connection::Connection;
use crate::ended::Ended;
use crate::error::Error;

mod attend;
mod builder;
mod delegation;
mod handle;
mod lease;
mod leaving;
mod secret;
mod token;

pub use builder::TaskBuilder;
pub use delegation::Delegation;
pub use handle::{TaskHandle, TokenRequest};
pub use lease::Lease;
pub use secret::Secret;
pub use token::Token;
use token::mint;
pub(crate) use token::ttl_ms;

/// A live task. Dropping the value ends the task as canceled, however the program comes to drop it:
/// by `return` or `?` also out of `main`, by a panic, or because its runtime is shut down.
pub struct Task {
    agent: Agent,
    shared: Arc<Shared>,
    record: v1::Task,
    evidence_at_secrets: bool,
    attending: JoinHandle<()>,
    /// The outcome with which the task is ended when the value is dropped; none once the broker has
    /// answered.
    outcome: Option<Outcome>,
}

/// The part of a task that its owner and its attendance in the background both use.
struct Shared {
    id: String,
    connection: ArcSwap<Connection>,
    token: ArcSwap<Token>,
    ended: watch::Sender<Option<Ended>>,
    suspended: watch::Sender<bool>,
    grace: Duration,
    deadline: Instant,
    /// The broker's receipt for the last evidence, which is shown when a stream is opened again.
    proof: ArcSwap<Vec<u8>>,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("id", &self.shared.id)
            .finish_non_exhaustive()
    }
}

impl Task {
    fn start(
        agent: Agent,
        connection: Arc<Connection>,
        answer: v1::BeginTaskResponse,
    ) -> Result<Self, Error> {
        let record = answer
            .task
            .ok_or_else(|| Error::Unavailable("the broker sent no task".to_owned()))?;
        let grace = Duration::from_millis(
            u64::try_from(answer.attendance_grace_ms)
                .unwrap_or(1000)
                .max(1000),
        );
        let token = ArcSwap::from_pointee(Token::of(answer.token, &connection)?);
        let shared = Arc::new(Shared {
            id: record.task_id.clone(),
            connection: ArcSwap::new(connection),
            token,
            ended: watch::Sender::default(),
            suspended: watch::Sender::default(),
            grace,
            deadline: clock::instant_of(record.deadline_ms),
            proof: ArcSwap::default(),
        });
        let attending = tokio::spawn(attend::attend(agent.clone(), Arc::clone(&shared)));
        Ok(Self {
            agent,
            shared,
            record,
            evidence_at_secrets: answer.evidence_at_secrets,
            attending,
            outcome: Some(Outcome::Canceled),
        })
    }

    /// Returns the task's ID.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Returns the task's token: the first, or the last that was minted because the agent got
    /// another SVID or resumed the task.
    #[must_use]
    pub fn token(&self) -> Arc<Token> {
        self.shared.token.load_full()
    }

    /// Returns when the task ends at the latest, in milliseconds since the epoch.
    #[must_use]
    pub fn deadline_ms(&self) -> i64 {
        self.record.deadline_ms
    }

    /// Returns how long the broker lets the task live, from its beginning.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        let ms = self
            .record
            .deadline_ms
            .saturating_sub(self.record.created_at_ms);
        Duration::from_millis(u64::try_from(ms).unwrap_or_default())
    }

    /// Returns how long the task lives when nobody attends it any more.
    #[must_use]
    pub fn attendance_grace(&self) -> Duration {
        self.shared.grace
    }

    /// Returns the scopes that the broker granted.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.record.scopes
    }

    /// Returns a handle for parts of the program that ask for tokens and secrets of the task and do
    /// not own it.
    #[must_use]
    pub fn handle(&self) -> TaskHandle {
        TaskHandle::of(self)
    }

    /// Reads a stored secret that the task's scopes name.
    ///
    /// # Errors
    /// [`Error::Ended`] if the task is known to have ended, [`Error::NotPermitted`] if the broker
    /// refuses.
    pub async fn secret(&self, name: &str) -> Result<Secret, Error> {
        self.handle().secret(name).await
    }

    /// Returns a credential in another system that the task's scopes name, such as
    /// `db/reporting/readonly`. The broker makes it at the first call, and each further call
    /// returns the credential of the first.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the name is that of a stored secret; otherwise as [`Task::secret`].
    pub async fn lease(&self, name: &str) -> Result<Lease, Error> {
        let answer = self.handle().read(name).await?;
        let lease = answer.lease.ok_or_else(|| {
            Error::Invalid(format!(
                "{name} is a stored secret, not one that is made for a task"
            ))
        })?;
        Ok(Lease::of(lease))
    }

    /// Returns a grant with which the workload `delegate` (a SPIFFE ID) may open tasks below this
    /// task ([`TaskBuilder::under`]). Those tasks end when this task ends.
    pub async fn delegate(&self, delegate: &str, what: &Delegation) -> Result<String, Error> {
        let answer = repeated(|| async {
            let request = what.request(&self.shared.id, delegate);
            client(&self.connection()).delegate(request).await
        });
        Ok(self.known(answer.await)?.into_inner().grant)
    }

    /// Mints another token for these audiences. The token has these scopes, which must be within
    /// the task's, or all scopes of the task if none are given.
    pub async fn mint(
        &self,
        scopes: &[&str],
        audience: &[&str],
        ttl: Option<Duration>,
    ) -> Result<Token, Error> {
        let request = MintTokenRequest {
            scopes: scopes.iter().map(ToString::to_string).collect(),
            audience: audience.iter().map(ToString::to_string).collect(),
            ttl_ms: ttl.map_or(0, ttl_ms),
            ..MintTokenRequest::default()
        };
        self.known(mint(&self.connection(), &self.shared.id, request).await)
    }

    /// Suspends the task: its tokens die, and nothing is issued until [`Task::resume`].
    pub async fn suspend(&self) -> Result<(), Error> {
        let answer = repeated(|| async {
            client(&self.connection())
                .suspend_task(SuspendTaskRequest {
                    task_id: self.shared.id.clone(),
                })
                .await
        });
        self.known(answer.await)?;
        self.shared.suspended.send_replace(true);
        Ok(())
    }

    /// Proves anew who and what the agent is, and gets a new token. Tokens from before the
    /// suspension stay dead.
    pub async fn resume(&self) -> Result<(), Error> {
        let idempotency_key = random_key()?;
        let call = |connection: Arc<Connection>, nonce, evidence| {
            let request = ResumeTaskRequest {
                task_id: self.shared.id.clone(),
                nonce,
                evidence,
                idempotency_key: idempotency_key.clone(),
            };
            async move {
                let answer = client(&connection).resume_task(request).await?;
                Ok((connection, answer.into_inner()))
            }
        };
        let answer = self
            .agent
            .call_with_evidence(BindingPurpose::ResumeTask, || Ok(self.connection()), call)
            .await;
        let (connection, answer) = self.known(answer)?;
        self.shared.suspended.send_replace(false);
        self.shared.proof.store(Arc::new(answer.proof));
        let token = Token::of(answer.token, &connection)?;
        self.shared.token.store(Arc::new(token));
        Ok(())
    }

    /// Tells whether the task is suspended, as far as the SDK has heard. Nothing is issued for a
    /// suspended task, and its tokens are dead, until [`Task::resume`].
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        *self.shared.suspended.borrow()
    }

    /// Waits until the task is suspended, whoever suspended it. For a task that ends without having
    /// been suspended, this waits for ever: wait for [`Task::ended`] beside it.
    pub async fn suspended(&self) {
        let mut news = self.shared.suspended.subscribe();
        if news.wait_for(|suspended| *suspended).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the task has ended, whoever ended it, and returns how.
    pub async fn ended(&self) -> Ended {
        let mut news = self.shared.ended.subscribe();
        match news.wait_for(Option::is_some).await {
            Ok(ended) => ended.unwrap_or(Ended::Lost),
            Err(_) => Ended::Lost,
        }
    }

    /// Ends the task as completed, and returns how it ended: the first ending counts, whoever gave
    /// it.
    pub async fn complete(self) -> Result<Ended, Error> {
        self.end(Outcome::Completed).await
    }

    /// Ends the task as failed; otherwise as [`Task::complete`].
    pub async fn fail(self) -> Result<Ended, Error> {
        self.end(Outcome::Failed).await
    }

    /// Ends the task as canceled; otherwise as [`Task::complete`].
    pub async fn cancel(self) -> Result<Ended, Error> {
        self.end(Outcome::Canceled).await
    }

    async fn end(mut self, outcome: Outcome) -> Result<Ended, Error> {
        // If this future is dropped, or the broker is away for too long, the task still ends so.
        self.outcome = Some(outcome);
        let answer = finish(&self.connection(), &self.shared.id, outcome).await;
        if matches!(answer, Ok(_) | Err(Error::NotPermitted { .. })) {
            self.outcome = None;
        }
        let ended = answer?;
        self.shared.ended.send_replace(Some(ended));
        Ok(ended)
    }

    fn connection(&self) -> Arc<Connection> {
        self.shared.connection.load_full()
    }

    /// Turns a refusal into what is known of the task.
    fn known<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        self.handle().known(answer)
    }
}

/// Returns a new idempotency key of 128 random bits.
fn random_key() -> Result<String, Error> {
    let mut bytes = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| Error::Unavailable("no randomness".to_owned()))?;
    Ok(sundew_core::client::hex(&bytes))
}

/// Ends the task at the broker, and returns the one outcome that it has.
async fn finish(connection: &Connection, id: &str, outcome: Outcome) -> Result<Ended, Error> {
    let request = CompleteTaskRequest {
        task_id: id.to_owned(),
        outcome: outcome.into(),
    };
    let answer =
        repeated(|| async { client(connection).complete_task(request.clone()).await }).await?;
    Ok(Ended::of(answer.into_inner().outcome()))
}

impl Drop for Task {
    fn drop(&mut self) {
        // Even if no ending gets through: without attendance the broker ends the task after its
        // grace.
        self.attending.abort();
        let ended = self.shared.ended.borrow().is_some();
        if let Some(outcome) = self.outcome.filter(|_| !ended) {
            let (agent, id) = (self.agent.clone(), self.shared.id.clone());
            leaving::leave(agent, self.connection(), id, outcome);
        }
    }
}
