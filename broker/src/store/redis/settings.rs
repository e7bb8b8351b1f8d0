//! The settings of a Redis store.

use std::fmt;
use std::time::Duration;

use sundew_core::SecretBytes;

use super::url::RedisUrl;

/// How Redis is reached, and how many copies of a write are asked of it.
pub struct RedisSettings {
    /// The servers.
    pub url: RedisUrl,
    /// The ACL user's password.
    pub password: Option<SecretBytes>,
    /// The CA that has certified the servers, as PEM; the system's CAs if there is none.
    pub ca: Option<Vec<u8>>,
    /// The broker's client certificate and private key, as PEM.
    pub client: Option<(Vec<u8>, SecretBytes)>,
    /// The longest time that one command may take.
    pub timeout: Duration,
    /// The number of replicas that each primary has.
    pub replicas: u32,
    /// When a task, a token or a document counts as written.
    pub durability: Durability,
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// When a task, a token or a document counts as written. Endings are always on a majority of the
/// nodes before they are acknowledged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// A write counts when the primary has it: a failover may lose the newest writes, and their
    /// holders begin again.
    #[default]
    Primary,
    /// A write counts when so many replicas have it that a majority of the nodes does.
    Replicated,
}
