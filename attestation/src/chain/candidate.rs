//! Certificates as the search for a path sees them: who could have issued whom, by names and key
//! ids. No signature is looked at here.

use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::key_id;

/// A certificate that may be part of a path.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub(super) der: &'a [u8],
    pub(super) certificate: X509Certificate<'a>,
    /// Whether the claimant presented it, so that it counts against the bounds.
    pub(super) presented: bool,
}

impl<'a> Candidate<'a> {
    /// Reads a certificate in DER; `None` if it is malformed or if bytes are left over.
    pub(super) fn parse(der: &'a [u8], presented: bool) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        rest.is_empty().then_some(Self {
            der,
            certificate,
            presented,
        })
    }

    /// Returns whether this certificate's name is that of the other one's issuer.
    pub(super) fn may_have_issued(&self, other: &Self) -> bool {
        self.certificate.subject().as_raw() == other.certificate.issuer().as_raw()
    }

    /// Returns whether this certificate's key id is the one that the other one names, as far as both
    /// have one. RFC 5280 has key ids for the search alone, so this is no condition.
    pub(super) fn has_named_key(&self, other: &Self) -> bool {
        key_id::may_be(
            key_id::own(&self.certificate),
            key_id::of_issuer(other.certificate.extensions()),
        )
    }

    /// Returns whether two certificates are of one name and key, so that no path has both.
    pub(super) fn is_same_issuer(&self, other: &Self) -> bool {
        self.certificate.subject().as_raw() == other.certificate.subject().as_raw()
            && self.certificate.public_key().raw == other.certificate.public_key().raw
    }

    /// Returns whether the certificate's key usage, if there is one, allows it to sign certificates.
    pub(super) fn may_sign(&self) -> bool {
        match self.certificate.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
            Err(_) => false,
        }
    }

    /// Returns begin and end of the validity, in milliseconds since the epoch.
    pub(super) fn validity_ms(&self) -> (i64, i64) {
        let validity = self.certificate.validity();
        let ms = |seconds: i64| seconds.saturating_mul(1000);
        (
            ms(validity.not_before.timestamp()),
            ms(validity.not_after.timestamp()),
        )
    }
}
