//! Engines, which make credentials in another system: the trait of all kinds, and their
//! configuration.
//!
//! A third kind is a file beside `postgres.rs` and a variant of [`Target`].

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sundew_core::{Scope, SecretBytes, Ttl};

use super::postgres::{Postgres, PostgresTarget};
use super::redis_acl::{RedisAcl, RedisTarget};

/// Longest role name, in bytes.
const MAX_ROLE: usize = 64;
/// Most statements or rules of one role.
const MAX_STATEMENTS: usize = 32;
/// Longest statement or rule, in bytes.
const MAX_STATEMENT: usize = 4096;

/// Why a target did not do it. For the operator only.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The target refused this one thing.
    #[error("target refused: {0}")]
    Refused(String),
    /// The target cannot be reached, or does not answer in time: the next thing would fare no
    /// better.
    #[error("target is unreachable: {0}")]
    Unreachable(String),
}

pub(crate) type EngineFuture<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, EngineError>> + Send + 'a>>;

/// A credential that is to be made.
pub(crate) struct NewCredential<'a> {
    pub(crate) username: &'a str,
    pub(crate) password: &'a SecretBytes,
    /// When the target ends the credential by itself, if it can, in milliseconds since the epoch.
    pub(crate) expires_at_ms: i64,
}

/// A target. Every call may be repeated: a credential that is there already is brought up to date, and
/// the removal of one that is gone succeeds.
pub(crate) trait Engine: Send + Sync {
    /// Tries whether the target can be worked with.
    fn check(&self) -> EngineFuture<'_, ()>;
    /// Makes a credential with the rights of the role.
    fn create<'a>(
        &'a self,
        role: &'a Role,
        credential: &'a NewCredential<'a>,
    ) -> EngineFuture<'a, ()>;
    /// Ends every session of a credential and removes it.
    fn remove<'a>(&'a self, username: &'a str) -> EngineFuture<'a, ()>;
    /// Lists the names of all credentials that begin with `prefix`.
    fn list<'a>(&'a self, prefix: &'a str) -> EngineFuture<'a, Vec<String>>;
    /// The URL by which the holder of a credential connects.
    fn url(&self, username: &str, password: &SecretBytes) -> String;
}

/// A role of an engine: the rights of its credentials.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Role {
    /// PostgreSQL: statements run after the role was created, with `{{name}}`, `{{password}}` and
    /// `{{expiration}}` in them replaced by the quoted name, SCRAM verifier and time. Redis:
    /// ACL rules.
    pub(crate) grants: Vec<String>,
    /// Longest life of a credential.
    #[serde(default = "day")]
    pub(crate) max_ttl: Ttl,
}

fn day() -> Ttl {
    Ttl::DAY
}

/// The document of an engine, as `sundew secret engine put` reads it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EngineConfig {
    /// The name of the engine; its secrets are called `NAME/ROLE`.
    pub(crate) name: String,
    /// The place of the target, and how it is reached.
    pub(crate) target: Target,
    /// The roles by name.
    pub(crate) roles: BTreeMap<String, Role>,
    /// Most connections to the target at a time.
    #[serde(default = "four")]
    pub(crate) max_connections: usize,
}

fn four() -> usize {
    4
}

/// Kinds of targets.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Target {
    /// PostgreSQL: a role per lease.
    Postgres(PostgresTarget),
    /// Redis: an ACL user per lease.
    Redis(RedisTarget),
}

impl EngineConfig {
    /// Everything that is wrong with the configuration, one line each, by field.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if Scope::of_secret(&self.name).is_err() || self.name.len() > 128 {
            problems.push(
                "name: must be the name of a secret, of at most 128 bytes, such as `db/reporting`"
                    .to_owned(),
            );
        }
        if self.roles.is_empty() {
            problems.push("roles: at least one is needed".to_owned());
        }
        if !(1..=64).contains(&self.max_connections) {
            problems.push("max_connections: must be between 1 and 64".to_owned());
        }
        for (name, role) in &self.roles {
            if name.contains('/') || name.len() > MAX_ROLE || Scope::of_secret(name).is_err() {
                problems.push(format!(
                    "roles.{name}: must be one segment of a secret's name"
                ));
            }
            if role.grants.len() > MAX_STATEMENTS
                || role
                    .grants
                    .iter()
                    .any(|grant| grant.trim().is_empty() || grant.len() > MAX_STATEMENT)
            {
                problems.push(format!("roles.{name}.grants: at most {MAX_STATEMENTS}, none of them blank or over {MAX_STATEMENT} bytes"));
            }
        }
        match &self.target {
            Target::Postgres(target) => problems.extend(target.problems()),
            Target::Redis(target) => problems.extend(target.problems(&self.roles)),
        }
        problems
    }

    /// Makes a driver for the target; the driver makes no connection yet.
    pub(crate) fn driver(&self, password: SecretBytes) -> Result<Arc<dyn Engine>, EngineError> {
        Ok(match &self.target {
            Target::Postgres(target) => Arc::new(Postgres::new(
                target.clone(),
                password,
                self.max_connections,
            )?),
            Target::Redis(target) => Arc::new(RedisAcl::new(
                target.clone(),
                password,
                self.max_connections,
            )?),
        })
    }
}

/// Says whether a host is this machine, so that connections to it need no TLS.
pub(crate) fn is_local(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1") || host.starts_with('/')
}

/// Encodes a user name or a password for a URL (RFC 3986, section 2.1).
pub(crate) fn percent_encoded(text: &[u8]) -> String {
    text.iter()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                char::from(*byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
