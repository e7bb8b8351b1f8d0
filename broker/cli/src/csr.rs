//! Requests for certificates.

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair};

/// Generates a key, and returns it with a PKCS #10 request in DER that has nothing in it but the
/// key: the broker decides what the certificate says.
pub(crate) fn generate_key_and_csr() -> Result<(KeyPair, Vec<u8>)> {
    let key = KeyPair::generate()?;
    let csr = csr_of(&key)?;
    Ok((key, csr))
}

/// Returns such a request for a key.
pub(crate) fn csr_of(key: &KeyPair) -> Result<Vec<u8>> {
    let csr = CertificateParams::default().serialize_request(key)?;
    Ok(csr.der().to_vec())
}
