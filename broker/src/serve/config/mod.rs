//! The configuration: one TOML file, unknown fields refused, all errors at once by key. Defaults
//! are the safe values.
//!
//! Two stages: what the file says (private, serde), and [`Config`], what the program needs. Secrets
//! come from files (AC-87: no setting turns a check off).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sundew_attestation::spiffe::{SpiffeId, TrustDomain};
use sundew_core::Ttl;

use crate::evidence::offline::TrustSources;
pub use crate::limits::CallLimits;
pub use crate::liveness::Bounds;
pub use crate::material::{IssuerConfig, MaterialConfig};
pub use crate::peer::ListenerLimits;
pub use crate::role::Role;
use crate::store::redis::{Durability, RedisUrl};

mod checks;
mod file;
mod store;

use file::File;

/// Everything that is wrong with a configuration, one line each.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// What the program needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// Who the broker is.
    pub identity: Identity,
    /// Trust domain to the file that has its bundle.
    pub trust: BTreeMap<TrustDomain, PathBuf>,
    /// How long a bundle is used whose source fails.
    pub bundle_limit: Duration,
    /// Where state is.
    pub store: StoreConfig,
    /// File with the root key.
    pub root_key_file: PathBuf,
    /// Folder of the journal.
    pub journal: PathBuf,
    /// Freshness and skew.
    pub bounds: Bounds,
    /// Who may do what.
    pub operators: BTreeMap<SpiffeId, BTreeSet<Role>>,
    /// OpenID issuers.
    pub issuers: Vec<IssuerConfig>,
    /// What verifiers trust besides.
    pub material: Vec<MaterialConfig>,
    /// Limits on calls.
    pub limits: CallLimits,
    /// Limits on connections.
    pub connections: ListenerLimits,
    /// Connections are asked to go after this long.
    pub connection_age: Duration,
    /// Largest message, in bytes.
    pub message_bytes: usize,
    /// Most streams of a connection.
    pub streams: u32,
}

/// Where to listen.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Agents, resource servers, operators: mutual TLS.
    pub workloads: SocketAddr,
    /// Those without an SVID: server-side TLS. Needs the embedded CA.
    pub enrollment: Option<SocketAddr>,
    /// Metrics and health in the clear: keep it off the network of agents.
    pub operations: SocketAddr,
    /// The SPIFFE Workload API of the embedded CA.
    pub workload_api: Option<PathBuf>,
    /// gRPC reflection on the workload listener.
    pub reflection: bool,
}

/// Where the broker's own SVID comes from.
#[derive(Clone, Debug)]
pub enum Identity {
    /// PEM files, watched.
    Files {
        /// The chain, leaf first.
        certificate: PathBuf,
        /// The key, PKCS#8.
        key: PathBuf,
    },
    /// A SPIFFE Workload API, such as a SPIRE agent's; it brings bundles too.
    WorkloadApi {
        /// Its socket.
        socket: PathBuf,
    },
    /// The embedded CA.
    EmbeddedCa {
        /// Its trust domain.
        trust_domain: TrustDomain,
        /// How long its SVIDs live.
        svid_ttl: Ttl,
    },
}

/// Where state is.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// One file.
    Embedded(PathBuf),
    /// Redis.
    Redis(Box<RedisConfig>),
}

/// A Redis as the store.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Where it is.
    pub url: RedisUrl,
    /// File with the ACL user's password.
    pub password_file: Option<PathBuf>,
    /// PEM of the CA.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the broker's certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Longest time for one command.
    pub timeout: Duration,
    /// How many replicas each primary has.
    pub replicas: u32,
    /// When tasks and tokens count as written.
    pub durability: Durability,
}

impl Config {
    /// Where trust comes from.
    #[must_use]
    pub fn trust_sources(&self) -> TrustSources<'_> {
        TrustSources {
            issuers: &self.issuers,
            material: &self.material,
            bundles: Some(&self.trust),
        }
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError(vec![format!("cannot be read: {e}")]))?;
        Self::parse(&text)
    }

    /// Reads a text.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let (file, mut errors) = File::parse(text)?;
        let listen = file.listen.map(Listen::from);
        let identity = file.identity.map(Identity::from);
        // Whatever is missing or wrong is an error by now or becomes one here, so that all are told
        // at once.
        let store = file.store.and_then(|store| {
            StoreConfig::try_from(store)
                .map_err(|error| errors.push(error.to_string()))
                .ok()
        });
        checks::limits(&file.limits, &file.revocation, &mut errors);
        checks::issuers(&file.issuers, &mut errors);
        checks::material(&file.material, &mut errors);
        if let (Some(listen), Some(identity)) = (&listen, &identity) {
            checks::identity(listen, identity, !file.trust.is_empty(), &mut errors);
        }
        let trust = checks::bundles(file.trust, &mut errors);
        let operators = checks::operators(file.operators, &mut errors);
        let limits = file.limits;
        match (listen, identity, store, file.keys, file.journal) {
            (Some(listen), Some(identity), Some(store), Some(keys), Some(journal))
                if errors.is_empty() =>
            {
                Ok(Self {
                    listen,
                    identity,
                    trust,
                    bundle_limit: limits.bundle_age.to_std(),
                    store,
                    root_key_file: keys.root_key_file,
                    journal: journal.directory,
                    bounds: file.revocation.into(),
                    operators,
                    issuers: file.issuers,
                    material: file.material,
                    limits: (&limits).into(),
                    connections: (&limits).into(),
                    connection_age: limits.connection_age.to_std(),
                    message_bytes: limits.message_bytes,
                    streams: limits.streams,
                })
            }
            _ => Err(ConfigError(errors)),
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
