//! Files with bundles, certificates and keys.

use std::path::Path;

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sundew_attestation::spiffe::{TrustBundle, TrustDomain};

/// Reads one bundle file.
pub(crate) fn read_bundle(domain: &TrustDomain, path: &Path) -> Result<TrustBundle, String> {
    let document = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    TrustBundle::parse(domain.clone(), &document).map_err(|e| format!("{}: {e}", path.display()))
}

/// Reads a certificate chain and its key; refuses a pair that does not fit.
pub(crate) fn read_identity(certificate: &Path, key: &Path) -> Result<CertifiedKey, String> {
    let fail = |path: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| fail(certificate, &e))?;
    let key_der = PrivateKeyDer::from_pem_slice(&read_private(key)?).map_err(|e| fail(key, &e))?;
    certified(chain, key_der).map_err(|e| fail(certificate, &e))
}

/// A certificate chain with its key; refuses a pair that does not fit.
pub(crate) fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(chain, key, &super::tls::provider())
}

/// Reads a file that holds a secret; refuses one that others may read (T85).
pub(crate) fn read_private(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(path).map_err(fail)?.permissions(),
    );
    if mode & 0o077 != 0 {
        return Err(format!(
            "{}: others may read it (mode {:o}); run `chmod 600 {}`",
            path.display(),
            mode & 0o777,
            path.display()
        ));
    }
    std::fs::read(path)
        .map(zeroize::Zeroizing::new)
        .map_err(fail)
}
