//! Connections to a PostgreSQL server: how many, as whom, and when something is tried again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::ClientConfig;
use sundew_core::SecretBytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};

use super::PostgresTarget;
use super::statements::SESSION;
use super::tls::{Tls, client_config};
use crate::lease::engine::{EngineError, bounded, with_causes};

/// Longest time for a connection, and for one round trip.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// What the server is told at the start of a session, in milliseconds: it gives up before the caller
/// does.
const SESSION_TIMEOUTS: &str =
    "-c statement_timeout=8000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=10000";
/// How often, and for how long, somebody waits for a connection that another one uses.
const TURN_CHECKS: u32 = 100;
const TURN_CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How often statements are run again that met others at the same row of a catalog.
const MOST_CONFLICTS: u32 = 12;

/// The connections of one engine.
pub(super) struct Connections {
    config: Config,
    tls: Option<Arc<ClientConfig>>,
    /// Bounds the connections.
    permits: Semaphore,
    /// Connections that nobody uses at the moment.
    idle: Mutex<Vec<Client>>,
    /// Held by the one whose statements met others at the same row of a catalog, so that those who
    /// met take turns.
    turn: tokio::sync::Mutex<()>,
}

/// Columns of text, as a simple query has them.
pub(super) type Row = Vec<String>;

impl Connections {
    /// Connections to a target, at most `most` at a time; makes none yet.
    pub(super) fn new(
        target: &PostgresTarget,
        password: &SecretBytes,
        most: usize,
    ) -> Result<Self, EngineError> {
        let mut config = Config::new();
        config
            .host(&target.host)
            .port(target.port)
            .dbname(&target.database)
            .user(&target.username)
            .password(password.expose())
            .application_name("sundew")
            .connect_timeout(CALL_TIMEOUT)
            .options(SESSION_TIMEOUTS);
        let tls = target.ca.as_deref().map(client_config).transpose()?;
        if tls.is_some() {
            config.ssl_mode(tokio_postgres::config::SslMode::Require);
        }
        Ok(Self {
            config,
            tls,
            permits: Semaphore::new(most),
            idle: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Runs statements in the engine's database, and returns the rows of all of them. Statements
    /// must be such that they can be run again: they are, if they met others at the same row of a
    /// catalog, or if a connection turns out to have been closed while it was idle.
    pub(super) async fn run(&self, statements: &str) -> Result<Vec<Row>, EngineError> {
        let (client, _permit) = self.client().await?;
        match within(self.run_on(&client, statements)).await {
            Err(CallError::Server(error)) if client.is_closed() && is_gone(&error) => {
                drop(client);
                // Others that are idle have most likely gone the same way.
                self.close_idle();
                let fresh = within(self.connect(&self.config)).await?.0;
                let rows = within(self.run_on(&fresh, statements)).await?;
                self.put_back(fresh);
                Ok(rows)
            }
            Err(error) => Err(error.into()),
            Ok(rows) => {
                self.put_back(client);
                Ok(rows)
            }
        }
    }

    /// Runs statements one by one over a connection of their own to another database.
    pub(super) async fn run_in(
        &self,
        database: &str,
        statements: &[String],
    ) -> Result<Vec<Row>, EngineError> {
        let _permit = self.permit().await?;
        // The number of connections stays within its bound.
        drop(self.take_idle());
        let told = |error: CallError| match EngineError::from(error) {
            EngineError::Refused(text) => {
                EngineError::Refused(format!("database {}: {text}", bounded(database)))
            }
            other @ EngineError::Unreachable(_) => other,
        };
        let mut config = self.config.clone();
        config.dbname(database);
        let (client, _) = within(self.connect(&config)).await.map_err(told)?;
        let mut rows = Vec::new();
        for statement in statements {
            rows = within(self.run_on(&client, statement))
                .await
                .map_err(told)?;
        }
        Ok(rows)
    }

    /// Logs in as another role; answers with what ends when the session ends.
    pub(super) async fn log_in(
        &self,
        username: &str,
        password: &SecretBytes,
    ) -> Result<(Client, JoinHandle<()>), EngineError> {
        let mut config = self.config.clone();
        config.user(username).password(password.expose());
        Ok(within(self.connect(&config)).await?)
    }

    /// Makes a connection; the task ends with it.
    async fn connect(&self, config: &Config) -> Result<(Client, JoinHandle<()>), Error> {
        let (client, task) = match &self.tls {
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                (client, tokio::spawn(async move { drop(connection.await) }))
            }
            Some(tls) => {
                let (client, connection) = config.connect(Tls(Arc::clone(tls))).await?;
                (client, tokio::spawn(async move { drop(connection.await) }))
            }
        };
        client.batch_execute(SESSION).await?;
        Ok((client, task))
    }

    /// Runs statements, and again if they met others at the same row of a catalog.
    async fn run_on(&self, client: &Client, statements: &str) -> Result<Vec<Row>, Error> {
        let (mut conflicts, mut turn) = (0, None);
        loop {
            match client.simple_query(statements).await {
                Ok(messages) => return Ok(messages.into_iter().filter_map(row).collect()),
                Err(error) if is_conflict(&error) && conflicts < MOST_CONFLICTS => {
                    client.batch_execute("ROLLBACK").await?;
                    if turn.is_none() {
                        turn = Some(self.turn.lock().await);
                    }
                    // Other brokers may still be in the way.
                    tokio::time::sleep(pause(conflicts)).await;
                    conflicts = conflicts.saturating_add(1);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, EngineError> {
        self.permits
            .acquire()
            .await
            .map_err(|_| EngineError::Unreachable("closed".to_owned()))
    }

    /// A connection, idle or new, and the permit that bounds their number. Where the server has none
    /// to spare, those that there are take turns.
    async fn client(&self) -> Result<(Client, SemaphorePermit<'_>), EngineError> {
        let permit = self.permit().await?;
        if let Some(client) = self.take_idle() {
            return Ok((client, permit));
        }
        let full = match within(self.connect(&self.config)).await {
            Ok((client, _)) => return Ok((client, permit)),
            Err(CallError::Server(error)) if is_full(&error) => error,
            Err(error) => return Err(error.into()),
        };
        for _ in 0..TURN_CHECKS {
            tokio::time::sleep(TURN_CHECK_INTERVAL).await;
            if let Some(client) = self.take_idle() {
                return Ok((client, permit));
            }
        }
        Err(failed(&full))
    }

    fn take_idle(&self) -> Option<Client> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .filter(|client| !client.is_closed())
    }

    fn close_idle(&self) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// A connection on which something failed does not come back here.
    fn put_back(&self, client: Client) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(client);
    }
}

/// A random pause of up to 8 ms after the first conflict and up to 512 ms after many, so that those
/// who met do not meet again.
fn pause(conflicts: u32) -> Duration {
    let mut byte = [0; 1];
    // Only for spreading retries: a generator that fails spreads none.
    let _ = SystemRandom::new().fill(&mut byte);
    let most = Duration::from_millis(8_u64 << conflicts.min(6));
    most.mul_f64((f64::from(u8::from_ne_bytes(byte)) + 1.0) / 256.0)
}

fn row(message: SimpleQueryMessage) -> Option<Row> {
    let SimpleQueryMessage::Row(row) = message else {
        return None;
    };
    let columns = (0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned());
    Some(columns.collect())
}

/// Whether statements met others at the same row of a catalog, so that the same again may succeed.
fn is_conflict(error: &Error) -> bool {
    error.as_db_error().is_some_and(|refused| {
        let code = refused.code();
        *code == SqlState::T_R_SERIALIZATION_FAILURE
            || *code == SqlState::T_R_DEADLOCK_DETECTED
            || (*code == SqlState::INTERNAL_ERROR
                && refused.message().contains("tuple concurrently"))
    })
}

/// Whether the server has no connection to spare.
fn is_full(error: &Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|refused| *refused.code() == SqlState::TOO_MANY_CONNECTIONS)
}

/// Whether the connection had gone before anything was asked: closed by the server, or by what lies
/// between.
fn is_gone(error: &Error) -> bool {
    error.is_closed()
        || match error.as_db_error() {
            Some(refused) => *refused.code() == SqlState::ADMIN_SHUTDOWN,
            None => true,
        }
}

/// Why a call failed.
enum CallError {
    Late,
    Server(Error),
}

impl From<CallError> for EngineError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Late => Self::Unreachable("no answer in time".to_owned()),
            CallError::Server(error) => failed(&error),
        }
    }
}

/// Bounds a call.
async fn within<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(done) => done.map_err(CallError::Server),
        Err(_) => Err(CallError::Late),
    }
}

/// Sorts an error: one that the server will repeat, or one of a server that cannot be worked with
/// now.
fn failed(error: &Error) -> EngineError {
    let Some(refused) = error.as_db_error() else {
        return EngineError::Unreachable(with_causes(error));
    };
    let mut text = format!("{} ({})", bounded(refused.message()), refused.code().code());
    if let Some(detail) = refused.detail() {
        text = format!("{text}; {}", bounded(detail));
    }
    // Class 53 is insufficient resources, 57 operator intervention, 08 connections (PostgreSQL,
    // appendix A). Locks for one role's many objects are short for that role only.
    let is_server = ["53", "57", "08"]
        .iter()
        .any(|class| refused.code().code().starts_with(class));
    if is_server && *refused.code() != SqlState::OUT_OF_MEMORY {
        EngineError::Unreachable(text)
    } else {
        EngineError::Refused(text)
    }
}
