//! JWT-SVIDs (SPIFFE JWT-SVID specification): the keys that verify them, and their validation.
//!
//! A JWT-SVID is a bearer token: whoever holds it passes for the workload. Sundew therefore issues
//! one only to a workload whose registration allows it (P8).

use serde_json::{Map, Value, json};

use super::id::{SpiffeId, TrustDomain};
use crate::jws::{self, JwsError, KeySet};
use crate::left_out::LeftOut;

/// The largest lead of an issuer's clock over the verifier's, in seconds.
const MAX_SKEW_S: i64 = 30;

/// The reasons to reject a JWT-SVID.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum JwtSvidError {
    /// The token is not for the audience that the caller named.
    #[error("another audience")]
    Audience,
    /// A claim is absent or of the wrong type.
    #[error("claim `{0}` is missing or malformed")]
    Claim(&'static str),
    /// The token has expired or is not valid yet.
    #[error("outside its validity")]
    Expired,
    /// The token's form, header or signature is wrong.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// The `typ` header says that this is another kind of token (JWT-SVID, section 2.3).
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
    /// Makes a bundle of JWKs (RFC 7517, section 4), without those that cannot be used.
    ///
    /// # Errors
    /// [`JwsError::KeySet`] if the keys are too large together.
    pub fn new(jwks: Vec<Value>) -> Result<Self, JwsError> {
        let keys = KeySet::parse(json!({ "keys": jwks }).to_string().as_bytes())?;
        // Others get the document, and some of them refuse all of it for one key.
        let mut usable = Vec::new();
        for jwk in jwks.iter().filter(|jwk| keys.counts(jwk)) {
            let bare = jws::bare(jwk);
            if !usable.contains(&bare) {
                usable.push(bare);
            }
        }
        let document = json!({ "keys": usable }).to_string().into_bytes();
        Ok(Self { document, keys })
    }

    /// Reads a JWKS (RFC 7517, section 5), as the SPIFFE Workload API serves it, without the keys
    /// that cannot be used.
    ///
    /// # Errors
    /// [`JwsError::KeySet`] if the document is no JWKS.
    pub fn parse(document: &[u8]) -> Result<Self, JwsError> {
        Self::new(jws::keys_of(document)?)
    }

    /// Returns what cannot be used of the document.
    #[must_use]
    pub fn left_out(&self) -> &LeftOut {
        self.keys.left_out()
    }

    /// Returns whether no JWT-SVID can be verified.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the keys that count, as a JWKS.
    #[must_use]
    pub fn document(&self) -> &[u8] {
        &self.document
    }
}

/// The proof that a JWT-SVID was valid at the time of [`JwtSvid::verify`], which alone makes it.
#[derive(Debug)]
#[must_use]
pub struct JwtSvid {
    id: SpiffeId,
    claims: Map<String, Value>,
}

impl JwtSvid {
    /// Validates a token for an audience (JWT-SVID, section 4). Only the keys of the trust domain
    /// that the subject belongs to count (T04); `bundles` finds them. `now_ms` is in milliseconds
    /// since the epoch.
    ///
    /// # Errors
    /// Each [`JwtSvidError`] names the check that failed.
    pub fn verify<'b>(
        token: &[u8],
        audience: &str,
        bundles: impl FnOnce(&TrustDomain) -> Option<&'b JwtBundle>,
        now_ms: i64,
    ) -> Result<Self, JwtSvidError> {
        // The subject is not verified yet here: it only selects the keys that then verify it.
        let signed = jws::verify_by(token, |claims| {
            bundles(subject(claims)?.trust_domain()).map(|bundle| &bundle.keys)
        })?;
        if signed.typ().is_some_and(|typ| {
            !typ.eq_ignore_ascii_case("JWT") && !typ.eq_ignore_ascii_case("JOSE")
        }) {
            return Err(JwtSvidError::Type);
        }
        let claims = signed.into_claims();
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

    /// Returns the SPIFFE ID of the token's subject.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Returns all claims of the token.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }
}

fn subject(claims: &Map<String, Value>) -> Option<SpiffeId> {
    SpiffeId::parse(claims.get("sub")?.as_str()?).ok()
}

#[cfg(test)]
mod tests;
