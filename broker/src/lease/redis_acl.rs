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
    Engine, EngineError, EngineFuture, NewCredential, Role, is_local, percent_encoded,
};

/// Longest time for a connection, and for one command.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The address of the Redis, and the user that Sundew uses there. The user needs `+acl` and
/// `+client`.
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
    /// Everything that is wrong with the target and its roles, one line each, by field.
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
                // A rule may be about keys, channels and commands. Whether the user is on, and how
                // it proves itself, is not for the registrar to say.
                if !rule.starts_with(['~', '%', '&', '+', '-', '(']) {
                    problems.push(format!("roles.{name}.grants: `{rule}` is no ACL rule about keys, channels or commands"));
                }
            }
        }
        problems
    }
}

/// A Redis in which each lease is an ACL user.
pub(crate) struct RedisAcl {
    target: RedisTarget,
    client: Client,
    /// Bounds the calls that are under way.
    call_permits: Semaphore,
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// Sorts an error: one that the server will repeat, or one of a server that cannot be worked with
/// now.
fn failed(error: &RedisError) -> EngineError {
    let unreachable = error.is_io_error()
        || error.is_connection_dropped()
        || error.is_timeout()
        || matches!(error.code(), Some("LOADING" | "OOM" | "READONLY"));
    if unreachable {
        EngineError::Unreachable(error.to_string())
    } else {
        EngineError::Refused(error.to_string())
    }
}

impl RedisAcl {
    /// A target with at most `most` calls at a time; makes no connection yet.
    pub(crate) fn new(
        target: RedisTarget,
        password: SecretBytes,
        most: usize,
    ) -> Result<Self, EngineError> {
        let build = || -> RedisResult<Client> {
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
            // A Redis without a password knows only the default user.
            if !password.expose().is_empty() {
                settings = settings
                    .set_username(&target.username)
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
        };
        let client = build().map_err(|e| failed(&e))?;
        Ok(Self {
            target,
            client,
            call_permits: Semaphore::new(most),
            connection: Mutex::new(None),
        })
    }

    /// Runs commands one after another on the shared connection; answers what the last one did.
    async fn run<T: redis::FromRedisValue>(
        &self,
        commands: &[redis::Cmd],
    ) -> Result<T, EngineError> {
        let _permit = self
            .call_permits
            .acquire()
            .await
            .map_err(|_| EngineError::Unreachable("closed".to_owned()))?;
        // All calls share one connection; the next call after a failure makes another.
        let connection = {
            let mut current = self.connection.lock().await;
            match current.as_ref() {
                Some(connection) => connection.clone(),
                None => {
                    let config = AsyncConnectionConfig::new()
                        .set_response_timeout(Some(CALL_TIMEOUT))
                        .set_connection_timeout(Some(CALL_TIMEOUT));
                    let fresh = self
                        .client
                        .get_multiplexed_async_connection_with_config(&config)
                        .await
                        .map_err(|e| failed(&e))?;
                    current.insert(fresh).clone()
                }
            }
        };
        let mut last = redis::Value::Nil;
        for command in commands {
            let mut connection = connection.clone();
            match command.query_async(&mut connection).await {
                Ok(value) => last = value,
                Err(error) => {
                    let error = failed(&error);
                    if matches!(error, EngineError::Unreachable(_)) {
                        *self.connection.lock().await = None;
                    }
                    return Err(error);
                }
            }
        }
        redis::from_redis_value(last).map_err(|e| EngineError::Refused(e.to_string()))
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

    fn remove<'a>(&'a self, username: &'a str) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            // Removing a user ends its connections; the second command is for those that were just
            // being made.
            let remove = cmd("ACL").arg("DELUSER").arg(username).clone();
            let kill = cmd("CLIENT").arg("KILL").arg("USER").arg(username).clone();
            match self.run::<redis::Value>(&[remove, kill]).await {
                // Redis says so of a user that is gone, which is what was wanted.
                Err(EngineError::Refused(text)) if text.contains("No such user") => Ok(()),
                other => other.map(drop),
            }
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
}
