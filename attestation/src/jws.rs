//! Verification of compact JWS (RFC 7515, section 7.1) with JWT claims (RFC 7519), along the advice
//! of RFC 8725.
//!
//! The algorithm comes from the key, never from the token. Keys in a header are never used. A
//! header that this crate does not know is rejected.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::{Map, Value};

use crate::json;
use crate::rsa::{is_roca, stripped};

/// The largest token, in bytes (T20).
const MAX_TOKEN: usize = 16 << 10;
/// The largest number of keys of an issuer.
const MAX_KEYS: usize = 64;
/// The largest key set, in bytes.
const MAX_KEY_SET: usize = 1 << 20;

/// The reasons to reject a token or a key set.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum JwsError {
    /// The `alg` header is not the algorithm of the key (RFC 8725, section 3.1).
    #[error("algorithm is not the key's")]
    Algorithm,
    /// The token has a header that could change its meaning or that carries a key.
    #[error("header `{0}` is not taken")]
    Header(String),
    /// The key set is malformed or has no usable key.
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

#[derive(Clone, Debug)]
enum Key {
    EdDsa(Vec<u8>),
    Es256(Vec<u8>),
    Es384(Vec<u8>),
    Rs256 { n: Vec<u8>, e: Vec<u8> },
}

impl Key {
    /// Returns the `alg` of the key's signatures (RFC 7518, section 3.1, and RFC 8037, section
    /// 3.1).
    fn algorithm(&self) -> &'static str {
        match self {
            Self::EdDsa(_) => "EdDSA",
            Self::Es256(_) => "ES256",
            Self::Es384(_) => "ES384",
            Self::Rs256 { .. } => "RS256",
        }
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Es256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature)
                    .is_ok()
            }
            Self::Es384(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
                    .verify(message, signature)
                    .is_ok()
            }
            Self::EdDsa(key) => UnparsedPublicKey::new(&signature::ED25519, key)
                .verify(message, signature)
                .is_ok(),
            Self::Rs256 { n, e } => RsaPublicKeyComponents { n, e }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
        }
    }
}

/// The verification keys of one issuer by `kid`, from its JWKS (RFC 7517).
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<(String, Key)>);

impl KeySet {
    /// Reads a JWKS of at most 1 MiB. Keys that are not to verify signatures, keys of other
    /// algorithms, keys without a `kid` and broken RSA keys are left out.
    ///
    /// # Errors
    /// [`JwsError::KeySet`] if two keys have one `kid` (T15), if no key is usable, or if there are
    /// more than 64.
    pub fn parse(document: &[u8]) -> Result<Self, JwsError> {
        let value =
            json::parse(document, MAX_KEY_SET).map_err(|e| JwsError::KeySet(e.to_string()))?;
        let keys = value
            .get("keys")
            .and_then(Value::as_array)
            .ok_or_else(|| JwsError::KeySet("no `keys` array".to_owned()))?;
        if keys.len() > MAX_KEYS {
            return Err(JwsError::KeySet(format!("more than {MAX_KEYS} keys")));
        }
        let mut set: Vec<(String, Key)> = Vec::new();
        for jwk in keys {
            let Some(kid) = jwk.get("kid").and_then(Value::as_str) else {
                continue;
            };
            let Some(key) = read_key(jwk) else { continue };
            if set.iter().any(|(id, _)| id == kid) {
                return Err(JwsError::KeySet(format!(
                    "two keys with id `{}`",
                    kid.escape_debug()
                )));
            }
            set.push((kid.to_owned(), key));
        }
        if set.is_empty() {
            return Err(JwsError::KeySet("no usable key".to_owned()));
        }
        Ok(Self(set))
    }
}

/// Returns the key of a JWK (RFC 7518, section 6), if it is one that verifies signatures here.
fn read_key(jwk: &Value) -> Option<Key> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let bytes = |name: &str| text(name).and_then(|v| URL_SAFE_NO_PAD.decode(v).ok());
    if text("use").is_some_and(|usage| usage != "sig" && usage != "jwt-svid") || !may_verify(jwk) {
        return None;
    }
    let point = |len: usize| {
        let (x, y) = (bytes("x")?, bytes("y")?);
        (x.len() == len && y.len() == len).then(|| [&[4][..], &x, &y].concat())
    };
    let key = match (text("kty")?, text("crv")) {
        ("EC", Some("P-256")) => Key::Es256(point(32)?),
        ("EC", Some("P-384")) => Key::Es384(point(48)?),
        ("OKP", Some("Ed25519")) => Key::EdDsa(bytes("x").filter(|x| x.len() == 32)?),
        ("RSA", None) => {
            // RFC 7518, section 2, allows no leading zeros, but some issuers write one.
            let number = |name: &str| Some(stripped(&bytes(name)?).to_vec());
            let (n, e) = (number("n")?, number("e")?);
            if !(256..=1024).contains(&n.len()) || is_roca(&n) {
                return None;
            }
            Key::Rs256 { n, e }
        }
        _ => return None,
    };
    text("alg")
        .is_none_or(|alg| alg == key.algorithm())
        .then_some(key)
}

/// Returns whether a JWK's `key_ops`, if there are any, allow to verify (RFC 7517, section 4.3).
fn may_verify(jwk: &Value) -> bool {
    match jwk.get("key_ops") {
        None => true,
        Some(operations) => operations
            .as_array()
            .is_some_and(|operations| operations.iter().any(|one| one == "verify")),
    }
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
    let (_, key) = keys(&claims)
        .and_then(|keys| keys.0.iter().find(|(id, _)| id == kid))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rsa::roca_modulus;

    fn taken(jwk: Value) -> bool {
        KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).is_ok()
    }

    #[test]
    fn e13_keys_that_are_not_to_verify_with_are_left_out() {
        let (x, y) = (
            URL_SAFE_NO_PAD.encode([1; 32]),
            URL_SAFE_NO_PAD.encode([2; 32]),
        );
        let key = json!({ "kid": "a", "kty": "EC", "crv": "P-256", "x": x, "y": y });
        assert!(taken(key.clone()));
        for (operations, is_taken) in [
            (json!(["verify"]), true),
            (json!(["sign", "verify"]), true),
            (json!([]), false),
            (json!(["encrypt"]), false),
            (json!(["deriveKey", "wrapKey"]), false),
            (json!("verify"), false),
            (json!(null), false),
        ] {
            let mut key = key.clone();
            key["key_ops"] = operations.clone();
            assert_eq!(taken(key), is_taken, "{operations}");
        }
    }

    #[test]
    fn e13_a_broken_rsa_key_is_left_out_and_a_leading_zero_is_not_the_key() {
        let key = |modulus: &[u8]| {
            let modulus = URL_SAFE_NO_PAD.encode(modulus);
            json!({ "kid": "a", "kty": "RSA", "n": modulus, "e": "AQAB" })
        };
        let mut modulus = roca_modulus();
        assert!(!taken(key(&modulus)));
        modulus[100] ^= 0x5a;
        assert!(taken(key(&modulus)));
        assert!(taken(key(&[&[0][..], &modulus].concat())));
        assert!(
            !taken(key(&[&[0][..], &modulus[1..]].concat())),
            "too short"
        );
    }
}
