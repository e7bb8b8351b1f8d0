//! What verifiers trust: an immutable snapshot. Background tasks publish new ones; verifiers do no
//! I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::chain::{Crl, Roots};
use crate::claims::{hex, sha256};
use crate::kinds::{oidc, tdx, tpm2};

/// Most certificates in one item.
const MAX_CERTIFICATES: usize = 16;
/// Largest item, in bytes.
pub const MAX_CONTENT: usize = 512 << 10;

/// What an item is for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustKind {
    /// The certificate that AWS publishes for the region that is the item's name: PEM.
    AwsIid,
    /// What an issuer of hardware's certificates has taken back: a revocation list, PEM or DER.
    Crl,
    /// A root of Nitro enclaves: PEM.
    Nitro,
    /// A value that the platform team approved: the name is `<set>/<value>`, the content a remark.
    Reference,
    /// AMD's certificates for a product line, ARK and ASK or ASVK: PEM.
    SevSnp,
    /// Intel's collateral for one model of platform: JSON.
    Tdx,
    /// An attestation key of a TPM: JSON.
    Tpm2Ak,
    /// What a maker of TPMs certifies endorsement keys with: PEM.
    Tpm2EkRoot,
}

impl TrustKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::AwsIid,
        Self::Crl,
        Self::Nitro,
        Self::Reference,
        Self::SevSnp,
        Self::Tdx,
        Self::Tpm2Ak,
        Self::Tpm2EkRoot,
    ];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AwsIid => "aws_iid",
            Self::Crl => "crl",
            Self::Nitro => "nitro",
            Self::Reference => "reference",
            Self::SevSnp => "sev_snp",
            Self::Tdx => "tdx",
            Self::Tpm2Ak => "tpm2_ak",
            Self::Tpm2EkRoot => "tpm2_ek_root",
        }
    }

    /// By its word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Why an item was not taken: a sentence for the one who adds it.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A certificate that is no CA, where a root is needed.
    #[error("`{0}` is not a CA certificate")]
    NotCa(String),
    /// No certificate, or more than are taken.
    #[error("must have between 1 and {MAX_CERTIFICATES} certificates in PEM")]
    Certificates,
    /// Not the content that the kind has.
    #[error("{0}")]
    Content(String),
    /// The name does not fit the kind.
    #[error("name must be {0}")]
    Name(&'static str),
    /// Larger than is taken.
    #[error("larger than {MAX_CONTENT} bytes")]
    TooLarge,
}

/// One thing that is trusted.
#[derive(Clone, Debug)]
pub struct TrustItem {
    kind: TrustKind,
    name: String,
    content: Content,
    not_after_ms: Option<i64>,
    digest: [u8; 32],
}

#[derive(Clone, Debug)]
enum Content {
    AwsIid(Vec<u8>),
    Crl(Arc<Crl>),
    Nitro(Roots),
    Reference,
    SevSnp(Roots),
    Tdx(Box<tdx::Collateral>),
    Tpm2Ak(Box<tpm2::AttestationKey>),
    Tpm2EkRoot(Roots),
}

impl TrustItem {
    /// Reads an item; everything that is wrong with it is found here, not when evidence comes.
    pub fn parse(kind: TrustKind, name: &str, content: &[u8]) -> Result<Self, TrustError> {
        if content.len() > MAX_CONTENT {
            return Err(TrustError::TooLarge);
        }
        let plain = |name: &str| {
            !name.is_empty() && name.len() <= 256 && name.bytes().all(|b| b.is_ascii_graphic())
        };
        if !plain(name) {
            return Err(TrustError::Name(
                "1 to 256 printable ASCII characters without blanks",
            ));
        }
        let mut not_after_ms = None;
        let mut until = |certificate: &X509Certificate<'_>| {
            let end = certificate
                .validity()
                .not_after
                .timestamp()
                .saturating_mul(1000);
            not_after_ms = Some(not_after_ms.map_or(end, |other: i64| other.min(end)));
        };
        let parsed = match kind {
            TrustKind::AwsIid => {
                let [only] = <[Vec<u8>; 1]>::try_from(certificates(content)?)
                    .map_err(|_| TrustError::Content("must be one certificate".to_owned()))?;
                let (_, certificate) = X509Certificate::from_der(&only)
                    .map_err(|e| TrustError::Content(e.to_string()))?;
                let key = certificate
                    .public_key()
                    .parsed()
                    .map_err(|e| TrustError::Content(e.to_string()))?;
                if !matches!(key, PublicKey::RSA(key) if key.key_size() >= 2048) {
                    return Err(TrustError::Content(
                        "the certificate's key must be RSA with 2048 bits or more".to_owned(),
                    ));
                }
                until(&certificate);
                Content::AwsIid(only)
            }
            TrustKind::Crl => {
                let crl = crl(content)?;
                not_after_ms = Some(crl.next_update_ms());
                Content::Crl(Arc::new(crl))
            }
            TrustKind::Nitro => {
                // Whatever is named is an anchor.
                let roots = roots(content, &mut until)?;
                Content::Nitro(Roots {
                    anchors: [roots.anchors, roots.intermediates].concat(),
                    ..Roots::default()
                })
            }
            TrustKind::Reference => {
                if name
                    .split_once('/')
                    .is_none_or(|(set, value)| set.is_empty() || value.is_empty())
                {
                    return Err(TrustError::Name("`<set>/<value>`"));
                }
                Content::Reference
            }
            TrustKind::SevSnp => {
                let roots = roots(content, &mut until)?;
                if roots.anchors.is_empty() || roots.intermediates.is_empty() {
                    return Err(TrustError::Content(
                        "must have AMD's root (ARK) and what it signed (ASK or ASVK)".to_owned(),
                    ));
                }
                Content::SevSnp(roots)
            }
            TrustKind::Tdx => {
                let collateral = tdx::Collateral::parse(content)
                    .map_err(|e| TrustError::Content(e.to_string()))?;
                not_after_ms = Some(collateral.next_update_ms());
                Content::Tdx(Box::new(collateral))
            }
            TrustKind::Tpm2Ak => Content::Tpm2Ak(Box::new(
                tpm2::AttestationKey::parse(content)
                    .map_err(|e| TrustError::Content(e.to_string()))?,
            )),
            TrustKind::Tpm2EkRoot => {
                let roots = roots(content, &mut until)?;
                if roots.anchors.is_empty() {
                    return Err(TrustError::Content(
                        "must have the maker's root, which is signed by itself".to_owned(),
                    ));
                }
                Content::Tpm2EkRoot(roots)
            }
        };
        Ok(Self {
            kind,
            name: name.to_owned(),
            content: parsed,
            not_after_ms,
            digest: sha256(content),
        })
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> TrustKind {
        self.kind
    }

    /// Its name, unique among those of its kind.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it ends by itself, in milliseconds since the epoch.
    #[must_use]
    pub fn not_after_ms(&self) -> Option<i64> {
        self.not_after_ms
    }

    /// SHA-256 of its content in lower-case hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(&self.digest)
    }

    /// The value that it puts into a set of reference values.
    #[must_use]
    pub fn value_in(&self, set: &str) -> Option<&str> {
        let (own, value) = self
            .name
            .split_once('/')
            .filter(|_| self.kind == TrustKind::Reference)?;
        (own == set).then_some(value)
    }

    /// The verified claim that rests on it alone, for kinds that have one: name and value.
    #[must_use]
    pub fn claim(&self) -> Option<(&'static str, String)> {
        match &self.content {
            Content::AwsIid(_) => Some(("aws_iid.region", self.name.clone())),
            Content::Tpm2Ak(key) => Some(("tpm2.key", key.name())),
            Content::Crl(_)
            | Content::Nitro(_)
            | Content::Reference
            | Content::SevSnp(_)
            | Content::Tdx(_)
            | Content::Tpm2EkRoot(_) => None,
        }
    }

    /// Whether it is an attestation key that a TPM was shown to have: nobody can add that by saying
    /// so.
    #[must_use]
    pub fn is_endorsed(&self) -> bool {
        matches!(&self.content, Content::Tpm2Ak(key) if key.endorsement().is_some())
    }
}

fn crl(content: &[u8]) -> Result<Crl, TrustError> {
    let fail = |e: &dyn std::fmt::Display| {
        TrustError::Content(format!(
            "not a certificate revocation list in PEM or DER: {e}"
        ))
    };
    if content.first() == Some(&0x30) {
        return Crl::parse(content).map_err(|e| fail(&e));
    }
    Crl::parse(&CertificateRevocationListDer::from_pem_slice(content).map_err(|e| fail(&e))?)
        .map_err(|e| fail(&e))
}

fn roots(pem: &[u8], until: &mut impl FnMut(&X509Certificate<'_>)) -> Result<Roots, TrustError> {
    let mut roots = Roots::default();
    for der in certificates(pem)? {
        let certificate = ca(&der)?;
        until(&certificate);
        let own = certificate.subject() == certificate.issuer();
        if own {
            roots.anchors.push(der)
        } else {
            roots.intermediates.push(der)
        }
    }
    Ok(roots)
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

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct TrustMaterial {
    /// OpenID issuers by URL.
    pub issuers: BTreeMap<String, Arc<oidc::Issuer>>,
    /// The rest, by kind and name.
    items: BTreeMap<(TrustKind, String), Arc<TrustItem>>,
}

impl TrustMaterial {
    /// With these issuers and nothing else.
    #[must_use]
    pub fn of_issuers(issuers: impl IntoIterator<Item = oidc::Issuer>) -> Self {
        Self {
            issuers: issuers
                .into_iter()
                .map(|issuer| (issuer.url.clone(), Arc::new(issuer)))
                .collect(),
            items: BTreeMap::new(),
        }
    }

    /// Takes these items in place of all others; of the same kind and name, the last one counts.
    pub fn replace_items(&mut self, items: impl IntoIterator<Item = Arc<TrustItem>>) {
        self.items = items
            .into_iter()
            .map(|item| ((item.kind, item.name.clone()), item))
            .collect();
    }

    /// All items.
    pub fn items(&self) -> impl Iterator<Item = &Arc<TrustItem>> {
        self.items.values()
    }

    /// Whether there is an item of a kind.
    #[must_use]
    pub fn has(&self, kind: TrustKind) -> bool {
        self.of(kind).next().is_some()
    }

    fn of(&self, kind: TrustKind) -> impl Iterator<Item = &TrustItem> {
        self.items
            .range((kind, String::new())..)
            .map(|(_, item)| item.as_ref())
            .take_while(move |item| item.kind == kind)
    }

    /// Whether a value is in a set of reference values.
    #[must_use]
    pub fn is_reference(&self, set: &str, value: &str) -> bool {
        self.items
            .contains_key(&(TrustKind::Reference, format!("{set}/{value}")))
    }

    fn roots_of(&self, kind: TrustKind) -> Roots {
        let crl = |item: &TrustItem| {
            if let Content::Crl(crl) = &item.content {
                Some(Arc::clone(crl))
            } else {
                None
            }
        };
        let mut all = Roots {
            crls: self.of(TrustKind::Crl).filter_map(crl).collect(),
            ..Roots::default()
        };
        for item in self.of(kind) {
            if let Content::Nitro(roots) | Content::SevSnp(roots) | Content::Tpm2EkRoot(roots) =
                &item.content
            {
                all.anchors.extend(roots.anchors.iter().cloned());
                all.intermediates
                    .extend(roots.intermediates.iter().cloned());
            }
        }
        all
    }

    pub(crate) fn nitro_roots(&self) -> Roots {
        self.roots_of(TrustKind::Nitro)
    }

    pub(crate) fn sev_snp_roots(&self) -> Roots {
        self.roots_of(TrustKind::SevSnp)
    }

    /// Makers of TPMs.
    #[must_use]
    pub fn tpm_makers(&self) -> Roots {
        self.roots_of(TrustKind::Tpm2EkRoot)
    }

    pub(crate) fn tdx_collateral(&self) -> impl Iterator<Item = &tdx::Collateral> {
        self.of(TrustKind::Tdx).filter_map(|item| {
            if let Content::Tdx(collateral) = &item.content {
                Some(collateral.as_ref())
            } else {
                None
            }
        })
    }

    pub(crate) fn attestation_key(&self, name: &str) -> Option<&tpm2::AttestationKey> {
        self.of(TrustKind::Tpm2Ak).find_map(|item| {
            if let Content::Tpm2Ak(key) = &item.content {
                (key.name() == name).then_some(key.as_ref())
            } else {
                None
            }
        })
    }

    pub(crate) fn region_certificate(&self, region: &str) -> Option<&[u8]> {
        match &self
            .items
            .get(&(TrustKind::AwsIid, region.to_owned()))?
            .content
        {
            Content::AwsIid(der) => Some(der),
            Content::Crl(_)
            | Content::Nitro(_)
            | Content::Reference
            | Content::SevSnp(_)
            | Content::Tdx(_)
            | Content::Tpm2Ak(_)
            | Content::Tpm2EkRoot(_) => None,
        }
    }
}
