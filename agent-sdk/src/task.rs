//! A task: begun, attended in the background, and ended on every way out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sundew_core::client::{BindingPurpose, ScopeSet, SecretBytes};
use sundew_proto::v1::{
    self, BeginTaskRequest, CompleteTaskRequest, DelegateRequest, GetSecretRequest,
    MintTokenRequest, Outcome, ResumeTaskRequest, SuspendTaskRequest,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::agent::{Agent, client, repeated};
use crate::connection::Connection;
use crate::error::Error;

mod attend;
mod handed;

pub use handed::{Delegation, Ended, Lease, Secret, Token};

/// A task that is being described.
#[derive(Debug)]
pub struct TaskBuilder {
    agent: Agent,
    request: BeginTaskRequest,
}

impl TaskBuilder {
    pub(crate) fn new(agent: Agent, purpose: &str) -> Self {
        Self {
            agent,
            request: BeginTaskRequest {
                purpose: purpose.to_owned(),
                ..BeginTaskRequest::default()
            },
        }
    }

    /// What the agent was told to do; kept with the task.
    #[must_use]
    pub fn instruction(mut self, instruction: &str) -> Self {
        instruction.clone_into(&mut self.request.instruction);
        self
    }

    /// One more thing that the task may do, such as `secret:demo/api-key`.
    #[must_use]
    pub fn scope(mut self, scope: &str) -> Self {
        self.request.scopes.push(scope.to_owned());
        self
    }

    /// How long it may take; the broker may allow less.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        // Zero is the wire's word for "not asked", so what is shorter than a millisecond asks for
        // one.
        self.request.ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).max(1);
        self
    }

    /// For whom the first token is.
    #[must_use]
    pub fn audience(mut self, audience: &str) -> Self {
        self.request.audience.push(audience.to_owned());
        self
    }

    /// Opens it below the task of another workload, which gave this grant ([`Task::delegate`]).
    #[must_use]
    pub fn under(mut self, grant: &str) -> Self {
        grant.clone_into(&mut self.request.grant);
        self
    }

    /// Calls with the same key give the same task. Without one, each call gives another.
    #[must_use]
    pub fn idempotency_key(mut self, key: &str) -> Self {
        key.clone_into(&mut self.request.idempotency_key);
        self
    }

    /// Proves who and what the agent is, and opens the task.
    pub async fn begin(mut self) -> Result<Task, Error> {
        // The same grammar as the broker's: what would be refused there is refused here.
        ScopeSet::parse(&self.request.scopes)
            .map_err(|e| Error::Invalid(format!("scopes: {e}")))?;
        if self.request.idempotency_key.is_empty() {
            self.request.idempotency_key = random_key()?;
        }
        let mut again = 3;
        loop {
            let connection = self.agent.connection()?;
            let (nonce, evidence) = self
                .agent
                .prove(&connection, BindingPurpose::BeginTask)
                .await?;
            let exporter = connection.exporter();
            let request = BeginTaskRequest {
                nonce,
                evidence,
                ..self.request.clone()
            };
            match client(&connection).begin_task(request).await {
                Ok(answer) => return Task::start(self.agent, connection, answer.into_inner()),
                // The challenge went with its connection, or the broker went away: a new challenge,
                // the same key.
                Err(status)
                    if again > 0
                        && (exporter != connection.exporter()
                            || crate::error::is_transient(&status)) =>
                {
                    again -= 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(status) => return Err(Error::of(&status)),
            }
        }
    }
}

fn random_key() -> Result<String, Error> {
    let mut bytes = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| Error::Unavailable("no randomness".to_owned()))?;
    Ok(sundew_core::client::hex(&bytes))
}

/// A live task. Dropping it ends it.
pub struct Task {
    agent: Agent,
    shared: Arc<Shared>,
    record: v1::Task,
    evidence_at_secrets: bool,
    attending: JoinHandle<()>,
    finished: bool,
}

struct Shared {
    id: String,
    connection: ArcSwap<Connection>,
    token: ArcSwap<Token>,
    ended: watch::Sender<Option<Ended>>,
    grace: Duration,
    /// What the broker gave for the last evidence.
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
            grace,
            proof: ArcSwap::default(),
        });
        let attending = tokio::spawn(attend::attend(agent.clone(), Arc::clone(&shared)));
        Ok(Self {
            agent,
            shared,
            record,
            evidence_at_secrets: answer.evidence_at_secrets,
            attending,
            finished: false,
        })
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Its token: the first one, or the one that was minted when the agent last got another SVID or
    /// resumed the task.
    #[must_use]
    pub fn token(&self) -> Arc<Token> {
        self.shared.token.load_full()
    }

    /// When it ends at the latest, in milliseconds since the epoch.
    #[must_use]
    pub fn deadline_ms(&self) -> i64 {
        self.record.deadline_ms
    }

    /// What it may do.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.record.scopes
    }

    /// A secret that its scopes name.
    pub async fn secret(&self, name: &str) -> Result<Secret, Error> {
        Ok(Secret(SecretBytes::new(self.read(name).await?.value)))
    }

    /// A credential in another system that its scopes name, such as `db/reporting/readonly`. Asked
    /// again, it is the same one.
    pub async fn lease(&self, name: &str) -> Result<Lease, Error> {
        let answer = self.read(name).await?;
        let lease = answer.lease.ok_or_else(|| {
            Error::Invalid(format!(
                "{name} is a stored secret, not one that is made for a task"
            ))
        })?;
        Ok(Lease::of(lease))
    }

    async fn read(&self, name: &str) -> Result<v1::GetSecretResponse, Error> {
        let plain = GetSecretRequest {
            task_id: self.shared.id.clone(),
            name: name.to_owned(),
            ..GetSecretRequest::default()
        };
        if !self.evidence_at_secrets {
            let answer =
                repeated(|| async { client(&self.connection()).get_secret(plain.clone()).await });
            return Ok(self.known(answer.await)?.into_inner());
        }
        // A challenge is good once and on its connection, so each attempt takes a new one.
        let mut again = 3;
        loop {
            let connection = self.connection();
            let (nonce, evidence) = self
                .agent
                .prove(&connection, BindingPurpose::GetSecret)
                .await?;
            match client(&connection)
                .get_secret(GetSecretRequest {
                    nonce,
                    evidence,
                    ..plain.clone()
                })
                .await
            {
                Err(status) if again > 0 && crate::error::is_transient(&status) => {
                    again -= 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                answer => {
                    return Ok(self
                        .known(answer.map_err(|status| Error::of(&status)))?
                        .into_inner());
                }
            }
        }
    }

    /// A grant with which another workload may open tasks below this one ([`TaskBuilder::under`]).
    /// They end with it.
    pub async fn delegate(&self, delegate: &str, what: &Delegation) -> Result<String, Error> {
        let answer = repeated(|| async {
            let request = DelegateRequest {
                task_id: self.shared.id.clone(),
                delegate: delegate.to_owned(),
                scopes: what.scopes.clone(),
                audience: what.audience.clone(),
                ttl_ms: what.ttl.map_or(0, |ttl| {
                    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).max(1)
                }),
                depth: what.depth,
            };
            client(&self.connection()).delegate(request).await
        });
        Ok(self.known(answer.await)?.into_inner().grant)
    }

    /// Another token: narrower scopes (none: all of the task's), for an audience.
    pub async fn mint(
        &self,
        scopes: &[&str],
        audience: &[&str],
        ttl: Option<Duration>,
    ) -> Result<Token, Error> {
        let request = MintTokenRequest {
            scopes: scopes.iter().map(ToString::to_string).collect(),
            audience: audience.iter().map(ToString::to_string).collect(),
            ttl_ms: ttl.map_or(0, |ttl| {
                i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).max(1)
            }),
            ..MintTokenRequest::default()
        };
        self.known(mint(&self.connection(), &self.shared.id, request).await)
    }

    /// Kills its tokens until [`Task::resume`].
    pub async fn suspend(&self) -> Result<(), Error> {
        let answer = repeated(|| async {
            client(&self.connection())
                .suspend_task(SuspendTaskRequest {
                    task_id: self.shared.id.clone(),
                })
                .await
        });
        self.known(answer.await).map(drop)
    }

    /// Proves anew who and what the agent is, and gets a new token; the old ones stay dead.
    pub async fn resume(&self) -> Result<(), Error> {
        let key = random_key()?;
        let connection = self.connection();
        let (nonce, evidence) = self
            .agent
            .prove(&connection, BindingPurpose::ResumeTask)
            .await?;
        let request = ResumeTaskRequest {
            task_id: self.shared.id.clone(),
            nonce,
            evidence,
            idempotency_key: key,
        };
        let answer = client(&connection)
            .resume_task(request)
            .await
            .map_err(|status| Error::of(&status));
        let answer = self.known(answer)?.into_inner();
        self.shared.proof.store(Arc::new(answer.proof));
        let token = Token::of(answer.token, &connection)?;
        self.shared.token.store(Arc::new(token));
        Ok(())
    }

    /// Resolves when the task has ended, by whomever.
    pub async fn ended(&self) -> Ended {
        let mut news = self.shared.ended.subscribe();
        match news.wait_for(Option::is_some).await {
            Ok(ended) => ended.unwrap_or(Ended::Lost),
            Err(_) => Ended::Lost,
        }
    }

    /// The agent is done.
    pub async fn complete(self) -> Result<Ended, Error> {
        self.end(Outcome::Completed).await
    }

    /// The agent failed.
    pub async fn fail(self) -> Result<Ended, Error> {
        self.end(Outcome::Failed).await
    }

    /// The agent gives it up.
    pub async fn cancel(self) -> Result<Ended, Error> {
        self.end(Outcome::Canceled).await
    }

    async fn end(mut self, outcome: Outcome) -> Result<Ended, Error> {
        self.finished = true;
        let ended = finish(&self.connection(), &self.shared.id, outcome).await?;
        self.attending.abort();
        self.shared.ended.send_replace(Some(ended));
        Ok(ended)
    }

    fn connection(&self) -> Arc<Connection> {
        self.shared.connection.load_full()
    }

    /// A refusal of a task that is known to have ended says so.
    fn known<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        match (answer, *self.shared.ended.borrow()) {
            (Err(Error::NotPermitted { .. }), Some(ended)) => Err(Error::Ended(ended)),
            (answer, _) => answer,
        }
    }
}

async fn mint(
    connection: &Connection,
    task: &str,
    request: MintTokenRequest,
) -> Result<Token, Error> {
    let request = MintTokenRequest {
        task_id: task.to_owned(),
        idempotency_key: random_key()?,
        ..request
    };
    let answer =
        repeated(|| async { client(connection).mint_token(request.clone()).await }).await?;
    Token::of(answer.into_inner().token, connection)
}

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
        // Even if this does not get through: without attendance the broker ends the task after its
        // grace.
        self.attending.abort();
        if self.finished || self.shared.ended.borrow().is_some() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (connection, id) = (self.connection(), self.shared.id.clone());
            runtime.spawn(async move {
                if let Err(error) = finish(&connection, &id, Outcome::Canceled).await {
                    tracing::warn!(task = id, %error, "a dropped task could not be canceled; it ends when its grace is over");
                }
            });
        }
    }
}
