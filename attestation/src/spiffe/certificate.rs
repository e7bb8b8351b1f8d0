//! Checks that trust anchors and the certificates of a chain have in common, and that
//! rustls-webpki leaves to its caller.

use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::X509Certificate;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::rsa;

/// Returns whether the certificate has a critical extension that this crate cannot interpret; RFC
/// 5280, section 4.2, demands that such a certificate is rejected.
pub(super) fn has_unknown_critical_extension(cert: &X509Certificate<'_>) -> bool {
    cert.extensions().iter().any(|ext| {
        ext.critical
            && matches!(
                ext.parsed_extension(),
                ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. }
            )
    })
}

/// Returns whether the key is strong enough to be trusted and small enough to be verified cheaply
/// (T08, T09): RSA with 2048 to 4096 bits and without the fingerprint of ROCA, P-256, P-384 or
/// Ed25519.
pub(super) fn is_acceptable_key(key: &SubjectPublicKeyInfo<'_>) -> bool {
    match key.parsed() {
        Ok(PublicKey::RSA(key)) => rsa::is_acceptable(key.modulus, key.exponent),
        Ok(PublicKey::EC(point)) => matches!(point.key_size(), 256 | 384),
        // x509-parser has no variant for Ed25519: 1.3.101.112 (RFC 8410, section 3).
        Ok(PublicKey::Unknown(_)) => key.algorithm.algorithm.to_id_string() == "1.3.101.112",
        Ok(PublicKey::DSA(_) | PublicKey::GostR3410(_) | PublicKey::GostR3410_2012(_)) | Err(_) => {
            false
        }
    }
}
