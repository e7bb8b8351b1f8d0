//! The checks that a registration must pass before it is stored.

use std::collections::BTreeSet;

use sundew_attestation::TrustMaterial;

use super::{LocalSelector, Registration};
use crate::audience::{is_audience, is_pattern};

/// The deepest delegation that a registration may allow, in levels: every use of a task looks at
/// all tasks that it was delegated from.
const MAX_DEPTH: u32 = 8;

/// A fault of a registration, told to the registrar in a sentence.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{spiffe_id}: {field}: {problem}")]
pub struct RegistrationProblem {
    /// The workload that the registration is for.
    pub spiffe_id: String,
    /// The field with the fault.
    pub field: &'static str,
    /// The sentence that says what is wrong with the field.
    pub problem: String,
}

/// The faults that were found in one registration so far.
struct Problems<'a> {
    registration: &'a Registration,
    found: Vec<RegistrationProblem>,
}

impl Problems<'_> {
    /// Adds a fault of a field.
    fn add(&mut self, field: &'static str, problem: impl Into<String>) {
        self.found.push(RegistrationProblem {
            spiffe_id: self.registration.spiffe_id.to_string(),
            field,
            problem: problem.into(),
        });
    }

    /// Adds a fault of a field if a condition does not hold.
    fn require(&mut self, holds: bool, field: &'static str, problem: impl Into<String>) {
        if !holds {
            self.add(field, problem);
        }
    }

    fn check_evidence(&mut self, trust: &TrustMaterial) {
        let registration = self.registration;
        for problem in registration.policy().problems(trust) {
            self.add("evidence", problem.to_string());
        }
        let sets = registration.policy().alternatives().unwrap_or_default();
        let each_can_be_fresh = sets
            .iter()
            .all(|set| set.iter().any(|requirement| requirement.can_be_fresh()));
        self.require(
            !registration.require_fresh_evidence || each_can_be_fresh,
            "require_fresh_evidence",
            "in some set, none of the required kinds can carry a nonce",
        );
    }

    fn check_enrollment(&mut self, trust: &TrustMaterial) {
        let registration = self.registration;
        if registration.enrollment.is_empty() {
            return;
        }
        let policy = registration.enrollment_policy();
        for problem in policy.problems(trust) {
            self.add("enrollment", problem.to_string());
        }
        self.require(
            policy.identifies(),
            "enrollment",
            "each set needs a kind that identifies the claimant: not `manifest`, `cosign` or \
             `aws_iid` alone, which anybody can show who has seen them",
        );
    }

    fn check_times_and_numbers(&mut self) {
        let registration = self.registration;
        self.require(
            registration.max_token_ttl <= registration.max_task_ttl,
            "max_token_ttl",
            "must not be longer than max_task_ttl",
        );
        self.require(
            registration.attendance_grace.as_ms() >= 1000,
            "attendance_grace",
            "must be at least 1s",
        );
        self.require(
            registration
                .prove_every
                .is_none_or(|every| every.as_ms() >= 2000),
            "prove_every",
            "must be at least 2s",
        );
        self.require(
            (1..=100_000).contains(&registration.max_tasks),
            "max_tasks",
            "must be between 1 and 100000",
        );
        self.require(
            registration.max_delegation_depth <= MAX_DEPTH,
            "max_delegation_depth",
            format!("must be at most {MAX_DEPTH}"),
        );
        self.require(
            (1..=10_000).contains(&registration.max_delegated_tasks),
            "max_delegated_tasks",
            "must be between 1 and 10000",
        );
    }

    fn check_lists_and_texts(&mut self) {
        let registration = self.registration;
        self.require(
            !registration.bindings.is_empty(),
            "bindings",
            "at least one binding must be allowed",
        );
        let ceiling = registration.audiences.as_ref();
        self.require(
            ceiling.is_none_or(|list| {
                (1..=64).contains(&list.len()) && list.iter().all(|pattern| is_pattern(pattern))
            }),
            "audiences",
            "must be 1 to 64 names of at most 256 printable ASCII characters, in which `*` is only \
             allowed as the whole last segment; without the list there is no limit",
        );
        let audiences = &registration.jwt_svid_audiences;
        self.require(
            audiences.len() <= 64 && audiences.iter().all(|audience| is_audience(audience)),
            "jwt_svid_audiences",
            "must be at most 64 names of at most 256 printable ASCII characters without `*`",
        );
        self.require(
            !registration.owner.trim().is_empty() && registration.owner.len() <= 256,
            "owner",
            "must name whom to call, in at most 256 bytes",
        );
        for problem in registration.local.iter().filter_map(LocalSelector::problem) {
            self.add("local", problem);
        }
    }
}

impl Registration {
    /// Returns everything that is wrong with the registration, so that the registrar can repair all
    /// of it at once. The list is empty if the registration can be used.
    #[must_use]
    pub fn problems(&self, trust: &TrustMaterial) -> Vec<RegistrationProblem> {
        let mut problems = Problems {
            registration: self,
            found: Vec::new(),
        };
        problems.check_evidence(trust);
        problems.check_enrollment(trust);
        problems.check_times_and_numbers();
        problems.check_lists_and_texts();
        problems.found
    }

    /// Returns what was enough when the registration was applied, and holds for nobody any more, as
    /// sentences for operators: requirements and selectors that pin nothing (I2). The list is empty
    /// for a registration that can still be applied.
    #[must_use]
    pub fn no_longer_enough(&self, trust: &TrustMaterial) -> Vec<String> {
        let selectors = self.local.iter().filter_map(LocalSelector::problem);
        let mut found: BTreeSet<String> = selectors.map(|why| format!("local: {why}")).collect();
        for (field, policy) in [
            ("evidence", self.policy()),
            ("enrollment", self.enrollment_policy()),
        ] {
            let sets = policy.alternatives().unwrap_or_default();
            let unpinned = sets.iter().flatten().filter_map(|r| r.unpinned(trust));
            found.extend(unpinned.map(|why| format!("{field}: {why}")));
        }
        found.into_iter().collect()
    }
}
