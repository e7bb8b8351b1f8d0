//! What a policy accepted before it was replaced and accepts no more.
//!
//! P4: whoever narrows a registration takes back what rests on evidence that is not enough any more.
//! What is compared is the text of both policies: evidence is not kept.

use std::collections::BTreeSet;

use crate::constraint::Constraint;
use crate::policy::{Alternative, AppraisalPolicy};
use crate::requirement::Requirement;

/// Claims of which evidence is refused that has them, unless a registration constrains them.
const REFUSED_IF_FREE: [&str; 7] = [
    "ek",
    "event_name",
    "key",
    "oidc.circleci.com/ssh-rerun",
    "predicate_type",
    "tcb_status",
    "terraform_run_phase",
];

/// What a narrower policy takes back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Narrowing {
    /// The policy accepts everything that the former one accepted.
    Nothing,
    /// The policy is the former one without these values of claims, each written as
    /// `<kind>.<claim>=<value>`.
    Values(BTreeSet<String>),
    /// The policy may refuse any evidence that the former one accepted.
    Everything,
}

impl Narrowing {
    /// Returns what both take back together.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Everything, _) | (_, Self::Everything) => Self::Everything,
            (Self::Nothing, other) => other,
            (own, Self::Nothing) => own,
            (Self::Values(mut own), Self::Values(other)) => {
                own.extend(other);
                Self::Values(own)
            }
        }
    }

    /// Returns the order in which alternatives are preferred: the one that takes back the least.
    fn rank(&self) -> (u8, usize) {
        match self {
            Self::Nothing => (0, 0),
            Self::Values(values) => (1, values.len()),
            Self::Everything => (2, 0),
        }
    }
}

impl AppraisalPolicy<'_> {
    /// Returns what this policy takes back of what `former` accepted.
    #[must_use]
    pub fn narrowing_from(&self, former: &AppraisalPolicy<'_>) -> Narrowing {
        let (Some(ours), Some(theirs)) = (self.alternatives(), former.alternatives()) else {
            return Narrowing::Everything;
        };
        let mut checks = self.cross_checks.iter();
        if !checks.all(|check| former.cross_checks.contains(check)) {
            return Narrowing::Everything;
        }
        let mut all = Narrowing::Nothing;
        for set in theirs.iter().filter(|set| !set.is_empty()) {
            let least = ours
                .iter()
                .map(|own| of_set(own, set))
                .min_by_key(Narrowing::rank);
            all = all.and(least.unwrap_or(Narrowing::Everything));
        }
        all
    }
}

/// Returns what one set of requirements takes back of what another one accepted.
fn of_set(new: &Alternative<'_>, former: &Alternative<'_>) -> Narrowing {
    if new.len() != former.len() {
        return Narrowing::Everything;
    }
    let mut all = Narrowing::Nothing;
    for before in former {
        let now = new.iter().find(|now| now.kind() == before.kind());
        all = all.and(now.map_or(Narrowing::Everything, |now| of_requirement(now, before)));
    }
    all
}

/// Returns what one requirement takes back of what another one of its kind accepted.
fn of_requirement(new: &Requirement, former: &Requirement) -> Narrowing {
    let dropped = |claim: &String| {
        let is_dropped = !new.claims().contains_key(claim);
        is_dropped && (REFUSED_IF_FREE.contains(&claim.as_str()) || claim.starts_with("predicate."))
    };
    if !takes_the_same(new, former) || former.claims().keys().any(dropped) {
        return Narrowing::Everything;
    }
    let mut all = Narrowing::Nothing;
    for (claim, now) in new.claims() {
        all = all.and(match (now, former.claims().get(claim)) {
            (now, Some(before)) if now == before => Narrowing::Nothing,
            (Constraint::OneOf(now), Some(Constraint::OneOf(before))) => {
                let name = |value: &String| format!("{}.{claim}={value}", new.kind());
                let lost: BTreeSet<_> = before.difference(now).map(name).collect();
                match lost.is_empty() {
                    true => Narrowing::Nothing,
                    false => Narrowing::Values(lost),
                }
            }
            _ => Narrowing::Everything,
        });
    }
    all
}

/// Returns whether a requirement takes the signers that another one of its kind took, if it has any.
fn takes_the_same(new: &Requirement, former: &Requirement) -> bool {
    let all_in = |now: &[String], before: &[String]| before.iter().all(|key| now.contains(key));
    match (new, former) {
        (Requirement::Cosign { keys: now, .. }, Requirement::Cosign { keys: before, .. }) => {
            all_in(now, before)
        }
        (
            Requirement::LocalUser { brokers: now, .. },
            Requirement::LocalUser {
                brokers: before, ..
            },
        ) => before.iter().all(|broker| now.contains(broker)),
        (
            Requirement::Manifest {
                keys: now,
                threshold,
                ..
            },
            Requirement::Manifest {
                keys: before,
                threshold: former,
                ..
            },
        ) => all_in(now, before) && threshold <= former,
        (Requirement::Oidc { issuer: now, .. }, Requirement::Oidc { issuer: before, .. }) => {
            now == before
        }
        (Requirement::Process { nodes: now, .. }, Requirement::Process { nodes: before, .. }) => {
            before.iter().all(|node| now.contains(node))
        }
        (
            Requirement::SevSnp {
                endorsement: now, ..
            },
            Requirement::SevSnp {
                endorsement: before,
                ..
            },
        ) => now == before,
        _ => new.kind() == former.kind(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::Rule;

    fn narrowing(former: Value, new: Value) -> Narrowing {
        let rules = |value| serde_json::from_value::<Vec<Rule>>(value).unwrap();
        let (former, new) = (rules(former), rules(new));
        let policy = |rules| AppraisalPolicy {
            rules,
            cross_checks: &[],
        };
        policy(new.as_slice()).narrowing_from(&policy(former.as_slice()))
    }

    fn nitro(claims: Value) -> Value {
        json!({ "kind": "nitro", "claims": claims })
    }

    #[test]
    fn e9_a_policy_that_accepts_as_much_as_before_takes_nothing_back() {
        let two = nitro(json!({ "pcr0": ["aa", "bb"] }));
        let one = nitro(json!({ "pcr0": ["aa"] }));
        let oidc = json!({ "kind": "oidc", "issuer": "https://i", "claims": { "sub": ["a"] } });
        for (former, new) in [
            (json!([one]), json!([one])),
            (json!([one]), json!([two])),
            (json!([one]), json!([{ "any_of": [oidc, one] }])),
            (
                json!([nitro(json!({ "pcr0": ["aa"], "pcr1": ["cc"] }))]),
                json!([one]),
            ),
        ] {
            assert_eq!(
                narrowing(former.clone(), new),
                Narrowing::Nothing,
                "{former}"
            );
        }
    }

    #[test]
    fn e9_values_that_are_left_out_are_what_is_taken_back() {
        let former = json!([nitro(json!({ "pcr0": ["aa", "bb", "cc"], "pcr8": ["dd"] }))]);
        let new = json!([nitro(json!({ "pcr0": ["bb", "ee"], "pcr8": ["dd"] }))]);
        let lost = ["nitro.pcr0=aa", "nitro.pcr0=cc"].map(str::to_owned);
        assert_eq!(narrowing(former, new), Narrowing::Values(lost.into()));
    }

    #[test]
    fn e9_a_policy_that_wants_something_else_takes_everything_back() {
        let one = nitro(json!({ "pcr0": ["aa"] }));
        let key = |keys: &[&str]| json!([{ "kind": "manifest", "keys": keys }]);
        let oidc =
            |claims: Value| json!([{ "kind": "oidc", "issuer": "https://i", "claims": claims }]);
        for (former, new) in [
            (
                json!([one]),
                json!([nitro(json!({ "pcr0": ["aa"], "pcr8": ["bb"] }))]),
            ),
            (
                json!([one]),
                json!([nitro(json!({ "pcr0": { "reference": "images" } }))]),
            ),
            (
                json!([one]),
                json!([one, { "kind": "manifest", "keys": ["k"] }]),
            ),
            (
                json!([{ "any_of": [one, { "kind": "manifest", "keys": ["k"] }] }]),
                json!([one]),
            ),
            (key(&["a", "b"]), key(&["b", "c"])),
            // Without the constraint, tokens of pull requests are refused.
            (
                oidc(json!({ "sub": ["a"], "event_name": ["pull_request"] })),
                oidc(json!({ "sub": ["a"] })),
            ),
        ] {
            assert_eq!(
                narrowing(former.clone(), new),
                Narrowing::Everything,
                "{former}"
            );
        }
    }
}
