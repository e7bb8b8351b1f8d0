//! `cosign`: a signature over the digest of a container image (the "simple signing" payload of
//! sigstore's cosign) or of a binary (an in-toto statement in a DSSE envelope, as `cosign
//! attest-blob` makes it, alone or in a sigstore bundle), under a key that the platform team
//! registered.
//!
//! It says that a digest is good, never that it is what runs: a registration must compare it with a
//! digest of another kind.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::claims::{Assurance, Claims, Values};
use crate::dsse::{DsseError, Envelope, VerifyingKey};
use crate::json;
use crate::kinds::manifest::{PAYLOAD_TYPE, STATEMENT_TYPE};

/// Largest evidence, in bytes.
const MAX_EVIDENCE: usize = 256 << 10;
/// Most subjects of a statement.
const MAX_SUBJECTS: usize = 64;

/// What every version of sigstore's bundles has in its media type.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";

/// What a collector sends: one of the three forms.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Evidence {
    /// An image's signature, as `cosign` keeps it beside the image.
    Image {
        /// Base64 of the simple-signing payload: exactly these bytes are signed.
        payload: String,
        /// Base64 of the signature: ECDSA in ASN.1 DER, or Ed25519.
        signature: String,
    },
    /// A signed statement about binaries.
    Statement {
        /// The envelope.
        envelope: Envelope,
    },
    /// The same as cosign writes it today (sigstore protobuf-specs, `Bundle`).
    #[serde(rename_all = "camelCase")]
    Bundle {
        /// Which version of the form it is.
        media_type: String,
        /// The envelope; a bundle with a signature over the bytes of a file is not taken.
        dsse_envelope: Envelope,
        /// Certificates and entries of transparency logs. Nothing rests on them: what counts is a
        /// registered key.
        verification_material: Value,
    },
}

/// Why a signature was not taken.
#[derive(Debug, thiserror::Error)]
pub enum CosignError {
    /// The envelope or its signatures.
    #[error("envelope: {0}")]
    Envelope(#[from] DsseError),
    /// Not evidence of this kind.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Not signed by a registered key.
    #[error("not signed by a registered key")]
    Signature,
    /// Signed, but as something else.
    #[error("another type of statement")]
    Type,
}

#[derive(Deserialize)]
struct Statement {
    #[serde(rename = "_type")]
    statement_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: BTreeMap<String, String>,
}

fn malformed(what: &dyn std::fmt::Display) -> CosignError {
    CosignError::Malformed(what.to_string())
}

/// Verifies a signature under one of the keys. The claim `digest` has every digest that was signed,
/// in lower-case hexadecimal.
pub fn verify(payload: &[u8], keys: &[VerifyingKey]) -> Result<Claims, CosignError> {
    let evidence: Evidence = json::read(payload, MAX_EVIDENCE).map_err(|e| malformed(&e))?;
    let mut values = Values::default();
    match evidence {
        Evidence::Image { payload, signature } => {
            let (signed, signature) = (
                STANDARD.decode(&payload).map_err(|e| malformed(&e))?,
                STANDARD.decode(&signature).map_err(|e| malformed(&e))?,
            );
            if !keys.iter().any(|key| key.verifies(&signed, &signature)) {
                return Err(CosignError::Signature);
            }
            let document = json::parse(&signed, MAX_EVIDENCE).map_err(|e| malformed(&e))?;
            let text = |path: &str| document.pointer(path).and_then(Value::as_str);
            if text("/critical/type") != Some("cosign container image signature") {
                return Err(CosignError::Type);
            }
            let digest = text("/critical/image/docker-manifest-digest")
                .and_then(|digest| digest.strip_prefix("sha256:"));
            values.text(
                "digest",
                digest
                    .filter(|hash| is_sha256(hash))
                    .ok_or_else(|| malformed(&"no image digest"))?,
            );
            if let Some(reference) = text("/critical/identity/docker-reference")
                .filter(|reference| !reference.is_empty())
            {
                values.text("reference", reference);
            }
        }
        Evidence::Bundle { media_type, .. } if !media_type.starts_with(BUNDLE) => {
            return Err(CosignError::Type);
        }
        Evidence::Statement { envelope }
        | Evidence::Bundle {
            dsse_envelope: envelope,
            ..
        } => {
            let signed = envelope.verify(PAYLOAD_TYPE, keys, 1)?;
            let statement: Statement =
                json::read(&signed, MAX_EVIDENCE).map_err(|e| malformed(&e))?;
            if statement.statement_type != STATEMENT_TYPE {
                return Err(CosignError::Type);
            }
            if statement.subject.is_empty() || statement.subject.len() > MAX_SUBJECTS {
                return Err(malformed(&"a statement has 1 to 64 subjects"));
            }
            for subject in &statement.subject {
                let digest = subject.digest.get("sha256").filter(|hash| is_sha256(hash));
                values.text(
                    "digest",
                    digest.ok_or_else(|| malformed(&"subject without sha256"))?,
                );
            }
        }
    }
    Ok(Claims::of(
        "cosign",
        Assurance::Vouched,
        false,
        values,
        payload,
    ))
}

fn is_sha256(hash: &str) -> bool {
    hash.len() == 64
        && hash
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
