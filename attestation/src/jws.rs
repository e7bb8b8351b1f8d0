//! Verification of compact JWS (RFC 7515, section 7.1) with JWT claims (RFC 7519), along the advice
//! of RFC 8725.
//!
//! The algorithm comes from the key, never from the token. Keys in a header are never used. A
//! header that this crate does not know is rejected.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::json;

mod keys;

pub use keys::KeySet;
pub(crate) use keys::{bare, keys_of};

/// The largest token, in bytes (T20).
const MAX_TOKEN: usize = 16 << 10;

/// The reasons to reject a token or a key set.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum JwsError {
    /// The `alg` header is not the algorithm of the key (RFC 8725, section 3.1).
    #[error("algorithm is not the key's")]
    Algorithm,
    /// The token has a header that could change its meaning or that carries a key.
    #[error("header `{0}` is not taken")]
    Header(String),
    /// The document is not a key set.
    #[error("key set: {0}")]
    KeySet(String),
    /// The token is not three parts in canonical base64url, or header and payload are not JSON
    /// objects.
    #[error("malformed token")]
    Malformed,
    /// The signature is not the key's.
    #[error("bad signature")]
    Signature,
    /// The token has more than 16 KiB.
    #[error("token is too large")]
    TooLarge,
    /// No key of the issuer has the token's `kid`, or the token has none.
    #[error("unknown key")]
    UnknownKey,
}

/// The proof that a token's signature was verified. The claims are still to be checked.
///
/// [`verify`] and [`verify_by`] alone make it. Other crates can neither construct nor clone it:
///
/// ```compile_fail,E0277
/// fn is_clone<T: Clone>() {}
/// is_clone::<sundew_attestation::jws::SignedClaims>();
/// ```
///
/// ```compile_fail,E0451
/// use sundew_attestation::jws::SignedClaims;
/// let (claims, signing_input) = (serde_json::Map::new(), Vec::new());
/// let forged = SignedClaims { claims, typ: None, signing_input };
/// ```
#[derive(Debug)]
#[must_use]
pub struct SignedClaims {
    claims: Map<String, Value>,
    typ: Option<String>,
    signing_input: Vec<u8>,
}

impl SignedClaims {
    /// Returns the claims.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// Returns the claims and drops the rest.
    #[must_use]
    pub fn into_claims(self) -> Map<String, Value> {
        self.claims
    }

    /// Returns the `typ` header, if there is one.
    #[must_use]
    pub fn typ(&self) -> Option<&str> {
        self.typ.as_deref()
    }

    /// Returns the bytes that were signed, `header.payload` (RFC 7515, section 2).
    #[must_use]
    pub fn signing_input(&self) -> &[u8] {
        &self.signing_input
    }
}

/// Checks form, header and signature of a compact JWS with the keys of one issuer. Each
/// [`JwsError`] names the check that failed.
pub fn verify(token: &[u8], keys: &KeySet) -> Result<SignedClaims, JwsError> {
    verify_by(token, |_| Some(keys))
}

/// Checks a compact JWS like [`verify`], with keys that `keys` selects by the claims. The claims
/// are not verified when `keys` sees them.
pub fn verify_by<'k>(
    token: &[u8],
    keys: impl FnOnce(&Map<String, Value>) -> Option<&'k KeySet>,
) -> Result<SignedClaims, JwsError> {
    if token.len() > MAX_TOKEN {
        return Err(JwsError::TooLarge);
    }
    let text = std::str::from_utf8(token).map_err(|_| JwsError::Malformed)?;
    let mut parts = text.splitn(4, '.');
    let (Some(header_part), Some(payload_part), Some(signature_part), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(JwsError::Malformed);
    };
    let header = object(header_part)?;
    for name in header.keys() {
        // T14, T19, T20: this leaves out `crit`, `b64`, `zip`, `enc`, `jwk`, `jku`, `x5u`, `x5c`
        // and every other header that could change the meaning of the token.
        if !matches!(name.as_str(), "alg" | "kid" | "typ" | "x5t" | "x5t#S256") {
            return Err(JwsError::Header(name.chars().take(32).collect()));
        }
    }
    let kid = header
        .get("kid")
        .and_then(Value::as_str)
        .ok_or(JwsError::UnknownKey)?;
    let claims = object(payload_part)?;
    let key = keys(&claims)
        .and_then(|keys| keys.of(kid))
        .ok_or(JwsError::UnknownKey)?;
    if header.get("alg").and_then(Value::as_str) != Some(key.algorithm()) {
        return Err(JwsError::Algorithm);
    }
    let typ = match header.get("typ") {
        None => None,
        Some(Value::String(typ)) => Some(typ.clone()),
        Some(_) => return Err(JwsError::Header("typ".to_owned())),
    };
    let signature = URL_SAFE_NO_PAD
        .decode(signature_part)
        .map_err(|_| JwsError::Malformed)?;
    let signing_input = format!("{header_part}.{payload_part}").into_bytes();
    if !key.verify(&signing_input, &signature) {
        return Err(JwsError::Signature);
    }
    Ok(SignedClaims {
        claims,
        typ,
        signing_input,
    })
}

/// Returns the JSON object that a part of the token encodes.
fn object(part: &str) -> Result<Map<String, Value>, JwsError> {
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| JwsError::Malformed)?;
    match json::parse(&bytes, MAX_TOKEN) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) | Err(_) => Err(JwsError::Malformed),
    }
}
