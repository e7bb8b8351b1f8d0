//! Verification of one piece of evidence by the verifier of its kind, and comparison of its claims
//! with one requirement.

use super::{AppraisalError, Circumstances};
use crate::claims::Claims;
use crate::dsse::VerifyingKey;
use crate::kinds::cosign::VERDICTS;
use crate::kinds::tpm2::TpmError;
use crate::kinds::{
    aws_iid, cosign, local_user, manifest, nitro, oidc, process, sev_snp, tdx, tpm2,
};
use crate::requirement::Requirement;
use crate::trust::TrustMaterial;

/// Verifies one piece of evidence and compares its claims with a requirement. Claims that were
/// verified are in `found` even if they do not meet the requirement.
pub(super) fn appraise_piece(
    requirement: &Requirement,
    payload: &[u8],
    circumstances: Circumstances<'_>,
    found: &mut Option<Claims>,
) -> Result<(), AppraisalError> {
    let claims = found.insert(verify(requirement, payload, circumstances)?);
    let verdict = check(requirement, claims, circumstances.trust);
    // An event log has thousands of events, and a predicate says what it likes: the record keeps
    // what the registration is about.
    claims.values.retain(|name, _| {
        let is_many = name.starts_with("event.") || name.starts_with("predicate.");
        !is_many || requirement.claims().contains_key(name)
    });
    verdict
}

/// Compares verified claims with a requirement.
fn check(
    requirement: &Requirement,
    claims: &Claims,
    trust: &TrustMaterial,
) -> Result<(), AppraisalError> {
    let kind = requirement.kind();
    if let Some(problem) = requirement.unpinned(trust) {
        return Err(AppraisalError::Unpinned(problem));
    }
    let values = |claim: &str| {
        claims
            .values
            .get(claim)
            .map(Vec::as_slice)
            .unwrap_or_default()
    };
    for (claim, constraint) in requirement.claims() {
        if !constraint.accepts(values(claim), trust) {
            return Err(AppraisalError::Claim {
                kind,
                claim: claim.clone(),
            });
        }
    }
    match must_be_constrained(requirement, values) {
        None => Ok(()),
        Some(claim) => Err(AppraisalError::Claim {
            kind,
            claim: claim.to_owned(),
        }),
    }
}

/// The phase of a run of Terraform: a plan runs the code of a pull request too.
const RUN_PHASE: &str = "terraform_run_phase";
/// Whether somebody runs a job of CircleCI again over SSH.
const SSH_RERUN: &str = "oidc.circleci.com/ssh-rerun";

/// Returns a claim that evidence has and that the registration would have to constrain to accept it,
/// but does not. `narrowing` has the names of all of them.
fn must_be_constrained<'c>(
    requirement: &Requirement,
    values: impl Fn(&str) -> &'c [String],
) -> Option<&'static str> {
    let is_free = |claim: &str| !requirement.claims().contains_key(claim);
    let has = |claim: &str| !values(claim).is_empty();
    match requirement {
        // T22: a pull request runs somebody else's code.
        Requirement::Oidc { .. } => {
            let of_pull_request = |event: &String| event.starts_with("pull_request");
            let has = |claim: &str, value: &str| values(claim).iter().any(|own| own == value);
            let is_plan = has(RUN_PHASE, "plan") && is_free("sub");
            [
                (
                    "event_name",
                    values("event_name").iter().any(of_pull_request),
                ),
                (RUN_PHASE, is_plan),
                // Somebody has a shell in the job.
                (SSH_RERUN, has(SSH_RERUN, "true")),
            ]
            .into_iter()
            .find_map(|(claim, is_so)| (is_so && is_free(claim)).then_some(claim))
        }
        // T31: a TCB status below UpToDate.
        Requirement::Tdx { .. } => {
            (is_free("tcb_status") && values("tcb_status") != ["UpToDate"]).then_some("tcb_status")
        }
        // P1: a manufacturer's certificate shows that there is a TPM. Only the registration can say
        // which one is the workload's.
        Requirement::Tpm2 { .. } => (has("ek") && is_free("ek") && is_free("key")).then_some("ek"),
        // A signed statement may say that the digest is bad.
        Requirement::Cosign { .. } => ["predicate_type"]
            .into_iter()
            .chain(VERDICTS)
            .find(|claim| has(claim) && is_free(claim)),
        Requirement::AwsIid { .. }
        | Requirement::LocalUser { .. }
        | Requirement::Manifest { .. }
        | Requirement::Nitro { .. }
        | Requirement::Process { .. }
        | Requirement::SevSnp { .. } => None,
    }
}

/// Hands the evidence to the verifier of the requirement's kind.
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
        Requirement::LocalUser { brokers, .. } => {
            local_user::verify(payload, brokers, bundles, binding, now_ms)?
        }
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
        // Report data of SEV-SNP and TDX is exactly 64 bytes long; padding 32 bytes would let two
        // constructions meet.
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
            &trust.tpm_manufacturers(),
            binding.as_bytes(),
            now_ms,
        )
        .map_err(|error| {
            if let TpmError::UnknownKey(name) = &error
                && trust.bars_key(name)
            {
                return TpmError::Barred(name.clone());
            }
            error
        })?,
    })
}

fn parsed(keys: &[String]) -> Result<Vec<VerifyingKey>, AppraisalError> {
    keys.iter()
        .map(|key| VerifyingKey::from_pem(key))
        .collect::<Result<_, _>>()
        .map_err(AppraisalError::Key)
}
