//! Trust bundles (SPIFFE Trust Domain and Bundle specification): the root certificates and JWT keys
//! of one trust domain each, read from PEM or from the JSON bundle format (section 4).

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use serde::Deserialize;
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::certificate::{has_unknown_critical_extension, is_acceptable_key};
use super::id::TrustDomain;
use super::jwt::JwtBundle;
use crate::key_id;

/// The largest bundle document that is parsed, in bytes.
const MAX_DOCUMENT: usize = 1 << 20;
/// The largest number of root certificates in a bundle.
const MAX_ROOTS: usize = 64;

/// The reasons to reject a trust bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A root is not a usable CA certificate.
    #[error("root {index}: {reason}")]
    BadRoot {
        /// The root's position in the bundle, from 0.
        index: usize,
        /// The check that the root failed.
        reason: &'static str,
    },
    /// The document is neither PEM certificates nor a SPIFFE JSON bundle.
    #[error("not a bundle: {0}")]
    Syntax(String),
    /// The bundle has more than 1 MiB or more than 64 roots.
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
#[derive(Debug)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<Root>,
    jwt: Option<Arc<JwtBundle>>,
}

impl TrustBundle {
    /// Makes a bundle without JWT keys of root certificates in DER; fails if one of them is not a
    /// usable CA certificate or if there are more than 64.
    pub fn from_der<'a>(
        trust_domain: TrustDomain,
        certificates: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, BundleError> {
        let mut roots = Vec::new();
        for (index, der) in certificates.into_iter().enumerate() {
            if index >= MAX_ROOTS {
                return Err(BundleError::TooLarge);
            }
            roots.push(root(der).map_err(|reason| BundleError::BadRoot { index, reason })?);
        }
        Ok(Self {
            trust_domain,
            roots,
            jwt: None,
        })
    }

    /// Returns this bundle with the given keys for JWT-SVIDs in place of those that it had.
    #[must_use]
    pub fn with_jwt(self, jwt: Option<JwtBundle>) -> Self {
        Self {
            jwt: jwt.map(Arc::new),
            ..self
        }
    }

    /// Reads a document of at most 1 MiB: PEM certificates, or a SPIFFE JSON bundle (Trust Domain
    /// and Bundle, section 4) if its first character is `{`.
    pub fn parse(trust_domain: TrustDomain, document: &[u8]) -> Result<Self, BundleError> {
        if document.len() > MAX_DOCUMENT {
            return Err(BundleError::TooLarge);
        }
        let (ders, jwt) = if document.trim_ascii_start().starts_with(b"{") {
            json_keys(document)?
        } else {
            (pem_roots(document)?, None)
        };
        Ok(Self::from_der(trust_domain, ders.iter().map(Vec::as_slice))?.with_jwt(jwt))
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

    /// Returns whether both bundles have the same roots and the same JWT keys.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.certificates().eq(other.certificates())
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

impl BundleSet {
    /// Adds the bundle, in place of any earlier one of the same trust domain.
    pub fn insert(&mut self, bundle: TrustBundle) {
        self.0.insert(bundle.trust_domain.clone(), Arc::new(bundle));
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

fn pem_roots(document: &[u8]) -> Result<Vec<Vec<u8>>, BundleError> {
    let mut ders = Vec::new();
    for item in CertificateDer::pem_slice_iter(document) {
        if ders.len() >= MAX_ROOTS {
            return Err(BundleError::TooLarge);
        }
        ders.push(
            item.map_err(|e| BundleError::Syntax(e.to_string()))?
                .to_vec(),
        );
    }
    if ders.is_empty() && !document.trim_ascii().is_empty() {
        return Err(BundleError::Syntax("no PEM certificate found".to_owned()));
    }
    Ok(ders)
}

#[derive(Deserialize)]
struct JsonBundle {
    keys: Vec<Value>,
}

fn json_keys(document: &[u8]) -> Result<(Vec<Vec<u8>>, Option<JwtBundle>), BundleError> {
    let bundle: JsonBundle =
        serde_json::from_slice(document).map_err(|e| BundleError::Syntax(e.to_string()))?;
    let used_for = |key: &Value, usage: &str| key.get("use").and_then(Value::as_str) == Some(usage);
    let mut ders = Vec::new();
    for key in bundle.keys.iter().filter(|key| used_for(key, "x509-svid")) {
        let only = match key.get("x5c").and_then(Value::as_array).map(Vec::as_slice) {
            Some([Value::String(only)]) => only,
            _ => {
                return Err(BundleError::Syntax(
                    "an x509-svid key must have exactly one x5c value".to_owned(),
                ));
            }
        };
        ders.push(
            STANDARD
                .decode(only)
                .map_err(|_| BundleError::Syntax("x5c is not base64".to_owned()))?,
        );
    }
    let jwt: Vec<Value> = bundle
        .keys
        .into_iter()
        .filter(|key| used_for(key, "jwt-svid"))
        .collect();
    let jwt = (!jwt.is_empty())
        .then(|| JwtBundle::new(jwt))
        .transpose()
        .map_err(|e| BundleError::Syntax(e.to_string()))?;
    Ok((ders, jwt))
}
