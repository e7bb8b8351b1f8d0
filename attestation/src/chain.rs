//! Certificate path validation for attestation keys (RFC 5280, section 6), by webpki.
//!
//! Anchors and revocation lists are trust material. A certificate that is presented with evidence
//! is used as an intermediate at most (T28). Bounds are for what is presented: a trust store may
//! hold any number of certificates, and several of one name.

mod algorithms;
mod attempt;
mod candidate;
mod path;
mod policies;

use std::collections::BTreeSet;
use std::sync::Arc;

use attempt::Attempts;
use candidate::Candidate;
use path::Search;
use webpki::{CertRevocationList, KeyUsage, OwnedCertRevocationList};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use crate::key_id;

/// The largest number of intermediates that a claimant may present (T09).
const MAX_PRESENTED: usize = 8;

/// The certificates of hardware manufacturers that verification starts from. The default trusts
/// nobody.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// The trust anchors: self-signed certificates in DER.
    pub anchors: Vec<Vec<u8>>,
    /// CA certificates below the anchors, in DER. Those that are on a path are used.
    pub intermediates: Vec<Vec<u8>>,
    /// The revocation lists. A certificate whose issuer has no list here counts as not revoked.
    pub crls: Vec<Arc<Crl>>,
}

/// A complete certificate revocation list with a next update (RFC 5280, section 5), which covers
/// all certificates of its issuer and all reasons.
#[derive(Debug)]
pub struct Crl {
    list: CertRevocationList<'static>,
    issuer: Vec<u8>,
    /// The serial numbers of the certificates that are taken back.
    revoked: BTreeSet<Vec<u8>>,
    /// The id of the issuer's key, if the list names it.
    key_id: Option<Vec<u8>>,
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
        let key_id = key_id::of_issuer(parsed.extensions());
        Ok(Self {
            list: list.into(),
            issuer: parsed.issuer().as_raw().to_vec(),
            revoked: parsed
                .iter_revoked_certificates()
                .map(|revoked| revoked.raw_serial().to_vec())
                .collect(),
            key_id: key_id.map(<[u8]>::to_vec),
            next_update_ms: next_update.timestamp().saturating_mul(1000),
        })
    }

    /// Returns when the list ends, in milliseconds since the epoch. Evidence that depends on it is
    /// rejected from then on.
    #[must_use]
    pub fn next_update_ms(&self) -> i64 {
        self.next_update_ms
    }

    /// Returns the issuer's name in DER.
    pub(crate) fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// Returns whether this list takes back a certificate that none of the others takes back.
    pub(crate) fn revokes_more_than(&self, others: &[Arc<Self>]) -> bool {
        let is_known = |serial: &Vec<u8>| {
            let mut of_issuer = others.iter().filter(|other| other.issuer == self.issuer);
            of_issuer.any(|other| other.revoked.contains(serial))
        };
        !self.revoked.iter().all(is_known)
    }
}

impl Roots {
    /// Returns whether one of the certificates has this name, in DER, as its subject.
    pub(crate) fn has_subject(&self, name: &[u8]) -> bool {
        let mut all = self.anchors.iter().chain(&self.intermediates);
        all.any(|der| {
            let candidate = Candidate::parse(der, false);
            candidate.is_some_and(|candidate| candidate.certificate.subject().as_raw() == name)
        })
    }
}

/// The purpose of attestation certificates. Most have no extended key usage; one that has must
/// allow 2.23.133.8.3 (`tcg-kp-AIKCertificate`).
const ATTESTATION_PURPOSE: KeyUsage =
    KeyUsage::required_if_present(&[0x67, 0x81, 0x05, 0x08, 0x03]);

/// The reasons to reject a certificate path.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The only paths lead to an anchor that is not valid at that time.
    #[error("the trusted root of the path is not valid at that time")]
    Anchor,
    /// The search with what was presented took more steps or signatures than a genuine chain can.
    #[error("the presented certificates are no chain")]
    Budget,
    /// A certificate or revocation list is malformed.
    #[error("not a certificate")]
    Malformed,
    /// There is no valid path to a trust anchor at that time.
    #[error("no valid path to a trusted root: {0}")]
    Path(webpki::Error),
    /// More than 8 intermediates were presented.
    #[error("more than {MAX_PRESENTED} intermediate certificates")]
    TooLong,
    /// The key usage of an intermediate does not allow it to sign certificates.
    #[error("an intermediate may not sign certificates")]
    Usage,
}

/// Validates a path of `leaf`, in DER, over intermediates that were presented or are trusted to one
/// of the anchors at `at_ms`, in milliseconds since the epoch; returns the earliest end in the path,
/// that of its anchor and of its issuers' revocation lists included.
pub(crate) fn verify(
    leaf: &[u8],
    presented: &[Vec<u8>],
    roots: &Roots,
    at_ms: i64,
) -> Result<i64, ChainError> {
    verify_for(ATTESTATION_PURPOSE, leaf, presented, roots, at_ms)
}

/// Validates a path like [`verify`], for a leaf whose extended key usage must allow `purpose`.
pub(crate) fn verify_for(
    purpose: KeyUsage,
    leaf: &[u8],
    presented: &[Vec<u8>],
    roots: &Roots,
    at_ms: i64,
) -> Result<i64, ChainError> {
    if presented.len() > MAX_PRESENTED {
        return Err(ChainError::TooLong);
    }
    let leaf = Candidate::parse(leaf, false).ok_or(ChainError::Malformed)?;
    // At each step of the search, trusted ones come first.
    let mut intermediates: Vec<_> = roots
        .intermediates
        .iter()
        .filter_map(|der| Candidate::parse(der, false))
        .collect();
    for der in presented {
        let is_known = intermediates.iter().any(|known| known.der == der);
        if !is_known && !roots.anchors.contains(der) {
            intermediates.push(Candidate::parse(der, true).ok_or(ChainError::Malformed)?);
        }
    }
    let anchors: Vec<_> = roots
        .anchors
        .iter()
        .filter_map(|der| Candidate::parse(der, false))
        .collect();
    let attempts = Attempts::new(purpose, &roots.crls, at_ms)?;
    Search::new(&intermediates, &anchors, attempts).from(&leaf)
}

#[cfg(test)]
mod building_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
