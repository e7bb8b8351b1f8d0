//! Appraisal (RFC 9334, section 5): verified claims against what the registration requires.
//!
//! P1, P2: [`Attested`] is made only here, after every requirement was met and every single-use
//! evidence was consumed.

use std::collections::BTreeSet;

use crate::challenge::Binding;
use crate::claims::{Assurance, Claims, Counter, SingleUse, Voucher};
use crate::dsse::{DsseError, VerifyingKey};
use crate::kinds::{aws_iid, cosign, manifest, nitro, oidc, process, sev_snp, tdx, tpm2};
use crate::policy::{AppraisalPolicy, CrossCheck, MAX_EVIDENCE};
use crate::requirement::Requirement;
use crate::spiffe::BundleSet;
use crate::trust::TrustMaterial;

/// Why evidence was not enough. For the operator's record only.
#[derive(Debug, thiserror::Error)]
pub enum AppraisalError {
    /// The document was not taken.
    #[error("aws_iid: {0}")]
    AwsIid(#[from] aws_iid::IidError),
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
    /// The signature was not taken.
    #[error("cosign: {0}")]
    Cosign(#[from] cosign::CosignError),
    /// The source of the evidence counts less than it did before.
    #[error("the evidence's source was set back")]
    Counter,
    /// Two pieces of evidence do not fit each other.
    #[error("`{claim}` is not among `{among}`")]
    CrossCheck {
        /// The one claim.
        claim: String,
        /// The other.
        among: String,
    },
    /// A registered key cannot be read.
    #[error("registered key: {0}")]
    Key(#[from] DsseError),
    /// The manifest was not taken.
    #[error("manifest: {0}")]
    Manifest(#[from] manifest::ManifestError),
    /// The kinds of evidence are not a set that the registration asks for.
    #[error("evidence of the kinds that the registration asks for is missing")]
    Missing,
    /// The document was not taken.
    #[error("nitro: {0}")]
    Nitro(#[from] nitro::NitroError),
    /// The registration requires nothing, so nothing can be proven.
    #[error("the registration requires no evidence")]
    NothingRequired,
    /// The token was not taken.
    #[error("oidc: {0}")]
    Oidc(#[from] oidc::OidcError),
    /// The statement was not taken.
    #[error("process: {0}")]
    Process(#[from] process::ProcessError),
    /// The report was not taken.
    #[error("sev_snp: {0}")]
    SevSnp(#[from] sev_snp::SnpError),
    /// The quote was not taken.
    #[error("tdx: {0}")]
    Tdx(#[from] tdx::TdxError),
    /// The quote was not taken.
    #[error("tpm2: {0}")]
    Tpm2(#[from] tpm2::TpmError),
    /// Evidence that no requirement asks for, of an unknown kind, or too many pieces.
    #[error("evidence that the registration does not ask for")]
    Unexpected,
    /// The task of the node that vouches is not alive, not its own, or does not let it serve.
    #[error("the node that vouches has no live task with the scope `node:serve`")]
    Unvouched,
    /// The issuer is not configured at this broker.
    #[error("issuer is not configured, or has no keys")]
    UnknownIssuer,
}

/// What the caller presented.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The kind that it says it is.
    pub kind: &'a str,
    /// The evidence.
    pub payload: &'a [u8],
}

/// Evidence that met every requirement; single-use evidence is still to be consumed, counters are
/// still to be compared.
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
        self.0
            .iter()
            .filter_map(|claims| claims.single_use.as_ref())
    }

    /// What must not be below what was seen before, and must be remembered, before
    /// [`Appraised::confirm`].
    pub fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.0.iter().filter_map(|claims| claims.counter.as_ref())
    }

    /// Whose word must count before [`Appraised::confirm`].
    pub fn vouchers(&self) -> impl Iterator<Item = &Voucher> {
        self.0.iter().filter_map(|claims| claims.voucher.as_ref())
    }

    /// Makes the proof, if all single-use evidence is among what was consumed just now, all
    /// counters among those that were remembered, and all vouchers among those whose word
    /// counts.
    pub fn confirm(
        self,
        consumed: &BTreeSet<SingleUse>,
        counted: &BTreeSet<[u8; 32]>,
        vouched: &BTreeSet<Voucher>,
    ) -> Result<Attested, AppraisalError> {
        if !self.vouchers().all(|voucher| vouched.contains(voucher)) {
            return Err(AppraisalError::Unvouched);
        }
        if !self.single_use().all(|item| consumed.contains(item)) {
            return Err(AppraisalError::Consumed);
        }
        if !self
            .counters()
            .all(|counter| counted.contains(&counter.source))
        {
            return Err(AppraisalError::Counter);
        }
        Ok(Attested { claims: self.0 })
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
        self.claims
            .iter()
            .filter_map(|claims| claims.not_after_ms)
            .min()
    }

    /// Whether any piece of evidence carried the nonce (P2).
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.claims.iter().any(|claims| claims.fresh)
    }

    /// What the weakest piece is worth.
    #[must_use]
    pub fn assurance(&self) -> Assurance {
        self.claims
            .iter()
            .map(|claims| claims.assurance)
            .min()
            .unwrap_or(Assurance::Claimed)
    }
}

/// What verifiers get besides the evidence.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The SubjectPublicKeyInfo of who presents it, in DER.
    pub public_key: &'a [u8],
    /// What it must be bound to.
    pub binding: &'a Binding,
    /// What is trusted.
    pub trust: &'a TrustMaterial,
    /// Roots of trust domains, for what other workloads have signed.
    pub bundles: &'a BundleSet,
    /// Now, in milliseconds since the epoch.
    pub now_ms: i64,
}

/// What was found of one piece of evidence: for the operator, not for the claimant.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The kind of evidence.
    pub kind: &'static str,
    /// What is true of it, if it was verified; even if that was not enough.
    pub claims: Option<Claims>,
    /// Why it was not enough.
    pub problem: Option<String>,
}

/// Verifies what was presented and appraises it: of one set that the registration asks for, each
/// requirement needs one piece, and each piece a requirement. Each requirement is looked at once,
/// however many sets have it; what was found is in `findings` then, and nothing else.
pub fn appraise(
    policy: AppraisalPolicy<'_>,
    presented: &[Presented<'_>],
    circumstances: Circumstances<'_>,
    findings: &mut Vec<Finding>,
) -> Result<Appraised, AppraisalError> {
    findings.clear();
    let alternatives = policy.alternatives().unwrap_or_default();
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
    let mut problem = AppraisalError::Missing;
    // One for each finding.
    let mut looked_at: Vec<&Requirement> = Vec::new();
    for alternative in alternatives {
        // Exactly what this set asks for: more would be passed over, and what is passed over is not
        // appraised.
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
            let at = looked_at
                .iter()
                .position(|seen| std::ptr::eq(*seen, *requirement))
                .unwrap_or(looked_at.len());
            if at == looked_at.len() {
                let piece = presented
                    .iter()
                    .find(|piece| piece.kind == requirement.kind())
                    .ok_or(AppraisalError::Missing)?;
                let mut finding = Finding {
                    kind: requirement.kind(),
                    claims: None,
                    problem: None,
                };
                if let Err(error) = look_at(
                    requirement,
                    piece.payload,
                    circumstances,
                    &mut finding.claims,
                ) {
                    finding.problem = Some(error.to_string());
                    problem = error;
                }
                looked_at.push(requirement);
                findings.push(finding);
            }
            all.extend(
                findings
                    .get(at)
                    .filter(|finding| finding.problem.is_none())
                    .and_then(|finding| finding.claims.clone()),
            );
        }
        if all.len() == alternative.len() {
            match cross_check(policy.cross_checks, &all) {
                Ok(()) => return Ok(Appraised(all)),
                Err(error) => problem = error,
            }
        }
    }
    Err(problem)
}

/// Checks between pieces; one whose kinds are not both in this set says nothing of it.
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

/// Verifies one piece, and compares its claims with what is wanted.
fn look_at(
    requirement: &Requirement,
    payload: &[u8],
    circumstances: Circumstances<'_>,
    found: &mut Option<Claims>,
) -> Result<(), AppraisalError> {
    let claims = found.insert(verify(requirement, payload, circumstances)?);
    let unmet = |claim: &str| {
        Err(AppraisalError::Claim {
            kind: requirement.kind(),
            claim: claim.to_owned(),
        })
    };
    let values = |claim: &str| {
        claims
            .values
            .get(claim)
            .map(Vec::as_slice)
            .unwrap_or_default()
    };
    for (claim, constraint) in requirement.claims() {
        if !constraint.takes(values(claim), circumstances.trust) {
            return unmet(claim);
        }
    }
    let says = |claim: &str| requirement.claims().contains_key(claim);
    // T22: pull requests are taken only where the registration names the event.
    if requirement.kind() == "oidc"
        && !says("event_name")
        && values("event_name")
            .iter()
            .any(|event| event.starts_with("pull_request"))
    {
        return unmet("event_name");
    }
    // T31: anything else is taken only where the registration says so.
    if requirement.kind() == "tdx" && !says("tcb_status") && values("tcb_status") != ["UpToDate"] {
        return unmet("tcb_status");
    }
    // P1: that some TPM of a maker is meant says nothing; whose it is, the registration says.
    if requirement.kind() == "tpm2"
        && claims.values.contains_key("ek")
        && !says("ek")
        && !says("key")
    {
        return unmet("ek");
    }
    // What a boot measured is much, and of interest only where the registration is about it.
    claims
        .values
        .retain(|name, _| !name.starts_with("event.") || says(name));
    Ok(())
}

fn verify(
    requirement: &Requirement,
    payload: &[u8],
    circumstances: Circumstances<'_>,
) -> Result<Claims, AppraisalError> {
    let Circumstances {
        public_key,
        binding,
        trust,
        bundles,
        now_ms,
    } = circumstances;
    Ok(match requirement {
        Requirement::AwsIid { .. } => {
            aws_iid::verify(payload, |region| trust.region_certificate(region), now_ms)?
        }
        Requirement::Cosign { keys, .. } => cosign::verify(payload, &parsed(keys)?)?,
        Requirement::Manifest {
            keys, threshold, ..
        } => manifest::verify(
            payload,
            &parsed(keys)?,
            *threshold,
            binding,
            public_key,
            now_ms,
        )?,
        Requirement::Nitro { .. } => {
            nitro::verify(payload, &trust.nitro_roots(), binding.as_bytes(), now_ms)?
        }
        Requirement::Oidc { issuer, .. } => oidc::verify(
            payload,
            trust
                .issuers
                .get(issuer)
                .ok_or(AppraisalError::UnknownIssuer)?,
            now_ms,
        )?,
        Requirement::Process { nodes, .. } => {
            process::verify(payload, nodes, bundles, binding.as_bytes(), now_ms)?
        }
        Requirement::SevSnp { endorsement, .. } => sev_snp::verify(
            payload,
            &trust.sev_snp_roots(),
            *endorsement,
            &binding.wide(),
            now_ms,
        )?,
        Requirement::Tdx { .. } => {
            tdx::verify(payload, trust.tdx_collateral(), &binding.wide(), now_ms)?
        }
        Requirement::Tpm2 { .. } => tpm2::verify(
            payload,
            |name| trust.attestation_key(name),
            &trust.tpm_makers(),
            binding.as_bytes(),
            now_ms,
        )?,
    })
}

fn parsed(keys: &[String]) -> Result<Vec<VerifyingKey>, AppraisalError> {
    keys.iter()
        .map(|key| VerifyingKey::from_pem(key))
        .collect::<Result<_, _>>()
        .map_err(AppraisalError::Key)
}
