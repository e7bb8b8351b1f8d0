//! Verification of one piece of evidence by the verifier of its kind, and comparison of its claims
//! with one requirement.

use super::{AppraisalError, Circumstances};
use crate::claims::Claims;
use crate::dsse::VerifyingKey;
use crate::kinds::{aws_iid, cosign, manifest, nitro, oidc, process, sev_snp, tdx, tpm2};
use crate::requirement::Requirement;

/// Verifies one piece of evidence and compares its claims with a requirement. Claims that were
/// verified are in `found` even if they do not meet the requirement.
pub(super) fn appraise_piece(
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
        if !constraint.accepts(values(claim), circumstances.trust) {
            return unmet(claim);
        }
    }
    let constrains = |claim: &str| requirement.claims().contains_key(claim);
    // T22: the token of a pull request is accepted only if the registration constrains the event.
    if requirement.kind() == "oidc"
        && !constrains("event_name")
        && values("event_name")
            .iter()
            .any(|event| event.starts_with("pull_request"))
    {
        return unmet("event_name");
    }
    // T31: a TCB status below UpToDate is accepted only if the registration constrains it.
    if requirement.kind() == "tdx"
        && !constrains("tcb_status")
        && values("tcb_status") != ["UpToDate"]
    {
        return unmet("tcb_status");
    }
    // P1: a manufacturer's certificate shows that there is a TPM. Only the registration can say
    // which one is the workload's.
    if requirement.kind() == "tpm2"
        && claims.values.contains_key("ek")
        && !constrains("ek")
        && !constrains("key")
    {
        return unmet("ek");
    }
    // An event log has thousands of events: the record keeps those that the registration is about.
    claims
        .values
        .retain(|name, _| !name.starts_with("event.") || constrains(name));
    Ok(())
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
        )?,
    })
}

fn parsed(keys: &[String]) -> Result<Vec<VerifyingKey>, AppraisalError> {
    keys.iter()
        .map(|key| VerifyingKey::from_pem(key))
        .collect::<Result<_, _>>()
        .map_err(AppraisalError::Key)
}
