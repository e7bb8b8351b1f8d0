//! The agent's own X.509-SVID, from a SPIFFE Workload API or from files, kept up to date.

#![expect(clippy::disallowed_methods, reason = "an SVID ends by the wall clock")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sundew_core::client::{BundleSet, SpiffeId, TrustBundle, TrustDomain, thumbprint};
use tokio::sync::watch;

use crate::error::Error;
use crate::settings::Settings;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// An SVID with its key and the bundles to check others with. `Debug` shows the ID only.
pub struct Identity {
    id: SpiffeId,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) bundles: Arc<BundleSet>,
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
            bundles: Arc::default(),
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

    /// Returns the roots that others are checked with: for each trust domain, as
    /// `spiffe://<name>`, its roots in DER, one after the other.
    #[must_use]
    pub fn roots(&self) -> Vec<(String, Vec<u8>)> {
        let concatenated = |bundle: &TrustBundle| {
            bundle
                .certificates()
                .flat_map(|root| root.to_vec())
                .collect()
        };
        self.bundles
            .iter()
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
            return Self::from_files(folder.clone());
        }
        match &settings.endpoint_socket {
            Some(socket) => Self::from_workload_api(socket).await,
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

    /// Waits until there is another identity than at the last call.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The source is gone; nothing will change any more.
            std::future::pending::<()>().await;
        }
        self.0.mark_unchanged();
    }

    fn from_files(folder: PathBuf) -> Result<Self, Error> {
        let first = read_folder(&folder)?;
        let (sender, receiver) = watch::channel(Arc::new(first));
        tokio::spawn(async move {
            while !sender.is_closed() {
                tokio::time::sleep(LOOK_EVERY).await;
                match read_folder(&folder) {
                    Ok(next) if next.chain != sender.borrow().chain => {
                        drop(sender.send_replace(Arc::new(next)))
                    }
                    Ok(_) => {}
                    Err(problem) => tracing::warn!(
                        problem = problem.to_string(),
                        "SVID files cannot be read; the last good ones stay"
                    ),
                }
            }
        });
        Ok(Self(receiver))
    }

    async fn from_workload_api(socket: &str) -> Result<Self, Error> {
        let fail = |e: &dyn std::fmt::Display| Error::Identity(format!("{socket}: {e}"));
        let endpoint = socket.replacen("unix:///", "unix:/", 1);
        let built = tokio::time::timeout(
            FIRST_WITHIN,
            spiffe::X509Source::builder().endpoint(&endpoint).build(),
        )
        .await;
        let source = built
            .map_err(|_| fail(&"no answer within 10 seconds"))?
            .map_err(|e| fail(&e))?;
        let (sender, receiver) =
            watch::channel(Arc::new(from_source(&source).map_err(|e| fail(&e))?));
        tokio::spawn(async move {
            let mut updates = source.updated();
            while updates.changed().await.is_ok() && !sender.is_closed() {
                match from_source(&source) {
                    Ok(next) if next.chain != sender.borrow().chain => {
                        drop(sender.send_replace(Arc::new(next)))
                    }
                    Ok(_) => {}
                    Err(problem) => tracing::warn!(problem = problem.to_string(), "Workload API"),
                }
            }
        });
        Ok(Self(receiver))
    }
}

fn identity(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    bundles: BundleSet,
) -> Result<Identity, SvidError> {
    // Whoever we are, a certificate that would not be accepted is better noticed here than at the
    // broker.
    let now_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
    let verified = sundew_core::client::validate_chain(&chain, &bundles, now_s)
        .map_err(|e| SvidError::NotAccepted(e.to_string()))?;
    Ok(Identity {
        id: verified.id().clone(),
        chain,
        key,
        bundles: Arc::new(bundles),
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
    #[error("the SVID key must be P-256, P-384 or Ed25519 for this")]
    Unsupported,
}

/// Signs `message` with an SVID key. The signature is ECDSA in ASN.1 DER, or Ed25519.
pub(crate) fn sign(key: &PrivateKeyDer<'static>, message: &[u8]) -> Result<Vec<u8>, SignError> {
    use rustls::SignatureScheme as Scheme;
    let key = rustls::crypto::ring::sign::any_supported_type(key)?;
    let schemes = [
        Scheme::ECDSA_NISTP256_SHA256,
        Scheme::ECDSA_NISTP384_SHA384,
        Scheme::ED25519,
    ];
    let signer = key.choose_scheme(&schemes).ok_or(SignError::Unsupported)?;
    Ok(signer.sign(message)?)
}

/// Reads `svid.pem`, `key.pem` and `bundle.pem`; the bundle is that of the SVID's own trust domain.
fn read_folder(folder: &Path) -> Result<Identity, SvidError> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|cause| SvidError::File { path, cause })
    };
    let chain = CertificateDer::pem_slice_iter(&read("svid.pem")?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(SvidError::malformed("svid.pem"))?;
    let key = PrivateKeyDer::from_pem_slice(&zeroize::Zeroizing::new(read("key.pem")?))
        .map_err(SvidError::malformed("key.pem"))?;
    let leaf = chain
        .first()
        .ok_or("no certificate")
        .map_err(SvidError::malformed("svid.pem"))?;
    let domain =
        spiffe::cert::spiffe_id_from_der(leaf).map_err(SvidError::malformed("svid.pem"))?;
    let domain =
        TrustDomain::parse(domain.trust_domain_name()).map_err(SvidError::malformed("svid.pem"))?;
    let mut bundles = BundleSet::default();
    bundles.insert(
        TrustBundle::parse(domain, &read("bundle.pem")?)
            .map_err(SvidError::malformed("bundle.pem"))?,
    );
    identity(chain, key, bundles)
}

/// Takes the SVID and all bundles that a Workload API gives at this moment.
fn from_source(source: &spiffe::X509Source) -> Result<Identity, SvidError> {
    let svid = source.svid().map_err(SvidError::workload_api)?;
    let chain = svid
        .cert_chain()
        .iter()
        .map(|c| CertificateDer::from(c.as_bytes().to_vec()))
        .collect();
    let key = PrivateKeyDer::try_from(svid.private_key().as_bytes().to_vec())
        .map_err(SvidError::workload_api)?;
    let mut bundles = BundleSet::default();
    let set = source.bundle_set().map_err(SvidError::workload_api)?;
    for (domain, bundle) in set.iter() {
        let domain = TrustDomain::parse(domain.as_str()).map_err(SvidError::workload_api)?;
        let roots = bundle.authorities().iter().map(|c| c.as_bytes());
        bundles.insert(TrustBundle::from_der(domain, roots).map_err(SvidError::workload_api)?);
    }
    identity(chain, key, bundles)
}
