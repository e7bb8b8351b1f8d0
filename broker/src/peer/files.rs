//! Files with bundles, certificates and keys.

use std::io;
use std::path::{Path, PathBuf};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem};
use sundew_attestation::spiffe::{BundleError, TrustBundle, TrustDomain};
use sundew_core::{SecretFileError, read_secret_file};
use zeroize::Zeroizing;

/// Why a file was not taken. Every text begins with the path of the file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file holds no bundle of its trust domain.
    #[error("{}: {cause}", .path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// The fault in the content.
        cause: BundleError,
    },
    /// The certificate and its key do not fit.
    #[error("{}: {cause}", .path.display())]
    Pair {
        /// The file of the certificate.
        path: PathBuf,
        /// The reason why they do not fit.
        cause: rustls::Error,
    },
    /// The file is not PEM, or not the PEM that is expected.
    #[error("{}: {cause}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The fault in the content.
        cause: pem::Error,
    },
    /// The file holds a secret, and cannot be read, or others may read it.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The file cannot be read.
    #[error("{}: {cause}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason why the file cannot be read.
        cause: io::Error,
    },
}

/// Reads a file that holds no secret.
pub(crate) fn read_public(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(unreadable(path))
}

/// Reads a file that holds a secret; refuses one that others may read (T85).
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    Ok(read_secret_file(path)?)
}

/// Reads the bundle of a trust domain.
pub(crate) fn read_bundle(domain: &TrustDomain, path: &Path) -> Result<TrustBundle, FileError> {
    let document = read_public(path)?;
    TrustBundle::parse(domain.clone(), &document).map_err(|cause| FileError::Bundle {
        path: path.to_owned(),
        cause,
    })
}

/// Reads a certificate chain and its key; refuses a pair that does not fit.
pub(crate) fn read_identity(certificate: &Path, key: &Path) -> Result<CertifiedKey, FileError> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(not_pem(certificate))?;
    let key_der = PrivateKeyDer::from_pem_slice(&read_private(key)?).map_err(not_pem(key))?;
    certified(chain, key_der).map_err(|cause| FileError::Pair {
        path: certificate.to_owned(),
        cause,
    })
}

/// A certificate chain with its key; refuses a pair that does not fit.
pub(crate) fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(chain, key, &super::tls::provider())
}

/// Makes an error of the file system one that names the file.
fn unreadable(path: &Path) -> impl Fn(io::Error) -> FileError + '_ {
    |cause| FileError::Unreadable {
        path: path.to_owned(),
        cause,
    }
}

/// Makes an error of reading PEM one that names the file.
fn not_pem(path: &Path) -> impl Fn(pem::Error) -> FileError + '_ {
    |cause| FileError::Pem {
        path: path.to_owned(),
        cause,
    }
}
