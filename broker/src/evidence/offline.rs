//! One piece of evidence looked at away from a broker: for platform teams that write registrations,
//! and for those who wonder about a refusal.
//!
//! The same verification and appraisal; nothing is consumed, and nothing is granted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sundew_attestation::jws::KeySet;
use sundew_attestation::spiffe::{BundleSet, TrustDomain};
use sundew_attestation::{
    AppraisalPolicy, Binding, Circumstances, Presented, Rule, TrustItem, TrustKind, TrustMaterial,
    appraise,
};
use sundew_proto::v1;

use super::attempts::finding_message;
use crate::material::{IssuerConfig, MaterialConfig, issuers};
use crate::peer::files::read_bundle;

/// What to look at, and what to hold it against.
pub struct Inspection<'a> {
    /// The kind of the evidence.
    pub kind: &'a str,
    /// The evidence.
    pub payload: &'a [u8],
    /// The requirement as JSON, as it stands in a registration.
    pub requirement: &'a str,
    /// What it must be bound to, 32 bytes.
    pub binding: [u8; 32],
    /// The claimant's SubjectPublicKeyInfo in DER, for kinds that the claimant signs.
    pub public_key: &'a [u8],
    /// At which time, in milliseconds since the epoch.
    pub now_ms: i64,
}

/// Where a broker's configuration says that trust comes from.
#[derive(Default)]
pub struct TrustSources<'a> {
    /// OpenID issuers.
    pub issuers: &'a [IssuerConfig],
    /// Items that verifiers trust.
    pub material: &'a [MaterialConfig],
    /// Trust domain to the file that has its bundle.
    pub bundles: Option<&'a BTreeMap<TrustDomain, PathBuf>>,
}

/// What verifiers trust in an inspection.
#[derive(Default)]
pub struct Trusted(TrustMaterial, BundleSet);

impl Trusted {
    /// With what a broker's configuration names and is in files, and with these items: `KIND/NAME`
    /// and the file that has its content.
    pub fn read(sources: &TrustSources<'_>, items: &[(String, PathBuf)]) -> Result<Self, String> {
        let issuers = sources.issuers;
        let mut trust = issuers::without_keys(issuers);
        for (url, path) in issuers
            .iter()
            .filter_map(|issuer| Some((&issuer.url, issuer.jwks_file.as_ref()?)))
        {
            let keys =
                KeySet::parse(&read(path)?).map_err(|e| format!("{}: {e}", path.display()))?;
            issuers::put_keys(&mut trust, url, &keys);
        }
        let mut parsed = Vec::new();
        let item = |kind, name: &str, path: &Path| {
            TrustItem::parse(kind, name, &read(path)?)
                .map(Arc::new)
                .map_err(|e| format!("{}: {e}", path.display()))
        };
        for (config, path) in sources
            .material
            .iter()
            .filter_map(|item| Some((item, item.file.as_ref()?)))
        {
            parsed.push(item(config.kind, &config.name, path)?);
        }
        for (name, path) in items {
            let (kind, name) = name
                .split_once('/')
                .and_then(|(kind, name)| Some((TrustKind::parse(kind)?, name)))
                .ok_or_else(|| format!("{name}: must be KIND/NAME"))?;
            parsed.push(item(kind, name, path)?);
        }
        trust.replace_items(parsed);
        let mut bundles = BundleSet::default();
        for (domain, path) in sources.bundles.into_iter().flatten() {
            bundles.insert(read_bundle(domain, path).map_err(|e| e.to_string())?);
        }
        Ok(Self(trust, bundles))
    }
}

/// The SubjectPublicKeyInfo of the first certificate in a PEM file.
pub fn public_key_in(path: &Path) -> Result<Vec<u8>, String> {
    let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let leaf = CertificateDer::from_pem_slice(&read(path)?).map_err(|e| fail(&e))?;
    sundew_attestation::spiffe::public_key_of(&leaf).map_err(|e| fail(&e))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// What is found, and why it would be refused if it would.
pub fn inspect(
    inspection: &Inspection<'_>,
    trusted: &Trusted,
) -> Result<(Vec<v1::EvidenceFinding>, Option<String>), String> {
    let rule: Rule =
        serde_json::from_str(inspection.requirement).map_err(|e| format!("requirement: {e}"))?;
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
