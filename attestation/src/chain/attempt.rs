//! The validation of one path, by webpki.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    EndEntityCert, ExpirationPolicy, KeyUsage, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::algorithms::ALGORITHMS;
use super::candidate::Candidate;
use super::policies::{Algorithm, Readable};
use super::{ChainError, Crl};
use crate::key_id;

/// The largest number of signatures that are verified over presented certificates.
const MAX_SIGNATURES: usize = 16;

/// What all attempts for one leaf have in common.
pub(super) struct Attempts<'s> {
    purpose: KeyUsage,
    crls: &'s [Arc<Crl>],
    at_ms: i64,
    at: UnixTime,
    /// The number of signatures that may still be verified over presented certificates.
    signatures: AtomicUsize,
}

impl<'s> Attempts<'s> {
    /// Prepares validation at `at_ms`, in milliseconds since the epoch.
    pub(super) fn new(
        purpose: KeyUsage,
        crls: &'s [Arc<Crl>],
        at_ms: i64,
    ) -> Result<Self, ChainError> {
        let seconds = u64::try_from(at_ms.div_euclid(1000)).map_err(|_| ChainError::Malformed)?;
        Ok(Self {
            purpose,
            crls,
            at_ms,
            at: UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            signatures: AtomicUsize::new(MAX_SIGNATURES),
        })
    }

    /// Validates a path, its leaf first, to this anchor; returns the earliest end of its certificates
    /// and of its issuers' revocation lists, in milliseconds since the epoch.
    pub(super) fn verify(
        &self,
        path: &[&Candidate<'_>],
        anchor: &Candidate<'_>,
    ) -> Result<i64, ChainError> {
        let (begin_ms, mut end_ms) = anchor.validity_ms();
        if !(begin_ms..end_ms).contains(&self.at_ms) {
            return Err(ChainError::Anchor);
        }
        let (leaf, intermediates) = path.split_first().ok_or(ChainError::Malformed)?;
        // webpki does not check the key usage of issuers.
        if !intermediates.iter().all(|candidate| candidate.may_sign()) {
            return Err(ChainError::Usage);
        }
        for candidate in path {
            end_ms = end_ms.min(candidate.validity_ms().1);
        }
        let issuers: Vec<_> = intermediates.iter().copied().chain([anchor]).collect();
        let crls = self.crls_of(&issuers);
        for crl in &crls {
            end_ms = end_ms.min(crl.next_update_ms);
        }
        self.validate(leaf, intermediates, anchor, &crls)?;
        Ok(end_ms)
    }

    fn validate(
        &self,
        leaf: &Candidate<'_>,
        intermediates: &[&Candidate<'_>],
        anchor: &Candidate<'_>,
        crls: &[&Crl],
    ) -> Result<(), ChainError> {
        let readable: Vec<_> = intermediates
            .iter()
            .chain([&leaf])
            .map(|candidate| Readable::of(candidate))
            .collect();
        let (own, others) = readable.split_last().ok_or(ChainError::Malformed)?;
        let presented = intermediates.iter().any(|candidate| candidate.presented);
        let budget = presented.then_some(&self.signatures);
        let algorithms: Vec<_> = ALGORITHMS
            .iter()
            .map(|inner| Algorithm::new(*inner, &readable, budget))
            .collect();
        let algorithms: Vec<_> = algorithms.iter().map(Algorithm::as_dyn).collect();
        let others: Vec<_> = others
            .iter()
            .map(|one| CertificateDer::from(one.der()))
            .collect();
        let root = CertificateDer::from(anchor.der);
        let root = [webpki::anchor_from_trusted_cert(&root).map_err(|_| ChainError::Malformed)?];
        let leaf = CertificateDer::from(own.der());
        let leaf = EndEntityCert::try_from(&leaf).map_err(ChainError::Path)?;
        let crls: Vec<_> = crls.iter().map(|crl| &crl.list).collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            // Many issuers publish no list. If an issuer's list has ended, nobody can know what it
            // has revoked since (P7).
            options
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let verified = leaf.verify_for_usage(
            &algorithms,
            &root,
            &others,
            self.at,
            self.purpose,
            revocation,
            None,
        );
        match verified {
            Ok(_) => Ok(()),
            Err(_) if presented && self.signatures.load(Ordering::Relaxed) == 0 => {
                Err(ChainError::Budget)
            }
            Err(error) => Err(ChainError::Path(error)),
        }
    }

    /// Returns the revocation lists of the issuers of a path. Where several lists have an issuer's
    /// name, those that name its key count, if there are any: another issuer of that name cannot
    /// sign for this one.
    fn crls_of(&self, issuers: &[&Candidate<'_>]) -> Vec<&'s Crl> {
        let mut lists = Vec::new();
        for issuer in issuers {
            let name = issuer.certificate.subject().as_raw();
            let of_name = || self.crls.iter().filter(move |crl| crl.issuer == name);
            let names_key = |crl: &Crl| {
                crl.key_id.is_some() && crl.key_id.as_deref() == key_id::own(&issuer.certificate)
            };
            let has_own = of_name().any(|crl| names_key(crl));
            lists.extend(
                of_name()
                    .filter(|crl| !has_own || names_key(crl))
                    .map(Arc::as_ref),
            );
        }
        lists
    }
}
