//! An OpenID issuer for tests: keys, a JWKS, and tokens of every kind.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

/// An issuer with one ES256 key.
pub struct TestIssuer {
    key: EcdsaKeyPair,
}

/// The URL of the issuer.
pub const ISSUER: &str = "https://issuer.test";
/// The audience of the issuer's tokens for the broker.
pub const AUDIENCE: &str = "sundew-test";

impl Default for TestIssuer {
    fn default() -> Self {
        let random = SystemRandom::new();
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("key");
        Self {
            key: EcdsaKeyPair::from_pkcs8(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                pkcs8.as_ref(),
                &random,
            )
            .expect("key"),
        }
    }
}

impl TestIssuer {
    /// Returns the public key as an uncompressed point.
    pub fn public_key(&self) -> &[u8] {
        self.key.public_key().as_ref()
    }

    /// Returns the published key set.
    pub fn jwks(&self) -> String {
        let point = self.public_key();
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k1",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]) }] })
        .to_string()
    }

    /// Returns claims of a good token for `sub`, which lives 300 seconds.
    pub fn claims(sub: &str) -> Value {
        let now = crate::now_ms() / 1000;
        let mut jti = [0; 12];
        ring::rand::SecureRandom::fill(&SystemRandom::new(), &mut jti).expect("random");
        json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": sub, "iat": now, "exp": now + 300, "jti": URL_SAFE_NO_PAD.encode(jti) })
    }

    /// Returns a good token for `sub`.
    pub fn token(&self, sub: &str) -> Vec<u8> {
        self.sign(
            &json!({ "alg": "ES256", "kid": "k1", "typ": "JWT" }).to_string(),
            &Self::claims(sub).to_string(),
        )
    }

    /// Returns a token with any claims.
    pub fn token_of(&self, claims: &Value) -> Vec<u8> {
        self.sign(
            &json!({ "alg": "ES256", "kid": "k1" }).to_string(),
            &claims.to_string(),
        )
    }

    /// Signs any header and payload.
    pub fn sign(&self, header: &str, payload: &str) -> Vec<u8> {
        let input = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(payload)
        );
        let signature = self
            .key
            .sign(&SystemRandom::new(), input.as_bytes())
            .expect("signature");
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)).into_bytes()
    }
}
