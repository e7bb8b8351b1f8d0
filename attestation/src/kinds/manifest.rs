//! `manifest`: the digests of an agent's code, system prompt, tools and MCP servers, and its model.
//!
//! The platform team signs the expected digests as an in-toto statement in a DSSE envelope. The SDK
//! measures its own process and signs the result and the binding with the SVID key.
//! `deploy/manifest.md` documents the form for who writes manifests with other tools.
//!
//! The evidence proves that the holder of the SVID key claims to run what the platform team signed.
//! It does not prove that the claim is true; that takes a kind of evidence that measures the
//! claimant from outside.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::challenge::Binding;
use crate::claims::{Assurance, Claims, sha256};
use crate::dsse::{DsseError, Envelope};
pub use crate::dsse::{Envelope as SignedManifest, VerifyingKey, pre_authentication_encoding};
use crate::json;

/// The DSSE payload type of in-toto statements.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The statement type (in-toto attestation framework, Statement v1).
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The predicate type of an agent manifest.
pub const PREDICATE_TYPE: &str = "https://sundew.dev/agent-manifest/v1";
/// The largest evidence, in bytes.
const MAX_EVIDENCE: usize = 256 << 10;
/// The largest number of subjects in a manifest.
const MAX_SUBJECTS: usize = 256;

/// The evidence, in JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The signed manifest.
    pub envelope: Envelope,
    /// The JSON text of [`Measured`]; exactly these bytes are signed.
    pub measured: String,
    /// The SVID key's signature over [`signed_bytes`], in base64.
    pub signature: String,
}

/// The SDK's measurement of its own process.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The SHA-256 in lower-case hexadecimal by subject name: `code`, `system-prompt`,
    /// `tool:<name>` or `mcp:<name>`.
    pub subjects: BTreeMap<String, String>,
    /// The identifier of the model in use.
    pub model: String,
}

/// An in-toto statement with an agent manifest as its predicate.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The statement type, [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub statement_type: String,
    /// The digests of the agent's parts.
    pub subject: Vec<Subject>,
    /// The predicate type, [`PREDICATE_TYPE`].
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// The manifest's other statements.
    pub predicate: Predicate,
}

/// The named digest of one part of the agent.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// The name: `code`, `system-prompt`, `tool:<name>` or `mcp:<name>`.
    pub name: String,
    /// The digests by algorithm; only `sha256` counts.
    pub digest: BTreeMap<String, String>,
    /// Where the part is, for who measures it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
}

/// Where a part of the agent is.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Annotations {
    /// The path of the file or folder, relative to the folder of the manifest and within it.
    pub path: String,
}

impl Subject {
    /// Returns where the part is, relative to the folder of the manifest.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.annotations.as_ref().map(|note| Path::new(&note.path))
    }
}

/// The statements of a manifest besides digests.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Predicate {
    /// The agent's name, for people.
    pub name: String,
    /// The identifier of the expected model.
    pub model: String,
    /// The end of the manifest's validity, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<i64>,
}

/// The reasons to reject a manifest or a measurement.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The SVID key has not signed the measurement with this binding.
    #[error("not bound to this challenge and key")]
    Binding,
    /// The manifest's envelope or its signatures were rejected.
    #[error("envelope: {0}")]
    Envelope(#[from] DsseError),
    /// The manifest has expired.
    #[error("manifest has expired")]
    Expired,
    /// The evidence, the manifest or the measurement is malformed.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The measurement differs from the manifest in this subject, or in the model.
    #[error("measured `{0}` differs from the manifest")]
    Measurement(String),
    /// The statement is of another type, or has another predicate.
    #[error("not an agent manifest")]
    Type,
}

impl Statement {
    /// Reads a statement. Nothing says who signed it.
    ///
    /// # Errors
    /// [`ManifestError::Malformed`], or [`ManifestError::Type`] if it is no agent manifest.
    pub fn read(payload: &[u8]) -> Result<Self, ManifestError> {
        let statement: Self = strict(payload)?;
        if statement.statement_type != STATEMENT_TYPE || statement.predicate_type != PREDICATE_TYPE
        {
            return Err(ManifestError::Type);
        }
        let is_outside = |path: &Path| {
            let mut parts = path.components();
            !parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        };
        match statement
            .subject
            .iter()
            .filter_map(Subject::path)
            .any(is_outside)
        {
            true => Err(ManifestError::Malformed(
                "a path that leaves the folder of the manifest".to_owned(),
            )),
            false => Ok(statement),
        }
    }

    /// Checks that measured and signed subjects are the same set with the same digests, and that the
    /// model is the same.
    ///
    /// # Errors
    /// [`ManifestError::Measurement`] names the first difference.
    pub fn compare(&self, measured: &Measured) -> Result<(), ManifestError> {
        if self.subject.len() > MAX_SUBJECTS || !self.subject.iter().any(|s| s.name == "code") {
            return Err(ManifestError::Malformed(
                "a manifest lists `code` and at most 256 subjects".to_owned(),
            ));
        }
        let mut signed = BTreeMap::new();
        for subject in &self.subject {
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
        if measured.model != self.predicate.model {
            return Err(ManifestError::Measurement("model".to_owned()));
        }
        Ok(())
    }
}

/// Returns the digest of a folder: the SHA-256, in lower-case hexadecimal, over one line for each
/// file below it, sorted by the bytes of the path. `files` has the SHA-256 of each file by its path,
/// relative to the folder and with `/` between names. A line is the digest, two spaces, the path and
/// a line feed, as `sha256sum` prints it.
#[must_use]
pub fn folder_digest(files: &BTreeMap<String, String>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for (path, file) in files {
        context.update(format!("{file}  {path}\n").as_bytes());
    }
    hex::encode(context.finish().as_ref())
}

/// Returns the bytes that the SVID key signs: a label, the binding, and the SHA-256 of the
/// measurement.
#[must_use]
pub fn signed_bytes(binding: &Binding, measured: &str) -> Vec<u8> {
    let mut out = b"sundew/v1/manifest-evidence".to_vec();
    out.extend_from_slice(binding.as_bytes());
    out.extend_from_slice(digest::digest(&digest::SHA256, measured.as_bytes()).as_ref());
    out
}

/// Verifies a manifest under at least `threshold` of `keys`, and the measurement under `peer_key`,
/// the SubjectPublicKeyInfo of the caller's SVID in DER. `now_ms` is in milliseconds since the
/// epoch.
///
/// # Errors
/// Each [`ManifestError`] names the check that failed.
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
    // P2: the measurement is the caller's own only if the key of its SVID signed the binding.
    let holder = VerifyingKey::from_der(peer_key).map_err(|_| ManifestError::Binding)?;
    if !holder.verifies(&signed_bytes(binding, &evidence.measured), &signature) {
        return Err(ManifestError::Binding);
    }
    let signed = evidence.envelope.verify(PAYLOAD_TYPE, keys, threshold)?;
    let statement = Statement::read(&signed)?;
    if statement
        .predicate
        .expires_ms
        .is_some_and(|end| now_ms >= end)
    {
        return Err(ManifestError::Expired);
    }
    let measured: Measured = strict(evidence.measured.as_bytes())?;
    statement.compare(&measured)?;
    let mut values: BTreeMap<String, Vec<String>> = measured
        .subjects
        .iter()
        .map(|(name, hash)| (format!("subject.{name}"), vec![hash.clone()]))
        .collect();
    values.insert("digest".to_owned(), vec![hex::encode(sha256(&signed))]);
    values.insert("model".to_owned(), vec![statement.predicate.model]);
    values.insert("name".to_owned(), vec![statement.predicate.name]);
    Ok(Claims {
        not_after_ms: statement.predicate.expires_ms,
        ..Claims::of("manifest", Assurance::Claimed, true, values, payload)
    })
}

/// Parses untrusted JSON into a type.
fn strict<T: DeserializeOwned>(document: &[u8]) -> Result<T, ManifestError> {
    json::read(document, MAX_EVIDENCE).map_err(|e| ManifestError::Malformed(e.to_string()))
}
