//! Bundles of partners that their bundle endpoints serve (SPIFFE Federation, sections 4, 5 and 6).
//!
//! Nothing in a bundle says whose it is: the configuration does. Redirects are not followed. An
//! endpoint that does not answer is asked again when it is due, and its last bundle is used for
//! `limits.bundle_age` at most.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sundew_attestation::spiffe::{BundleError, BundleSet, SpiffeId, TrustBundle, TrustDomain};

use crate::clock;
use crate::material::fetch::{self, FetchError};
use crate::peer::Trust;
use crate::peer::endpoint::client_config;
use crate::peer::files::{FileError, read_bundle};
use crate::peer::trust::Source;

/// How often a bundle is fetched that does not say how often (section 4.1).
const FETCH_INTERVAL: Duration = Duration::from_secs(300);
/// Shortest time between two fetches of a bundle.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(30);

/// How the endpoint of a partner is authenticated (section 5.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Profile {
    /// `https_spiffe`: by an SVID.
    HttpsSpiffe {
        /// The SPIFFE ID of the endpoint.
        endpoint: SpiffeId,
        /// The file with the partner's bundle for the first fetch, if the endpoint is in the
        /// partner's own trust domain.
        bundle: Option<PathBuf>,
    },
    /// `https_web`: by a certificate for the host of the URL.
    HttpsWeb {
        /// PEM of the CA, if it is not a public one.
        ca_file: Option<PathBuf>,
    },
}

/// A partner whose bundle is fetched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FederationConfig {
    /// The trust domain that the bundle is of.
    pub trust_domain: TrustDomain,
    /// The https URL of the bundle endpoint.
    pub url: String,
    /// How the endpoint is authenticated.
    pub profile: Profile,
}

/// Why a partner's bundle was not taken.
#[derive(Debug, thiserror::Error)]
enum FederationError {
    /// The document is no SPIFFE bundle.
    #[error("{0}")]
    Bundle(BundleError),
    /// The document could not be fetched.
    #[error("{0}")]
    Fetch(FetchError),
    /// The bundle for the first fetch cannot be read.
    #[error("{0}")]
    File(FileError),
    /// The document is older than the one that counts (section 4.2).
    #[error("sequence {served} is older than {known}")]
    Older {
        /// The sequence number of the document.
        served: u64,
        /// The sequence number of the bundle that counts.
        known: u64,
    },
    /// The TLS settings cannot be used.
    #[error("{0}")]
    Tls(rustls::Error),
}

/// The bundles of all partners.
pub(in crate::serve) struct Federation {
    trust: Arc<Trust>,
    bundles: Mutex<BundleSet>,
}

impl Federation {
    /// Nobody yet.
    pub(in crate::serve) fn new(trust: Arc<Trust>) -> Self {
        Self {
            trust,
            bundles: Mutex::default(),
        }
    }

    fn put(&self, bundle: Arc<TrustBundle>) {
        let mut bundles = self.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        bundles.insert(bundle);
        self.trust.publish(Source::Federation, bundles.clone());
    }
}

/// A partner, and the bundle that was fetched last.
pub(in crate::serve) struct Partner {
    config: FederationConfig,
    federation: Arc<Federation>,
    limit: Duration,
    latest: Option<Arc<TrustBundle>>,
    /// The moment when the bundle could be fetched last.
    good_at: Instant,
}

impl Partner {
    /// A partner of whom nothing was fetched. While its endpoint fails, its bundle is used for
    /// `limit`.
    pub(in crate::serve) fn new(
        config: FederationConfig,
        federation: Arc<Federation>,
        limit: Duration,
    ) -> Self {
        Self {
            config,
            federation,
            limit,
            latest: None,
            good_at: clock::monotonic(),
        }
    }

    /// Keeps the bundle up to date, for as long as it is polled.
    pub(in crate::serve) async fn follow(mut self) {
        loop {
            let fetched = self.fetch().await;
            self.take(fetched);
            tokio::time::sleep(self.interval()).await;
        }
    }

    /// How long to wait before the next fetch: as the bundle says, and in time for its limit.
    fn interval(&self) -> Duration {
        let hint = self
            .latest
            .as_ref()
            .and_then(|latest| latest.refresh_hint_s());
        let longest = self.limit / 3;
        let shortest = SHORTEST_INTERVAL.min(longest);
        hint.map_or(FETCH_INTERVAL, Duration::from_secs)
            .clamp(shortest, longest)
    }

    async fn fetch(&self) -> Result<Vec<u8>, FederationError> {
        let client = match &self.config.profile {
            Profile::HttpsWeb { ca_file } => fetch::client(ca_file.as_deref()),
            Profile::HttpsSpiffe { endpoint, bundle } => {
                let bundles = self.bundles_of_endpoint(endpoint, bundle.as_ref())?;
                let tls = client_config(endpoint.clone(), bundles).map_err(FederationError::Tls)?;
                fetch::client_with(tls)
            }
        };
        let client = client.map_err(FederationError::Fetch)?;
        let fetched = fetch::get(&client, &self.config.url).await;
        fetched.map_err(FederationError::Fetch)
    }

    /// What the endpoint's SVID is checked with: if it is in the partner's trust domain, the latest
    /// bundle, and for the first fetch that of the file; otherwise whom this broker trusts (section
    /// 5.2.2.4).
    fn bundles_of_endpoint(
        &self,
        endpoint: &SpiffeId,
        file: Option<&PathBuf>,
    ) -> Result<BundleSet, FederationError> {
        let domain = &self.config.trust_domain;
        if endpoint.trust_domain() != domain {
            return Ok(self.federation.trust.current().bundles.clone());
        }
        let mut only = BundleSet::default();
        match (&self.latest, file) {
            (Some(latest), _) => only.insert(Arc::clone(latest)),
            (None, Some(path)) => {
                only.insert(read_bundle(domain, path).map_err(FederationError::File)?)
            }
            (None, None) => {}
        }
        Ok(only)
    }

    fn take(&mut self, document: Result<Vec<u8>, FederationError>) {
        let taken = document.and_then(|document| {
            let domain = self.config.trust_domain.clone();
            let bundle =
                TrustBundle::parse_json(domain, &document).map_err(FederationError::Bundle)?;
            let known = self.latest.as_ref().and_then(|latest| latest.sequence());
            if let (Some(served), Some(known)) = (bundle.sequence(), known)
                && served < known
            {
                return Err(FederationError::Older { served, known });
            }
            let bundle = Arc::new(bundle);
            self.federation.put(Arc::clone(&bundle));
            self.latest = Some(bundle);
            self.good_at = clock::monotonic();
            Ok(())
        });
        if taken.is_err() && clock::since(self.good_at) > self.limit {
            // AC-09: from here on, nobody of this trust domain is let in.
            let empty = TrustBundle::empty(self.config.trust_domain.clone());
            self.federation.put(Arc::new(empty));
            self.latest = None;
        }
        let source = format!("federation with {}", self.config.trust_domain);
        self.federation.trust.report(&source, taken);
    }
}

#[cfg(test)]
mod tests;
