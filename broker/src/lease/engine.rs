//! What makes credentials in another system: a trait with create, remove and list, and the
//! configuration of each kind.
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
/// Most statements or rules of one role, and the longest of them in bytes.
const MAX_STATEMENTS: usize = 32;
const MAX_STATEMENT: usize = 4096;
/// Most roles of others that a lease may act as.
const MAX_ACTS_AS: usize = 16;
/// Most names in the record of what was dropped with a credential.
const MAX_DROPPED: usize = 20;
/// Longest text of a target's that goes into an error or a record, in bytes.
const MAX_TEXT: usize = 200;
/// Most causes of an error that are told.
const MAX_CAUSES: usize = 5;

/// What the text of [`EngineError::Unreachable`] begins with.
pub(super) const UNREACHABLE: &str = "target is unreachable";

/// Why a target did not do it. For the operator only.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The target refused this one thing.
    #[error("target refused: {0}")]
    Refused(String),
    /// The target cannot be reached, or does not answer in time: the next thing would fare no
    /// better.
    #[error("{UNREACHABLE}: {0}")]
    Unreachable(String),
}

pub(crate) type EngineFuture<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, EngineError>> + Send + 'a>>;

/// A session of a credential, which ends when the target has ended it.
pub(crate) type Session = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a target dropped with a credential, since the credential had made it.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    names: Vec<String>,
    count: u64,
}

impl Removed {
    /// Notes `count` things, some of them by name.
    pub(crate) fn add(&mut self, names: impl IntoIterator<Item = String>, count: u64) {
        let room = MAX_DROPPED.saturating_sub(self.names.len());
        let names = names.into_iter().take(room);
        self.names.extend(names.map(|name| bounded(&name)));
        self.count = self.count.saturating_add(count);
    }

    /// A text for the record; `None` if nothing was dropped.
    pub(crate) fn text(&self) -> Option<String> {
        let named = u64::try_from(self.names.len()).unwrap_or(u64::MAX);
        let more = match self.count.saturating_sub(named) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        (self.count > 0).then(|| format!("{}{more}", self.names.join("; ")))
    }
}

/// A credential that is to be made.
pub(crate) struct NewCredential<'a> {
    pub(crate) username: &'a str,
    pub(crate) password: &'a SecretBytes,
    /// The target is told to end it then, if it can be told, in milliseconds since the epoch.
    pub(crate) expires_at_ms: i64,
}

/// A target. Everything may be repeated: what is there already is made to be as asked, what is gone
/// already is gone.
pub(crate) trait Engine: Send + Sync {
    /// Whether it can be worked with.
    fn check(&self) -> EngineFuture<'_, ()>;
    /// Makes a credential with what the role gives.
    fn create<'a>(
        &'a self,
        role: &'a Role,
        credential: &'a NewCredential<'a>,
    ) -> EngineFuture<'a, ()>;
    /// Whether the target still has a credential.
    fn exists<'a>(&'a self, username: &'a str) -> EngineFuture<'a, bool>;
    /// Logs in with a credential.
    fn log_in<'a>(
        &'a self,
        username: &'a str,
        password: &'a SecretBytes,
    ) -> EngineFuture<'a, Session>;
    /// Refuses a role by which a credential could do what its removal does not undo.
    fn examine<'a>(&'a self, role: &'a Role, username: &'a str) -> EngineFuture<'a, ()>;
    /// Ends every session of a credential and removes it, with all that it has made.
    fn remove<'a>(&'a self, username: &'a str) -> EngineFuture<'a, Removed>;
    /// The names of all credentials that begin so.
    fn list<'a>(&'a self, prefix: &'a str) -> EngineFuture<'a, Vec<String>>;
    /// How to connect with a credential.
    fn url(&self, username: &str, password: &SecretBytes) -> String;
    /// PEM of the CAs that the target's certificate may be of, if it must have one.
    fn ca(&self) -> Option<&str>;
}

/// What one role of an engine gives.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Role {
    /// PostgreSQL: statements run after the role was created, with `{{name}}`, `{{password}}` and
    /// `{{expiration}}` in them replaced by the quoted name, SCRAM verifier and time. Redis:
    /// ACL rules.
    pub(crate) grants: Vec<String>,
    /// PostgreSQL: roles of others, such as the owner of a schema, for which a lease may make and
    /// change objects. Those stay when the lease goes. Without them, a lease has to be a member of no
    /// role that can make or owns anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) acts_as: Vec<String>,
    /// No credential lives longer.
    #[serde(default = "day")]
    pub(crate) max_ttl: Ttl,
}

fn day() -> Ttl {
    Ttl::DAY
}

/// What `sundew secret engine put` reads.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EngineConfig {
    /// Its secrets are `NAME/ROLE`.
    pub(crate) name: String,
    /// Where and how.
    pub(crate) target: Target,
    /// By name.
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
    /// Everything that is wrong with it.
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
            if role.acts_as.len() > MAX_ACTS_AS
                || role.acts_as.iter().any(|other| other.len() > MAX_ROLE)
            {
                problems.push(format!("roles.{name}.acts_as: at most {MAX_ACTS_AS}, none of them over {MAX_ROLE} bytes"));
            }
        }
        match &self.target {
            Target::Postgres(target) => problems.extend(target.problems()),
            Target::Redis(target) => problems.extend(target.problems(&self.roles)),
        }
        problems
    }

    /// A driver for it.
    pub(crate) fn driver(&self, password: SecretBytes) -> Result<Arc<dyn Engine>, EngineError> {
        Ok(match &self.target {
            Target::Postgres(target) => Arc::new(Postgres::new(
                target.clone(),
                &password,
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

/// The beginning of a text of a target's, of at most 200 bytes.
pub(crate) fn bounded(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_TEXT);
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// An error with all of its causes, each bounded, none of them twice.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = bounded(&error.to_string());
    let mut cause = error.source();
    for _ in 0..MAX_CAUSES {
        let Some(next) = cause else { break };
        let told = bounded(&next.to_string());
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        cause = next.source();
    }
    text
}

/// Whether a host is this machine, so that what goes there needs no TLS.
pub(crate) fn is_local(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1") || host.starts_with('/')
}

/// As RFC 3986 has it for user names and passwords in URLs.
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
