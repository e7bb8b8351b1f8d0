//! What a task hands to the program: tokens, secrets, leases, and how it ended. None of it shows a
//! credential in `Debug` (P9).

use std::fmt;
use std::time::Duration;

use sundew_core::client::SecretBytes;
use sundew_proto::v1::{self, Outcome};

use crate::connection::Connection;
use crate::error::Error;

/// How a task ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// The agent stopped attending.
    Abandoned,
    /// The agent called it off.
    Canceled,
    /// The agent finished it.
    Completed,
    /// Its time ran out.
    Expired,
    /// The agent failed at it.
    Failed,
    /// The broker does not know the agent or the task any more, or could not be reached for too
    /// long.
    Lost,
    /// A responder ended it.
    Revoked,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Abandoned => "abandoned",
            Self::Canceled => "canceled",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Lost => "lost",
            Self::Revoked => "revoked",
        })
    }
}

impl Ended {
    pub(super) fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Abandoned => Self::Abandoned,
            Outcome::Canceled => Self::Canceled,
            Outcome::Completed => Self::Completed,
            Outcome::Expired => Self::Expired,
            Outcome::Failed => Self::Failed,
            Outcome::Revoked => Self::Revoked,
            Outcome::Unspecified => Self::Lost,
        }
    }
}

/// A credential of Sundew. `Debug` shows its name only.
pub struct Token {
    credential: SecretBytes,
    id: String,
    scopes: Vec<String>,
    expires_at_ms: i64,
    certificate: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Token {
    pub(super) fn of(token: Option<v1::Token>, connection: &Connection) -> Result<Self, Error> {
        let token =
            token.ok_or_else(|| Error::Unavailable("the broker sent no token".to_owned()))?;
        let certificate = connection.identity().thumbprint();
        Ok(Self {
            credential: SecretBytes::new(token.token.into_bytes()),
            id: token.token_id,
            scopes: token.scopes,
            expires_at_ms: token.expires_at_ms,
            certificate,
        })
    }

    /// SHA-256 of the certificate that it is bound to; only with that one it is good.
    #[must_use]
    pub fn certificate_sha256(&self) -> &[u8; 32] {
        &self.certificate
    }

    /// The credential itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        std::str::from_utf8(self.credential.expose()).unwrap_or_default()
    }

    /// Names the token in lists and records. Not a credential.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it is good for.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// When it ends, in milliseconds since the epoch.
    #[must_use]
    pub fn expires_at_ms(&self) -> i64 {
        self.expires_at_ms
    }
}

/// A secret's value. `Debug` shows nothing; wiped when dropped.
pub struct Secret(pub(super) SecretBytes);

/// A credential that was made for one task in another system, and is removed there when the task
/// ends. `Debug` shows its name only.
pub struct Lease {
    id: String,
    username: String,
    password: SecretBytes,
    url: SecretBytes,
    expires_at_ms: i64,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Lease {
    pub(super) fn of(lease: v1::Lease) -> Self {
        let (password, url) = (
            SecretBytes::new(lease.password.into_bytes()),
            SecretBytes::new(lease.url.into_bytes()),
        );
        Self {
            id: lease.lease_id,
            username: lease.username,
            password,
            url,
            expires_at_ms: lease.expires_at_ms,
        }
    }

    /// Names it in lists and records.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The user's name there.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The user's password there.
    #[must_use]
    pub fn expose_password(&self) -> &str {
        std::str::from_utf8(self.password.expose()).unwrap_or_default()
    }

    /// How to connect, with name and password.
    #[must_use]
    pub fn expose_url(&self) -> &str {
        std::str::from_utf8(self.url.expose()).unwrap_or_default()
    }

    /// When it ends at the latest, in milliseconds since the epoch.
    #[must_use]
    pub fn expires_at_ms(&self) -> i64 {
        self.expires_at_ms
    }
}

/// What another workload may do below a task.
#[derive(Clone, Debug, Default)]
pub struct Delegation {
    /// Scopes, within the task's.
    pub scopes: Vec<String>,
    /// Audiences of its tokens; empty: as the task's.
    pub audience: Vec<String>,
    /// How long; as long as the task if not said.
    pub ttl: Option<Duration>,
    /// How many levels it may delegate further.
    pub depth: u32,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    /// The text, if it is one.
    #[must_use]
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(self.0.expose()).ok()
    }
}
