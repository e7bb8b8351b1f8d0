//! PostgreSQL: a role per lease.

mod statements;
mod tls;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use sundew_core::SecretBytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row};

use super::engine::{
    Engine, EngineError, EngineFuture, NewCredential, Role, is_local, percent_encoded,
};
use statements::creation;
pub use statements::removal;
use tls::Tls;

/// Longest time for a connection, and for everything about one role.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time-outs of a session at the server, in milliseconds: the server gives up before the caller
/// does.
const SESSION_TIMEOUTS: &str =
    "-c statement_timeout=8000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=10000";

/// The address of the database, and the role that Sundew uses there. The role needs CREATEROLE,
/// everything that it grants, and the right to end sessions (`pg_signal_backend`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PostgresTarget {
    host: String,
    #[serde(default = "port")]
    port: u16,
    database: String,
    username: String,
    /// PEM of the CAs that the server's certificate may be of. Needed unless the server is on this
    /// machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<String>,
}

fn port() -> u16 {
    5432
}

impl PostgresTarget {
    /// Everything that is wrong with the target, one line each, by field.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (field, text) in [
            ("host", &self.host),
            ("database", &self.database),
            ("username", &self.username),
        ] {
            if text.trim().is_empty() || text.len() > 255 {
                problems.push(format!("target.{field}: must be 1 to 255 bytes"));
            }
        }
        match &self.ca {
            Some(pem) if roots(pem).is_none() => {
                problems.push("target.ca: holds no certificate in PEM".to_owned())
            }
            Some(_) => {}
            None if is_local(&self.host) => {}
            None => problems.push(
                "target.ca: a server on another machine needs TLS: give the PEM of its CA"
                    .to_owned(),
            ),
        }
        problems
    }
}

/// The certificates of a PEM text; `None` if there is none, or one that is not a CA's.
fn roots(pem: &str) -> Option<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.ok()?).ok()?;
    }
    (!roots.is_empty()).then_some(roots)
}

/// A database in which each lease is a role.
pub(crate) struct Postgres {
    target: PostgresTarget,
    config: Config,
    tls: Option<Arc<ClientConfig>>,
    /// Bounds the connections.
    connection_permits: Semaphore,
    /// Connections that nobody uses at the moment.
    idle: Mutex<Vec<Client>>,
}

/// Sorts an error: one that the server will repeat, or one of a server that cannot be worked with
/// now.
fn failed(error: &tokio_postgres::Error) -> EngineError {
    match error.as_db_error() {
        // Class 53 is insufficient resources, 57 operator intervention, 08 connections (PostgreSQL,
        // appendix A).
        Some(refused)
            if !["53", "57", "08"]
                .iter()
                .any(|class| refused.code().code().starts_with(class)) =>
        {
            EngineError::Refused(format!("{} ({})", refused.message(), refused.code().code()))
        }
        Some(refused) => EngineError::Unreachable(refused.message().to_owned()),
        None => EngineError::Unreachable(error.to_string()),
    }
}

impl Postgres {
    /// A target with at most `most` connections; makes none yet.
    pub(crate) fn new(
        target: PostgresTarget,
        password: SecretBytes,
        most: usize,
    ) -> Result<Self, EngineError> {
        let mut config = Config::new();
        config
            .host(&target.host)
            .port(target.port)
            .dbname(&target.database)
            .user(&target.username)
            .password(password.expose());
        config
            .application_name("sundew")
            .connect_timeout(CALL_TIMEOUT)
            .options(SESSION_TIMEOUTS);
        let tls = match &target.ca {
            None => None,
            Some(pem) => {
                let roots = roots(pem).ok_or_else(|| {
                    EngineError::Refused("target.ca holds no certificate".to_owned())
                })?;
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let builder = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions();
                // Never in the clear where there is a CA, whatever the server offers.
                config.ssl_mode(tokio_postgres::config::SslMode::Require);
                Some(Arc::new(
                    builder
                        .map_err(|e| EngineError::Refused(e.to_string()))?
                        .with_root_certificates(roots)
                        .with_no_client_auth(),
                ))
            }
        };
        Ok(Self {
            target,
            config,
            tls,
            connection_permits: Semaphore::new(most),
            idle: Mutex::default(),
        })
    }

    /// Makes a connection.
    async fn connect(&self) -> Result<Client, EngineError> {
        match &self.tls {
            None => {
                let (client, connection) =
                    self.config.connect(NoTls).await.map_err(|e| failed(&e))?;
                tokio::spawn(connection);
                Ok(client)
            }
            Some(tls) => {
                let (client, connection) = self
                    .config
                    .connect(Tls(Arc::clone(tls)))
                    .await
                    .map_err(|e| failed(&e))?;
                tokio::spawn(connection);
                Ok(client)
            }
        }
    }

    /// A connection of ours, idle or new, and the permit that bounds their number.
    async fn client(&self) -> Result<(Client, SemaphorePermit<'_>), EngineError> {
        let permit = self
            .connection_permits
            .acquire()
            .await
            .map_err(|_| EngineError::Unreachable("closed".to_owned()))?;
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .filter(|client| !client.is_closed());
        match idle {
            Some(client) => Ok((client, permit)),
            None => Ok((
                tokio::time::timeout(CALL_TIMEOUT, self.connect())
                    .await
                    .unwrap_or_else(|_| Err(late()))?,
                permit,
            )),
        }
    }

    /// Runs statements. A connection on which something failed is not used again.
    async fn batch(&self, statements: &str) -> Result<(), EngineError> {
        let (client, _permit) = self.client().await?;
        let done = tokio::time::timeout(CALL_TIMEOUT, client.batch_execute(statements)).await;
        done.map_err(|_| late())?.map_err(|e| failed(&e))?;
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(client);
        Ok(())
    }

    /// Runs a query. A connection on which something failed is not used again.
    async fn query(
        &self,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, EngineError> {
        let (client, _permit) = self.client().await?;
        let done = tokio::time::timeout(CALL_TIMEOUT, client.query(query, parameters)).await;
        let rows = done.map_err(|_| late())?.map_err(|e| failed(&e))?;
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(client);
        Ok(rows)
    }
}

fn late() -> EngineError {
    EngineError::Unreachable("no answer in time".to_owned())
}

impl Engine for Postgres {
    fn check(&self) -> EngineFuture<'_, ()> {
        Box::pin(async {
            let rows = self
                .query(
                    "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user",
                    &[],
                )
                .await?;
            let may = rows.first().is_some_and(|row| row.get(0));
            if may {
                Ok(())
            } else {
                Err(EngineError::Refused(
                    "the role that Sundew uses has not CREATEROLE".to_owned(),
                ))
            }
        })
    }

    fn create<'a>(
        &'a self,
        role: &'a Role,
        credential: &'a NewCredential<'a>,
    ) -> EngineFuture<'a, ()> {
        Box::pin(async move { self.batch(&creation(role, credential)).await })
    }

    fn remove<'a>(&'a self, username: &'a str) -> EngineFuture<'a, ()> {
        Box::pin(async move { self.batch(&removal(username)).await })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> EngineFuture<'a, Vec<String>> {
        Box::pin(async move {
            let query = "SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)";
            let rows = self.query(query, &[&prefix]).await?;
            Ok(rows.iter().map(|row| row.get(0)).collect())
        })
    }

    fn url(&self, username: &str, password: &SecretBytes) -> String {
        let PostgresTarget {
            host,
            port,
            database,
            ca,
            ..
        } = &self.target;
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            percent_encoded(host.as_bytes())
        };
        let (password, database) = (
            percent_encoded(password.expose()),
            percent_encoded(database.as_bytes()),
        );
        let mode = if ca.is_some() {
            "?sslmode=verify-full"
        } else {
            ""
        };
        format!("postgresql://{username}:{password}@{host}:{port}/{database}{mode}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_on_another_machine_needs_tls() {
        let target = |host: &str| PostgresTarget {
            host: host.to_owned(),
            port: 1,
            database: "d".to_owned(),
            username: "u".to_owned(),
            ca: None,
        };
        assert!(target("127.0.0.1").problems().is_empty());
        assert_eq!(target("db.example.org").problems().len(), 1);
        let bad = PostgresTarget {
            ca: Some("x".to_owned()),
            ..target("db.example.org")
        };
        assert_eq!(bad.problems().len(), 1);
    }
}
