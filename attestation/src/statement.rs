//! Statements that a workload makes about somebody else, signed with the key of its X.509-SVID: of
//! a node about a process, of a broker about a user.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::dsse::VerifyingKey;
use crate::json;
use crate::spiffe::{BundleSet, SvidError, VerifiedSvid, validate_chain};

/// The largest evidence, in bytes.
pub(crate) const MAX_STATEMENT: usize = 64 << 10;

/// A statement with the signature and the SVID of who makes it, in JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SignedStatement {
    /// The JSON text of the statement; exactly these bytes are signed.
    pub statement: String,
    /// The signature over the label of the kind and the statement, in base64.
    pub signature: String,
    /// The chain of the signer's X.509-SVID, leaf first, each DER in base64.
    pub chain: Vec<String>,
}

/// The reasons to reject a signed statement.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// The evidence is malformed.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The signature is not that of the signer's key.
    #[error("signature")]
    Signature,
    /// The signer's SVID was rejected.
    #[error(transparent)]
    Svid(#[from] SvidError),
}

/// Verifies who has signed a statement under a label. Returns the signer's SVID and the text of the
/// statement, which the caller reads from there and from nowhere else (T27).
pub(crate) fn verify(
    payload: &[u8],
    label: &[u8],
    bundles: &BundleSet,
    now_ms: i64,
) -> Result<(VerifiedSvid, String), StatementError> {
    let malformed = |e: &dyn std::fmt::Display| StatementError::Malformed(e.to_string());
    let evidence: SignedStatement =
        json::read(payload, MAX_STATEMENT).map_err(|e| malformed(&e))?;
    let chain: Vec<_> = evidence
        .chain
        .iter()
        .map(|der| STANDARD.decode(der).map(CertificateDer::from))
        .collect::<Result<_, _>>()
        .map_err(|e| malformed(&e))?;
    let signer = validate_chain(&chain, bundles, now_ms.div_euclid(1000))?;
    let key = VerifyingKey::from_der(signer.public_key()).map_err(|e| malformed(&e))?;
    let signature = STANDARD
        .decode(&evidence.signature)
        .map_err(|e| malformed(&e))?;
    let signed = [label, evidence.statement.as_bytes()].concat();
    if !key.verifies(&signed, &signature) {
        return Err(StatementError::Signature);
    }
    Ok((signer, evidence.statement))
}
