//! `oidc`: a JWT of a named issuer. Cannot carry the nonce, so it is good once, for a short time,
//! for our audience.

use std::collections::BTreeMap;

use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::claims::{Assurance, Claims, SingleUse};
use crate::jws::{self, JwsError, KeySet};
use crate::spiffe::SpiffeId;

/// How far an issuer's clock may be ahead of ours, in seconds.
const MAX_SKEW_S: i64 = 30;
/// Longest life of a token that is taken, in seconds.
const MAX_LIFE_S: i64 = 24 * 3600;
/// Most values of one claim; a longer list is no claim of ours.
const MAX_VALUES: usize = 64;

/// Whose tokens they are; each knows which claims identify a workload and which must be pinned.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Any OpenID provider: `sub` must be pinned.
    #[default]
    Generic,
    /// Managed identities of Azure: `oid` must be pinned. Tokens of users, and tokens of another
    /// tenant than the issuer's, are not taken.
    Azure,
    /// Instances of Google Compute Engine, tokens in the `full` format: `sub`, the service
    /// account's number, must be pinned. A token that the account got otherwise says nothing of
    /// an instance and is not taken.
    Gcp,
    /// GitHub Actions: `repository_id` must be pinned (names can be taken over); pull requests only
    /// when asked for.
    Github,
    /// GitLab CI: `project_id` must be pinned.
    Gitlab,
    /// Projected service-account tokens: `sub` must be pinned; `kubernetes.io` claims must be
    /// there, legacy tokens have none.
    Kubernetes,
    /// JWT-SVIDs of the trust domain that is the issuer's URL, `spiffe://<domain>`: `sub` must be
    /// pinned.
    SpiffeJwt,
}

impl Preset {
    /// The claim that a registration has to pin.
    #[must_use]
    pub fn pinned_claim(self) -> &'static str {
        match self {
            Self::Azure => "oid",
            Self::Gcp | Self::Generic | Self::Kubernetes | Self::SpiffeJwt => "sub",
            Self::Github => "repository_id",
            Self::Gitlab => "project_id",
        }
    }
}

/// An issuer that the broker trusts, with the keys that it has now.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Exactly the `iss` of its tokens.
    pub url: String,
    /// Exactly the `aud` that its tokens for this broker have.
    pub audience: String,
    /// Whose tokens they are.
    pub preset: Preset,
    /// Oldest `iat` that is taken, in seconds before now.
    pub max_age_s: i64,
    /// Its keys.
    pub keys: KeySet,
}

/// Why a token is no evidence.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum OidcError {
    /// Not for us, or not only for us.
    #[error("audience is not ours alone")]
    Audience,
    /// A claim is absent or of the wrong type.
    #[error("claim `{0}` is missing or malformed")]
    Claim(&'static str),
    /// Outside its validity, too old, or living too long.
    #[error("outside its validity")]
    Expired,
    /// Another issuer.
    #[error("another issuer")]
    Issuer,
    /// Signature or form.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// `typ` says that this is another kind of token.
    #[error("another type of token")]
    Type,
}

/// Verifies a token; `now_ms` is milliseconds since the epoch.
pub fn verify(token: &[u8], issuer: &Issuer, now_ms: i64) -> Result<Claims, OidcError> {
    let signed = jws::verify(token, &issuer.keys)?;
    // JWT-SVID, section 2.3, has `JOSE` too.
    let is_type = |typ: &str| {
        typ.eq_ignore_ascii_case("JWT")
            || (issuer.preset == Preset::SpiffeJwt && typ.eq_ignore_ascii_case("JOSE"))
    };
    if signed.typ.as_deref().is_some_and(|typ| !is_type(typ)) {
        return Err(OidcError::Type);
    }
    let claims = &signed.claims;
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
    if !timely || !(1..=MAX_LIFE_S).contains(&life) || now_s.saturating_sub(iat) > issuer.max_age_s
    {
        return Err(OidcError::Expired);
    }
    let until_ms = exp.saturating_mul(1000);
    Ok(Claims {
        not_after_ms: Some(until_ms),
        single_use: Some(SingleUse {
            id: use_id(issuer, claims, &signed.signing_input)?,
            until_ms: until_ms.saturating_add(MAX_SKEW_S * 1000),
        }),
        ..Claims::of(
            "oidc",
            Assurance::Vouched,
            false,
            flatten(claims, issuer.preset)?,
            token,
        )
    })
}

fn check_issuer(claims: &Map<String, Value>, issuer: &Issuer) -> Result<(), OidcError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let is_its_own = match issuer.preset {
        // JWT-SVID, section 3: the trust domain of the subject says whose keys verify it; `iss` is
        // free.
        Preset::SpiffeJwt => text("sub")
            .and_then(|sub| SpiffeId::parse(sub).ok())
            .is_some_and(|id| id.trust_domain().id() == issuer.url),
        Preset::Azure => {
            text("iss") == Some(&issuer.url)
                && text("tid")
                    .is_some_and(|tenant| issuer.url.split('/').any(|part| part == tenant))
        }
        Preset::Gcp | Preset::Generic | Preset::Github | Preset::Gitlab | Preset::Kubernetes => {
            text("iss") == Some(&issuer.url)
        }
    };
    if is_its_own {
        Ok(())
    } else {
        Err(OidcError::Issuer)
    }
}

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

/// NumericDate, whole seconds only (T16).
fn seconds(claims: &Map<String, Value>, name: &'static str) -> Result<i64, OidcError> {
    claims
        .get(name)
        .and_then(Value::as_i64)
        .filter(|s| (1..=1 << 40).contains(s))
        .ok_or(OidcError::Claim(name))
}

/// The token's identity for single use: its `jti` where there is one, else what was signed
/// (signatures can be varied, that cannot).
fn use_id(
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

/// Injective: each part counts with its length.
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

fn flatten(
    claims: &Map<String, Value>,
    preset: Preset,
) -> Result<BTreeMap<String, Vec<String>>, OidcError> {
    let mut values = BTreeMap::new();
    for (name, value) in claims {
        // What a profile finds has a name of its own; a claim that merely has such a name is
        // another one.
        if !name.starts_with("gce.") && !name.starts_with("kubernetes.") {
            add(&mut values, name, value);
        }
    }
    match preset {
        Preset::Generic | Preset::Gitlab | Preset::SpiffeJwt => {}
        Preset::Azure => {
            // A token that a user gave away has scopes; one of an application itself has not, and
            // says so.
            if claims.contains_key("scp") || claims.get("idtyp").is_some_and(|kind| kind != "app") {
                return Err(OidcError::Claim("idtyp"));
            }
        }
        Preset::Gcp => {
            let engine = claims
                .get("google")
                .and_then(|google| google.get("compute_engine"))
                .and_then(Value::as_object);
            let engine = engine.ok_or(OidcError::Claim("google.compute_engine"))?;
            for name in [
                "instance_confidentiality",
                "instance_id",
                "instance_name",
                "project_id",
                "project_number",
                "zone",
            ] {
                if let Some(value) = engine.get(name) {
                    add(&mut values, &format!("gce.{name}"), value);
                }
            }
            if !values.contains_key("gce.instance_id") {
                return Err(OidcError::Claim("google.compute_engine"));
            }
        }
        Preset::Github => {
            // T22: a pull request runs somebody else's code; only a registration that pins
            // `pull_request` takes it.
            if !values.contains_key("event_name") {
                return Err(OidcError::Claim("event_name"));
            }
        }
        Preset::Kubernetes => {
            let io = claims
                .get("kubernetes.io")
                .and_then(Value::as_object)
                .ok_or(OidcError::Claim("kubernetes.io"))?;
            let pick = |outer: &str, inner: &str| io.get(outer).and_then(|o| o.get(inner));
            let found = [
                ("kubernetes.namespace", io.get("namespace")),
                (
                    "kubernetes.serviceaccount.name",
                    pick("serviceaccount", "name"),
                ),
                (
                    "kubernetes.serviceaccount.uid",
                    pick("serviceaccount", "uid"),
                ),
                ("kubernetes.pod.name", pick("pod", "name")),
                ("kubernetes.pod.uid", pick("pod", "uid")),
            ];
            for (name, value) in found {
                if let Some(value) = value {
                    add(&mut values, name, value);
                }
            }
        }
    }
    if values.contains_key(preset.pinned_claim()) {
        Ok(values)
    } else {
        Err(OidcError::Claim(preset.pinned_claim()))
    }
}

fn add(values: &mut BTreeMap<String, Vec<String>>, name: &str, value: &Value) {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => number.as_i64().map(|n| n.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let list: Vec<String> = match value.as_array() {
        // A list that is cut short could hide a value that must not be there.
        Some(items) if items.len() > MAX_VALUES => return,
        Some(items) => items.iter().filter_map(text).collect(),
        None => text(value).into_iter().collect(),
    };
    if !list.is_empty() {
        values.insert(name.to_owned(), list);
    }
}
