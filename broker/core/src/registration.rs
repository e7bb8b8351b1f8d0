//! A workload's registration: what it must prove and what it may ask.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sundew_attestation::spiffe::SpiffeId;
use sundew_attestation::{AppraisalPolicy, CrossCheck, Rule, TrustMaterial};

use crate::record::{TokenBinding, is_audience};
use crate::scope::ScopeSet;
use crate::ttl::Ttl;

/// Deepest delegation that a registration may allow: every use of a task looks at all that it was
/// delegated from.
const MAX_DEPTH: u32 = 8;

/// Something that is wrong with a registration: a sentence for the registrar.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{spiffe_id}: {field}: {problem}")]
pub struct RegistrationProblem {
    /// Whose registration.
    pub spiffe_id: String,
    /// Which field.
    pub field: &'static str,
    /// What is wrong.
    pub problem: String,
}

/// What `sundew workload apply` reads.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// What it must show: every one of these.
    pub evidence: Vec<Rule>,
    /// What must hold between pieces of evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cross_checks: Vec<CrossCheck>,
    /// The most that any task of it may do.
    pub scopes: ScopeSet,
    /// Longest task.
    #[serde(default = "default_task_ttl")]
    pub max_task_ttl: Ttl,
    /// Longest token.
    #[serde(default = "default_token_ttl")]
    pub max_token_ttl: Ttl,
    /// A task unattended for this long ends.
    #[serde(default = "default_grace")]
    pub attendance_grace: Ttl,
    /// Most tasks at a time.
    #[serde(default = "default_max_tasks")]
    pub max_tasks: u32,
    /// How many levels of tasks may be delegated below one of its tasks; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max_delegation_depth: u32,
    /// Most tasks at a time that are delegated from one task of it.
    #[serde(default = "default_max_children")]
    pub max_delegated_tasks: u32,
    /// Which bindings its tokens may have, the first one being the default.
    #[serde(default = "default_bindings")]
    pub bindings: Vec<TokenBinding>,
    /// Whether some evidence must carry the nonce.
    #[serde(default)]
    pub require_fresh_evidence: bool,
    /// A task must show fresh evidence this often; one that does not is suspended, and ended after
    /// as long again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prove_every: Option<Ttl>,
    /// Whether each secret is given for evidence of its own.
    #[serde(default, skip_serializing_if = "is_false")]
    pub evidence_at_secrets: bool,
    /// Evidence for which the embedded CA gives a first SVID, on the enrollment listener; without
    /// it, only for a join token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enrollment: Vec<Rule>,
    /// Local processes to which the embedded CA gives this identity over the Workload API.
    #[serde(default)]
    pub local: Vec<LocalSelector>,
    /// For whom JWT-SVIDs of it may be made, over the Workload API. They are bearer tokens:
    /// without this there are none (P8).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jwt_svid_audiences: Vec<String>,
    /// Whom to call.
    pub owner: String,
    /// For people and lists.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What the kernel must say of a local process; every field given must match.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LocalSelector {
    /// The node that gives the identity out to its processes; without one, the broker to those on
    /// its own machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<SpiffeId>,
    /// Effective user id.
    pub uid: Option<u32>,
    /// Effective group id.
    pub gid: Option<u32>,
    /// Path of the executable.
    pub exe: Option<String>,
    /// Lower-case hexadecimal SHA-256 of the executable.
    pub exe_sha256: Option<String>,
}

fn default_task_ttl() -> Ttl {
    Ttl::HOUR
}
fn default_token_ttl() -> Ttl {
    Ttl::QUARTER_HOUR
}
fn default_grace() -> Ttl {
    Ttl::HALF_MINUTE
}
fn default_max_tasks() -> u32 {
    100
}
fn default_max_children() -> u32 {
    16
}
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}
fn default_bindings() -> Vec<TokenBinding> {
    vec![TokenBinding::Certificate]
}

impl Registration {
    /// Everything that is wrong with it, at once.
    #[must_use]
    pub fn problems(&self, trust: &TrustMaterial) -> Vec<RegistrationProblem> {
        let mut problems = Vec::new();
        let mut say = |field, problem: String| {
            problems.push(RegistrationProblem {
                spiffe_id: self.spiffe_id.to_string(),
                field,
                problem,
            })
        };
        for problem in self.policy().problems(trust) {
            say("evidence", problem);
        }
        let alternatives = self.policy().alternatives().unwrap_or_default();
        if self.require_fresh_evidence
            && !alternatives
                .iter()
                .all(|set| set.iter().any(|requirement| requirement.can_be_fresh()))
        {
            say(
                "require_fresh_evidence",
                "in some set, none of the required kinds can carry a nonce".to_owned(),
            );
        }
        if !self.enrollment.is_empty() {
            for problem in self.enrollment_policy().problems(trust) {
                say("enrollment", problem);
            }
            let sets = self.enrollment_policy().alternatives().unwrap_or_default();
            if !sets
                .iter()
                .all(|set| set.iter().any(|requirement| requirement.identifies()))
            {
                // P1: a manifest or a signature can be shown by anybody who has it.
                say("enrollment", "each set needs a kind that identifies the claimant: not `manifest` or `cosign` alone".to_owned());
            }
        }
        if self.max_token_ttl > self.max_task_ttl {
            say(
                "max_token_ttl",
                "must not be longer than max_task_ttl".to_owned(),
            );
        }
        if self.attendance_grace.as_ms() < 1000 {
            say("attendance_grace", "must be at least 1s".to_owned());
        }
        if self.prove_every.is_some_and(|every| every.as_ms() < 2000) {
            say("prove_every", "must be at least 2s".to_owned());
        }
        if self.max_tasks == 0 || self.max_tasks > 100_000 {
            say("max_tasks", "must be between 1 and 100000".to_owned());
        }
        if self.max_delegation_depth > MAX_DEPTH {
            say(
                "max_delegation_depth",
                format!("must be at most {MAX_DEPTH}"),
            );
        }
        if self.max_delegated_tasks == 0 || self.max_delegated_tasks > 10_000 {
            say(
                "max_delegated_tasks",
                "must be between 1 and 10000".to_owned(),
            );
        }
        if self.bindings.is_empty() {
            say(
                "bindings",
                "at least one binding must be allowed".to_owned(),
            );
        }
        if self.jwt_svid_audiences.len() > 64
            || !self
                .jwt_svid_audiences
                .iter()
                .all(|audience| is_audience(audience))
        {
            say(
                "jwt_svid_audiences",
                "must be at most 64 names of at most 256 printable ASCII characters".to_owned(),
            );
        }
        if self.owner.trim().is_empty() || self.owner.len() > 256 {
            say(
                "owner",
                "must name whom to call, in at most 256 bytes".to_owned(),
            );
        }
        for selector in &self.local {
            if selector.uid.is_none() && selector.exe_sha256.is_none() {
                say(
                    "local",
                    "a selector needs at least `uid` or `exe_sha256`".to_owned(),
                );
            }
        }
        problems
    }

    /// What it says of evidence.
    #[must_use]
    pub fn policy(&self) -> AppraisalPolicy<'_> {
        AppraisalPolicy {
            rules: &self.evidence,
            cross_checks: &self.cross_checks,
        }
    }

    /// What it says of evidence for a first SVID.
    #[must_use]
    pub fn enrollment_policy(&self) -> AppraisalPolicy<'_> {
        AppraisalPolicy {
            rules: &self.enrollment,
            cross_checks: &[],
        }
    }

    /// Its canonical JSON: what is stored, compared and shown.
    #[must_use]
    pub fn document(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// What changed from `old` to this, by member.
    #[must_use]
    pub fn diff_from(&self, old: Option<&Self>) -> Vec<String> {
        crate::record::diff(
            &old.map(Self::document).unwrap_or_default(),
            &self.document(),
        )
    }
}
