//! The last attempts at evidence, for operators who look for the reason of a refusal.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use sundew_attestation::{AppraisalPolicy, BindingPurpose, Finding};
use sundew_core::WorkloadRecord;
use sundew_proto::v1;

use super::Evidence;
use crate::journal::cause_text;
use crate::refusal::Refusal;
use crate::role::{Operator, Registrar};

/// Most attempts that are remembered.
const MAX_ATTEMPTS: usize = 256;
/// Attempts in a list whose caller names no limit.
const DEFAULT_LISTED: usize = 20;

/// The last attempts at evidence, in memory: an operator's help, not a record.
#[derive(Default)]
pub(super) struct Attempts(Mutex<VecDeque<Attempt>>);

/// An attempt. The requirement is written out only when somebody asks.
pub(super) struct Attempt {
    pub(super) workload: Arc<WorkloadRecord>,
    pub(super) purpose: BindingPurpose,
    pub(super) rest: v1::EvidenceAttempt,
}

impl Attempts {
    /// Remembers an attempt; the oldest gives way.
    pub(super) fn note(&self, attempt: Attempt) {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.len() == MAX_ATTEMPTS {
            attempts.pop_front();
        }
        attempts.push_back(attempt);
    }

    /// Lists attempts of one workload, or of all that the operator's role is over, the latest first.
    fn list(
        &self,
        operator: &Operator<Registrar>,
        spiffe_id: &str,
        limit: usize,
    ) -> Vec<v1::EvidenceAttempt> {
        let attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = attempts.iter().rev().filter(|attempt| {
            let workload = &attempt.workload.registration.spiffe_id;
            operator.reaches(workload) && (spiffe_id.is_empty() || workload.as_str() == spiffe_id)
        });
        asked.take(limit).map(Attempt::message).collect()
    }
}

impl Attempt {
    fn message(&self) -> v1::EvidenceAttempt {
        v1::EvidenceAttempt {
            spiffe_id: self.workload.registration.spiffe_id.to_string(),
            purpose: self.purpose.as_str().to_owned(),
            wanted: serde_json::to_string(policy(&self.workload, self.purpose).rules)
                .unwrap_or_default(),
            ..self.rest.clone()
        }
    }
}

/// The requirement of a registration for a purpose.
pub(super) fn policy(workload: &WorkloadRecord, purpose: BindingPurpose) -> AppraisalPolicy<'_> {
    match purpose {
        BindingPurpose::Enroll => workload.registration.enrollment_policy(),
        BindingPurpose::BeginTask
        | BindingPurpose::GetSecret
        | BindingPurpose::Prove
        | BindingPurpose::ResumeTask => workload.registration.policy(),
    }
}

impl Evidence {
    /// Lists the last attempts, with what was presented, found and required: for the platform team
    /// and for responders.
    pub(crate) async fn explain_evidence(
        self: Arc<Self>,
        operator: Operator<Registrar>,
        request: v1::ExplainEvidenceRequest,
    ) -> Result<v1::ExplainEvidenceResponse, Refusal> {
        let limit = match usize::try_from(request.limit).unwrap_or(usize::MAX) {
            0 => DEFAULT_LISTED,
            limit if limit <= MAX_ATTEMPTS => limit,
            _ => return Err(Refusal::invalid("limit", format!("at most {MAX_ATTEMPTS}"))),
        };
        Ok(v1::ExplainEvidenceResponse {
            attempts: self.attempts.list(&operator, &request.spiffe_id, limit),
        })
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(512).collect()
}

/// A finding as a message, within bounds.
pub(crate) fn finding_message(finding: Finding) -> v1::EvidenceFinding {
    let (claims, fresh) = finding
        .claims
        .map(|claims| (claims.values, claims.fresh))
        .unwrap_or_default();
    v1::EvidenceFinding {
        kind: finding.kind.to_owned(),
        // A1: parsers repeat what they could not read.
        problem: finding.problem.map(cause_text).unwrap_or_default(),
        // P12: what is remembered of an attempt is bounded, whatever was measured.
        claims: claims
            .into_iter()
            .take(64)
            .map(|(name, values)| v1::Claim {
                name: shortened(&name),
                values: values.iter().take(16).map(|v| shortened(v)).collect(),
            })
            .collect(),
        fresh,
    }
}
