//! A lease: a credential in another system that lives as long as a task.

use std::fmt;

use sundew_core::client::SecretBytes;
use sundew_proto::v1;

/// A credential that was made for one task in another system, and that is removed there when the
/// task ends. `Debug` shows its ID only (P9).
pub struct Lease {
    id: String,
    username: String,
    password: SecretBytes,
    url: SecretBytes,
    expires_at_ms: i64,
    ca: String,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Lease {
    /// Takes the broker's answer.
    pub(super) fn of(lease: v1::Lease) -> Self {
        Self {
            id: lease.lease_id,
            username: lease.username,
            password: SecretBytes::new(lease.password.into_bytes()),
            url: SecretBytes::new(lease.url.into_bytes()),
            expires_at_ms: lease.expires_at_ms,
            ca: lease.ca,
        }
    }

    /// Returns the lease's name in lists and records. The name is not a credential.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the name of the user that was made in the other system.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Returns the password of the user that was made in the other system.
    #[must_use]
    pub fn expose_password(&self) -> &str {
        std::str::from_utf8(self.password.expose()).unwrap_or_default()
    }

    /// Returns the URL to connect to the other system, with user name and password.
    #[must_use]
    pub fn expose_url(&self) -> &str {
        std::str::from_utf8(self.url.expose()).unwrap_or_default()
    }

    /// Returns when the credential ends at the latest, in milliseconds since the epoch.
    #[must_use]
    pub fn expires_at_ms(&self) -> i64 {
        self.expires_at_ms
    }

    /// Returns the PEM of the CAs that the other system's certificate may be of, or nothing if the
    /// system has no TLS. Clients of PostgreSQL want the PEM in a file, named by `sslrootcert`.
    #[must_use]
    pub fn ca(&self) -> Option<&str> {
        Some(self.ca.as_str()).filter(|pem| !pem.is_empty())
    }
}
