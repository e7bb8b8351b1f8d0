//! Engines, which make credentials in another system: the trait of all kinds.
//!
//! A third kind is a file beside `postgres.rs` and a variant of `Target` in `engine_config.rs`.

use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use sundew_core::{SecretBytes, Ttl};

/// Why a target did not do what it was asked. For the operator only.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The target refused this call, and would take others.
    #[error("target refused: {0}")]
    Refused(String),
    /// The target cannot be reached, or does not answer in time: the next call would fare no
    /// better.
    #[error("target is unreachable: {0}")]
    Unreachable(String),
}

/// The answer of a call to a target.
pub(crate) type EngineFuture<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, EngineError>> + Send + 'a>>;

/// A credential that is to be made.
pub(crate) struct NewCredential<'a> {
    pub(crate) username: &'a str,
    pub(crate) password: &'a SecretBytes,
    /// When the target ends the credential by itself, if it can, in milliseconds since the epoch.
    pub(crate) expires_at_ms: i64,
}

/// A target. Every call may be repeated: a credential that is there already is brought up to date,
/// and the removal of one that is gone succeeds.
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
