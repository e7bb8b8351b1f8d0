//! Appraisal of evidence (RFC 9334, sections 3 and 8.5): verified claims are compared with what the
//! registration requires.
//!
//! P1, P2: the result is a proof that no other code can make, [`Appraised`] and then [`Attested`].

mod error;
mod proof;
mod verify;

use std::collections::BTreeSet;

use crate::challenge::Binding;
use crate::claims::Claims;
use crate::policy::{Alternative, AppraisalPolicy, CrossCheck, MAX_EVIDENCE};
use crate::requirement::Requirement;
use crate::spiffe::BundleSet;
use crate::trust::TrustMaterial;
pub use error::AppraisalError;
pub use proof::{Appraised, Attested};
use verify::appraise_piece;

/// A piece of evidence as the claimant presented it, not verified.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The kind that the claimant says it is.
    pub kind: &'a str,
    /// The evidence, in the form of its kind.
    pub payload: &'a [u8],
}

/// The values besides the evidence that verifiers need.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The SubjectPublicKeyInfo, in DER, of the claimant that presents the evidence.
    pub public_key: &'a [u8],
    /// The binding that the evidence must carry.
    pub binding: &'a Binding,
    /// The trust anchors, reference values, collateral and keys that evidence is verified with.
    pub trust: &'a TrustMaterial,
    /// The trust bundles that verify statements signed by other workloads.
    pub bundles: &'a BundleSet,
    /// The present time, in milliseconds since the epoch.
    pub now_ms: i64,
}

/// The result for one piece of evidence. It is for the operator, never for the claimant (P11).
#[derive(Clone, Debug)]
pub struct Finding {
    /// The kind of evidence.
    pub kind: &'static str,
    /// The verified claims, present even if they did not meet the requirement; `None` if the
    /// evidence was rejected.
    pub claims: Option<Claims>,
    /// The reason why the evidence was rejected or did not meet the requirement.
    pub problem: Option<String>,
}

/// Verifies the evidence that a claimant presented and appraises it against a policy.
///
/// The evidence must match one alternative of the policy exactly: each requirement needs one piece,
/// and each piece needs a requirement. Each requirement is appraised once, however many
/// alternatives have it. `findings` is cleared first and then has one entry for each requirement
/// that was appraised.
///
/// # Errors
/// Returns the reason of the last alternative that failed; [`AppraisalError::Missing`] if none
/// matches the presented kinds, and [`AppraisalError::Unexpected`] if no requirement asks for one
/// of them.
pub fn appraise(
    policy: AppraisalPolicy<'_>,
    presented: &[Presented<'_>],
    circumstances: Circumstances<'_>,
    findings: &mut Vec<Finding>,
) -> Result<Appraised, AppraisalError> {
    findings.clear();
    let alternatives = policy.alternatives().unwrap_or_default();
    let kinds = expected_kinds(&alternatives, presented)?;
    let mut appraisal = Appraisal {
        presented,
        circumstances,
        appraised: Vec::new(),
        findings,
        problem: AppraisalError::Missing,
    };
    for alternative in alternatives {
        // Evidence beyond what the alternative asks for would be passed over, and evidence that is
        // passed over is not appraised.
        if alternative.is_empty()
            || alternative.len() != presented.len()
            || !alternative
                .iter()
                .all(|requirement| kinds.contains(requirement.kind()))
        {
            continue;
        }
        let mut all = Vec::with_capacity(alternative.len());
        for requirement in &alternative {
            all.extend(appraisal.claims_for(requirement)?);
        }
        if all.len() == alternative.len() {
            match cross_check(policy.cross_checks, &all) {
                Ok(()) => return Ok(Appraised::new(all)),
                Err(error) => appraisal.problem = error,
            }
        }
    }
    Err(appraisal.problem)
}

/// Returns the kinds of evidence that were presented, if they are distinct and the policy asks for
/// each of them.
fn expected_kinds<'a>(
    alternatives: &[Alternative<'_>],
    presented: &[Presented<'a>],
) -> Result<BTreeSet<&'a str>, AppraisalError> {
    if alternatives.iter().all(Vec::is_empty) {
        return Err(AppraisalError::NothingRequired);
    }
    let kinds: BTreeSet<&str> = presented.iter().map(|piece| piece.kind).collect();
    if presented.len() > MAX_EVIDENCE || kinds.len() != presented.len() {
        return Err(AppraisalError::Unexpected);
    }
    let wanted: BTreeSet<&str> = alternatives
        .iter()
        .flatten()
        .map(|requirement| requirement.kind())
        .collect();
    if !kinds.is_subset(&wanted) {
        return Err(AppraisalError::Unexpected);
    }
    Ok(kinds)
}

/// An appraisal under way.
struct Appraisal<'a, 'f> {
    presented: &'a [Presented<'a>],
    circumstances: Circumstances<'a>,
    /// The requirements that were appraised, in the order of `findings`.
    appraised: Vec<&'a Requirement>,
    findings: &'f mut Vec<Finding>,
    /// The reason why the last alternative failed.
    problem: AppraisalError,
}

impl<'a> Appraisal<'a, '_> {
    /// Returns the claims that meet a requirement, or `None` if the evidence does not meet it. The
    /// evidence is verified once for a requirement, however often this is called.
    fn claims_for(
        &mut self,
        requirement: &'a Requirement,
    ) -> Result<Option<Claims>, AppraisalError> {
        let at = self
            .appraised
            .iter()
            .position(|seen| std::ptr::eq(*seen, requirement))
            .unwrap_or(self.appraised.len());
        if at == self.appraised.len() {
            let piece = self
                .presented
                .iter()
                .find(|piece| piece.kind == requirement.kind())
                .ok_or(AppraisalError::Missing)?;
            let mut finding = Finding {
                kind: requirement.kind(),
                claims: None,
                problem: None,
            };
            if let Err(error) = appraise_piece(
                requirement,
                piece.payload,
                self.circumstances,
                &mut finding.claims,
            ) {
                finding.problem = Some(error.to_string());
                self.problem = error;
            }
            self.appraised.push(requirement);
            self.findings.push(finding);
        }
        Ok(self
            .findings
            .get(at)
            .filter(|finding| finding.problem.is_none())
            .and_then(|finding| finding.claims.clone()))
    }
}

/// Checks that the values of one claim are among those of another. A check whose two kinds are not
/// both in this set does not apply to the set.
fn cross_check(checks: &[CrossCheck], all: &[Claims]) -> Result<(), AppraisalError> {
    let values = |name: &str| {
        let (kind, claim) = name.split_once('.')?;
        let claims = all.iter().find(|claims| claims.kind == kind)?;
        Some(
            claims
                .values
                .get(claim)
                .map(Vec::as_slice)
                .unwrap_or_default(),
        )
    };
    for check in checks {
        let (Some(these), Some(among)) = (values(&check.claim), values(&check.among)) else {
            continue;
        };
        if these.is_empty() || !these.iter().all(|value| among.contains(value)) {
            return Err(AppraisalError::CrossCheck {
                claim: check.claim.clone(),
                among: check.among.clone(),
            });
        }
    }
    Ok(())
}
