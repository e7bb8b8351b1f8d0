//! PostgreSQL: a role per lease.
//!
//! P6: what a role has made goes with it, in every database of the server (`removal.rs`). Nothing is
//! handed to another owner: even in powerless hands a trigger or a view runs with the rights of
//! whoever touches it.

mod connections;
mod removal;
mod statements;
mod tls;

use serde::{Deserialize, Serialize};
use sundew_core::SecretBytes;

use super::engine::{
    Engine, EngineError, EngineFuture, NewCredential, Removed, Role, Session, is_local,
    percent_encoded,
};
use connections::Connections;
pub use statements::removal;
use statements::{creation, lasting, literal, verifier};

/// Where the database is, and the role that Sundew uses there. The role needs CREATEROLE, everything
/// that it grants, and CONNECT on each database in which a lease may leave something.
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
            Some(pem) if tls::roots(pem).is_none() => {
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

/// A database in which each lease is a role.
pub(crate) struct Postgres {
    target: PostgresTarget,
    connections: Connections,
}

impl Postgres {
    /// A target with at most `most` connections; makes none yet.
    pub(crate) fn new(
        target: PostgresTarget,
        password: &SecretBytes,
        most: usize,
    ) -> Result<Self, EngineError> {
        let connections = Connections::new(&target, password, most)?;
        Ok(Self {
            target,
            connections,
        })
    }
}

impl Engine for Postgres {
    fn check(&self) -> EngineFuture<'_, ()> {
        Box::pin(async {
            let query =
                "SELECT FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolcreaterole)";
            if self.connections.run(query).await?.is_empty() {
                return Err(EngineError::Refused(
                    "the role that Sundew uses has not CREATEROLE".to_owned(),
                ));
            }
            Ok(())
        })
    }

    fn create<'a>(
        &'a self,
        role: &'a Role,
        credential: &'a NewCredential<'a>,
    ) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            let password = credential.password.clone();
            let hashed = tokio::task::spawn_blocking(move || verifier(&password)).await;
            let verifier = hashed.map_err(|error| EngineError::Refused(error.to_string()))?;
            let NewCredential {
                username,
                expires_at_ms,
                ..
            } = *credential;
            let statements = creation(role, username, &verifier, expires_at_ms);
            self.connections.run(&statements).await.map(drop)
        })
    }

    fn exists<'a>(&'a self, username: &'a str) -> EngineFuture<'a, bool> {
        Box::pin(async move {
            let query = format!(
                "SELECT FROM pg_roles WHERE rolname = {} AND rolcanlogin",
                literal(username)
            );
            Ok(!self.connections.run(&query).await?.is_empty())
        })
    }

    fn log_in<'a>(
        &'a self,
        username: &'a str,
        password: &'a SecretBytes,
    ) -> EngineFuture<'a, Session> {
        Box::pin(async move {
            let (client, ended) = self.connections.log_in(username, password).await?;
            let session: Session = Box::pin(async move {
                let _ = ended.await;
                drop(client);
            });
            Ok(session)
        })
    }

    fn examine<'a>(&'a self, role: &'a Role, username: &'a str) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            let query = lasting(username, &role.acts_as);
            let reasons = self.connections.run(&query).await?;
            if reasons.is_empty() {
                return Ok(());
            }
            let reasons: Vec<_> = reasons.into_iter().flatten().collect();
            Err(EngineError::Refused(format!(
                "what a lease does would outlive it, since {}",
                reasons.join("; ")
            )))
        })
    }

    fn remove<'a>(&'a self, username: &'a str) -> EngineFuture<'a, Removed> {
        Box::pin(removal::remove(&self.connections, username))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> EngineFuture<'a, Vec<String>> {
        Box::pin(async move {
            // Names of ours need no quotes. Others are not ours, whatever they begin with.
            let query = format!(
                "SELECT rolname FROM pg_roles WHERE starts_with(rolname, {}) AND rolname ~ '^[a-z0-9_]+$'",
                literal(prefix)
            );
            Ok(self
                .connections
                .run(&query)
                .await?
                .into_iter()
                .flatten()
                .collect())
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

    fn ca(&self) -> Option<&str> {
        self.target.ca.as_deref()
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
