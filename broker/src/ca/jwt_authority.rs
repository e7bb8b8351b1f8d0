//! The key under which the embedded CA signs JWT-SVIDs (SPIFFE JWT-SVID specification).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use sundew_attestation::spiffe::{SpiffeId, TrustDomain};
use sundew_core::SealError;

use super::CaError;
use super::keys::Key;
use super::schedule::StoredKey;
use crate::records::CaKeys;

/// Longest life of a JWT-SVID, in milliseconds: a JWT-SVID cannot be taken back.
pub(super) const MAX_LIFE_MS: i64 = 300_000;

/// A signing key with its key ID.
pub(super) struct JwtAuthority {
    key: EcdsaKeyPair,
    /// The key ID: the thumbprint of RFC 7638.
    kid: String,
}

/// A JWT-SVID: a credential.
pub(crate) struct IssuedJwt {
    /// JWS compact serialization.
    pub token: String,
    /// The claim `jti`, for records.
    pub id: String,
    /// When the token ends, in milliseconds since the epoch.
    pub expires_at_ms: i64,
}

impl Key for JwtAuthority {
    const KIND: CaKeys = CaKeys::Jwt;

    fn create(_: &TrustDomain) -> Result<StoredKey, CaError> {
        let key =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .map_err(|_| SealError::Random)?;
        Ok(StoredKey::first(Vec::new(), key.as_ref().to_vec()))
    }

    fn load(stored: &StoredKey) -> Result<Self, CaError> {
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &stored.key,
            &SystemRandom::new(),
        )
        .map_err(|_| SealError::Opening)?;
        let (x, y) = coordinates(&key);
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, members.as_bytes()));
        Ok(Self { key, kid })
    }

    fn id(&self) -> String {
        self.kid.clone()
    }

    fn not_after_ms(&self) -> i64 {
        i64::MAX
    }
}

impl JwtAuthority {
    /// The JWK that verifies tokens of this key (RFC 7517).
    pub(super) fn jwk(&self) -> Value {
        let (x, y) = coordinates(&self.key);
        json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": self.kid, "alg": "ES256", "use": "jwt-svid" })
    }

    /// Issues a JWT-SVID that lives until `ends_ms`, in milliseconds since the epoch, and five
    /// minutes at most.
    pub(super) fn issue(
        &self,
        id: &SpiffeId,
        audience: &[String],
        now_ms: i64,
        ends_ms: i64,
    ) -> Result<IssuedJwt, SealError> {
        let random = SystemRandom::new();
        let mut jti = [0; 16];
        ring::rand::SecureRandom::fill(&random, &mut jti).map_err(|_| SealError::Random)?;
        let jti = URL_SAFE_NO_PAD.encode(jti);
        let now_s = now_ms.div_euclid(1000);
        let exp = now_ms
            .saturating_add(MAX_LIFE_MS)
            .min(ends_ms)
            .div_euclid(1000);
        let header = json!({ "alg": "ES256", "kid": self.kid, "typ": "JWT" });
        let claims =
            json!({ "sub": id.as_str(), "aud": audience, "exp": exp, "iat": now_s, "jti": jti });
        let input = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = self
            .key
            .sign(&random, input.as_bytes())
            .map_err(|_| SealError::Random)?;
        Ok(IssuedJwt {
            token: format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)),
            id: jti,
            expires_at_ms: exp.saturating_mul(1000),
        })
    }
}

/// The coordinates of a public key in base64url. The key is a SEC 1 uncompressed point: the byte 4,
/// then 32 bytes for each coordinate.
fn coordinates(key: &EcdsaKeyPair) -> (String, String) {
    let point = key.public_key().as_ref();
    let part = |range: std::ops::Range<usize>| {
        URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default())
    };
    (part(1..33), part(33..65))
}
