//! X.509-SVID validation (X509-SVID specification, sections 4 and 5), and what rustls-webpki lets
//! through.
//!
//! P1: a [`VerifiedSvid`] is made only here. P12: the chain is bounded before any signature is
//! looked at.

use ring::digest;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::bundle::BundleSet;
use super::id::{IdError, SpiffeId};

/// Most certificates in a chain, leaf included (T09).
const MAX_CHAIN: usize = 5;
/// Largest chain, in bytes.
const MAX_CHAIN_BYTES: usize = 32 << 10;

/// Why a chain is not a trusted X.509-SVID.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SvidError {
    /// basicConstraints is absent or malformed on the leaf, or says CA.
    #[error("leaf is a CA, or does not say that it is none")]
    BasicConstraints,
    /// No certificate at all.
    #[error("no certificate")]
    Empty,
    /// Not valid yet, or no longer.
    #[error("outside its validity")]
    Expired,
    /// An intermediate that may not sign certificates.
    #[error("intermediate may not sign certificates")]
    Intermediate,
    /// The URI SAN is not a SPIFFE ID with a path.
    #[error("SPIFFE ID: {0}")]
    Id(IdError),
    /// keyUsage is absent, not critical, lacks digitalSignature or allows signing certificates or
    /// CRLs.
    #[error("keyUsage is not that of a leaf")]
    KeyUsage,
    /// Not an X.509 certificate that we can read.
    #[error("malformed certificate")]
    Malformed,
    /// Name constraints on a leaf.
    #[error("leaf with name constraints")]
    NameConstraints,
    /// More than 5 certificates or 32 KiB.
    #[error("chain is too long")]
    TooLong,
    /// Nothing is known of the leaf's trust domain.
    #[error("unknown trust domain")]
    UnknownTrustDomain,
    /// No path to a valid root of the leaf's own trust domain.
    #[error("no path to a root of its trust domain")]
    Untrusted,
    /// Not exactly one URI SAN.
    #[error("exactly one URI SAN is required")]
    UriSan,
    /// RSA below 2048 or above 4096 bits, or a kind of key that we do not take.
    #[error("key is too weak or of an unknown kind")]
    WeakKey,
}

/// A chain that was checked against the bundle of its own trust domain.
#[derive(Debug)]
#[must_use]
pub struct VerifiedSvid {
    id: SpiffeId,
    thumbprint: [u8; 32],
    public_key: Vec<u8>,
    serial: Vec<u8>,
    not_after_ms: i64,
}

impl VerifiedSvid {
    /// Whose it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// SHA-256 of the leaf in DER (`x5t#S256`, RFC 8705 section 3.1).
    #[must_use]
    pub fn thumbprint(&self) -> &[u8; 32] {
        &self.thumbprint
    }

    /// The leaf's SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The leaf's serial number, big-endian.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// When the first certificate of the chain ends, in milliseconds since the epoch.
    #[must_use]
    pub fn not_after_ms(&self) -> i64 {
        self.not_after_ms
    }
}

/// SHA-256 of a certificate in DER.
#[must_use]
pub fn thumbprint(certificate: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
    out
}

/// The SubjectPublicKeyInfo (DER) of a certificate, without any check of it.
pub fn public_key_of(certificate: &[u8]) -> Result<Vec<u8>, SvidError> {
    Ok(parse(certificate)?.public_key().raw.to_vec())
}

/// Checks a chain, leaf first, as an X.509-SVID at `now_s` (seconds since the epoch).
pub fn validate_chain(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    now_s: i64,
) -> Result<VerifiedSvid, SvidError> {
    let (leaf_der, intermediates) = chain.split_first().ok_or(SvidError::Empty)?;
    if chain.len() > MAX_CHAIN || chain.iter().map(|c| c.len()).sum::<usize>() > MAX_CHAIN_BYTES {
        return Err(SvidError::TooLong);
    }
    let leaf = parse(leaf_der)?;
    let id = check_leaf(&leaf)?;
    let mut not_after = leaf.validity().not_after.timestamp();
    if now_s >= not_after || now_s < leaf.validity().not_before.timestamp() {
        return Err(SvidError::Expired);
    }
    for der in intermediates {
        let cert = parse(der)?;
        check_intermediate(&cert, &id)?;
        not_after = not_after.min(cert.validity().not_after.timestamp());
    }
    // P1: only the roots of the leaf's own trust domain count, never the union (T04).
    let bundle = bundles
        .of(id.trust_domain())
        .ok_or(SvidError::UnknownTrustDomain)?;
    let roots: Vec<_> = bundle.roots_valid_at(now_s).collect();
    let anchors: Vec<_> = roots.iter().map(|root| root.anchor.clone()).collect();
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        u64::try_from(now_s).map_err(|_| SvidError::Expired)?,
    ));
    let end_entity = EndEntityCert::try_from(leaf_der).map_err(|_| SvidError::Malformed)?;
    let path = end_entity
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            intermediates,
            at,
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(|error| {
            let expired = matches!(
                error,
                webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }
            );
            if expired {
                SvidError::Expired
            } else {
                SvidError::Untrusted
            }
        })?;
    let used = path.anchor();
    if let Some(root) = roots.iter().find(|root| {
        root.anchor.subject == used.subject
            && root.anchor.subject_public_key_info == used.subject_public_key_info
    }) {
        not_after = not_after.min(root.not_after);
    }
    Ok(VerifiedSvid {
        id,
        thumbprint: thumbprint(leaf_der),
        public_key: leaf.public_key().raw.to_vec(),
        serial: leaf.tbs_certificate.raw_serial().to_vec(),
        not_after_ms: not_after.saturating_mul(1000),
    })
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, SvidError> {
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        Ok(_) | Err(_) => Err(SvidError::Malformed),
    }
}

fn check_leaf(leaf: &X509Certificate<'_>) -> Result<SpiffeId, SvidError> {
    let constraints = leaf
        .basic_constraints()
        .map_err(|_| SvidError::BasicConstraints)?
        .ok_or(SvidError::BasicConstraints)?;
    if constraints.value.ca {
        return Err(SvidError::BasicConstraints);
    }
    let usage = leaf
        .key_usage()
        .map_err(|_| SvidError::KeyUsage)?
        .ok_or(SvidError::KeyUsage)?;
    if !usage.critical
        || !usage.value.digital_signature()
        || usage.value.key_cert_sign()
        || usage.value.crl_sign()
    {
        return Err(SvidError::KeyUsage);
    }
    if leaf
        .name_constraints()
        .map_err(|_| SvidError::Malformed)?
        .is_some()
    {
        return Err(SvidError::NameConstraints);
    }
    key_is_strong(leaf.public_key())?;
    let mut ids = uri_names(leaf)?;
    match (ids.next(), ids.next()) {
        (Some(uri), None) => SpiffeId::parse(uri).map_err(SvidError::Id),
        _ => Err(SvidError::UriSan),
    }
}

fn check_intermediate(cert: &X509Certificate<'_>, id: &SpiffeId) -> Result<(), SvidError> {
    let constraints = cert
        .basic_constraints()
        .map_err(|_| SvidError::Intermediate)?;
    if !constraints.is_some_and(|c| c.value.ca) {
        return Err(SvidError::Intermediate);
    }
    // webpki does not look at the keyUsage of issuers (SPIRE CVE-2021-27098 class).
    let usage = cert.key_usage().map_err(|_| SvidError::Intermediate)?;
    if !usage.is_some_and(|u| u.value.key_cert_sign()) {
        return Err(SvidError::Intermediate);
    }
    key_is_strong(cert.public_key())?;
    let domain = id.trust_domain().id();
    if uri_names(cert)?.any(|uri| uri != domain) {
        return Err(SvidError::Intermediate);
    }
    Ok(())
}

fn uri_names<'a>(
    cert: &'a X509Certificate<'_>,
) -> Result<impl Iterator<Item = &'a str>, SvidError> {
    let names = cert
        .subject_alternative_name()
        .map_err(|_| SvidError::UriSan)?;
    let names = names
        .map(|ext| ext.value.general_names.as_slice())
        .unwrap_or_default();
    Ok(names.iter().filter_map(|name| {
        if let GeneralName::URI(uri) = name {
            Some(*uri)
        } else {
            None
        }
    }))
}

pub(super) fn has_unknown_critical_extension(cert: &X509Certificate<'_>) -> bool {
    cert.extensions().iter().any(|ext| {
        ext.critical
            && matches!(
                ext.parsed_extension(),
                ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. }
            )
    })
}

/// Bounds on keys (T08, T09): RSA 2048 to 4096, P-256, P-384, Ed25519.
pub(super) fn key_is_strong(key: &SubjectPublicKeyInfo<'_>) -> Result<(), SvidError> {
    match key.parsed().map_err(|_| SvidError::WeakKey)? {
        PublicKey::RSA(rsa) => {
            let bits = rsa
                .modulus
                .iter()
                .skip_while(|b| **b == 0)
                .count()
                .saturating_mul(8);
            if (2048..=4096).contains(&bits) && rsa.exponent.len() <= 8 {
                Ok(())
            } else {
                Err(SvidError::WeakKey)
            }
        }
        PublicKey::EC(point) if matches!(point.key_size(), 256 | 384) => Ok(()),
        // x509-parser has no variant for Ed25519: 1.3.101.112 (RFC 8410).
        PublicKey::Unknown(_) if key.algorithm.algorithm.to_id_string() == "1.3.101.112" => Ok(()),
        PublicKey::EC(_)
        | PublicKey::DSA(_)
        | PublicKey::GostR3410(_)
        | PublicKey::GostR3410_2012(_)
        | PublicKey::Unknown(_) => Err(SvidError::WeakKey),
    }
}
