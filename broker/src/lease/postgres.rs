//! PostgreSQL: a role per lease.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use sundew_core::SecretBytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, Socket};

use super::engine::{
    Engine, EngineError, EngineFuture, NewCredential, Role, is_local, percent_encoded,
};

/// Longest time for a connection and for everything about one role.
const WITHIN: Duration = Duration::from_secs(10);
const STATEMENT_TIMEOUT: &str =
    "-c statement_timeout=8000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=10000";

/// Where the database is, and as whom Sundew goes there. That role needs CREATEROLE, what it
/// grants, and the right to end sessions (`pg_signal_backend`).
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

fn roots(pem: &str) -> Option<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.ok()?).ok()?;
    }
    (!roots.is_empty()).then_some(roots)
}

/// See the module.
pub(crate) struct Postgres {
    target: PostgresTarget,
    config: Config,
    tls: Option<Arc<ClientConfig>>,
    places: Semaphore,
    idle: Mutex<Vec<Client>>,
}

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
            .connect_timeout(WITHIN)
            .options(STATEMENT_TIMEOUT);
        let tls = match &target.ca {
            None => None,
            Some(pem) => {
                let roots = roots(pem).ok_or_else(|| {
                    EngineError::Refused("target.ca holds no certificate".to_owned())
                })?;
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let builder = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions();
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
            places: Semaphore::new(most),
            idle: Mutex::default(),
        })
    }

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

    /// A connection of ours, and the place that it takes.
    async fn client(&self) -> Result<(Client, SemaphorePermit<'_>), EngineError> {
        let place = self
            .places
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
            Some(client) => Ok((client, place)),
            None => Ok((
                tokio::time::timeout(WITHIN, self.connect())
                    .await
                    .unwrap_or_else(|_| Err(late()))?,
                place,
            )),
        }
    }

    /// Runs statements. A connection on which something failed is not used again.
    async fn batch(&self, statements: &str) -> Result<(), EngineError> {
        let (client, _place) = self.client().await?;
        let done = tokio::time::timeout(WITHIN, client.batch_execute(statements)).await;
        done.map_err(|_| late())?.map_err(|e| failed(&e))?;
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(client);
        Ok(())
    }

    async fn query(
        &self,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, EngineError> {
        let (client, _place) = self.client().await?;
        let done = tokio::time::timeout(WITHIN, client.query(query, parameters)).await;
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
        Box::pin(async move {
            // The server gets a verifier, so that no log of statements has the password (RFC 5803).
            let name = identifier(credential.username);
            let password = literal(&postgres_protocol::password::scram_sha_256(
                credential.password.expose(),
            ));
            let expiration = literal(&timestamp(credential.expires_at_ms));
            let mut batch = format!(
                "BEGIN; DO $sundew$ BEGIN CREATE ROLE {name}; EXCEPTION WHEN duplicate_object THEN NULL; END $sundew$; \
                 ALTER ROLE {name} LOGIN PASSWORD {password} VALID UNTIL {expiration}"
            );
            for grant in &role.grants {
                batch.push_str("; ");
                batch.push_str(
                    &grant
                        .replace("{{name}}", &name)
                        .replace("{{password}}", &password)
                        .replace("{{expiration}}", &expiration),
                );
            }
            batch.push_str("; COMMIT");
            self.batch(&batch).await
        })
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

/// The statements that remove a role, in one round trip.
#[must_use]
pub fn removal(username: &str) -> String {
    let (name, text) = (identifier(username), literal(username));
    // Nobody can log in any more before sessions are ended, and sessions are ended before the role
    // goes.
    format!(
        "BEGIN; DO $sundew$ BEGIN ALTER ROLE {name} NOLOGIN; EXCEPTION WHEN undefined_object THEN NULL; END $sundew$; COMMIT; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {text}; \
         DO $sundew$ BEGIN \
           IF EXISTS (SELECT FROM pg_roles WHERE rolname = {text}) THEN \
             IF NOT pg_has_role(current_user, {text}, 'USAGE') THEN EXECUTE 'GRANT ' || quote_ident({text}) || ' TO CURRENT_USER'; END IF; \
             REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}; DROP ROLE {name}; \
           END IF; \
         END $sundew$"
    )
}

/// A quoted identifier (PostgreSQL, section 4.1.1).
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal in which no character has a meaning (PostgreSQL, section 4.1.2.2).
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// RFC 3339 in UTC.
fn timestamp(ms: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000))
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (date, clock) = (at.date(), at.time());
    let (month, day) = (u8::from(date.month()), date.day());
    format!(
        "{:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:03}+00",
        date.year(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        ms.rem_euclid(1000)
    )
}

/// TLS by rustls for tokio-postgres.
#[derive(Clone)]
struct Tls(Arc<ClientConfig>);

struct Connect {
    config: Arc<ClientConfig>,
    host: String,
}

struct Stream(tokio_rustls::client::TlsStream<Socket>);

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Stream;
    type TlsConnect = Connect;
    type Error = io::Error;
    fn make_tls_connect(&mut self, host: &str) -> io::Result<Connect> {
        Ok(Connect {
            config: Arc::clone(&self.0),
            host: host.to_owned(),
        })
    }
}

impl TlsConnect<Socket> for Connect {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;
    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let name = ServerName::try_from(self.host).map_err(io::Error::other)?;
            Ok(Stream(
                tokio_rustls::TlsConnector::from(self.config)
                    .connect(name, socket)
                    .await?,
            ))
        })
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buffer)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_leaves_no_way_out() {
        assert_eq!(
            identifier("a\"; DROP ROLE b; --"),
            "\"a\"\"; DROP ROLE b; --\""
        );
        assert_eq!(literal("a'\\'; DROP"), "E'a\\'\\\\\\'; DROP'");
        assert_eq!(timestamp(1_795_500_061_007), "2026-11-24 06:01:01.007+00");
    }

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
