//! Redis: an ACL user per lease.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo as _, RedisError,
    RedisResult, TlsCertificates, cmd,
};
use ring::digest;
use serde::{Deserialize, Serialize};
use sundew_attestation::hex;
use sundew_core::SecretBytes;
use tokio::sync::{Mutex, Semaphore};

use super::engine::{
    Engine, EngineError, EngineFuture, NewCredential, Removed, Role, Session, is_local,
    percent_encoded, with_causes,
};

/// Longest time for a connection and for one command.
const WITHIN: Duration = Duration::from_secs(5);
/// How often a session is asked whether it is still there.
const SESSION_CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// What would outlive a lease that may do it, and the command for it.
const LASTING: &[(&str, &[&str])] = &[
    ("make users", &["ACL", "SETUSER", "other"]),
    ("configure the server", &["CONFIG", "SET", "dir", "/"]),
    ("load modules", &["MODULE", "LOAD", "/"]),
    ("make the server a replica", &["REPLICAOF", "host", "1"]),
    ("load functions", &["FUNCTION", "LOAD", "#!lua name=x"]),
];

/// Where the Redis is, and as whom Sundew goes there. That user needs `+acl` and `+client`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedisTarget {
    host: String,
    #[serde(default = "port")]
    port: u16,
    #[serde(default = "default_user")]
    username: String,
    /// PEM of the CAs that the server's certificate may be of. Needed unless the server is on this
    /// machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<String>,
}

fn port() -> u16 {
    6379
}

fn default_user() -> String {
    "default".to_owned()
}

impl RedisTarget {
    pub(crate) fn problems(&self, roles: &BTreeMap<String, Role>) -> Vec<String> {
        let mut problems = Vec::new();
        if self.host.trim().is_empty() || self.host.len() > 255 {
            problems.push("target.host: must be 1 to 255 bytes".to_owned());
        }
        if self.ca.is_none() && !is_local(&self.host) {
            problems.push(
                "target.ca: a server on another machine needs TLS: give the PEM of its CA"
                    .to_owned(),
            );
        }
        for (name, role) in roles {
            for rule in &role.grants {
                // Keys, channels and commands; whether the user is on, and how it proves itself, is
                // ours to say.
                if !rule.starts_with(['~', '%', '&', '+', '-', '(']) {
                    problems.push(format!("roles.{name}.grants: `{rule}` is no ACL rule about keys, channels or commands"));
                }
            }
        }
        problems
    }
}

/// A Redis in which each lease is a user.
pub(crate) struct RedisAcl {
    target: RedisTarget,
    client: Client,
    places: Semaphore,
    connection: Mutex<Option<MultiplexedConnection>>,
}

fn failed(error: &RedisError) -> EngineError {
    let unreachable = error.is_io_error()
        || error.is_connection_dropped()
        || error.is_timeout()
        || matches!(error.code(), Some("LOADING" | "OOM" | "READONLY"));
    if unreachable {
        EngineError::Unreachable(with_causes(error))
    } else {
        EngineError::Refused(with_causes(error))
    }
}

impl RedisAcl {
    pub(crate) fn new(
        target: RedisTarget,
        password: SecretBytes,
        most: usize,
    ) -> Result<Self, EngineError> {
        let client = client(&target, &target.username, &password).map_err(|e| failed(&e))?;
        Ok(Self {
            target,
            client,
            places: Semaphore::new(most),
            connection: Mutex::new(None),
        })
    }

    /// Runs commands, and returns what the last one answered. They must be such that they can be run
    /// again: they are, if a connection turns out to have been closed while it was idle.
    async fn run<T: redis::FromRedisValue>(
        &self,
        commands: &[redis::Cmd],
    ) -> Result<T, EngineError> {
        let _place = self
            .places
            .acquire()
            .await
            .map_err(|_| EngineError::Unreachable("closed".to_owned()))?;
        let (connection, is_fresh) = self.connection().await?;
        let mut result = run_on(&connection, commands).await;
        if let Err(error) = &result
            && !is_fresh
            && (error.is_connection_dropped() || error.is_io_error())
            && !error.is_timeout()
        {
            *self.connection.lock().await = None;
            let (connection, _) = self.connection().await?;
            result = run_on(&connection, commands).await;
        }
        match result {
            Ok(last) => {
                redis::from_redis_value(last).map_err(|e| EngineError::Refused(e.to_string()))
            }
            Err(error) => {
                let error = failed(&error);
                if matches!(error, EngineError::Unreachable(_)) {
                    *self.connection.lock().await = None;
                }
                Err(error)
            }
        }
    }

    /// The connection that all commands share, and whether it was made just now.
    async fn connection(&self) -> Result<(MultiplexedConnection, bool), EngineError> {
        let mut current = self.connection.lock().await;
        if let Some(connection) = current.as_ref() {
            return Ok((connection.clone(), false));
        }
        let fresh = connect(&self.client).await.map_err(|e| failed(&e))?;
        Ok((current.insert(fresh).clone(), true))
    }
}

async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(Some(WITHIN))
        .set_connection_timeout(Some(WITHIN));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

async fn run_on(
    connection: &MultiplexedConnection,
    commands: &[redis::Cmd],
) -> RedisResult<redis::Value> {
    let mut last = redis::Value::Nil;
    for command in commands {
        last = command.query_async(&mut connection.clone()).await?;
    }
    Ok(last)
}

/// The client that connects with this password, as this user.
fn client(target: &RedisTarget, username: &str, password: &SecretBytes) -> RedisResult<Client> {
    let (host, port) = (target.host.clone(), target.port);
    let address = match target.ca {
        Some(_) => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        },
        None => ConnectionAddr::Tcp(host, port),
    };
    let info = address.into_connection_info()?;
    let mut settings = info.redis_settings().clone();
    if !password.expose().is_empty() {
        settings = settings
            .set_username(username)
            .set_password(String::from_utf8_lossy(password.expose()));
    }
    let info = info.set_redis_settings(settings);
    match &target.ca {
        Some(pem) => Client::build_with_tls(
            info,
            TlsCertificates {
                client_tls: None,
                root_cert: Some(pem.as_bytes().to_vec()),
            },
        ),
        None => Client::open(info),
    }
}

impl Engine for RedisAcl {
    fn check(&self) -> EngineFuture<'_, ()> {
        Box::pin(async {
            self.run::<String>(&[cmd("ACL").arg("WHOAMI").clone()])
                .await
                .map(drop)
        })
    }

    fn create<'a>(
        &'a self,
        role: &'a Role,
        credential: &'a NewCredential<'a>,
    ) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            // The server gets the hash, so that no MONITOR and no slow log has the password.
            let hash = digest::digest(&digest::SHA256, credential.password.expose());
            let mut command = cmd("ACL");
            command
                .arg("SETUSER")
                .arg(credential.username)
                .arg("reset")
                .arg("on")
                .arg(format!("#{}", hex(hash.as_ref())))
                .arg(&role.grants);
            self.run::<()>(&[command]).await
        })
    }

    fn exists<'a>(&'a self, username: &'a str) -> EngineFuture<'a, bool> {
        Box::pin(async move {
            let command = cmd("ACL").arg("GETUSER").arg(username).clone();
            let user: redis::Value = self.run(&[command]).await?;
            Ok(user != redis::Value::Nil)
        })
    }

    fn log_in<'a>(
        &'a self,
        username: &'a str,
        password: &'a SecretBytes,
    ) -> EngineFuture<'a, Session> {
        Box::pin(async move {
            let client = client(&self.target, username, password).map_err(|e| failed(&e))?;
            let connection = connect(&client).await.map_err(|e| failed(&e))?;
            let session: Session = Box::pin(async move {
                // A user who may not PING is told so, as long as there is a session.
                loop {
                    match run_on(&connection, &[cmd("PING")]).await {
                        Err(error) if matches!(failed(&error), EngineError::Unreachable(_)) => {
                            return;
                        }
                        _ => tokio::time::sleep(SESSION_CHECK_INTERVAL).await,
                    }
                }
            });
            Ok(session)
        })
    }

    fn examine<'a>(&'a self, _: &'a Role, username: &'a str) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            for (what, command) in LASTING {
                let mut dry_run = cmd("ACL");
                dry_run.arg("DRYRUN").arg(username).arg(*command);
                // Servers before 7.0 cannot be asked.
                if let Ok(answer) = self.run::<String>(&[dry_run]).await
                    && answer == "OK"
                {
                    return Err(EngineError::Refused(format!(
                        "what a lease does would outlive it, since it may {what}"
                    )));
                }
            }
            Ok(())
        })
    }

    fn remove<'a>(&'a self, username: &'a str) -> EngineFuture<'a, Removed> {
        Box::pin(async move {
            // Removing a user ends its connections; the second command is for those that were just
            // being made.
            let remove = cmd("ACL").arg("DELUSER").arg(username).clone();
            let kill = cmd("CLIENT").arg("KILL").arg("USER").arg(username).clone();
            match self.run::<redis::Value>(&[remove, kill]).await {
                // Redis says so of a user that is gone, which is what was wanted.
                Err(EngineError::Refused(text)) if text.contains("No such user") => {}
                other => drop(other?),
            }
            // Somebody may have saved the users while this one was there.
            let save = cmd("ACL").arg("SAVE").clone();
            match self.run::<redis::Value>(&[save]).await {
                Err(EngineError::Refused(text))
                    if text.contains("not configured to use an ACL") => {}
                other => drop(other?),
            }
            Ok(Removed::default())
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> EngineFuture<'a, Vec<String>> {
        Box::pin(async move {
            let users: Vec<String> = self.run(&[cmd("ACL").arg("USERS").clone()]).await?;
            Ok(users
                .into_iter()
                .filter(|user| user.starts_with(prefix))
                .collect())
        })
    }

    fn url(&self, username: &str, password: &SecretBytes) -> String {
        let RedisTarget { host, port, ca, .. } = &self.target;
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        format!(
            "{}://{username}:{}@{host}:{port}",
            if ca.is_some() { "rediss" } else { "redis" },
            percent_encoded(password.expose())
        )
    }

    fn ca(&self) -> Option<&str> {
        self.target.ca.as_deref()
    }
}
