//! The keys of an issuer.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value;

use super::JwsError;
use crate::curve;
use crate::json;
use crate::left_out::{LeftOut, quoted};
use crate::rsa::{is_sound, stripped};

/// The largest number of keys of an issuer that are used.
const MAX_KEYS: usize = 256;
/// The largest key set, in bytes.
const MAX_KEY_SET: usize = 1 << 20;

/// A key that verifies signatures, with its one algorithm.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Key {
    EdDsa(Vec<u8>),
    Es256(Vec<u8>),
    Es384(Vec<u8>),
    Rs256 { n: Vec<u8>, e: Vec<u8> },
}

impl Key {
    /// Returns the `alg` of the key's signatures (RFC 7518, section 3.1, and RFC 8037, section
    /// 3.1).
    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::EdDsa(_) => "EdDSA",
            Self::Es256(_) => "ES256",
            Self::Es384(_) => "ES384",
            Self::Rs256 { .. } => "RS256",
        }
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
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

/// The verification keys of one issuer by `kid`, from its JWKS (RFC 7517). The default has none, and
/// verifies nothing.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<(String, Key)>,
    left_out: LeftOut,
}

impl KeySet {
    /// Reads a JWKS of at most 1 MiB. Keys that are not to verify signatures are none of ours.
    /// [`KeySet::left_out`] tells of all others that cannot be used: of other algorithms, without a
    /// `kid`, broken RSA keys, and more than 256. Where different keys have one `kid`, none of them
    /// counts (T15).
    ///
    /// # Errors
    /// [`JwsError::KeySet`] if the document is not a JWKS. A set without usable keys is no error.
    pub fn parse(document: &[u8]) -> Result<Self, JwsError> {
        let jwks = keys_of(document)?;
        let mut left_out = LeftOut::default();
        let mut found: BTreeMap<&str, Vec<Key>> = BTreeMap::new();
        for (index, jwk) in jwks.iter().enumerate() {
            let kid = jwk.get("kid").and_then(Value::as_str);
            let part = kid.map_or_else(
                || format!("key {index}"),
                |kid| format!("key {}", quoted(kid)),
            );
            match (read_key(jwk), kid) {
                (Ok(None), _) => {}
                (Ok(Some(key)), Some(kid)) if !kid.is_empty() => {
                    let keys = found.entry(kid).or_default();
                    if keys.len() < 2 && !keys.contains(&key) {
                        keys.push(key);
                    }
                }
                (Ok(Some(_)), _) => left_out.add(part, "no `kid`"),
                (Err(reason), _) => left_out.add(part, reason),
            }
        }
        let mut keys = Vec::new();
        for (kid, mut of_kid) in found {
            let part = format!("key {}", quoted(kid));
            match (of_kid.pop(), of_kid.is_empty()) {
                (Some(key), true) if keys.len() < MAX_KEYS => keys.push((kid.to_owned(), key)),
                (_, true) => left_out.add(part, format!("more than {MAX_KEYS} keys")),
                (_, false) => left_out.add(part, "different keys have this id"),
            }
        }
        Ok(Self { keys, left_out })
    }

    /// Returns the key with an id.
    pub(super) fn of(&self, kid: &str) -> Option<&Key> {
        let (_, key) = self.keys.iter().find(|(id, _)| id == kid)?;
        Some(key)
    }

    /// Returns whether a JWK is one of the keys.
    pub(crate) fn counts(&self, jwk: &Value) -> bool {
        let kid = jwk.get("kid").and_then(Value::as_str);
        let counting = kid.and_then(|kid| self.of(kid));
        counting.is_some() && counting == read_key(jwk).ok().flatten().as_ref()
    }

    /// Returns what cannot be used of the document.
    #[must_use]
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// Returns whether there is no key, so that nothing is verified.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// Returns a JWK that counts with nothing but what makes the key, for others who read all members of
/// it, and refuse a whole set for one that is not as they expect it.
pub(crate) fn bare(jwk: &Value) -> Value {
    let members = ["kid", "kty", "crv", "x", "y", "n", "e", "alg", "use"];
    let texts = members
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), Value::from(jwk.get(name)?.as_str()?))));
    Value::Object(texts.collect())
}

/// Returns the JWKs of a JWKS of at most 1 MiB, as they are.
///
/// # Errors
/// [`JwsError::KeySet`] if the document is no JWKS.
pub(crate) fn keys_of(document: &[u8]) -> Result<Vec<Value>, JwsError> {
    let value = json::parse(document, MAX_KEY_SET).map_err(|e| JwsError::KeySet(e.to_string()))?;
    let Value::Object(mut members) = value else {
        return Err(JwsError::KeySet("not an object".to_owned()));
    };
    match members.remove("keys") {
        Some(Value::Array(keys)) => Ok(keys),
        Some(_) | None => Err(JwsError::KeySet("no `keys` array".to_owned())),
    }
}

/// Returns the key of a JWK (RFC 7518, section 6), `None` if it is not to verify signatures, or the
/// reason why it cannot be used here.
fn read_key(jwk: &Value) -> Result<Option<Key>, &'static str> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let bytes = |name: &str| {
        text(name)
            .and_then(|v| URL_SAFE_NO_PAD.decode(v).ok())
            .ok_or("a number is missing or malformed")
    };
    if text("use").is_some_and(|usage| usage != "sig" && usage != "jwt-svid") || !may_verify(jwk) {
        return Ok(None);
    }
    let sized = |name: &str, len: usize| {
        let number = bytes(name)?;
        (number.len() == len)
            .then_some(number)
            .ok_or("a number has the wrong length")
    };
    let point = |len: usize| -> Result<_, &'static str> {
        let point = [&[4][..], &sized("x", len)?, &sized("y", len)?].concat();
        let is_key = curve::has(&point);
        is_key.then_some(point).ok_or("point is not on its curve")
    };
    let key = match (text("kty"), text("crv")) {
        (Some("EC"), Some("P-256")) => Key::Es256(point(32)?),
        (Some("EC"), Some("P-384")) => Key::Es384(point(48)?),
        (Some("OKP"), Some("Ed25519")) => Key::EdDsa(sized("x", 32)?),
        (Some("RSA"), None) => {
            // RFC 7518, section 2, allows no leading zeros, but some issuers write one.
            let (n, e) = (bytes("n")?, bytes("e")?);
            let (n, e) = (stripped(&n).to_vec(), stripped(&e).to_vec());
            if n.len() > 1024 || !is_sound(&n, &e) {
                return Err("RSA key is too short, too long or broken");
            }
            Key::Rs256 { n, e }
        }
        _ => return Err("key is of an unknown kind"),
    };
    if text("alg").is_some_and(|alg| alg != key.algorithm()) {
        return Err("key is for another algorithm");
    }
    Ok(Some(key))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rsa::roca_modulus;

    fn taken(jwk: Value) -> bool {
        let set = KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes());
        !set.unwrap().is_empty()
    }

    #[test]
    fn e13_keys_that_are_not_to_verify_with_are_left_out() {
        let key = ed25519("a", 1);
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

    /// Returns the set of these keys.
    fn set(keys: Value) -> KeySet {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    fn ed25519(kid: &str, x: u8) -> Value {
        let x = URL_SAFE_NO_PAD.encode([x; 32]);
        json!({ "kid": kid, "kty": "OKP", "crv": "Ed25519", "x": x })
    }

    #[test]
    fn i6_a_key_that_cannot_be_used_costs_no_other_and_is_told() {
        let p521 = json!({ "kid": "big\n", "kty": "EC", "crv": "P-521", "x": "AA", "y": "AA" });
        let (mut nameless, mut encryption) = (ed25519("", 3), ed25519("enc", 4));
        nameless.as_object_mut().unwrap().remove("kid");
        encryption["use"] = json!("enc");
        let set = set(json!([
            p521,
            ed25519("good", 1),
            nameless,
            encryption,
            {},
            7
        ]));
        assert!(set.of("good").is_some() && set.keys.len() == 1);
        assert_eq!(
            set.left_out().to_string(),
            "4 left out: key `big\\n`: key is of an unknown kind; key 2: no `kid`; \
             key 4: key is of an unknown kind; key 5: key is of an unknown kind"
        );
    }

    #[test]
    fn i6_a_key_that_stands_twice_is_one_key() {
        let set = set(json!([ed25519("a", 1), ed25519("a", 1), ed25519("b", 2)]));
        assert!(set.of("a").is_some() && set.of("b").is_some());
        assert_eq!(set.left_out().count(), 0);
    }

    /// T15: which of them counts is nothing that a set can leave open.
    #[test]
    fn t15_i6_of_different_keys_with_one_id_none_counts_and_others_do() {
        let set = set(json!([
            ed25519("a", 1),
            ed25519("b", 2),
            ed25519("a", 3),
            ed25519("a", 1)
        ]));
        assert!(set.of("a").is_none() && set.of("b").is_some());
        assert_eq!(
            set.left_out().to_string(),
            "1 left out: key `a`: different keys have this id"
        );
    }

    #[test]
    fn i6_a_set_without_keys_is_a_set_and_its_bound_costs_only_what_is_beyond() {
        assert!(set(json!([])).is_empty());
        let many: Vec<_> = (0..300).map(|n| ed25519(&format!("{n:03}"), 1)).collect();
        let set = set(json!(many));
        assert_eq!((set.keys.len(), set.left_out().count()), (MAX_KEYS, 44));
    }
}
