//! Inspecting a piece of evidence away from a broker: for platform teams that write registrations,
//! and for those who look for the reason of a refusal.
//!
//! The verification and the appraisal are those of a broker; nothing is consumed, and nothing is
//! granted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject as _};
use sundew_attestation::jws::{JwsError, KeySet};
use sundew_attestation::spiffe::{BundleSet, SvidError, TrustDomain, public_key_of};
use sundew_attestation::{
    AppraisalPolicy, Binding, Circumstances, Presented, Rule, TrustError, TrustItem, TrustKind,
    TrustMaterial, appraise,
};
use sundew_proto::v1;

use super::attempts::finding_message;
use crate::material::{IssuerConfig, MaterialConfig, issuers};
use crate::peer::files::{FileError, read_bundle, read_public};

/// A piece of evidence, and the requirement that it is held against.
pub struct Inspection<'a> {
    /// The kind of the evidence.
    pub kind: &'a str,
    /// The evidence.
    pub payload: &'a [u8],
    /// The requirement as JSON, as it stands in a registration.
    pub requirement: &'a str,
    /// The 32 bytes that the evidence must be bound to.
    pub binding: [u8; 32],
    /// The claimant's SubjectPublicKeyInfo in DER, for kinds that the claimant signs.
    pub public_key: &'a [u8],
    /// The time of the inspection, in milliseconds since the epoch.
    pub now_ms: i64,
}

/// The places that a broker's configuration names for trust.
#[derive(Default)]
pub struct TrustSources<'a> {
    /// OpenID issuers.
    pub issuers: &'a [IssuerConfig],
    /// Items that verifiers trust.
    pub material: &'a [MaterialConfig],
    /// Trust domain to the file that has its bundle.
    pub bundles: Option<&'a BTreeMap<TrustDomain, PathBuf>>,
}

/// Why evidence could not be inspected. That is no word on the evidence.
#[derive(Debug, thiserror::Error)]
pub enum InspectionError {
    /// A file cannot be read, or holds no bundle.
    #[error("{0}")]
    File(FileError),
    /// A file does not hold what verifiers trust under this kind.
    #[error("{}: {cause}", .path.display())]
    Item {
        /// The file.
        path: PathBuf,
        /// The fault in the content.
        cause: TrustError,
    },
    /// An item has no kind that is known, or no name.
    #[error("{0}: must be KIND/NAME")]
    ItemName(String),
    /// A file holds no set of keys.
    #[error("{}: {cause}", .path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// The fault in the content.
        cause: JwsError,
    },
    /// A file holds no certificate in PEM.
    #[error("{}: {cause}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The fault in the content.
        cause: pem::Error,
    },
    /// A certificate has no public key that can be read.
    #[error("{}: {cause}", .path.display())]
    PublicKey {
        /// The file.
        path: PathBuf,
        /// The fault in the certificate.
        cause: SvidError,
    },
    /// The requirement is none.
    #[error("requirement: {0}")]
    Requirement(serde_json::Error),
}

/// The trust that evidence is inspected under.
#[derive(Default)]
pub struct Trusted(TrustMaterial, BundleSet);

impl Trusted {
    /// Reads what a broker's configuration names and is in files, and `items`: each is `KIND/NAME`
    /// and the file that has its content.
    pub fn read(
        sources: &TrustSources<'_>,
        items: &[(String, PathBuf)],
    ) -> Result<Self, InspectionError> {
        let issuers = sources.issuers;
        let mut trust = issuers::without_keys(issuers);
        for (url, path) in issuers
            .iter()
            .filter_map(|issuer| Some((&issuer.url, issuer.jwks_file.as_ref()?)))
        {
            issuers::put_keys(&mut trust, url, &read_keys(path)?);
        }
        let mut parsed = Vec::new();
        for (config, path) in sources
            .material
            .iter()
            .filter_map(|item| Some((item, item.file.as_ref()?)))
        {
            parsed.push(read_item(config.kind, &config.name, path)?);
        }
        for (name, path) in items {
            let (kind, name) = name
                .split_once('/')
                .and_then(|(kind, name)| Some((TrustKind::parse(kind)?, name)))
                .ok_or_else(|| InspectionError::ItemName(name.clone()))?;
            parsed.push(read_item(kind, name, path)?);
        }
        trust.replace_items(parsed);
        let mut bundles = BundleSet::default();
        for (domain, path) in sources.bundles.into_iter().flatten() {
            bundles.insert(read_bundle(domain, path).map_err(InspectionError::File)?);
        }
        Ok(Self(trust, bundles))
    }
}

/// Reads the keys of an issuer from a file.
fn read_keys(path: &Path) -> Result<KeySet, InspectionError> {
    let document = read_public(path).map_err(InspectionError::File)?;
    let none = || JwsError::KeySet("no usable key".to_owned());
    KeySet::parse(&document)
        .and_then(|keys| (!keys.is_empty()).then_some(keys).ok_or_else(none))
        .map_err(|cause| InspectionError::Keys {
            path: path.to_owned(),
            cause,
        })
}

/// Reads an item that verifiers trust from a file.
fn read_item(kind: TrustKind, name: &str, path: &Path) -> Result<Arc<TrustItem>, InspectionError> {
    let content = read_public(path).map_err(InspectionError::File)?;
    TrustItem::parse(kind, name, &content)
        .map(Arc::new)
        .map_err(|cause| InspectionError::Item {
            path: path.to_owned(),
            cause,
        })
}

/// Reads the SubjectPublicKeyInfo, in DER, of the first certificate in a PEM file.
pub fn public_key_in(path: &Path) -> Result<Vec<u8>, InspectionError> {
    let content = read_public(path).map_err(InspectionError::File)?;
    let leaf = CertificateDer::from_pem_slice(&content).map_err(|cause| InspectionError::Pem {
        path: path.to_owned(),
        cause,
    })?;
    public_key_of(&leaf).map_err(|cause| InspectionError::PublicKey {
        path: path.to_owned(),
        cause,
    })
}

/// Inspects the evidence. The answer is every finding, and the reason why a broker would refuse the
/// evidence, if it would.
pub fn inspect(
    inspection: &Inspection<'_>,
    trusted: &Trusted,
) -> Result<(Vec<v1::EvidenceFinding>, Option<String>), InspectionError> {
    let rule: Rule =
        serde_json::from_str(inspection.requirement).map_err(InspectionError::Requirement)?;
    let rules = [rule];
    let policy = AppraisalPolicy {
        rules: &rules,
        cross_checks: &[],
    };
    let binding = Binding::from_bytes(inspection.binding);
    let presented = [Presented {
        kind: inspection.kind,
        payload: inspection.payload,
    }];
    let circumstances = Circumstances {
        public_key: inspection.public_key,
        binding: &binding,
        trust: &trusted.0,
        bundles: &trusted.1,
        now_ms: inspection.now_ms,
    };
    let mut findings = Vec::new();
    let result = appraise(policy, &presented, circumstances, &mut findings);
    Ok((
        findings.into_iter().map(finding_message).collect(),
        result.err().map(|e| e.to_string()),
    ))
}
