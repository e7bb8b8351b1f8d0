//! Critical certificate policies, which webpki cannot interpret.
//!
//! Any policy is accepted here, so certificatePolicies never decides (RFC 5280, section 6.1.1, with
//! the initial policy set any-policy and without required explicit policies). webpki refuses such
//! an extension if it is critical. It is therefore given a rewritten certificate in which the
//! extension is not critical, and the signature is verified over the original bytes.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};
use x509_parser::extensions::ParsedExtension;

use super::candidate::Candidate;
use crate::ber;

/// The identifier of certificatePolicies, 2.5.29.32, in DER.
const POLICIES: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x20];
/// `critical` as TRUE, in DER.
const CRITICAL: &[u8] = &[0x01, 0x01, 0xff];
const SEQUENCE: u8 = 0x30;
/// The tag of the extensions in a TBSCertificate.
const EXTENSIONS: u8 = 0xa3;

/// A certificate in a form that webpki can read.
#[derive(Debug)]
pub(super) struct Readable<'a> {
    der: Cow<'a, [u8]>,
    /// The rewritten TBSCertificate, and the original one that is signed.
    rewritten: Option<(Vec<u8>, &'a [u8])>,
}

impl<'a> Readable<'a> {
    /// Rewrites a certificate whose policies are critical; leaves any other as it is.
    pub(super) fn of(candidate: &Candidate<'a>) -> Self {
        let is_critical = candidate.certificate.extensions().iter().any(|extension| {
            extension.critical
                && matches!(
                    extension.parsed_extension(),
                    ParsedExtension::CertificatePolicies(_)
                )
        });
        let rewritten = is_critical.then(|| rewrite(candidate.der)).flatten();
        match rewritten {
            Some((der, tbs, original)) => Self {
                der: Cow::Owned(der),
                rewritten: Some((tbs, original)),
            },
            None => Self {
                der: Cow::Borrowed(candidate.der),
                rewritten: None,
            },
        }
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }
}

/// Returns a certificate and its TBSCertificate with certificatePolicies not critical, and the
/// original TBSCertificate; `None` if there is no such extension.
fn rewrite(certificate: &[u8]) -> Option<(Vec<u8>, Vec<u8>, &[u8])> {
    let [original, algorithm, signature] = *parts(certificate, SEQUENCE)?.as_slice() else {
        return None;
    };
    let fields = parts(original, SEQUENCE)?;
    let (extensions, before) = fields.split_last()?;
    let [list] = *parts(extensions, EXTENSIONS)?.as_slice() else {
        return None;
    };
    let mut changed = Vec::new();
    for extension in parts(list, SEQUENCE)? {
        match *parts(extension, SEQUENCE)?.as_slice() {
            [id, CRITICAL, value] if id == POLICIES => {
                ber::put(SEQUENCE, &[id, value].concat(), &mut changed);
            }
            _ => changed.extend_from_slice(extension),
        }
    }
    let wrap = |tag, content: &[u8]| {
        let mut out = Vec::new();
        ber::put(tag, content, &mut out);
        out
    };
    let extensions = wrap(EXTENSIONS, &wrap(SEQUENCE, &changed));
    let tbs = wrap(SEQUENCE, &[before.concat(), extensions].concat());
    let der = wrap(SEQUENCE, &[tbs.as_slice(), algorithm, signature].concat());
    Some((der, tbs, original))
}

/// Returns the elements within an element of this tag, in DER.
fn parts(element: &[u8], tag: u8) -> Option<Vec<&[u8]>> {
    (element.first() == Some(&tag))
        .then(|| ber::parts(element))
        .flatten()
}

/// A signature algorithm that verifies rewritten certificates by their original bytes, and counts.
#[derive(Debug)]
pub(super) struct Algorithm<'a> {
    inner: &'static dyn SignatureVerificationAlgorithm,
    certificates: &'a [Readable<'a>],
    /// The number of signatures that may still be verified, if there is a bound.
    budget: Option<&'a AtomicUsize>,
}

impl<'a> Algorithm<'a> {
    pub(super) fn new(
        inner: &'static dyn SignatureVerificationAlgorithm,
        certificates: &'a [Readable<'a>],
        budget: Option<&'a AtomicUsize>,
    ) -> Self {
        Self {
            inner,
            certificates,
            budget,
        }
    }

    pub(super) fn as_dyn(&self) -> &dyn SignatureVerificationAlgorithm {
        self
    }
}

impl SignatureVerificationAlgorithm for Algorithm<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        // P12: a claimant's mesh of certificates costs no more than a long chain.
        let take = |budget: &AtomicUsize| {
            budget
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok()
        };
        if !self.budget.is_none_or(take) {
            return Err(InvalidSignature);
        }
        let original = self
            .certificates
            .iter()
            .filter_map(|certificate| certificate.rewritten.as_ref())
            .find(|(rewritten, _)| rewritten == message)
            .map_or(message, |(_, original)| *original);
        self.inner.verify_signature(public_key, original, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.inner.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.inner.signature_alg_id()
    }
}
