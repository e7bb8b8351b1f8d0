//! Certificate path validation for attestation keys (RFC 5280, section 6), by webpki.
//!
//! Anchors and revocation lists are trust material. A certificate that is presented with evidence
//! is used as an intermediate at most (T28).

mod algorithms;

use std::collections::BTreeSet;
use std::sync::Arc;

use algorithms::ALGORITHMS;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

/// The largest number of intermediates in a path search (T09).
const MAX_INTERMEDIATES: usize = 8;

/// The certificates of hardware manufacturers that verification starts from. The default trusts
/// nobody.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// The trust anchors: self-signed certificates in DER.
    pub anchors: Vec<Vec<u8>>,
    /// CA certificates below the anchors, in DER.
    pub intermediates: Vec<Vec<u8>>,
    /// The revocation lists. A certificate whose issuer has no list here counts as not revoked.
    pub crls: Vec<Arc<Crl>>,
}

/// A complete certificate revocation list with a next update (RFC 5280, section 5), which covers
/// all certificates of its issuer and all reasons.
#[derive(Debug)]
pub struct Crl {
    list: CertRevocationList<'static>,
    next_update_ms: i64,
}

impl Crl {
    /// Reads a list in DER; fails if it is malformed or has no next update. The signature is
    /// verified with the issuer's key each time that a path is validated.
    pub fn parse(der: &[u8]) -> Result<Self, ChainError> {
        let list = OwnedCertRevocationList::from_der(der).map_err(ChainError::Path)?;
        let (_, parsed) =
            CertificateRevocationList::from_der(der).map_err(|_| ChainError::Malformed)?;
        let next_update = parsed.next_update().ok_or(ChainError::Malformed)?;
        Ok(Self {
            list: list.into(),
            next_update_ms: next_update.timestamp().saturating_mul(1000),
        })
    }

    /// Returns when the list ends, in milliseconds since the epoch. Evidence that depends on it is
    /// rejected from then on.
    #[must_use]
    pub fn next_update_ms(&self) -> i64 {
        self.next_update_ms
    }
}

/// The purpose of attestation certificates. Most have no extended key usage; one that has must
/// allow 2.23.133.8.3 (`tcg-kp-AIKCertificate`).
const ATTESTATION_PURPOSE: KeyUsage =
    KeyUsage::required_if_present(&[0x67, 0x81, 0x05, 0x08, 0x03]);

/// The reasons to reject a certificate path.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Two intermediates have the same subject.
    #[error("two intermediate certificates of the same name")]
    Ambiguous,
    /// A certificate or revocation list is malformed.
    #[error("not a certificate")]
    Malformed,
    /// There is no valid path to a trust anchor at that time.
    #[error("no valid path to a trusted root: {0}")]
    Path(webpki::Error),
    /// There are more than 8 intermediates.
    #[error("more than {MAX_INTERMEDIATES} intermediate certificates")]
    TooLong,
    /// The key usage of an intermediate does not allow it to sign certificates.
    #[error("an intermediate may not sign certificates")]
    Usage,
}

/// Validates the path of `leaf`, in DER, over `intermediates` to one of the anchors at `at_ms`, in
/// milliseconds since the epoch.
pub(crate) fn verify(
    leaf: &[u8],
    intermediates: &[Vec<u8>],
    roots: &Roots,
    at_ms: i64,
) -> Result<(), ChainError> {
    verify_for(ATTESTATION_PURPOSE, leaf, intermediates, roots, at_ms)
}

/// Validates a path like [`verify`], for a leaf whose extended key usage must allow `purpose`.
pub(crate) fn verify_for(
    purpose: KeyUsage,
    leaf: &[u8],
    intermediates: &[Vec<u8>],
    roots: &Roots,
    at_ms: i64,
) -> Result<(), ChainError> {
    if intermediates.len() > MAX_INTERMEDIATES {
        return Err(ChainError::TooLong);
    }
    let mut subjects = BTreeSet::new();
    for der in intermediates {
        // webpki does not check the key usage of issuers.
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| ChainError::Malformed)?;
        let usage = certificate.key_usage().map_err(|_| ChainError::Malformed)?;
        if !rest.is_empty() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(ChainError::Usage);
        }
        // T09: with one candidate for each step, a path of n certificates costs n signatures.
        if !subjects.insert(certificate.subject().as_raw().to_vec()) {
            return Err(ChainError::Ambiguous);
        }
    }
    let borrowed: Vec<CertificateDer<'_>> = roots
        .anchors
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let anchors = borrowed
        .iter()
        .map(webpki::anchor_from_trusted_cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| ChainError::Malformed)?;
    let intermediates: Vec<CertificateDer<'_>> = intermediates
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let leaf = CertificateDer::from(leaf);
    let leaf = EndEntityCert::try_from(&leaf).map_err(|_| ChainError::Malformed)?;
    let seconds = u64::try_from(at_ms.div_euclid(1000)).map_err(|_| ChainError::Malformed)?;
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let crls: Vec<_> = roots.crls.iter().map(|crl| &crl.list).collect();
    let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
        // Many issuers publish no list. If an issuer's list has ended, nobody can know what it has
        // revoked since (P7).
        options
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Enforce)
            .build()
    });
    leaf.verify_for_usage(
        ALGORITHMS,
        &anchors,
        &intermediates,
        at,
        purpose,
        revocation,
        None,
    )
    .map_err(ChainError::Path)?;
    Ok(())
}

#[cfg(test)]
mod tests;
