//! `oidc`: a JWT (RFC 7519) of a configured issuer, such as an OpenID provider's ID token.
//!
//! A JWT cannot carry the nonce. It is therefore accepted once, for a short time, and for this
//! broker's audience only.

mod profile;

use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::claims::{Assurance, Claims, Once, SingleUse};
use crate::jws::{self, JwsError, KeySet};
use crate::spiffe::SpiffeId;
use profile::claim_values;

/// The largest lead of an issuer's clock over the verifier's, in seconds.
const MAX_SKEW_S: i64 = 30;
/// The longest lifetime of a token that is accepted, in seconds: a day, and the five minutes by which
/// Azure antedates its tokens.
const MAX_LIFE_S: i64 = 24 * 3600 + 300;

/// The kind of issuer, which decides the claims that identify a workload and the claim that a
/// registration must pin.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Managed identities and other applications of Azure: `oid` must be pinned. Tokens of users,
    /// and tokens of another tenant than the issuer's, are rejected.
    Azure,
    /// Jobs of Buildkite: `pipeline_id` must be pinned, because all organizations have one issuer and
    /// slugs can be taken over, and `sub` has the commit in it. A job asks for the claim by
    /// `buildkite-agent oidc request-token --claim pipeline_id`.
    Buildkite,
    /// Jobs of CircleCI: `oidc.circleci.com/project-id` must be pinned, because `sub` has the user in
    /// it. Tokens of jobs that somebody runs again over SSH are accepted only if the registration
    /// constrains `oidc.circleci.com/ssh-rerun`.
    #[serde(rename = "circleci")]
    CircleCi,
    /// Instances of Google Compute Engine with tokens in the `full` format: `sub`, the service
    /// account's number, must be pinned. A token that the account obtained elsewhere names no
    /// instance and is rejected.
    Gcp,
    /// Any OpenID provider: `sub` must be pinned.
    #[default]
    Generic,
    /// GitHub Actions: `repository_id` must be pinned, because a repository's name can be taken
    /// over. Tokens of pull requests are accepted only if the registration constrains `event_name`.
    Github,
    /// GitLab CI: `project_id` must be pinned.
    Gitlab,
    /// Projected service-account tokens of Kubernetes: `sub` must be pinned. Legacy tokens, which
    /// have no `kubernetes.io` claims, are rejected.
    Kubernetes,
    /// JWT-SVIDs of the trust domain that the issuer's URL names, `spiffe://<domain>`: `sub` must
    /// be pinned.
    SpiffeJwt,
    /// Runs of HCP Terraform and Terraform Enterprise: `terraform_workspace_id` must be pinned, because
    /// names can be taken over. Tokens of plans, which may run a pull request's code, are accepted only
    /// if the registration constrains `terraform_run_phase` or `sub`.
    Terraform,
}

impl Preset {
    /// Returns the claim that a registration must pin.
    #[must_use]
    pub fn pinned_claim(self) -> &'static str {
        match self {
            Self::Azure => "oid",
            Self::Buildkite => "pipeline_id",
            Self::CircleCi => "oidc.circleci.com/project-id",
            Self::Gcp | Self::Generic | Self::Kubernetes | Self::SpiffeJwt => "sub",
            Self::Github => "repository_id",
            Self::Gitlab => "project_id",
            Self::Terraform => "terraform_workspace_id",
        }
    }
}

/// An issuer that the broker trusts, with its present keys.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// The exact `iss` of the issuer's tokens.
    pub url: String,
    /// The exact `aud` of the issuer's tokens for this broker.
    pub audience: String,
    /// The kind of issuer.
    pub preset: Preset,
    /// The greatest age of a token since its `iat`, in seconds.
    pub max_age_s: i64,
    /// The keys that verify the issuer's tokens.
    pub keys: KeySet,
}

/// The reasons to reject a token as evidence.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum OidcError {
    /// The token is for another audience, or for others besides this broker.
    #[error("audience is not ours alone")]
    Audience,
    /// A claim is absent or of the wrong type.
    #[error("claim `{0}` is missing or malformed")]
    Claim(&'static str),
    /// The token is outside its validity, or valid for over a day.
    #[error("outside its validity")]
    Expired,
    /// The token is of another issuer, tenant or trust domain.
    #[error("another issuer")]
    Issuer,
    /// The token's form, header or signature is wrong.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// The token is older than the issuer's limit.
    #[error(
        "issued {age_s} s ago, above the issuer's `max_age` of {max_age_s} s; where a platform \
         answers from a cache, ask for a new one"
    )]
    TooOld {
        /// The age since `iat`, in seconds.
        age_s: i64,
        /// The issuer's limit, in seconds.
        max_age_s: i64,
    },
    /// The `typ` header says that this is another kind of token (RFC 8725, section 3.11).
    #[error("another type of token")]
    Type,
}

/// Verifies a token of an issuer; `now_ms` is in milliseconds since the epoch.
///
/// # Errors
/// Each [`OidcError`] names the check that failed.
pub fn verify(token: &[u8], issuer: &Issuer, now_ms: i64) -> Result<Claims, OidcError> {
    let signed = jws::verify(token, &issuer.keys)?;
    // JWT-SVID, section 2.3, allows `JOSE` too.
    let is_type = |typ: &str| {
        typ.eq_ignore_ascii_case("JWT")
            || (issuer.preset == Preset::SpiffeJwt && typ.eq_ignore_ascii_case("JOSE"))
    };
    if signed.typ().is_some_and(|typ| !is_type(typ)) {
        return Err(OidcError::Type);
    }
    let claims = signed.claims();
    check_issuer(claims, issuer)?;
    check_audience(claims, &issuer.audience)?;
    let now_s = now_ms.div_euclid(1000);
    let (exp, iat) = (seconds(claims, "exp")?, seconds(claims, "iat")?);
    let nbf = if claims.contains_key("nbf") {
        seconds(claims, "nbf")?
    } else {
        iat
    };
    let life = exp.checked_sub(iat).ok_or(OidcError::Expired)?;
    let timely = now_s < exp && iat <= now_s + MAX_SKEW_S && nbf <= now_s + MAX_SKEW_S;
    if !timely || !(1..=MAX_LIFE_S).contains(&life) {
        return Err(OidcError::Expired);
    }
    let (age_s, max_age_s) = (now_s.saturating_sub(iat), issuer.max_age_s);
    if age_s > max_age_s {
        return Err(OidcError::TooOld { age_s, max_age_s });
    }
    let until_ms = exp.saturating_mul(1000);
    Ok(Claims {
        not_after_ms: Some(until_ms),
        single_use: Some(SingleUse {
            id: single_use_id(issuer, claims, signed.signing_input())?,
            once: Once::ForAll,
            until_ms: until_ms.saturating_add(MAX_SKEW_S * 1000),
        }),
        ..Claims::of(
            "oidc",
            Assurance::Vouched,
            false,
            claim_values(claims, issuer.preset)?,
            token,
        )
    })
}

/// Checks that the token is of the issuer whose keys verified it.
fn check_issuer(claims: &Map<String, Value>, issuer: &Issuer) -> Result<(), OidcError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let is_its_own = match issuer.preset {
        // JWT-SVID, section 3: the trust domain of the subject selects the keys, and `iss` may be
        // anything.
        Preset::SpiffeJwt => text("sub")
            .and_then(|sub| SpiffeId::parse(sub).ok())
            .is_some_and(|id| id.trust_domain().id() == issuer.url),
        Preset::Azure => {
            text("iss") == Some(&issuer.url)
                && text("tid")
                    .is_some_and(|tenant| issuer.url.split('/').any(|part| part == tenant))
        }
        Preset::Buildkite
        | Preset::CircleCi
        | Preset::Gcp
        | Preset::Generic
        | Preset::Github
        | Preset::Gitlab
        | Preset::Kubernetes
        | Preset::Terraform => text("iss") == Some(&issuer.url),
    };
    if is_its_own {
        Ok(())
    } else {
        Err(OidcError::Issuer)
    }
}

/// Checks that the audience is `ours` and no other.
fn check_audience(claims: &Map<String, Value>, ours: &str) -> Result<(), OidcError> {
    let only = match claims.get("aud") {
        Some(Value::String(aud)) => aud,
        Some(Value::Array(list)) => match list.as_slice() {
            [Value::String(aud)] => aud,
            _ => return Err(OidcError::Audience),
        },
        _ => return Err(OidcError::Audience),
    };
    if !ours.is_empty() && only == ours {
        Ok(())
    } else {
        Err(OidcError::Audience)
    }
}

/// Returns a NumericDate (RFC 7519, section 2) in whole seconds since the epoch (T16).
fn seconds(claims: &Map<String, Value>, name: &'static str) -> Result<i64, OidcError> {
    claims
        .get(name)
        .and_then(Value::as_i64)
        .filter(|s| (1..=1 << 40).contains(s))
        .ok_or(OidcError::Claim(name))
}

/// Returns the identity of a token for single use: a digest of its `jti` if there is one, else of
/// the signed bytes. The signature is no part of it, because an ECDSA signature can be varied.
fn single_use_id(
    issuer: &Issuer,
    claims: &Map<String, Value>,
    signing_input: &[u8],
) -> Result<[u8; 32], OidcError> {
    match claims.get("jti") {
        None => Ok(sha256_of(&[
            b"oidc-input",
            issuer.url.as_bytes(),
            signing_input,
        ])),
        Some(Value::String(jti)) if !jti.is_empty() => Ok(sha256_of(&[
            b"oidc-jti",
            issuer.url.as_bytes(),
            jti.as_bytes(),
        ])),
        Some(_) => Err(OidcError::Claim("jti")),
    }
}

/// Returns the SHA-256 over the parts, each with its length, so that different parts never have one
/// encoding.
fn sha256_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
