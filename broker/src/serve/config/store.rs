//! The section `store`: one file, or a Redis.

use super::file::FileStore;
use super::{RedisConfig, StoreConfig};
use crate::store::redis::{Durability, RedisUrl, RedisUrlError};

/// Why the section names no store that can be used, by key.
#[derive(Debug, thiserror::Error)]
pub(super) enum SectionError {
    /// A certificate is named without its key, or a key without its certificate.
    #[error("store: certificate_file and key_file go together")]
    Client,
    /// The URL names an embedded store without a file.
    #[error("store.url: embedded: needs the path of a file")]
    EmbeddedPath,
    /// Replicas are waited for, and there are none.
    #[error("store.durability: `replicated` needs store.replicas to be at least 1")]
    NoReplicas,
    /// Redis is on another machine, and the URL does not ask for TLS.
    #[error("store.url: Redis on another machine needs TLS: use rediss://")]
    NotPrivate,
    /// There may be a failover, and the number of replicas is out of bounds.
    #[error(
        "store.replicas: with Sentinel or Cluster, each primary needs between 1 and 10 replicas"
    )]
    Replicas,
    /// The URL names no store that is known.
    #[error("store.url: {0}, or embedded:PATH")]
    Url(RedisUrlError),
}

impl TryFrom<FileStore> for StoreConfig {
    type Error = SectionError;

    fn try_from(store: FileStore) -> Result<Self, SectionError> {
        if let Some(path) = store.url.strip_prefix("embedded:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(SectionError::EmbeddedPath);
            }
            return Ok(Self::Embedded(path.into()));
        }
        let client = match (store.certificate_file, store.key_file) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(SectionError::Client),
        };
        let url = RedisUrl::parse(&store.url).map_err(SectionError::Url)?;
        if !url.is_private() {
            return Err(SectionError::NotPrivate);
        }
        // P4: where there may be a failover, a view must be renewed by more than one node.
        let replicas = store
            .replicas
            .unwrap_or_else(|| u32::from(url.fails_over()));
        if url.fails_over() && !(1..=10).contains(&replicas) {
            return Err(SectionError::Replicas);
        }
        if store.durability == Durability::Replicated && replicas == 0 {
            return Err(SectionError::NoReplicas);
        }
        Ok(Self::Redis(Box::new(RedisConfig {
            url,
            password_file: store.password_file,
            ca_file: store.ca_file,
            client,
            timeout: store.timeout.to_std(),
            replicas,
            durability: store.durability,
        })))
    }
}
