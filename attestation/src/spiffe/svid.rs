//! X.509-SVID validation (SPIFFE X509-SVID specification, sections 4 and 5), including the checks
//! that rustls-webpki leaves to its caller.
//!
//! P1: a [`VerifiedSvid`] is made only here. P12: the size of the chain is bounded before any
//! signature is verified.

use ring::digest;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::bundle::{BundleSet, Root};
use super::certificate::is_acceptable_key;
use super::id::{IdError, SpiffeId};

/// The largest number of certificates in a chain, the leaf included (T09).
const MAX_CHAIN: usize = 5;
/// The largest chain that is parsed, in bytes of DER.
const MAX_CHAIN_BYTES: usize = 32 << 10;

/// The reasons to reject a certificate chain as an X.509-SVID.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SvidError {
    /// The leaf's basicConstraints extension is absent or malformed, or says CA.
    #[error("leaf is a CA, or does not say that it is none")]
    BasicConstraints,
    /// The chain has no certificate.
    #[error("no certificate")]
    Empty,
    /// A certificate of the chain is not valid yet or no longer valid.
    #[error("outside its validity")]
    Expired,
    /// The leaf's URI SAN is not a SPIFFE ID with a path.
    #[error("SPIFFE ID: {0}")]
    Id(IdError),
    /// An intermediate is not allowed to sign certificates, or names another trust domain.
    #[error("intermediate may not sign certificates")]
    Intermediate,
    /// The leaf's keyUsage extension is absent or not critical, lacks digitalSignature, or allows
    /// the signing of certificates or CRLs (X509-SVID, section 4.3).
    #[error("keyUsage is not that of a leaf")]
    KeyUsage,
    /// A certificate is not well-formed X.509 in DER.
    #[error("malformed certificate")]
    Malformed,
    /// The leaf has name constraints, which are for signing certificates only (X509-SVID, section
    /// 4.2).
    #[error("leaf with name constraints")]
    NameConstraints,
    /// A certificate is signed with an algorithm that is not accepted, such as ECDSA with SHA-512 or
    /// RSASSA-PSS with other parameters than those of TLS.
    #[error("signed with an algorithm that is not accepted")]
    SignatureAlgorithm,
    /// The chain has more than 5 certificates or more than 32 KiB.
    #[error("chain is too long")]
    TooLong,
    /// There is no trust bundle for the leaf's trust domain.
    #[error("unknown trust domain")]
    UnknownTrustDomain,
    /// The chain has no path to a valid root of the leaf's own trust domain.
    #[error("no path to a root of its trust domain")]
    Untrusted,
    /// The leaf has no URI SAN, or more than one (X509-SVID, section 5.2).
    #[error("exactly one URI SAN is required")]
    UriSan,
    /// A key is RSA below 2048 or above 4096 bits, or of an algorithm that is not accepted.
    #[error("key is too weak or of an unknown kind")]
    WeakKey,
}

/// The proof that a chain was validated against the bundle of its own trust domain (P1).
///
/// [`validate_chain`] alone makes it. Other crates can read it:
///
/// ```
/// use sundew_attestation::spiffe::VerifiedSvid;
/// fn name(svid: &VerifiedSvid) -> &str {
///     svid.id().as_str()
/// }
/// ```
///
/// They can neither construct it
///
/// ```compile_fail,E0451
/// use sundew_attestation::spiffe::{SpiffeId, VerifiedSvid};
/// fn forge(id: SpiffeId) -> VerifiedSvid {
///     let (thumbprint, public_key, serial) = ([0; 32], Vec::new(), Vec::new());
///     VerifiedSvid { id, thumbprint, public_key, serial, not_after_ms: 0 }
/// }
/// ```
///
/// nor clone it:
///
/// ```compile_fail,E0277
/// fn is_clone<T: Clone>() {}
/// is_clone::<sundew_attestation::spiffe::VerifiedSvid>();
/// ```
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
    /// Returns the SPIFFE ID that the SVID proves.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Returns the SHA-256 of the leaf in DER (`x5t#S256`; RFC 8705, section 3.1).
    #[must_use]
    pub fn thumbprint(&self) -> &[u8; 32] {
        &self.thumbprint
    }

    /// Returns the leaf's SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Returns the leaf's serial number, big-endian.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// Returns the earliest end of validity in the chain, its root included, in milliseconds since
    /// the epoch.
    #[must_use]
    pub fn not_after_ms(&self) -> i64 {
        self.not_after_ms
    }
}

/// Returns the SHA-256 of a certificate in DER.
#[must_use]
pub fn thumbprint(certificate: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
    out
}

/// Returns the SubjectPublicKeyInfo, in DER, of a certificate in DER. The certificate is parsed and
/// not validated; [`SvidError::Malformed`] says that it cannot be parsed.
pub fn public_key_of(certificate: &[u8]) -> Result<Vec<u8>, SvidError> {
    Ok(parse(certificate)?.public_key().raw.to_vec())
}

/// Validates a chain, leaf first, as an X.509-SVID at `now_s`, in seconds since the epoch.
///
/// # Errors
/// Each [`SvidError`] names the check that failed; the checks that need no signature come first.
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
    let mut certificates = vec![leaf];
    for der in intermediates {
        let cert = parse(der)?;
        check_intermediate(&cert, &id)?;
        not_after = not_after.min(cert.validity().not_after.timestamp());
        certificates.push(cert);
    }
    let leaf = certificates.first().ok_or(SvidError::Empty)?;
    // P1: only the roots of the leaf's own trust domain count, never the union (T04).
    let bundle = bundles
        .of(id.trust_domain())
        .ok_or(SvidError::UnknownTrustDomain)?;
    let mut roots: Vec<_> = bundle.roots_valid_at(now_s).collect();
    // T09: webpki bounds the signatures of a search, and a bundle may have many roots of one name.
    let is_named = |root: &&Root| {
        certificates
            .iter()
            .any(|certificate| root.is_named_by(certificate))
    };
    if roots.iter().any(is_named) {
        roots.retain(is_named);
    }
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
        .map_err(|error| untrusted(&error))?;
    // webpki does not look at the validity of a trust anchor, so the proof must end with it (T08).
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

/// Returns the SPIFFE ID of a leaf in DER, whose form is checked and which is not validated.
///
/// # Errors
/// The [`SvidError`] that names the check that failed.
pub fn spiffe_id_of(leaf: &[u8]) -> Result<SpiffeId, SvidError> {
    check_leaf(&parse(leaf)?)
}

/// Returns why there is no path.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "all other causes are one to whoever reads of it"
)]
fn untrusted(error: &webpki::Error) -> SvidError {
    match error {
        webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
            SvidError::Expired
        }
        webpki::Error::UnsupportedSignatureAlgorithmContext(_) => SvidError::SignatureAlgorithm,
        _ => SvidError::Untrusted,
    }
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
    if !is_acceptable_key(leaf.public_key()) {
        return Err(SvidError::WeakKey);
    }
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
    if !is_acceptable_key(cert.public_key()) {
        return Err(SvidError::WeakKey);
    }
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
