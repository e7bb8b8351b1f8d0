//! JWT-SVIDs (SPIFFE JWT-SVID specification): the keys that verify them, and the check.
//!
//! They are bearer tokens: whoever has one is taken for the workload, which is why Sundew issues
//! them only where a registration says so (P8).

use serde_json::{Map, Value, json};

use super::id::{SpiffeId, TrustDomain};
use crate::jws::{self, JwsError, KeySet};

/// How far an issuer's clock may be ahead of ours, in seconds.
const MAX_SKEW_S: i64 = 30;

/// Why a JWT-SVID is not taken.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum JwtSvidError {
    /// Not for the audience that was asked about.
    #[error("another audience")]
    Audience,
    /// A claim is absent or of the wrong type.
    #[error("claim `{0}` is missing or malformed")]
    Claim(&'static str),
    /// Expired, or not valid yet.
    #[error("outside its validity")]
    Expired,
    /// Signature or form.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// `typ` says that this is another kind of token.
    #[error("another type of token")]
    Type,
}

/// The keys that verify the JWT-SVIDs of one trust domain.
#[derive(Debug)]
pub struct JwtBundle {
    document: Vec<u8>,
    keys: KeySet,
}

impl JwtBundle {
    /// Makes a bundle of JWKs (RFC 7517, section 4).
    pub fn new(jwks: Vec<Value>) -> Result<Self, JwsError> {
        Self::parse(json!({ "keys": jwks }).to_string().into_bytes())
    }

    /// Reads a JWKS (RFC 7517, section 5) as a Workload API gives it out.
    pub fn parse(document: Vec<u8>) -> Result<Self, JwsError> {
        let keys = KeySet::parse(&document)?;
        Ok(Self { document, keys })
    }

    /// The JWKS.
    #[must_use]
    pub fn document(&self) -> &[u8] {
        &self.document
    }
}

/// A JWT-SVID that was good when it was looked at.
#[derive(Debug)]
#[must_use]
pub struct JwtSvid {
    id: SpiffeId,
    claims: Map<String, Value>,
}

impl JwtSvid {
    /// Verifies one for an audience with the keys of the trust domain that its subject is in, and
    /// no others (T04); `now_ms` is milliseconds since the epoch.
    pub fn verify<'b>(
        token: &[u8],
        audience: &str,
        bundles: impl FnOnce(&TrustDomain) -> Option<&'b JwtBundle>,
        now_ms: i64,
    ) -> Result<Self, JwtSvidError> {
        let signed = jws::verify_by(token, |claims| {
            bundles(subject(claims)?.trust_domain()).map(|bundle| &bundle.keys)
        })?;
        if signed.typ.as_deref().is_some_and(|typ| {
            !typ.eq_ignore_ascii_case("JWT") && !typ.eq_ignore_ascii_case("JOSE")
        }) {
            return Err(JwtSvidError::Type);
        }
        let claims = signed.claims;
        let is_ours = |value: &Value| {
            value
                .as_str()
                .is_some_and(|name| !name.is_empty() && name == audience)
        };
        match claims.get("aud") {
            Some(Value::Array(list)) if list.iter().any(is_ours) => {}
            Some(one) if is_ours(one) => {}
            Some(_) | None => return Err(JwtSvidError::Audience),
        }
        let seconds = |name: &'static str| {
            claims
                .get(name)
                .map(|value| value.as_i64().ok_or(JwtSvidError::Claim(name)))
                .transpose()
        };
        let (exp, now_s) = (
            seconds("exp")?.ok_or(JwtSvidError::Claim("exp"))?,
            now_ms.div_euclid(1000),
        );
        let begins = [seconds("nbf")?, seconds("iat")?];
        if now_s >= exp
            || begins
                .into_iter()
                .flatten()
                .any(|begin| begin > now_s.saturating_add(MAX_SKEW_S))
        {
            return Err(JwtSvidError::Expired);
        }
        let id = subject(&claims).ok_or(JwtSvidError::Claim("sub"))?;
        Ok(Self { id, claims })
    }

    /// Whose it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// All of its claims.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }
}

fn subject(claims: &Map<String, Value>) -> Option<SpiffeId> {
    SpiffeId::parse(claims.get("sub")?.as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;

    struct Authority(EcdsaKeyPair);

    impl Authority {
        fn new() -> Self {
            let random = SystemRandom::new();
            let document =
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            Self(
                EcdsaKeyPair::from_pkcs8(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    document.as_ref(),
                    &random,
                )
                .unwrap(),
            )
        }

        fn bundle(&self) -> JwtBundle {
            let point = self.0.public_key().as_ref();
            let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": "k", "use": "jwt-svid", "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..]) });
            JwtBundle::new(vec![jwk]).unwrap()
        }

        fn sign(&self, header: &Value, claims: &Value) -> Vec<u8> {
            let input = format!(
                "{}.{}",
                B64.encode(header.to_string()),
                B64.encode(claims.to_string())
            );
            let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
            format!("{input}.{}", B64.encode(signature)).into_bytes()
        }
    }

    #[test]
    fn a_jwt_svid_is_taken_for_its_audience_while_it_lasts_and_under_its_own_domains_keys() {
        let (own, other) = (Authority::new(), Authority::new());
        let (bundle, foreign) = (own.bundle(), other.bundle());
        let verify = |token: &[u8]| {
            let by_name = |domain: &TrustDomain| match domain.as_str() {
                "a.test" => Some(&bundle),
                "b.test" => Some(&foreign),
                _ => None,
            };
            JwtSvid::verify(token, "us", by_name, 1_000_000).map(|svid| svid.id().to_string())
        };
        let header = json!({ "alg": "ES256", "kid": "k", "typ": "JWT" });
        let claims = |changes: Value| {
            let mut claims =
                json!({ "sub": "spiffe://a.test/x", "aud": ["us"], "exp": 1100, "iat": 1000 });
            for (name, value) in changes.as_object().unwrap() {
                if value.is_null() {
                    drop(claims.as_object_mut().unwrap().remove(name))
                } else {
                    claims[name] = value.clone()
                }
            }
            claims
        };
        for good in [
            json!({}),
            json!({ "aud": "us" }),
            json!({ "aud": ["them", "us"] }),
            json!({ "iat": null }),
            json!({ "exp": 1001 }),
        ] {
            assert_eq!(
                verify(&own.sign(&header, &claims(good.clone()))).as_deref(),
                Ok("spiffe://a.test/x"),
                "{good}"
            );
        }
        for (bad, why) in [
            (json!({ "aud": "them" }), JwtSvidError::Audience),
            (json!({ "aud": [] }), JwtSvidError::Audience),
            (json!({ "aud": "" }), JwtSvidError::Audience),
            (json!({ "aud": null }), JwtSvidError::Audience),
            (json!({ "aud": "us2" }), JwtSvidError::Audience),
            (json!({ "exp": 1000 }), JwtSvidError::Expired),
            (json!({ "exp": null }), JwtSvidError::Claim("exp")),
            (json!({ "exp": "1100" }), JwtSvidError::Claim("exp")),
            (json!({ "exp": 1100.5 }), JwtSvidError::Claim("exp")),
            (json!({ "nbf": 1031 }), JwtSvidError::Expired),
            (json!({ "iat": 1031 }), JwtSvidError::Expired),
            (
                json!({ "sub": "spiffe://b.test/x" }),
                JwtSvidError::Jws(JwsError::Signature),
            ),
            (
                json!({ "sub": "spiffe://c.test/x" }),
                JwtSvidError::Jws(JwsError::UnknownKey),
            ),
            (
                json!({ "sub": "x" }),
                JwtSvidError::Jws(JwsError::UnknownKey),
            ),
            (
                json!({ "sub": null }),
                JwtSvidError::Jws(JwsError::UnknownKey),
            ),
        ] {
            assert_eq!(
                verify(&own.sign(&header, &claims(bad.clone()))),
                Err(why),
                "{bad}"
            );
        }
        let good = claims(json!({}));
        assert_eq!(
            verify(&other.sign(&header, &good)),
            Err(JwtSvidError::Jws(JwsError::Signature))
        );
        assert_eq!(
            verify(&own.sign(
                &json!({ "alg": "ES256", "kid": "k", "typ": "at+jwt" }),
                &good
            )),
            Err(JwtSvidError::Type)
        );
        assert_eq!(
            verify(&own.sign(&json!({ "alg": "none", "kid": "k" }), &good)),
            Err(JwtSvidError::Jws(JwsError::Algorithm))
        );
        assert_eq!(
            verify(&own.sign(&json!({ "alg": "ES256", "kid": "k", "jku": "x" }), &good)),
            Err(JwtSvidError::Jws(JwsError::Header("jku".to_owned())))
        );
    }
}
