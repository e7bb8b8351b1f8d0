//! `cosign`: a signature under a registered key over the digest of a container image or of a
//! binary.
//!
//! For an image, it is the "simple signing" payload of sigstore's cosign. For a binary, it is an
//! in-toto statement in a DSSE envelope, as `cosign attest-blob` makes it, alone or in a sigstore
//! bundle.
//!
//! The signature of an image shows that a digest was approved. A statement shows what its predicate
//! says, which may be that a scan failed: it counts only if the registration constrains
//! `predicate_type` and, if the predicate has a verdict, that verdict. Neither shows that the digest
//! runs, so a registration must compare it with a claim of another kind.

mod statement;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::claims::{Assurance, Claims, Values};
use crate::dsse::{DsseError, Envelope, VerifyingKey};
use crate::json;

/// The largest evidence, in bytes.
const MAX_EVIDENCE: usize = 256 << 10;

/// The prefix that the media types of all versions of sigstore's bundles have.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";

/// The evidence, in JSON, in one of three forms.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Evidence {
    /// The signature of an image, as `cosign` stores it beside the image.
    Image {
        /// The simple-signing payload in base64; exactly these bytes are signed.
        payload: String,
        /// The signature in base64: ECDSA in ASN.1 DER, or Ed25519.
        signature: String,
    },
    /// A signed statement about binaries.
    Statement {
        /// The DSSE envelope of the statement.
        envelope: Envelope,
    },
    /// A signed statement in a sigstore bundle (sigstore protobuf-specs, `Bundle`).
    #[serde(rename_all = "camelCase")]
    Bundle {
        /// The media type, which names the version of the bundle.
        media_type: String,
        /// The DSSE envelope of the statement. A bundle with a `messageSignature` instead is
        /// rejected.
        dsse_envelope: Envelope,
        /// Certificates and entries of transparency logs. They are ignored, because only a
        /// registered key counts.
        verification_material: Value,
    },
}

/// The reasons to reject a signature.
#[derive(Debug, thiserror::Error)]
pub enum CosignError {
    /// The envelope or its signatures were rejected.
    #[error("envelope: {0}")]
    Envelope(#[from] DsseError),
    /// The evidence, payload or statement is malformed.
    #[error("malformed: {0}")]
    Malformed(String),
    /// No registered key has signed the payload.
    #[error("not signed by a registered key")]
    Signature,
    /// The signed document is of another type.
    #[error("another type of statement")]
    Type,
}

fn malformed(what: &dyn std::fmt::Display) -> CosignError {
    CosignError::Malformed(what.to_string())
}

/// The claims with the verdict of a predicate: those of a verification summary of SLSA, in its two
/// spellings, and of a test result of in-toto.
pub(crate) const VERDICTS: [&str; 3] = [
    "predicate.verificationResult",
    "predicate.verification_result",
    "predicate.result",
];

/// Verifies a signature under one of the keys. The claim `digest` has every digest that was signed,
/// in lower-case hexadecimal. Of a statement, `predicate_type` has the type of its predicate.
///
/// # Errors
/// Each [`CosignError`] names the check that failed.
pub fn verify(payload: &[u8], keys: &[VerifyingKey]) -> Result<Claims, CosignError> {
    let evidence: Evidence = json::read(payload, MAX_EVIDENCE).map_err(|e| malformed(&e))?;
    let values = match evidence {
        Evidence::Image { payload, signature } => image_values(&payload, &signature, keys)?,
        Evidence::Bundle { media_type, .. } if !media_type.starts_with(BUNDLE) => {
            return Err(CosignError::Type);
        }
        Evidence::Statement { envelope }
        | Evidence::Bundle {
            dsse_envelope: envelope,
            ..
        } => statement::values(&envelope, keys)?,
    };
    Ok(Claims::of(
        "cosign",
        Assurance::Vouched,
        false,
        values,
        payload,
    ))
}

/// Verifies a simple-signing payload; returns the digest and, if the payload names one, the
/// reference of the image.
fn image_values(
    payload: &str,
    signature: &str,
    keys: &[VerifyingKey],
) -> Result<Values, CosignError> {
    let (signed, signature) = (
        STANDARD.decode(payload).map_err(|e| malformed(&e))?,
        STANDARD.decode(signature).map_err(|e| malformed(&e))?,
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
    let mut values = Values::default();
    values.text(
        "digest",
        digest
            .filter(|hash| is_sha256(hash))
            .ok_or_else(|| malformed(&"no image digest"))?,
    );
    if let Some(reference) =
        text("/critical/identity/docker-reference").filter(|reference| !reference.is_empty())
    {
        values.text("reference", reference);
    }
    Ok(values)
}

/// Returns whether a text is a SHA-256 in lower-case hexadecimal.
fn is_sha256(hash: &str) -> bool {
    hash.len() == 64
        && hash
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
