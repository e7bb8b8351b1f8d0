//! Requests for certificates.

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair};

/// Generates a key, and returns it with a PKCS #10 request in DER that has nothing in it but the
/// key: the broker decides what the certificate says.
pub(crate) fn generate_key_and_csr() -> Result<(KeyPair, Vec<u8>)> {
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?;
    Ok((key, csr.der().to_vec()))
}
