//! The configuration: one TOML file, unknown fields refused, all errors at once by key. Defaults
//! are the safe values.
//!
//! Two stages: what the file says (private, serde), and [`Config`], what the program needs. Secrets
//! come from files (AC-87: no setting turns a check off).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::DnsName;
use sundew_attestation::spiffe::{SpiffeId, SvidChoice, TrustDomain};
use sundew_core::{SharedBounds, Ttl};

pub use crate::enrollment::local_process::LocalLimits;
pub use crate::enrollment::{BreakGlass, Person};
use crate::evidence::offline::TrustSources;
pub use crate::journal::{Archive, RecordBudget, SegmentRules};
pub use crate::limits::CallLimits;
pub use crate::material::{IssuerConfig, MaterialConfig};
pub use crate::peer::ListenerLimits;
pub use crate::role::{Reach, Role, Roles};
pub use crate::serve::sources::{FederationConfig, Profile};
use crate::store::redis::{Durability, RedisUrl};
pub use crate::traces::TracesConfig;

mod checks;
mod file;
mod files;
mod operators;
mod reload;
mod store;
mod trust;

use file::File;

/// Everything that is wrong with a configuration, one line each.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// The configuration as the program needs it: complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The listeners.
    pub listen: Listen,
    /// The source of the broker's own SVID.
    pub identity: Identity,
    /// Trust domain to the file that has its bundle.
    pub trust: BTreeMap<TrustDomain, PathBuf>,
    /// Where partners fetch the bundle of the embedded CA.
    pub bundle_endpoint: Option<BundleEndpoint>,
    /// Partners whose bundles are fetched from their bundle endpoints.
    pub federation: Vec<FederationConfig>,
    /// Longest use of a bundle whose source fails.
    pub bundle_limit: Duration,
    /// The store.
    pub store: StoreConfig,
    /// The file with the active root key.
    pub root_key_file: PathBuf,
    /// The files with the root keys that are accepted beside it.
    pub other_root_key_files: Vec<PathBuf>,
    /// The journal.
    pub journal: JournalConfig,
    /// Freshness and skew.
    pub bounds: SharedBounds,
    /// Whether brokers of an older version may follow the same log, which vouch for nothing.
    pub beside_older_brokers: bool,
    /// The roles of operators.
    pub operators: BTreeMap<SpiffeId, Roles>,
    /// Who may give an SVID of an operator in an emergency.
    pub break_glass: Option<BreakGlass>,
    /// OpenID issuers.
    pub issuers: Vec<IssuerConfig>,
    /// Further items that verifiers trust.
    pub material: Vec<MaterialConfig>,
    /// Limits on calls.
    pub limits: CallLimits,
    /// Limits on connections.
    pub connections: ListenerLimits,
    /// Limits on connections of local processes.
    pub local_connections: LocalLimits,
    /// Connections are asked to go after this long.
    pub connection_age: Duration,
    /// Largest message, in bytes.
    pub message_bytes: usize,
    /// Most streams of a connection.
    pub streams: u32,
    /// Where traces of calls are sent to, if anywhere.
    pub traces: Option<TracesConfig>,
}

/// The journal: where it is, and what of its disk is kept for what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JournalConfig {
    /// Folder of the segments.
    pub directory: PathBuf,
    /// Refusals of a kind that are written whole in each minute; more are counted.
    pub refusals_whole: u64,
    /// What is kept of the disk for endings and for operators' records, in bytes.
    pub reserve: u64,
    /// When segments end, and how long they are kept.
    pub segments: SegmentRules,
    /// What one workload may fill.
    pub budget: RecordBudget,
}

/// Where to listen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listen {
    /// For agents, resource servers and operators: mutual TLS.
    pub workloads: SocketAddr,
    /// For callers without an SVID: server-side TLS. Needs the embedded CA.
    pub enrollment: Option<SocketAddr>,
    /// For metrics and health, in the clear: keep this address off the network of agents.
    pub operations: SocketAddr,
    /// Names for which `operations` answers, besides `localhost` and addresses.
    pub operations_hosts: Vec<String>,
    /// The Unix socket of the SPIFFE Workload API. Needs the embedded CA.
    pub workload_api: Option<PathBuf>,
    /// Whether the workload listener answers gRPC reflection.
    pub reflection: bool,
}

/// Where partners fetch the bundle of the embedded CA (SPIFFE Federation, section 5).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BundleEndpoint {
    /// The address, for anybody.
    pub listen: SocketAddr,
    /// PEM files of a certificate for the endpoint's host and its key, watched: profile `https_web`.
    /// Without them, the broker's own SVID is shown: `https_spiffe`.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// The source of the broker's own SVID.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Identity {
    /// The embedded CA.
    EmbeddedCa {
        /// The trust domain of the CA.
        trust_domain: TrustDomain,
        /// The life of SVIDs of the CA.
        svid_ttl: Ttl,
        /// For how long an identity is renewed before something must be shown for it again.
        renew_within: Ttl,
        /// The DNS names in the broker's own SVID, for clients that look for one.
        dns_names: Vec<DnsName<'static>>,
    },
    /// PEM files, watched.
    Files {
        /// The chain, leaf first.
        certificate: PathBuf,
        /// The key, PKCS#8.
        key: PathBuf,
    },
    /// A SPIFFE Workload API, such as a SPIRE agent's; it brings bundles too.
    WorkloadApi {
        /// The socket of the API.
        socket: PathBuf,
        /// The SVID that is the broker's, where the API has several for it.
        choice: SvidChoice,
    },
}

/// The store that holds all state.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreConfig {
    /// A file, which one broker has to itself.
    Embedded(PathBuf),
    /// A Redis, which several brokers share.
    Redis(Box<RedisConfig>),
}

/// A Redis as the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RedisConfig {
    /// The address and the way to it.
    pub url: RedisUrl,
    /// The file with the ACL user's password.
    pub password_file: Option<PathBuf>,
    /// PEM of the CA.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the broker's certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Longest time for one command.
    pub timeout: Duration,
    /// The number of replicas of each primary.
    pub replicas: u32,
    /// The condition under which tasks and tokens count as written.
    pub durability: Durability,
}

impl Config {
    /// The places that the configuration names for trust.
    #[must_use]
    pub fn trust_sources(&self) -> TrustSources<'_> {
        TrustSources {
            issuers: &self.issuers,
            material: &self.material,
            bundles: Some(&self.trust),
        }
    }

    /// The socket at which the owner of the state gets an SVID of an operator; there is one only with
    /// the embedded CA.
    #[must_use]
    pub fn owner_socket(&self) -> PathBuf {
        self.journal.directory.join("owner.sock")
    }

    /// Reads a file; an error has everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError(vec![format!("cannot be read: {e}")]))?;
        Self::parse(&text)
    }

    /// Reads a text; an error has everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let (file, mut errors) = File::parse(text)?;
        let listen = file.listen.map(Listen::from);
        checks::svid_choice(file.identity.as_ref(), &mut errors);
        let identity = file.identity.map(Identity::from);
        // Whatever is missing or wrong is an error by now or becomes one here, so that all are told
        // at once.
        let store = file.store.and_then(|store| {
            StoreConfig::try_from(store)
                .map_err(|error| errors.push(error.to_string()))
                .ok()
        });
        let beside_older_brokers = file.revocation.beside_older_brokers;
        let bounds = SharedBounds {
            freshness: file.revocation.freshness,
            max_clock_skew: file.revocation.max_clock_skew,
            max_task_ttl: file.limits.max_task_ttl,
            replicas: match &store {
                Some(StoreConfig::Redis(redis)) => redis.replicas,
                Some(StoreConfig::Embedded(_)) | None => 0,
            },
        };
        checks::limits(&file.limits, &bounds, &mut errors);
        checks::journal(file.journal.as_ref(), &mut errors);
        checks::issuers(&file.issuers, &mut errors);
        checks::material(&file.material, &mut errors);
        checks::operations_hosts(listen.as_ref(), &mut errors);
        if let (Some(listen), Some(identity)) = (&listen, &identity) {
            checks::identity(listen, identity, !file.trust.is_empty(), &mut errors);
        }
        let trust = checks::bundles(file.trust, &mut errors);
        let bundle_endpoint =
            checks::bundle_endpoint(file.bundle_endpoint, identity.as_ref(), &mut errors);
        let federation =
            checks::federation(file.federation, &trust, identity.as_ref(), &mut errors);
        let operators = operators::operators(file.operators, &mut errors);
        let break_glass =
            checks::break_glass(file.break_glass, &operators, identity.as_ref(), &mut errors);
        let traces = file.traces.and_then(|traces| traces.checked(&mut errors));
        let limits = file.limits;
        match (listen, identity, store, file.keys, file.journal) {
            (Some(listen), Some(identity), Some(store), Some(keys), Some(journal))
                if errors.is_empty() =>
            {
                Ok(Self {
                    listen,
                    identity,
                    trust,
                    bundle_endpoint,
                    federation,
                    bundle_limit: limits.bundle_age.to_std(),
                    store,
                    root_key_file: keys.root_key_file,
                    other_root_key_files: keys.other_root_key_files,
                    journal: JournalConfig::from((journal, &limits)),
                    beside_older_brokers,
                    bounds,
                    operators,
                    break_glass,
                    issuers: file.issuers,
                    material: file.material,
                    limits: (&limits).into(),
                    connections: (&limits).into(),
                    local_connections: (&limits).into(),
                    connection_age: limits.connection_age.to_std(),
                    message_bytes: limits.message_bytes,
                    streams: limits.streams,
                    traces,
                })
            }
            _ => Err(ConfigError(errors)),
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
