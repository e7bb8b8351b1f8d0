//! Appraisal (RFC 9334, section 5): verified claims against what the registration requires.
//!
//! P1, P2: [`Attested`] is made only here, after every requirement was met and every single-use evidence was consumed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::challenge::Binding;
use crate::claims::{Claims, SingleUse};
use crate::dsse::VerifyingKey;
use crate::kinds::{manifest, oidc};
use crate::spiffe::VerifiedSvid;

/// Most pieces of evidence in one request.
const MAX_EVIDENCE: usize = 8;

/// What a registration requires of one piece of evidence.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Requirement {
    /// A JWT of an issuer that the broker is configured with.
    Oidc {
        /// The issuer's URL, exactly its tokens' `iss`.
        issuer: String,
        /// Claim name to the values that are taken. The issuer's pinned claim must be among them.
        claims: BTreeMap<String, BTreeSet<String>>,
    },
    /// A signed manifest of the agent.
    Manifest {
        /// Public keys in PEM that may sign it.
        keys: Vec<String>,
        /// How many distinct keys must have signed.
        #[serde(default = "one")]
        threshold: usize,
        /// Claim name to the values that are taken, such as `digest` or `model`.
        #[serde(default)]
        claims: BTreeMap<String, BTreeSet<String>>,
    },
}

fn one() -> usize {
    1
}

/// Why evidence was not enough. For the operator's record only.
#[derive(Debug, thiserror::Error)]
pub enum AppraisalError {
    /// A claim has a value that the registration does not take.
    #[error("{kind}: claim `{claim}` is not one of the registered values")]
    Claim {
        /// The kind of evidence.
        kind: &'static str,
        /// The claim.
        claim: String,
    },
    /// Single-use evidence that was not consumed, or was used before.
    #[error("evidence was used before")]
    Consumed,
    /// The manifest was not taken.
    #[error("manifest: {0}")]
    Manifest(#[from] manifest::ManifestError),
    /// Evidence of a required kind is missing.
    #[error("evidence of kind `{0}` is missing")]
    Missing(&'static str),
    /// The registration requires nothing, so nothing can be proven.
    #[error("the registration requires no evidence")]
    NothingRequired,
    /// Evidence that no requirement asks for, of an unknown kind, or too many pieces.
    #[error("evidence that the registration does not ask for")]
    Unexpected,
    /// The issuer is not configured at this broker.
    #[error("issuer is not configured, or has no keys")]
    UnknownIssuer,
    /// The token was not taken.
    #[error("oidc: {0}")]
    Oidc(#[from] oidc::OidcError),
}

impl Requirement {
    /// The kind of evidence that can meet it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Oidc { .. } => "oidc",
            Self::Manifest { .. } => "manifest",
        }
    }

    /// What is wrong with it as a registration, if anything: a sentence for the registrar.
    #[must_use]
    pub fn problem(&self, trust: &TrustMaterial) -> Option<String> {
        match self {
            Self::Oidc { issuer, claims } => {
                let Some(known) = trust.issuers.get(issuer) else {
                    return Some(format!("issuer `{issuer}` is not configured at this broker"));
                };
                let pinned = known.preset.pinned_claim();
                claims.get(pinned).is_none_or(BTreeSet::is_empty).then(|| format!("claims must pin `{pinned}`"))
            }
            Self::Manifest { keys, threshold, .. } => {
                if let Some(index) = keys.iter().position(|key| VerifyingKey::from_pem(key).is_err()) {
                    return Some(format!("key {index} is not a P-256, P-384 or Ed25519 public key in PEM"));
                }
                (*threshold == 0 || *threshold > keys.len()).then(|| format!("threshold must be between 1 and the number of keys, {}", keys.len()))
            }
        }
    }
}

/// What the caller presented.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The kind that it says it is.
    pub kind: &'a str,
    /// The evidence.
    pub payload: &'a [u8],
}

/// An immutable snapshot of what verifiers trust; background tasks publish new ones.
#[derive(Clone, Debug, Default)]
pub struct TrustMaterial {
    /// OpenID issuers by URL.
    pub issuers: BTreeMap<String, Arc<oidc::Issuer>>,
}

/// Evidence that met every requirement; single-use evidence is still to be consumed.
#[derive(Debug)]
#[must_use]
pub struct Appraised(Vec<Claims>);

/// Proof that a workload's evidence was verified, appraised and consumed.
#[derive(Debug)]
#[must_use]
pub struct Attested {
    claims: Vec<Claims>,
}

impl Appraised {
    /// What must be consumed before [`Appraised::confirm`].
    pub fn single_use(&self) -> impl Iterator<Item = &SingleUse> {
        self.0.iter().filter_map(|claims| claims.single_use.as_ref())
    }

    /// Makes the proof, if all single-use evidence is among what was consumed just now.
    pub fn confirm(self, consumed: &BTreeSet<SingleUse>) -> Result<Attested, AppraisalError> {
        if self.single_use().all(|item| consumed.contains(item)) { Ok(Attested { claims: self.0 }) } else { Err(AppraisalError::Consumed) }
    }
}

impl Attested {
    /// All claims, one entry for each piece of evidence.
    #[must_use]
    pub fn claims(&self) -> &[Claims] {
        &self.claims
    }

    /// When the first piece of evidence ends, in milliseconds since the epoch (P3).
    #[must_use]
    pub fn not_after_ms(&self) -> Option<i64> {
        self.claims.iter().filter_map(|claims| claims.not_after_ms).min()
    }

    /// Whether any piece of evidence carried the nonce (P2).
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.claims.iter().any(|claims| claims.fresh)
    }
}

/// Verifies what was presented and appraises it: each requirement needs one piece, each piece a requirement.
pub fn appraise(
    required: &[Requirement],
    presented: &[Presented<'_>],
    svid: &VerifiedSvid,
    binding: &Binding,
    trust: &TrustMaterial,
    now_ms: i64,
) -> Result<Appraised, AppraisalError> {
    if required.is_empty() {
        return Err(AppraisalError::NothingRequired);
    }
    if presented.len() > MAX_EVIDENCE || presented.len() > required.len() {
        return Err(AppraisalError::Unexpected);
    }
    let mut left: Vec<&Presented<'_>> = presented.iter().collect();
    let mut all = Vec::with_capacity(required.len());
    for requirement in required {
        let index = left.iter().position(|piece| piece.kind == requirement.kind()).ok_or(AppraisalError::Missing(requirement.kind()))?;
        let piece = left.remove(index);
        all.push(verify_one(requirement, piece.payload, svid, binding, trust, now_ms)?);
    }
    if left.is_empty() { Ok(Appraised(all)) } else { Err(AppraisalError::Unexpected) }
}

fn verify_one(
    requirement: &Requirement,
    payload: &[u8],
    svid: &VerifiedSvid,
    binding: &Binding,
    trust: &TrustMaterial,
    now_ms: i64,
) -> Result<Claims, AppraisalError> {
    let (claims, expected) = match requirement {
        Requirement::Oidc { issuer, claims } => {
            let issuer = trust.issuers.get(issuer).ok_or(AppraisalError::UnknownIssuer)?;
            let found = oidc::verify(payload, issuer, now_ms)?;
            // T22: pull requests are taken only where the registration names the event.
            if issuer.preset == oidc::Preset::Github
                && !claims.contains_key("event_name")
                && found.values.get("event_name").is_some_and(|v| v.iter().any(|e| e.starts_with("pull_request")))
            {
                return Err(AppraisalError::Claim { kind: "oidc", claim: "event_name".to_owned() });
            }
            (found, claims)
        }
        Requirement::Manifest { keys, threshold, claims } => {
            let keys: Vec<VerifyingKey> =
                keys.iter().map(|key| VerifyingKey::from_pem(key)).collect::<Result<_, _>>().map_err(manifest::ManifestError::from)?;
            (manifest::verify(payload, &keys, *threshold, binding, svid.public_key(), now_ms)?, claims)
        }
    };
    for (claim, allowed) in expected {
        let found = claims.values.get(claim).map(Vec::as_slice).unwrap_or_default();
        // A claim with several values must have all of them allowed: what no rule mentions never grants.
        if found.is_empty() || !found.iter().all(|value| allowed.contains(value)) {
            return Err(AppraisalError::Claim { kind: claims.kind, claim: claim.clone() });
        }
    }
    Ok(claims)
}
