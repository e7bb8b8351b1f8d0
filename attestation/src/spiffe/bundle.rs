//! Trust bundles (SPIFFE Trust Domain and Bundle specification): the root certificates and JWT keys
//! of one trust domain each, read from PEM or from the JSON bundle format (section 4).

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use serde::Deserialize;
use serde_json::Value;
use x509_parser::asn1_rs::Any;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::certificate::{has_unknown_critical_extension, is_acceptable_key};
use super::id::TrustDomain;
use super::jwt::JwtBundle;
use super::strict;
use crate::key_id;
use crate::left_out::LeftOut;

/// The largest bundle document that is parsed, in bytes.
const MAX_DOCUMENT: usize = 1 << 20;
/// The largest number of root certificates of a bundle that are used.
const MAX_ROOTS: usize = 256;

/// The reasons to reject the document of a trust bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The document is neither PEM certificates nor a SPIFFE JSON bundle.
    #[error("not a bundle: {0}")]
    Syntax(String),
    /// The document has more than 1 MiB.
    #[error("bundle is too large")]
    TooLarge,
}

#[derive(Debug)]
pub(super) struct Root {
    pub(super) anchor: TrustAnchor<'static>,
    pub(super) der: CertificateDer<'static>,
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    /// The root's validity, in seconds since the epoch. webpki does not check the validity of a
    /// trust anchor, so the bundle does (T08).
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl Root {
    /// Returns whether the root's name and key id are those of a certificate's issuer. A key id is a
    /// hint: one that differs excludes nothing.
    pub(super) fn is_named_by(&self, certificate: &X509Certificate<'_>) -> bool {
        let named = key_id::of_issuer(certificate.extensions());
        self.subject == certificate.issuer().as_raw()
            && key_id::may_be(self.key_id.as_deref(), named)
    }
}

/// The roots and JWT keys of one trust domain. An empty bundle trusts nobody.
///
/// Parts that cannot be used are left out, as section 4.1.3 demands of keys of an unknown kind: what
/// one of them is costs no other, and what the document no longer has is not kept for it.
#[derive(Debug)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<Root>,
    jwt: Option<Arc<JwtBundle>>,
    left_out: LeftOut,
    sequence: Option<u64>,
    refresh_hint_s: Option<u64>,
}

impl TrustBundle {
    /// Makes a bundle that trusts nobody.
    #[must_use]
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self::of_parts(trust_domain, Vec::new(), LeftOut::default())
    }

    /// Makes a bundle without JWT keys of root certificates in DER. Those that are not usable CA
    /// certificates are left out, and those beyond 256.
    pub fn from_der<'a>(
        trust_domain: TrustDomain,
        certificates: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        let ders = certificates.into_iter().map(|der| Ok(der.to_vec()));
        Self::of_parts(trust_domain, ders.collect(), LeftOut::default())
    }

    /// Makes a bundle without JWT keys of root certificates in DER, one after the other, as the
    /// Workload API has them. What is not usable is left out.
    #[must_use]
    pub fn from_concatenated_der(trust_domain: TrustDomain, certificates: &[u8]) -> Self {
        let ders = split_der(certificates);
        let ders = ders.map(|der| der.map(<[u8]>::to_vec));
        Self::of_parts(trust_domain, ders.collect(), LeftOut::default())
    }

    /// Reads a document of at most 1 MiB: PEM certificates, or a SPIFFE JSON bundle (Trust Domain
    /// and Bundle, section 4) if its first character is `{`.
    ///
    /// # Errors
    /// [`BundleError`] if the document is none, such as one that is written at this moment.
    pub fn parse(trust_domain: TrustDomain, document: &[u8]) -> Result<Self, BundleError> {
        if document.len() > MAX_DOCUMENT {
            return Err(BundleError::TooLarge);
        }
        if document.trim_ascii_start().starts_with(b"{") {
            return Self::parse_json(trust_domain, document);
        }
        let roots = has_certificate(pem_roots(document)?)?;
        Ok(Self::of_parts(trust_domain, roots, LeftOut::default()))
    }

    /// Reads a SPIFFE JSON bundle of at most 1 MiB, as a bundle endpoint serves it (Trust Domain and
    /// Bundle, section 4).
    ///
    /// # Errors
    /// [`BundleError`] if the document is none.
    pub fn parse_json(trust_domain: TrustDomain, document: &[u8]) -> Result<Self, BundleError> {
        if document.len() > MAX_DOCUMENT {
            return Err(BundleError::TooLarge);
        }
        let bundle: JsonBundle =
            serde_json::from_slice(document).map_err(|e| BundleError::Syntax(e.to_string()))?;
        let number = |value: &Option<Value>| value.as_ref().and_then(Value::as_u64);
        let (sequence, refresh_hint_s) = (
            number(&bundle.spiffe_sequence),
            number(&bundle.spiffe_refresh_hint),
        );
        let (roots, jwt) = json_keys(bundle)?;
        let roots = has_certificate(roots)?;
        let mut left_out = LeftOut::default();
        if let Some(jwt) = &jwt {
            left_out.append(jwt.left_out());
        }
        let bundle = Self::of_parts(trust_domain, roots, left_out).with_jwt(jwt);
        Ok(Self {
            sequence,
            refresh_hint_s,
            ..bundle
        })
    }

    fn of_parts(trust_domain: TrustDomain, certificates: Vec<Part>, mut left_out: LeftOut) -> Self {
        let mut roots = Vec::new();
        for (index, certificate) in certificates.into_iter().enumerate() {
            match certificate.and_then(|der| root(&der)) {
                Ok(root) if roots.len() < MAX_ROOTS => roots.push(root),
                Ok(_) => left_out.add(
                    format!("root {index}"),
                    format!("more than {MAX_ROOTS} roots"),
                ),
                Err(reason) => left_out.add(format!("root {index}"), reason),
            }
        }
        Self {
            trust_domain,
            roots,
            jwt: None,
            left_out,
            sequence: None,
            refresh_hint_s: None,
        }
    }

    /// Returns this bundle with the given keys for JWT-SVIDs in place of those that it had.
    #[must_use]
    pub fn with_jwt(self, jwt: Option<JwtBundle>) -> Self {
        Self {
            jwt: jwt.map(Arc::new),
            ..self
        }
    }

    /// Returns what cannot be used of the document.
    #[must_use]
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// Returns the sequence number, which grows with every change, if the document has one (section
    /// 4.1.1).
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// Returns after how many seconds the document should be fetched again, if it says so (section
    /// 4.1.2).
    #[must_use]
    pub fn refresh_hint_s(&self) -> Option<u64> {
        self.refresh_hint_s
    }

    /// Returns whether nobody of the trust domain can be verified.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Returns the trust domain that the roots belong to.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the root certificates in DER, in the order of the document.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().map(|root| &root.der)
    }

    /// Returns the keys that verify the trust domain's JWT-SVIDs, if any are known.
    #[must_use]
    pub fn jwt(&self) -> Option<&Arc<JwtBundle>> {
        self.jwt.as_ref()
    }

    /// Returns whether both bundles have the same roots and the same JWT keys, and whether the same
    /// was left out.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.certificates().eq(other.certificates())
            && self.left_out == other.left_out
            && self.jwt().map(|jwt| jwt.document()) == other.jwt().map(|jwt| jwt.document())
    }

    pub(super) fn roots_valid_at(&self, now_s: i64) -> impl Iterator<Item = &Root> {
        self.roots
            .iter()
            .filter(move |root| root.not_before <= now_s && now_s < root.not_after)
    }
}

/// The bundles of several trust domains. Each is used for its own trust domain only (T04).
#[derive(Clone, Debug, Default)]
pub struct BundleSet(BTreeMap<TrustDomain, Arc<TrustBundle>>);

impl From<TrustBundle> for BundleSet {
    fn from(bundle: TrustBundle) -> Self {
        let mut only = Self::default();
        only.insert(bundle);
        only
    }
}

impl BundleSet {
    /// Adds the bundle, in place of any earlier one of the same trust domain.
    pub fn insert(&mut self, bundle: impl Into<Arc<TrustBundle>>) {
        let bundle = bundle.into();
        self.0.insert(bundle.trust_domain.clone(), bundle);
    }

    /// Returns the bundles of all sets. Of several that have one trust domain, the first counts:
    /// bundles are never joined (T04).
    #[must_use]
    pub fn first_of<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for bundle in sets.into_iter().flat_map(Self::iter) {
            let domain = bundle.trust_domain.clone();
            all.0.entry(domain).or_insert_with(|| Arc::clone(bundle));
        }
        all
    }

    /// Returns whether both have the same roots and JWT keys for the same trust domains.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let pairs = self.iter().zip(other.iter());
        self.0.keys().eq(other.0.keys()) && pairs.into_iter().all(|(one, other)| one.is_same(other))
    }

    /// Returns the bundle of a trust domain.
    #[must_use]
    pub fn of(&self, domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.0.get(domain)
    }

    /// Returns all bundles, sorted by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        self.0.values()
    }
}

fn root(der: &[u8]) -> Result<Root, &'static str> {
    let (rest, cert) = X509Certificate::from_der(der).map_err(|_| "not an X.509 certificate")?;
    if !rest.is_empty() {
        return Err("bytes after the certificate");
    }
    let constraints = cert
        .basic_constraints()
        .map_err(|_| "bad basicConstraints")?
        .ok_or("not a CA certificate")?;
    if !constraints.value.ca {
        return Err("not a CA certificate");
    }
    if let Some(usage) = cert.key_usage().map_err(|_| "bad keyUsage")?
        && !usage.value.key_cert_sign()
    {
        return Err("keyUsage lacks keyCertSign");
    }
    if has_unknown_critical_extension(&cert) {
        return Err("unknown critical extension");
    }
    if !is_acceptable_key(cert.public_key()) {
        return Err("key is too weak or of an unknown kind");
    }
    // I5: others refuse all that we hand them for one certificate that they do not take.
    strict::check(der)?;
    let owned = CertificateDer::from(der.to_vec());
    let anchor = webpki::anchor_from_trusted_cert(&owned)
        .map_err(|_| "not usable as a trust anchor")?
        .to_owned();
    let validity = cert.validity();
    Ok(Root {
        anchor,
        subject: cert.subject().as_raw().to_vec(),
        key_id: key_id::own(&cert).map(<[u8]>::to_vec),
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
        der: owned,
    })
}

/// A certificate in DER, or the reason why it is none.
type Part = Result<Vec<u8>, &'static str>;

/// Refuses a document in which no part is a certificate: it says nothing. One with certificates that
/// cannot be used says that all others are gone.
fn has_certificate(parts: Vec<Part>) -> Result<Vec<Part>, BundleError> {
    let is_certificate = |part: &Part| {
        let der = part.as_deref().unwrap_or_default();
        X509Certificate::from_der(der).is_ok()
    };
    if parts.is_empty() || parts.iter().any(is_certificate) {
        return Ok(parts);
    }
    let problem = "no certificate is well-formed".to_owned();
    Err(BundleError::Syntax(problem))
}

/// Splits values in DER that stand one after the other. What follows a value that does not end is
/// told as one part.
pub fn split_der(mut bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], &'static str>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let (value, rest) = match Any::from_der(bytes) {
            Ok((rest, _)) => (bytes.get(..bytes.len().saturating_sub(rest.len())), rest),
            Err(_) => (None, &[][..]),
        };
        bytes = rest;
        Some(value.ok_or("not DER"))
    })
}

fn pem_roots(document: &[u8]) -> Result<Vec<Part>, BundleError> {
    let mut parts = Vec::new();
    for item in CertificateDer::pem_slice_iter(document) {
        match item {
            Ok(certificate) => parts.push(Ok(certificate.to_vec())),
            Err(pem::Error::Base64Decode(_) | pem::Error::IllegalSectionStart { .. }) => {
                parts.push(Err("not PEM"));
            }
            Err(error) => return Err(BundleError::Syntax(error.to_string())),
        }
    }
    if parts.is_empty() && !document.trim_ascii().is_empty() {
        return Err(BundleError::Syntax("no PEM certificate found".to_owned()));
    }
    Ok(parts)
}

#[derive(Deserialize)]
struct JsonBundle {
    keys: Vec<Value>,
    spiffe_sequence: Option<Value>,
    spiffe_refresh_hint: Option<Value>,
}

fn json_keys(bundle: JsonBundle) -> Result<(Vec<Part>, Option<JwtBundle>), BundleError> {
    let used_for = |key: &Value, usage: &str| key.get("use").and_then(Value::as_str) == Some(usage);
    let certificate =
        |key: &Value| match key.get("x5c").and_then(Value::as_array).map(Vec::as_slice) {
            Some([Value::String(only)]) => STANDARD.decode(only).map_err(|_| "x5c is not base64"),
            _ => Err("must have exactly one x5c value"),
        };
    // Section 4.2.2: keys of other uses are none of ours.
    let x509 = bundle.keys.iter().filter(|key| used_for(key, "x509-svid"));
    let roots = x509.map(certificate).collect();
    let jwt: Vec<Value> = bundle
        .keys
        .into_iter()
        .filter(|key| used_for(key, "jwt-svid"))
        .collect();
    let jwt = (!jwt.is_empty())
        .then(|| JwtBundle::new(jwt))
        .transpose()
        .map_err(|e| BundleError::Syntax(e.to_string()))?;
    Ok((roots, jwt))
}

mod document;

#[cfg(test)]
mod tests;
