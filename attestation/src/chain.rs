//! X.509 paths of attestation keys (RFC 5280), validated by webpki.
//!
//! The caller names the anchors: a certificate that comes with the evidence is an intermediate at most (T28).

use std::collections::BTreeSet;

use rustls_pki_types::{AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, KeyUsage, ring as algorithms};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Most intermediates that are looked at (T09).
const MAX_INTERMEDIATES: usize = 8;

/// What hardware makers sign with. No SHA-1, no RSA below 2048 bits.
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    &PssWithTrailer,
];

/// RSA-PSS with SHA-384 as AMD writes its identifier: with the trailer field, although it is the default (RFC 4055, section 3.1).
#[derive(Debug)]
struct PssWithTrailer;

impl SignatureVerificationAlgorithm for PssWithTrailer {
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY.verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        AlgorithmIdentifier::from_slice(&[
            0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30, 0x39, 0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65,
            0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0d, 0x06,
            0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, 0x30, 0xa3, 0x03, 0x02, 0x01, 0x01,
        ])
    }
}

/// Roots of makers of hardware, in DER, with what they may have signed.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// Self-signed.
    pub anchors: Vec<Vec<u8>>,
    /// Signed by them.
    pub intermediates: Vec<Vec<u8>>,
}

/// Any purpose that is not contradicted: attestation certificates have no extended key usage.
const NO_PURPOSE: KeyUsage = KeyUsage::required_if_present(&[0x67, 0x81, 0x05, 0x08, 0x03]);

/// Why a path was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Two intermediates of the same name.
    #[error("two intermediate certificates of the same name")]
    Ambiguous,
    /// Not a certificate.
    #[error("not a certificate")]
    Malformed,
    /// No valid path to an anchor at that time.
    #[error("no valid path to a trusted root: {0}")]
    Path(webpki::Error),
    /// More certificates than are looked at.
    #[error("more than {MAX_INTERMEDIATES} intermediate certificates")]
    TooLong,
    /// An intermediate whose key usage does not let it sign certificates.
    #[error("an intermediate may not sign certificates")]
    Usage,
}

/// Whether `leaf` has a valid path over `intermediates` to one of `anchors` at this time.
pub(crate) fn verify(leaf: &[u8], intermediates: &[Vec<u8>], anchors: &[Vec<u8>], at_ms: i64) -> Result<(), ChainError> {
    verify_for(NO_PURPOSE, leaf, intermediates, anchors, at_ms)
}

/// The same for a leaf of this purpose.
pub(crate) fn verify_for(purpose: KeyUsage, leaf: &[u8], intermediates: &[Vec<u8>], anchors: &[Vec<u8>], at_ms: i64) -> Result<(), ChainError> {
    if intermediates.len() > MAX_INTERMEDIATES {
        return Err(ChainError::TooLong);
    }
    let mut subjects = BTreeSet::new();
    for der in intermediates {
        // webpki does not look at the key usage of issuers.
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| ChainError::Malformed)?;
        let usage = certificate.key_usage().map_err(|_| ChainError::Malformed)?;
        if !rest.is_empty() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(ChainError::Usage);
        }
        // T09: one candidate for each step, so that a path costs as many signatures as it is long.
        if !subjects.insert(certificate.subject().as_raw().to_vec()) {
            return Err(ChainError::Ambiguous);
        }
    }
    let borrowed: Vec<CertificateDer<'_>> = anchors.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let anchors = borrowed.iter().map(webpki::anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>().map_err(|_| ChainError::Malformed)?;
    let intermediates: Vec<CertificateDer<'_>> = intermediates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let leaf = CertificateDer::from(leaf);
    let leaf = EndEntityCert::try_from(&leaf).map_err(|_| ChainError::Malformed)?;
    let seconds = u64::try_from(at_ms.div_euclid(1000)).map_err(|_| ChainError::Malformed)?;
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    leaf.verify_for_usage(ALGORITHMS, &anchors, &intermediates, at, purpose, None, None).map_err(ChainError::Path)?;
    Ok(())
}
