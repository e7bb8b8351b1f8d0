//! The agent's own X.509-SVID, from a SPIFFE Workload API or from files, kept up to date.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sundew_core::client::{
    BundleSet, SecretFileError, SpiffeId, SvidChoice, TrustBundle, thumbprint, validate_chain,
};
use tokio::sync::watch;

use crate::clock;
use crate::error::Error;
use crate::settings::Settings;

mod files;
mod workload_api;

/// An SVID with its key and the bundles to check others with. `Debug` shows the ID only.
pub struct Identity {
    id: SpiffeId,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) trust: Arc<Trust>,
}

/// The bundles that others are checked with. All identities of one source share them, so that a
/// changed bundle counts at the next handshake of every connection, whichever SVID it has.
#[derive(Debug, Default)]
pub(crate) struct Trust(ArcSwap<BundleSet>);

impl Trust {
    /// Makes a trust that begins with these bundles.
    pub(crate) fn of(bundles: BundleSet) -> Self {
        tell_left_out(&bundles);
        Self(ArcSwap::from_pointee(bundles))
    }

    /// Returns the bundles of this moment.
    pub(crate) fn bundles(&self) -> Arc<BundleSet> {
        self.0.load_full()
    }

    /// Takes these bundles in place of all current ones, and tells whether they differ. A trust
    /// domain that has none any more is not trusted any more (I4).
    fn replace(&self, bundles: BundleSet) -> bool {
        let differs = !self.0.load().is_same(&bundles);
        if differs {
            tell_left_out(&bundles);
            self.0.store(Arc::new(bundles));
        }
        differs
    }
}

/// Says in the log what cannot be used of bundles, and whose it is. The rest counts (I5).
fn tell_left_out(bundles: &BundleSet) {
    for bundle in bundles
        .iter()
        .filter(|bundle| bundle.left_out().count() > 0)
    {
        tracing::warn!(
            trust_domain = %bundle.trust_domain(),
            problem = %bundle.left_out(),
            "parts of the trust bundle cannot be used; the rest counts"
        );
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Makes an identity that nobody has checked, for unit tests.
    #[cfg(test)]
    pub(crate) fn unchecked(
        id: &str,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Self {
        Self {
            id: SpiffeId::parse(id).expect("ID"),
            chain,
            key,
            trust: Arc::default(),
        }
    }

    /// Returns the SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Returns the SHA-256 of the leaf certificate (`x5t#S256`, RFC 8705 section 3.1).
    #[must_use]
    pub fn thumbprint(&self) -> [u8; 32] {
        self.chain
            .first()
            .map(|leaf| thumbprint(leaf))
            .unwrap_or_default()
    }

    /// Signs `message` with the SVID's key. The signature is ECDSA in ASN.1 DER, or Ed25519.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        sign(&self.key, message).map_err(|e| Error::Identity(e.to_string()))
    }

    /// Returns the roots that others are checked with at this moment: for each trust domain that has
    /// some, as `spiffe://<name>`, its roots in DER, one after the other.
    #[must_use]
    pub fn roots(&self) -> Vec<(String, Vec<u8>)> {
        let concatenated = |bundle: &TrustBundle| {
            bundle
                .certificates()
                .flat_map(|root| root.to_vec())
                .collect()
        };
        self.trust
            .bundles()
            .iter()
            .filter(|bundle| !bundle.is_empty())
            .map(|bundle| (bundle.trust_domain().id(), concatenated(bundle)))
            .collect()
    }

    /// Returns the certificate chain in DER, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
}

/// A source of identities, which hands out the current one and tells of the next.
#[derive(Clone, Debug)]
pub struct IdentitySource(watch::Receiver<Arc<Identity>>);

impl IdentitySource {
    /// Follows what a unit test sends.
    #[cfg(test)]
    pub(crate) fn following(identities: watch::Receiver<Arc<Identity>>) -> Self {
        Self(identities)
    }

    /// Opens what the settings name, and waits for the first identity.
    pub async fn open(settings: &Settings) -> Result<Self, Error> {
        if let Some(folder) = &settings.svid_dir {
            return files::follow(folder.clone());
        }
        match &settings.endpoint_socket {
            Some(socket) => workload_api::follow(socket, choice(settings)?).await,
            None => Err(Error::Identity(
                "neither SPIFFE_ENDPOINT_SOCKET nor SUNDEW_SVID_DIR is set".to_owned(),
            )),
        }
    }

    /// Returns the identity of this moment.
    #[must_use]
    pub fn current(&self) -> Arc<Identity> {
        self.0.borrow().clone()
    }

    /// Waits until there is another SVID or other bundles than at the last call.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The source is gone; nothing will change any more.
            std::future::pending::<()>().await;
        }
        self.0.mark_unchanged();
    }
}

/// Returns which SVID of a Workload API the settings want.
fn choice(settings: &Settings) -> Result<SvidChoice, Error> {
    match (&settings.svid_id, &settings.svid_hint) {
        (None, None) => Ok(SvidChoice::First),
        (None, Some(hint)) => Ok(SvidChoice::Hint(hint.clone())),
        (Some(id), None) => SpiffeId::parse(id)
            .map(SvidChoice::Id)
            .map_err(|e| Error::Identity(format!("SUNDEW_SVID_ID: {e}"))),
        (Some(_), Some(_)) => Err(Error::Identity(
            "SUNDEW_SVID_ID and SUNDEW_SVID_HINT exclude each other".to_owned(),
        )),
    }
}

/// What a source holds at one moment. SVID and bundles count each by itself: a new root must be
/// trusted although the SVID is still the old one, and a removed root must not be.
struct Found {
    bundles: Result<BundleSet, SvidError>,
    svid: Result<Svid, SvidError>,
}

/// A certificate chain, leaf first, with the key of the leaf.
struct Svid {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Hands out what a source finds, as long as somebody follows it.
struct Publisher(watch::Sender<Arc<Identity>>);

impl Publisher {
    /// Begins with what was found first, all of which must be usable.
    fn begin(found: Found) -> Result<(Self, IdentitySource), SvidError> {
        let trust = Arc::new(Trust::of(found.bundles?));
        let first = identity(found.svid?, trust)?;
        let (sender, receiver) = watch::channel(Arc::new(first));
        Ok((Self(sender), IdentitySource(receiver)))
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Hands out the parts that have changed. Parts that cannot be used are reported in the log,
    /// and the last good ones stay.
    fn publish(&self, found: Found) {
        let current = self.0.borrow().clone();
        let trust = &current.trust;
        let changed = usable(found.bundles).is_some_and(|bundles| trust.replace(bundles));
        let svid = usable(found.svid).filter(|svid| svid.chain != current.chain);
        let next = svid.and_then(|svid| usable(identity(svid, Arc::clone(trust))));
        if let Some(next) = next {
            self.0.send_replace(Arc::new(next));
        } else if changed {
            self.0.send_replace(current);
        }
    }
}

fn usable<T>(found: Result<T, SvidError>) -> Option<T> {
    found
        .inspect_err(|problem| {
            tracing::warn!(
                problem = problem.to_string(),
                "SVID or bundles cannot be used; the last good ones stay"
            );
        })
        .ok()
}

fn identity(svid: Svid, trust: Arc<Trust>) -> Result<Identity, SvidError> {
    // Whoever we are, a certificate that would not be accepted is better noticed here than at the
    // broker.
    let now_s = clock::now_ms().div_euclid(1000);
    let verified = validate_chain(&svid.chain, &trust.bundles(), now_s)
        .map_err(|e| SvidError::NotAccepted(e.to_string()))?;
    // Files are replaced one after the other, so that the key may be that of another certificate.
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(svid.chain.clone(), svid.key.clone_key(), &provider)
        .map_err(|e| SvidError::NotAccepted(e.to_string()))?;
    Ok(Identity {
        id: verified.id().clone(),
        chain: svid.chain,
        key: svid.key,
        trust,
    })
}

/// Why an SVID cannot be used.
#[derive(Debug, thiserror::Error)]
enum SvidError {
    /// A file of the folder could not be read.
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
    /// A file of the folder is not what it should be.
    #[error("{file}: {problem}")]
    Malformed { file: &'static str, problem: String },
    /// The SVID would not be accepted by its own trust domain.
    #[error("own SVID: {0}")]
    NotAccepted(String),
    /// The key could not be read, or others may read it.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The Workload API gave something that cannot be used.
    #[error("{0}")]
    WorkloadApi(String),
}

impl SvidError {
    fn malformed<E: std::fmt::Display>(file: &'static str) -> impl Fn(E) -> Self {
        move |problem| Self::Malformed {
            file,
            problem: problem.to_string(),
        }
    }

    fn workload_api(problem: impl std::fmt::Display) -> Self {
        Self::WorkloadApi(problem.to_string())
    }
}

impl From<SvidError> for Error {
    fn from(problem: SvidError) -> Self {
        Self::Identity(problem.to_string())
    }
}

/// Why a key does not sign.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    /// The key could not be read, or signing failed.
    #[error(transparent)]
    Failed(#[from] rustls::Error),
    /// The key is of a type that evidence is not signed with.
    #[error("the SVID key must be P-256, P-384, Ed25519 or RSA for this")]
    Unsupported,
}

/// Signs `message` with an SVID key. The signature is ECDSA in ASN.1 DER, Ed25519, or RSA with PKCS #1
/// v1.5 and SHA-256.
pub(crate) fn sign(key: &PrivateKeyDer<'static>, message: &[u8]) -> Result<Vec<u8>, SignError> {
    use rustls::SignatureScheme as Scheme;
    let key = rustls::crypto::ring::sign::any_supported_type(key)?;
    let schemes = [
        Scheme::ECDSA_NISTP256_SHA256,
        Scheme::ECDSA_NISTP384_SHA384,
        Scheme::ED25519,
        Scheme::RSA_PKCS1_SHA256,
    ];
    let signer = key.choose_scheme(&schemes).ok_or(SignError::Unsupported)?;
    Ok(signer.sign(message)?)
}

#[cfg(test)]
mod tests;
