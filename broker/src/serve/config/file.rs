//! What the file says, before anything is made of it.

use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use sundew_attestation::spiffe::{SpiffeId, TrustDomain};
use sundew_core::Ttl;

use crate::role::Role;
use crate::store::redis::Durability;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileStore {
    pub(super) url: String,
    pub(super) password_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) certificate_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    #[serde(default = "default_store_timeout")]
    pub(super) timeout: Ttl,
    pub(super) replicas: Option<u32>,
    #[serde(default)]
    pub(super) durability: Durability,
}

fn default_store_timeout() -> Ttl {
    // Well over a second of a slow disk, well under a caller's patience.
    Ttl::SECOND
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileTrust {
    pub(super) trust_domain: TrustDomain,
    pub(super) bundle: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileKeys {
    pub(super) root_key_file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileJournal {
    pub(super) directory: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileOperator {
    pub(super) spiffe_id: SpiffeId,
    pub(super) roles: BTreeSet<Role>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileRevocation {
    pub(super) freshness: Ttl,
    pub(super) max_clock_skew: Ttl,
}

impl Default for FileRevocation {
    fn default() -> Self {
        Self {
            freshness: Ttl::SECOND,
            max_clock_skew: Ttl::HALF_SECOND,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileLimits {
    pub(super) calls_per_second: NonZeroU32,
    pub(super) issuing: usize,
    pub(super) purpose_bytes: usize,
    pub(super) instruction_bytes: usize,
    pub(super) secret_bytes: usize,
    pub(super) message_bytes: usize,
    pub(super) connections: usize,
    pub(super) handshakes: usize,
    pub(super) streams: u32,
    pub(super) connection_age: Ttl,
    pub(super) max_task_ttl: Ttl,
    pub(super) bundle_age: Ttl,
}

impl Default for FileLimits {
    fn default() -> Self {
        Self {
            calls_per_second: NonZeroU32::MIN.saturating_add(999),
            issuing: 256,
            purpose_bytes: 1024,
            instruction_bytes: 64 << 10,
            secret_bytes: 256 << 10,
            message_bytes: 1 << 20,
            connections: 10_000,
            handshakes: 64,
            streams: 256,
            connection_age: Ttl::QUARTER_HOUR,
            max_task_ttl: Ttl::DAY,
            bundle_age: Ttl::HOUR,
        }
    }
}

/// Reads sections one by one, so that an error in one does not hide those in others.
pub(super) struct Sections {
    pub(super) table: toml::Table,
    pub(super) errors: Vec<String>,
}

impl Sections {
    pub(super) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let value = self.table.remove(name)?;
        match serde_path_to_error::deserialize(value) {
            Ok(section) => Some(section),
            Err(error) => {
                let path = error.path().to_string();
                let path = if path == "." {
                    String::new()
                } else {
                    format!(".{path}")
                };
                self.errors
                    .push(format!("{name}{path}: {}", error.inner().message()));
                None
            }
        }
    }

    pub(super) fn need<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        if !self.table.contains_key(name) {
            self.errors.push(format!("{name}: section is missing"));
        }
        self.take(name)
    }
}
