//! Opening the ledger: the root keys, the store, the journal with its replay, and the log.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sundew_core::store::{Store, StoreError};
use sundew_core::{LogEntry, RootKey, SecretBytes};

use super::config::{Config, Identity, RedisConfig, StoreConfig};
use super::start_error::{StartError, during};
use crate::ca::Ca;
use crate::clock;
use crate::journal::{Journal, JournalSettings};
use crate::ledger::Ledger;
use crate::liveness::{AgreementError, LogFollower, RevocationLog, agree, require_known_keys};
use crate::metrics::Metrics;
use crate::peer::files::{read_private, read_public};
use crate::random::random_name;
use crate::records::Records;
use crate::store::embedded::EmbeddedStore;
use crate::store::measured::measured;
use crate::store::redis::{RedisSettings, RedisStore};

/// The key of the configuration that names the active root key.
const ACTIVE_KEY: &str = "keys.root_key_file";
/// The key of the configuration that names root keys beside the active one.
const OTHER_KEYS: &str = "keys.other_root_key_files";
/// How often it is told that a store is not there yet.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Pause between two attempts to open a store that is not there yet.
const RETRY_STORE_AFTER: Duration = Duration::from_millis(500);

/// An open ledger, and the other parts that opening it gives.
pub(super) struct Opened {
    pub(super) ca: Option<Ca>,
    pub(super) follower: LogFollower,
    pub(super) ledger: Ledger,
    /// The name of the store, for the start-up message.
    pub(super) store: String,
}

/// Opens the store, the journal and the log. Waits for a store that is not there yet.
pub(super) async fn open_ledger(config: &Config, metrics: &Metrics) -> Result<Opened, StartError> {
    let root = read_root_keys(config)?;
    let store = measured(open_store(&config.store).await?, metrics.store());
    let (journal, endings) = open_journal(config)?;
    journal.count_in(metrics.records());
    let alone = matches!(config.store, StoreConfig::Embedded(_));
    let agreement = agree(store.as_ref(), &root, &config.bounds, alone).await;
    let agreement = agreement.map_err(|error| {
        let is_other_key = matches!(error, AgreementError::RootKey);
        let part = if is_other_key { ACTIVE_KEY } else { "bounds" };
        during(part)(error)
    })?;
    let known = require_known_keys(store.as_ref(), &root).await;
    known.map_err(during(ACTIVE_KEY))?;
    let log = Arc::new(RevocationLog::new(
        Arc::clone(&store),
        Arc::clone(&root),
        random_name().map_err(during("broker name"))?,
        agreement,
        config.bounds,
    ));
    if config.beside_older_brokers {
        log.allow_older_brokers();
    }
    let records = Records::new(Arc::clone(&store), root);
    // L22: before anything is read, so that nothing older is taken.
    for statement in endings.iter().filter_map(|entry| entry.document.as_ref()) {
        records.learn(statement);
    }
    log.restore(endings);
    let description = store.describe();
    let follower = LogFollower::new(Arc::clone(&log), Arc::clone(&journal));
    let ledger = Ledger::new(records, log, journal, metrics.endings());
    let ca = match &config.identity {
        Identity::EmbeddedCa {
            trust_domain,
            svid_ttl,
            renew_within,
            dns_names: _,
        } => Some(
            Ca::open(&ledger, trust_domain.clone(), (*svid_ttl, *renew_within))
                .await
                .map_err(during("embedded CA"))?,
        ),
        Identity::Files { .. } | Identity::WorkloadApi { .. } => None,
    };
    Ok(Opened {
        ca,
        follower,
        ledger,
        store: description,
    })
}

/// Reads the root keys of a configuration.
///
/// # Errors
///
/// [`StartError`] that names the key of the configuration whose file cannot be read, or has no key.
pub fn read_root_keys(config: &Config) -> Result<Arc<RootKey>, StartError> {
    let read = |path: &PathBuf, key: &str| {
        let bytes = read_private(path).map_err(during(key))?;
        RootKey::parse(&bytes).map_err(during(key))
    };
    let active = read(&config.root_key_file, ACTIVE_KEY)?;
    let others = config.other_root_key_files.iter();
    let others: Vec<_> = others
        .map(|path| read(path, OTHER_KEYS))
        .collect::<Result<_, _>>()?;
    let root = active.accepting(others).map_err(during(OTHER_KEYS))?;
    Ok(Arc::new(root))
}

/// Opens the store of a broker's configuration, and reads its root keys, for a command that works on
/// the store itself. A broker with an embedded store must not run meanwhile.
///
/// # Errors
///
/// [`StartError`] if a key cannot be read, or the store cannot be worked with now.
pub async fn open_store_of(config: &Config) -> Result<(Arc<dyn Store>, Arc<RootKey>), StartError> {
    let root = read_root_keys(config)?;
    let store = make_store(&config.store)?;
    store.check().await.map_err(during("store"))?;
    Ok((store, root))
}

/// Opens the journal; answers it with the endings in it that still matter.
fn open_journal(config: &Config) -> Result<(Arc<Journal>, Vec<LogEntry>), StartError> {
    let settings = JournalSettings {
        reserve: config.journal.reserve,
        budget: Some(config.journal.budget),
    };
    let mut endings = Vec::new();
    let journal = Journal::open_with(&config.journal.directory, settings, |ending| {
        endings.push(ending);
    });
    Ok((Arc::new(journal.map_err(during("journal"))?), endings))
}

fn make_store(config: &StoreConfig) -> Result<Arc<dyn Store>, StartError> {
    Ok(match config {
        StoreConfig::Embedded(path) => EmbeddedStore::open(path).map_err(during("store"))?,
        StoreConfig::Redis(redis) => RedisStore::new(redis_settings(redis)?),
    })
}

/// Opens the configured store once it can be worked with.
async fn open_store(config: &StoreConfig) -> Result<Arc<dyn Store>, StartError> {
    let store = make_store(config)?;
    let mut told = None;
    loop {
        match store.check().await {
            Ok(()) => return Ok(store),
            // T63: a store that is not there yet is waited for; one that can never do is an error.
            Err(error @ StoreError::Unavailable(_)) => {
                if told.is_none_or(|at| clock::since(at) > TELL_AGAIN_AFTER) {
                    told = Some(clock::monotonic());
                    tracing::warn!(%error, store = store.describe(), "waiting for the store");
                }
                tokio::time::sleep(RETRY_STORE_AFTER).await;
            }
            Err(error) => return Err(during("store")(error)),
        }
    }
}

/// The settings of a Redis, with the content of the configured files.
fn redis_settings(config: &RedisConfig) -> Result<RedisSettings, StartError> {
    let private = |path: &PathBuf, key: &str| {
        read_private(path)
            .map(|bytes| SecretBytes::new(bytes.to_vec()))
            .map_err(during(&format!("store.{key}")))
    };
    let public =
        |path: &PathBuf, key: &str| read_public(path).map_err(during(&format!("store.{key}")));
    let password = config.password_file.as_ref();
    let ca = config.ca_file.as_ref();
    let client = match &config.client {
        None => None,
        Some((certificate, key)) => Some((
            public(certificate, "certificate_file")?,
            private(key, "key_file")?,
        )),
    };
    Ok(RedisSettings {
        url: config.url.clone(),
        password: password
            .map(|path| private(path, "password_file"))
            .transpose()?,
        ca: ca.map(|path| public(path, "ca_file")).transpose()?,
        client,
        timeout: config.timeout,
        replicas: config.replicas,
        durability: config.durability,
    })
}
