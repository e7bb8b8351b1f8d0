//! `manifest`: what the agent *is*. A DSSE-signed in-toto statement lists digests of its code,
//! system prompt, model, tools and MCP servers; the SDK presents what it measured, signed with the
//! SVID key over the challenge's binding.
//!
//! It proves that the holder of the SVID key says that it runs what the platform team signed. It
//! does not prove that the holder tells the truth about itself: that takes a kind that measures
//! from outside.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::challenge::Binding;
use crate::claims::{Assurance, Claims, hex, sha256};
use crate::dsse::{DsseError, Envelope, VerifyingKey};
pub use crate::dsse::{Envelope as SignedManifest, pre_authentication_encoding};
use crate::json;

/// The DSSE payload type of in-toto statements.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The statement type (in-toto attestation framework, Statement v1).
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The predicate that says what an agent is made of.
pub const PREDICATE_TYPE: &str = "https://sundew.dev/agent-manifest/v1";
/// Largest evidence, in bytes.
const MAX_EVIDENCE: usize = 256 << 10;
/// Most subjects of a manifest.
const MAX_SUBJECTS: usize = 256;

/// What the SDK sends.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The signed manifest.
    pub envelope: Envelope,
    /// What was measured, as JSON text of [`Measured`]: exactly these bytes are signed.
    pub measured: String,
    /// Base64 of the SVID key's signature over [`signed_bytes`].
    pub signature: String,
}

/// What the SDK measured of its own process.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Subject name (`code`, `system-prompt`, `tool:<name>`, `mcp:<name>`) to lower-case
    /// hexadecimal SHA-256.
    pub subjects: BTreeMap<String, String>,
    /// The model identifier in use.
    pub model: String,
}

/// An in-toto statement with our predicate.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Always [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub statement_type: String,
    /// What the agent is made of.
    pub subject: Vec<Subject>,
    /// Always [`PREDICATE_TYPE`].
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// The rest of it.
    pub predicate: Predicate,
}

/// One named digest.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// `code`, `system-prompt`, `tool:<name>` or `mcp:<name>`.
    pub name: String,
    /// The digests; `sha256` is the one that counts.
    pub digest: BTreeMap<String, String>,
}

/// What a manifest says besides digests.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Predicate {
    /// A name for people.
    pub name: String,
    /// The model identifier.
    pub model: String,
    /// When the manifest ends, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<i64>,
}

/// Why evidence of this kind was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not signed by the SVID key over this challenge.
    #[error("not bound to this challenge and key")]
    Binding,
    /// The manifest's own signatures.
    #[error("envelope: {0}")]
    Envelope(#[from] DsseError),
    /// The manifest has ended.
    #[error("manifest has expired")]
    Expired,
    /// Malformed evidence, manifest or measurement.
    #[error("malformed: {0}")]
    Malformed(String),
    /// What was measured is not what was signed.
    #[error("measured `{0}` differs from the manifest")]
    Measurement(String),
    /// Another statement or predicate type.
    #[error("not an agent manifest")]
    Type,
}

/// What the SVID key signs: a label, the binding, and the SHA-256 of the measurement.
#[must_use]
pub fn signed_bytes(binding: &Binding, measured: &str) -> Vec<u8> {
    let mut out = b"sundew/v1/manifest-evidence".to_vec();
    out.extend_from_slice(binding.as_bytes());
    out.extend_from_slice(digest::digest(&digest::SHA256, measured.as_bytes()).as_ref());
    out
}

/// Verifies evidence against the registered keys, the binding, and the peer's SubjectPublicKeyInfo.
pub fn verify(
    payload: &[u8],
    keys: &[VerifyingKey],
    threshold: usize,
    binding: &Binding,
    peer_key: &[u8],
    now_ms: i64,
) -> Result<Claims, ManifestError> {
    let evidence: Evidence = strict(payload)?;
    let signature = STANDARD
        .decode(&evidence.signature)
        .map_err(|_| ManifestError::Binding)?;
    let holder = VerifyingKey::from_der(peer_key).map_err(|_| ManifestError::Binding)?;
    if !holder.verifies(&signed_bytes(binding, &evidence.measured), &signature) {
        return Err(ManifestError::Binding);
    }
    let signed = evidence.envelope.verify(PAYLOAD_TYPE, keys, threshold)?;
    let statement: Statement = strict(&signed)?;
    if statement.statement_type != STATEMENT_TYPE || statement.predicate_type != PREDICATE_TYPE {
        return Err(ManifestError::Type);
    }
    if statement
        .predicate
        .expires_ms
        .is_some_and(|end| now_ms >= end)
    {
        return Err(ManifestError::Expired);
    }
    let measured: Measured = strict(evidence.measured.as_bytes())?;
    compare(&statement, &measured)?;
    let mut values: BTreeMap<String, Vec<String>> = measured
        .subjects
        .iter()
        .map(|(name, hash)| (format!("subject.{name}"), vec![hash.clone()]))
        .collect();
    values.insert("digest".to_owned(), vec![hex(&sha256(&signed))]);
    values.insert("model".to_owned(), vec![statement.predicate.model]);
    values.insert("name".to_owned(), vec![statement.predicate.name]);
    Ok(Claims {
        not_after_ms: statement.predicate.expires_ms,
        ..Claims::of("manifest", Assurance::Claimed, true, values, payload)
    })
}

/// Measured and signed subjects must be the same set with the same digests: nothing missing,
/// nothing more.
fn compare(statement: &Statement, measured: &Measured) -> Result<(), ManifestError> {
    if statement.subject.len() > MAX_SUBJECTS || !statement.subject.iter().any(|s| s.name == "code")
    {
        return Err(ManifestError::Malformed(
            "a manifest lists `code` and at most 256 subjects".to_owned(),
        ));
    }
    let mut signed = BTreeMap::new();
    for subject in &statement.subject {
        let hash = subject
            .digest
            .get("sha256")
            .filter(|h| h.len() == 64)
            .ok_or_else(|| ManifestError::Malformed("subject without sha256".to_owned()))?;
        if signed.insert(subject.name.clone(), hash.clone()).is_some() {
            return Err(ManifestError::Malformed("subject listed twice".to_owned()));
        }
    }
    for name in signed.keys().chain(measured.subjects.keys()) {
        if signed.get(name) != measured.subjects.get(name) {
            return Err(ManifestError::Measurement(name.chars().take(64).collect()));
        }
    }
    if measured.model != statement.predicate.model {
        return Err(ManifestError::Measurement("model".to_owned()));
    }
    Ok(())
}

fn strict<T: DeserializeOwned>(document: &[u8]) -> Result<T, ManifestError> {
    json::read(document, MAX_EVIDENCE).map_err(|e| ManifestError::Malformed(e.to_string()))
}
