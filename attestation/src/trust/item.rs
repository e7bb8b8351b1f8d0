//! A trust item, checked as a whole when it is added.

use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::TrustKind;
use crate::chain::{Crl, Roots};
use crate::claims::sha256;
use crate::kinds::{tdx, tpm2};
use crate::rsa::is_roca;

/// The largest number of certificates in one item.
const MAX_CERTIFICATES: usize = 16;
/// The largest content of an item, in bytes.
pub const MAX_CONTENT: usize = 512 << 10;

/// The claims that a single item makes possible, as [`TrustItem::claim`] returns them.
pub(crate) const ITEM_CLAIMS: [&str; 3] = ["aws_iid.region", "tdx.fmspc", "tpm2.key"];

/// The reasons to reject a trust item. The texts are for the operator who adds it.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The content has no certificate, or more than 16.
    #[error("must have between 1 and {MAX_CERTIFICATES} certificates in PEM")]
    Certificates,
    /// The content is not in the form of the kind.
    #[error("{0}")]
    Content(String),
    /// The name is not in the form of the kind.
    #[error("name must be {0}")]
    Name(&'static str),
    /// A certificate is not a CA's, where the kind needs a root.
    #[error("`{0}` is not a CA certificate")]
    NotCa(String),
    /// The content has more than 512 KiB.
    #[error("larger than {MAX_CONTENT} bytes")]
    TooLarge,
}

/// A thing that verifiers trust, with its name.
#[derive(Clone, Debug)]
pub struct TrustItem {
    kind: TrustKind,
    name: String,
    content: Content,
    not_after_ms: Option<i64>,
    digest: [u8; 32],
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    AwsIid(Vec<u8>),
    Crl(Arc<Crl>),
    Nitro(Roots),
    Reference,
    SevSnp(Roots),
    Tdx(Box<tdx::Collateral>),
    Tpm2Ak(Box<tpm2::AttestationKey>),
    Tpm2Barred,
    Tpm2EkRoot(Roots),
}

impl Content {
    /// Reads the content of an item, with its end in milliseconds since the epoch if it has one.
    fn parse(
        kind: TrustKind,
        name: &str,
        content: &[u8],
    ) -> Result<(Self, Option<i64>), TrustError> {
        let fail = |e: &dyn std::fmt::Display| TrustError::Content(e.to_string());
        Ok(match kind {
            TrustKind::AwsIid => {
                let (der, end_ms) = region_certificate(content)?;
                (Self::AwsIid(der), Some(end_ms))
            }
            TrustKind::Crl => {
                let crl = crl(content)?;
                let end_ms = crl.next_update_ms();
                (Self::Crl(Arc::new(crl)), Some(end_ms))
            }
            TrustKind::Nitro => {
                let (roots, end_ms) = roots(content)?;
                // AWS publishes the root alone, so each certificate that the operator names is an
                // anchor.
                let anchors = [roots.anchors, roots.intermediates].concat();
                let roots = Roots {
                    anchors,
                    ..Roots::default()
                };
                (Self::Nitro(roots), end_ms)
            }
            TrustKind::Reference => {
                if name
                    .split_once('/')
                    .is_none_or(|(set, value)| set.is_empty() || value.is_empty())
                {
                    return Err(TrustError::Name("`<set>/<value>`"));
                }
                (Self::Reference, None)
            }
            TrustKind::SevSnp => {
                let (roots, end_ms) = roots(content)?;
                if roots.anchors.is_empty() || roots.intermediates.is_empty() {
                    return Err(fail(
                        &"must have AMD's root (ARK) and what it signed (ASK or ASVK)",
                    ));
                }
                (Self::SevSnp(roots), end_ms)
            }
            TrustKind::Tdx => {
                let collateral = tdx::Collateral::parse(content).map_err(|e| fail(&e))?;
                let end_ms = collateral.next_update_ms();
                (Self::Tdx(Box::new(collateral)), Some(end_ms))
            }
            TrustKind::Tpm2Ak => {
                let key = tpm2::AttestationKey::parse(content).map_err(|e| fail(&e))?;
                (Self::Tpm2Ak(Box::new(key)), None)
            }
            TrustKind::Tpm2Barred => {
                // The digest of an endorsement key, or the name of a key, which begins with the two
                // bytes of its hash algorithm.
                let is_hex = name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if !is_hex || !matches!(name.len(), 64 | 68) {
                    return Err(TrustError::Name(
                        "a TPM's `ek` or the name of its key, in lower-case hexadecimal",
                    ));
                }
                (Self::Tpm2Barred, None)
            }
            TrustKind::Tpm2EkRoot => {
                let (roots, end_ms) = roots(content)?;
                if roots.anchors.is_empty() {
                    return Err(fail(
                        &"must have the maker's root, which is signed by itself",
                    ));
                }
                (Self::Tpm2EkRoot(roots), end_ms)
            }
        })
    }
}

impl TrustItem {
    /// Reads an item of at most [`MAX_CONTENT`] bytes.
    ///
    /// # Errors
    /// Each [`TrustError`] is final: a content that is accepted here needs no further check when
    /// evidence arrives.
    pub fn parse(kind: TrustKind, name: &str, content: &[u8]) -> Result<Self, TrustError> {
        if content.len() > MAX_CONTENT {
            return Err(TrustError::TooLarge);
        }
        if name.is_empty() || name.len() > 256 || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TrustError::Name(
                "1 to 256 printable ASCII characters without blanks",
            ));
        }
        let (parsed, not_after_ms) = Content::parse(kind, name, content)?;
        Ok(Self {
            kind,
            name: name.to_owned(),
            content: parsed,
            not_after_ms,
            digest: sha256(content),
        })
    }

    /// Returns the item's kind.
    #[must_use]
    pub fn kind(&self) -> TrustKind {
        self.kind
    }

    /// Returns the item's name, unique among the items of its kind.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns when the item stops being valid by itself, in milliseconds since the epoch: the
    /// earliest end of its certificates, or the next update of a CRL or collateral.
    #[must_use]
    pub fn not_after_ms(&self) -> Option<i64> {
        self.not_after_ms
    }

    /// Returns the SHA-256 of the content in lower-case hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        hex::encode(self.digest)
    }

    /// Returns the name and value of the verified claim that this item alone makes possible, for
    /// the kinds that have one.
    #[must_use]
    pub fn claim(&self) -> Option<(&'static str, String)> {
        match &self.content {
            Content::AwsIid(_) => Some(("aws_iid.region", self.name.clone())),
            Content::Tdx(collateral) => Some(("tdx.fmspc", collateral.fmspc().to_owned())),
            Content::Tpm2Ak(key) => Some(("tpm2.key", key.name())),
            Content::Crl(_)
            | Content::Nitro(_)
            | Content::Reference
            | Content::SevSnp(_)
            | Content::Tpm2Barred
            | Content::Tpm2EkRoot(_) => None,
        }
    }

    /// Returns whether the item is an attestation key with the endorsement of its TPM. Such an item
    /// is made only by credential activation, so nobody may add one by hand.
    #[must_use]
    pub fn is_endorsed(&self) -> bool {
        self.attestation_key()
            .is_some_and(|key| key.endorsement().is_some())
    }

    /// Returns the attestation key that the item is, if it is one.
    #[must_use]
    pub fn attestation_key(&self) -> Option<&tpm2::AttestationKey> {
        match &self.content {
            Content::Tpm2Ak(key) => Some(key),
            Content::AwsIid(_)
            | Content::Crl(_)
            | Content::Nitro(_)
            | Content::Reference
            | Content::SevSnp(_)
            | Content::Tdx(_)
            | Content::Tpm2Barred
            | Content::Tpm2EkRoot(_) => None,
        }
    }

    pub(super) fn content(&self) -> &Content {
        &self.content
    }
}

/// Reads the single certificate of an AWS region, whose key must be RSA with 2048 bits or more;
/// returns it in DER with its end in milliseconds since the epoch.
fn region_certificate(content: &[u8]) -> Result<(Vec<u8>, i64), TrustError> {
    let fail = |e: &dyn std::fmt::Display| TrustError::Content(e.to_string());
    let [only] = <[Vec<u8>; 1]>::try_from(certificates(content)?)
        .map_err(|_| fail(&"must be one certificate"))?;
    let (_, certificate) = X509Certificate::from_der(&only).map_err(|e| fail(&e))?;
    let key = certificate.public_key().parsed().map_err(|e| fail(&e))?;
    if !matches!(key, PublicKey::RSA(key) if key.key_size() >= 2048 && !is_roca(key.modulus)) {
        return Err(fail(
            &"the certificate's key must be RSA with 2048 bits or more, and none of ROCA's",
        ));
    }
    let end_ms = end_ms(&certificate);
    Ok((only, end_ms))
}

/// Reads a revocation list in PEM or DER.
fn crl(content: &[u8]) -> Result<Crl, TrustError> {
    let fail = |e: &dyn std::fmt::Display| {
        TrustError::Content(format!(
            "not a certificate revocation list in PEM or DER: {e}"
        ))
    };
    // A SEQUENCE in DER begins with 0x30, which no PEM does.
    if content.first() == Some(&0x30) {
        return Crl::parse(content).map_err(|e| fail(&e));
    }
    Crl::parse(&CertificateRevocationListDer::from_pem_slice(content).map_err(|e| fail(&e))?)
        .map_err(|e| fail(&e))
}

/// Reads CA certificates in PEM, the self-issued ones as anchors and the others as intermediates;
/// returns them with their earliest end in milliseconds since the epoch.
fn roots(pem: &[u8]) -> Result<(Roots, Option<i64>), TrustError> {
    let mut roots = Roots::default();
    let mut earliest_ms: Option<i64> = None;
    for der in certificates(pem)? {
        let certificate = ca(&der)?;
        let end_ms = end_ms(&certificate);
        earliest_ms = Some(earliest_ms.map_or(end_ms, |other| other.min(end_ms)));
        let is_self_issued = certificate.subject() == certificate.issuer();
        if is_self_issued {
            roots.anchors.push(der)
        } else {
            roots.intermediates.push(der)
        }
    }
    Ok((roots, earliest_ms))
}

/// Returns the end of a certificate's validity in milliseconds since the epoch.
fn end_ms(certificate: &X509Certificate<'_>) -> i64 {
    certificate
        .validity()
        .not_after
        .timestamp()
        .saturating_mul(1000)
}

fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, TrustError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem)
        .map(|one| one.map(|der| der.to_vec()))
        .collect();
    all.ok()
        .filter(|all| (1..=MAX_CERTIFICATES).contains(&all.len()))
        .ok_or(TrustError::Certificates)
}

fn ca(der: &[u8]) -> Result<X509Certificate<'_>, TrustError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|e| TrustError::Content(e.to_string()))?;
    let constraints = certificate.basic_constraints().ok().flatten();
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        Ok(certificate)
    } else {
        Err(TrustError::NotCa(certificate.subject().to_string()))
    }
}
