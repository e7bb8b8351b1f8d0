//! The configuration: one TOML file, unknown fields refused, all errors at once by key. Defaults
//! are the safe values.
//!
//! Two stages: what the file says (private, serde), and [`Config`], what the program needs. Secrets
//! come from files (AC-87: no setting turns a check off).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sundew_attestation::kinds::oidc::Preset;
use sundew_attestation::spiffe::{SpiffeId, TrustDomain};
use sundew_core::Ttl;

use crate::evidence::offline::TrustSources;
pub use crate::limits::CallLimits;
pub use crate::liveness::Bounds;
pub use crate::material::{IssuerConfig, MaterialConfig};
pub use crate::peer::ListenerLimits;
pub use crate::role::Role;
use crate::store::redis::{Durability, RedisUrl};

mod file;
use file::{
    FileJournal, FileKeys, FileLimits, FileOperator, FileRevocation, FileStore, FileTrust, Sections,
};

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
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Agents, resource servers, operators: mutual TLS.
    pub workloads: SocketAddr,
    /// Those without an SVID: server-side TLS. Needs the embedded CA.
    pub enrollment: Option<SocketAddr>,
    /// Metrics and health in the clear: keep it off the network of agents.
    #[serde(default = "default_operations")]
    pub operations: SocketAddr,
    /// The SPIFFE Workload API of the embedded CA.
    pub workload_api: Option<PathBuf>,
    /// gRPC reflection on the workload listener.
    #[serde(default)]
    pub reflection: bool,
}

fn default_operations() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9090))
}

/// Where the broker's own SVID comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
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
        #[serde(default = "default_svid_ttl")]
        svid_ttl: Ttl,
    },
}

fn default_svid_ttl() -> Ttl {
    Ttl::HOUR
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
        let table: toml::Table = text
            .parse()
            .map_err(|e: toml::de::Error| ConfigError(vec![e.to_string().trim_end().to_owned()]))?;
        let mut sections = Sections {
            table,
            errors: Vec::new(),
        };
        let listen: Option<Listen> = sections.need("listen");
        let identity: Option<Identity> = sections.need("identity");
        let trust: Vec<FileTrust> = sections.take("trust").unwrap_or_default();
        let store: Option<FileStore> = sections.need("store");
        let keys: Option<FileKeys> = sections.need("keys");
        let journal: Option<FileJournal> = sections.need("journal");
        let revocation: FileRevocation = sections.take("revocation").unwrap_or_default();
        let operators: Vec<FileOperator> = sections.take("operators").unwrap_or_default();
        let issuers: Vec<IssuerConfig> = sections.take("issuers").unwrap_or_default();
        let material: Vec<MaterialConfig> = sections.take("trust_material").unwrap_or_default();
        let limits: FileLimits = sections.take("limits").unwrap_or_default();
        let Sections { table, mut errors } = sections;
        errors.extend(table.keys().map(|name| format!("{name}: unknown section")));
        let store = store.and_then(|store| check_store(store, &mut errors));
        check_limits(&limits, &revocation, &mut errors);
        check_issuers(&issuers, &mut errors);
        check_material(&material, &mut errors);
        if let (Some(listen), Some(identity)) = (&listen, &identity) {
            let embedded = matches!(identity, Identity::EmbeddedCa { .. });
            for (name, set) in [
                ("enrollment", listen.enrollment.is_some()),
                ("workload_api", listen.workload_api.is_some()),
            ] {
                if set && !embedded {
                    errors.push(format!(
                        "listen.{name}: needs identity.source = \"embedded_ca\""
                    ));
                }
            }
            if matches!(identity, Identity::Files { .. }) && trust.is_empty() {
                errors.push("trust: at least one bundle is needed when identity.source is \"files\": without one nobody can connect".to_owned());
            }
        }
        let mut bundles = BTreeMap::new();
        for FileTrust {
            trust_domain,
            bundle,
        } in trust
        {
            if bundles.insert(trust_domain.clone(), bundle).is_some() {
                errors.push(format!("trust: {trust_domain} is named twice"));
            }
        }
        let mut roles: BTreeMap<SpiffeId, BTreeSet<Role>> = BTreeMap::new();
        for operator in operators {
            if operator.roles.is_empty() {
                errors.push(format!("operators: {} has no roles", operator.spiffe_id));
            }
            roles
                .entry(operator.spiffe_id)
                .or_default()
                .extend(operator.roles);
        }
        match (listen, identity, store, keys, journal) {
            (Some(listen), Some(identity), Some(store), Some(keys), Some(journal))
                if errors.is_empty() =>
            {
                Ok(Self {
                    listen,
                    identity,
                    trust: bundles,
                    bundle_limit: limits.bundle_age.to_std(),
                    store,
                    root_key_file: keys.root_key_file,
                    journal: journal.directory,
                    bounds: Bounds {
                        freshness: revocation.freshness.to_std(),
                        max_skew: revocation.max_clock_skew.to_std(),
                    },
                    operators: roles,
                    issuers,
                    material,
                    limits: CallLimits {
                        calls_per_second: limits.calls_per_second,
                        issuing: limits.issuing,
                        purpose_bytes: limits.purpose_bytes,
                        instruction_bytes: limits.instruction_bytes,
                        secret_bytes: limits.secret_bytes,
                        longest_task: limits.max_task_ttl,
                    },
                    connections: ListenerLimits {
                        connections: limits.connections,
                        handshakes: limits.handshakes,
                    },
                    connection_age: limits.connection_age.to_std(),
                    message_bytes: limits.message_bytes,
                    streams: limits.streams,
                })
            }
            _ => Err(ConfigError(errors)),
        }
    }
}

fn check_store(store: FileStore, errors: &mut Vec<String>) -> Option<StoreConfig> {
    if let Some(path) = store.url.strip_prefix("embedded:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            errors.push("store.url: embedded: needs the path of a file".to_owned());
            return None;
        }
        return Some(StoreConfig::Embedded(path.into()));
    }
    let client = match (store.certificate_file, store.key_file) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            errors.push("store: certificate_file and key_file go together".to_owned());
            return None;
        }
    };
    match RedisUrl::parse(&store.url) {
        Ok(url) if !url.is_private() => {
            errors.push("store.url: Redis on another machine needs TLS: use rediss://".to_owned());
            None
        }
        Ok(url) => {
            // P4: where there may be a failover, a view must be renewed by more than one node.
            let replicas = store
                .replicas
                .unwrap_or_else(|| u32::from(url.fails_over()));
            if url.fails_over() && !(1..=10).contains(&replicas) {
                errors.push("store.replicas: with Sentinel or Cluster, each primary needs between 1 and 10 replicas".to_owned());
                return None;
            }
            if store.durability == Durability::Replicated && replicas == 0 {
                errors.push(
                    "store.durability: `replicated` needs store.replicas to be at least 1"
                        .to_owned(),
                );
                return None;
            }
            let (password_file, ca_file, timeout) =
                (store.password_file, store.ca_file, store.timeout.to_std());
            Some(StoreConfig::Redis(Box::new(RedisConfig {
                url,
                password_file,
                ca_file,
                client,
                timeout,
                replicas,
                durability: store.durability,
            })))
        }
        Err(error) => {
            errors.push(format!("store.url: {error}, or embedded:PATH"));
            None
        }
    }
}

fn check_limits(limits: &FileLimits, revocation: &FileRevocation, errors: &mut Vec<String>) {
    let mut check = |holds: bool, problem: &str| {
        if !holds {
            errors.push(problem.to_owned());
        }
    };
    check(
        (100..=60_000).contains(&revocation.freshness.as_ms()),
        "revocation.freshness: must be between 100ms and 60s",
    );
    check(
        revocation.max_clock_skew.as_ms() <= 10_000,
        "revocation.max_clock_skew: must be at most 10s",
    );
    check(
        (4096..=16 << 20).contains(&limits.message_bytes),
        "limits.message_bytes: must be between 4096 and 16777216",
    );
    check(
        limits.secret_bytes < limits.message_bytes,
        "limits.secret_bytes: must be less than limits.message_bytes",
    );
    check(
        limits.instruction_bytes < limits.message_bytes,
        "limits.instruction_bytes: must be less than limits.message_bytes",
    );
    check(
        (1..=100_000).contains(&limits.issuing),
        "limits.issuing: must be between 1 and 100000",
    );
    check(
        limits.connections > 0 && limits.handshakes > 0 && limits.streams > 0,
        "limits: connections, handshakes and streams must be at least 1",
    );
}

fn check_issuers(issuers: &[IssuerConfig], errors: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for issuer in issuers {
        let name = &issuer.url;
        if !seen.insert(name) {
            errors.push(format!("issuers: {name} is named twice"));
        }
        if issuer.audience.is_empty() {
            errors.push(format!("issuers: {name}: audience must not be empty"));
        }
        if issuer.preset == Preset::SpiffeJwt
            && TrustDomain::parse(name.strip_prefix("spiffe://").unwrap_or_default()).is_err()
        {
            errors.push(format!("issuers: {name}: with preset spiffe_jwt the URL is a trust domain, such as spiffe://example.org"));
        }
        if issuer.jwks_file.is_none()
            && !issuer
                .jwks_url
                .as_deref()
                .unwrap_or(name)
                .starts_with("https://")
        {
            errors.push(format!(
                "issuers: {name}: keys are fetched over https only; use jwks_url, or jwks_file"
            ));
        }
        if issuer.jwks_file.is_some() && issuer.jwks_url.is_some() {
            errors.push(format!(
                "issuers: {name}: jwks_file and jwks_url exclude each other"
            ));
        }
    }
}

fn check_material(items: &[MaterialConfig], errors: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for item in items {
        let name = format!("{} `{}`", item.kind.as_str(), item.name);
        if !seen.insert((item.kind, &item.name)) {
            errors.push(format!("trust_material: {name} is named twice"));
        }
        match (&item.file, &item.url) {
            (Some(_), None) => {}
            (None, Some(url)) if url.starts_with("https://") => {}
            (None, Some(_)) => errors.push(format!(
                "trust_material: {name}: url: only https is fetched"
            )),
            (Some(_), Some(_)) | (None, None) => {
                errors.push(format!("trust_material: {name}: needs one of file and url"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t85_every_error_is_reported_by_key_and_at_once() {
        let text = "[listen]\nworkloads = \"x\"\nextra = 1\n[identity]\nsource = \"none\"\n[store]\nurl = \"http://x\"\n[other]\n[[issuers]]\nurl = \"http://i\"\naudience = \"\"\n[limits]\nconnections = 0\n";
        let errors = Config::parse(text).unwrap_err().0;
        for part in [
            "listen",
            "identity",
            "store.url",
            "keys: section is missing",
            "journal: section is missing",
            "other: unknown section",
            "audience must not be empty",
            "https only",
            "limits",
        ] {
            assert!(
                errors.iter().any(|e| e.contains(part)),
                "{part} is missing from {errors:#?}"
            );
        }
    }

    #[test]
    fn redis_elsewhere_without_tls_is_refused() {
        let text = |url: &str| {
            format!(
                "[listen]\nworkloads = \"127.0.0.1:1\"\n[identity]\nsource = \"embedded_ca\"\ntrust_domain = \"a\"\n[store]\nurl = \"{url}\"\n[keys]\nroot_key_file = \"k\"\n[journal]\ndirectory = \"j\"\n"
            )
        };
        assert!(Config::parse(&text("redis://127.0.0.1:1")).is_ok());
        assert!(Config::parse(&text("rediss://redis.example:1")).is_ok());
        assert!(
            Config::parse(&text("redis://redis.example:1"))
                .unwrap_err()
                .to_string()
                .contains("TLS")
        );
    }
}
