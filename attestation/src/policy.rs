//! The appraisal policy for evidence (RFC 9334, section 8.5), which a registration states.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::claims::Claims;
use crate::constraint::{Constraint, Reference};
use crate::requirement::Requirement;
use crate::trust::{ITEM_CLAIMS, Loss, TrustMaterial};

/// The largest number of alternatives of one policy; appraisal may try each of them.
const MAX_ALTERNATIVES: usize = 16;
/// The largest number of pieces of evidence in one alternative.
pub(crate) const MAX_EVIDENCE: usize = 8;
/// The deepest nesting of rules.
const MAX_DEPTH: usize = 4;

/// A rule about evidence: one requirement, or a combination of rules.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Rule {
    /// All of the rules must be met.
    All {
        /// The rules.
        all_of: Vec<Rule>,
    },
    /// At least one of the rules must be met.
    Any {
        /// The rules.
        any_of: Vec<Rule>,
    },
    /// A piece of evidence must meet this requirement.
    One(Requirement),
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A derived implementation would report that no variant matches. This one reports the fault
        // in the requirement.
        let mut value = serde_json::Value::deserialize(deserializer)?;
        let wrap = |e: serde_json::Error| de::Error::custom(e);
        let members = value
            .as_object_mut()
            .ok_or_else(|| de::Error::custom("must be an object"))?;
        for (name, all) in [("all_of", true), ("any_of", false)] {
            if let Some(rules) = members.remove(name) {
                if let Some(other) = members.keys().next() {
                    return Err(de::Error::custom(format!(
                        "`{name}` stands alone, without `{other}`"
                    )));
                }
                let rules = serde_json::from_value(rules).map_err(wrap)?;
                return Ok(if all {
                    Self::All { all_of: rules }
                } else {
                    Self::Any { any_of: rules }
                });
            }
        }
        serde_json::from_value(value).map(Self::One).map_err(wrap)
    }
}

/// A condition between two pieces of evidence: the values of one claim must be among those of
/// another, such as the digest that runs among the digests that were signed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CrossCheck {
    /// The claim, as `<kind>.<claim>`, that must have a value and whose values are checked.
    pub claim: String,
    /// The claim, as `<kind>.<claim>`, that must have each of these values.
    pub among: String,
}

/// The rules and cross-checks of one registration.
#[derive(Clone, Copy, Debug)]
pub struct AppraisalPolicy<'a> {
    /// The rules, all of which must be met.
    pub rules: &'a [Rule],
    /// The conditions between pieces of evidence.
    pub cross_checks: &'a [CrossCheck],
}

/// A set of requirements that suffices.
pub type Alternative<'a> = Vec<&'a Requirement>;

impl<'a> AppraisalPolicy<'a> {
    /// Returns every set of requirements that suffices, in the order of preference; `None` if there
    /// are more than 16 or if rules are nested more than 4 levels deep.
    #[must_use]
    pub fn alternatives(&self) -> Option<Vec<Alternative<'a>>> {
        all_of(self.rules, MAX_DEPTH)
    }

    /// Returns whether each alternative has a piece of evidence that identifies the claimant. P1:
    /// without one, whoever has seen the evidence once can show it.
    #[must_use]
    pub fn identifies(&self) -> bool {
        let alternatives = self.alternatives().unwrap_or_default();
        let mut sets = alternatives.iter();
        sets.all(|set| set.iter().any(|requirement| requirement.identifies()))
    }

    /// Returns those of the claims that a withdrawal can name, each written as
    /// `<kind>.<claim>=<value>`: those that a trust item makes possible, and those that must be
    /// reference values.
    #[must_use]
    pub fn withdrawable(&self, claims: &[Claims]) -> BTreeSet<String> {
        let alternatives = self.alternatives().unwrap_or_default();
        let requirements: Vec<_> = alternatives.into_iter().flatten().collect();
        let is_reference = |kind: &str, name: &str| {
            requirements.iter().any(|requirement| {
                let constraint = requirement.claims().get(name);
                requirement.kind() == kind && matches!(constraint, Some(Constraint::Reference(_)))
            })
        };
        let mut found = BTreeSet::new();
        for piece in claims {
            for (name, values) in &piece.values {
                let full = format!("{}.{name}", piece.kind);
                if ITEM_CLAIMS.contains(&full.as_str()) || is_reference(piece.kind, name) {
                    found.extend(values.iter().map(|value| format!("{full}={value}")));
                }
            }
        }
        found
    }

    /// Returns what rests on trust material that was lost: the claims, as
    /// `<kind>.<claim>=<value>`, by which evidence that rests on it can be found, or `None`
    /// for all evidence. The result is empty if no evidence rests on it.
    #[must_use]
    pub fn resting_on(&self, losses: &[Loss]) -> BTreeSet<Option<String>> {
        let alternatives = self.alternatives().unwrap_or_default();
        let mut found = BTreeSet::new();
        for requirement in alternatives.into_iter().flatten() {
            for loss in losses {
                match loss {
                    Loss::Claim(kind, claim) if requirement.needs().contains(kind) => {
                        found.insert(Some(claim.clone()));
                    }
                    Loss::Kind(kind) if requirement.needs().contains(kind) => {
                        found.insert(None);
                    }
                    Loss::Claim(..) | Loss::Kind(_) => {}
                    Loss::Value { set, value } => {
                        let of_set = requirement.claims().iter().filter(|(_, constraint)| {
                            matches!(constraint, Constraint::Reference(Reference { reference }) if reference == set)
                        });
                        found.extend(of_set.map(|(claim, _)| {
                            Some(format!("{}.{claim}={value}", requirement.kind()))
                        }));
                    }
                }
            }
        }
        if found.contains(&None) {
            found.retain(Option::is_none);
        }
        found
    }

    /// Returns why the policy is invalid in a registration, as sentences for the registrar.
    #[must_use]
    pub fn problems(&self, trust: &TrustMaterial) -> Vec<String> {
        let Some(alternatives) = self.alternatives() else {
            return vec![format!(
                "at most {MAX_ALTERNATIVES} combinations, nested at most {MAX_DEPTH} levels deep"
            )];
        };
        let mut problems = BTreeSet::new();
        if alternatives.is_empty() || alternatives.iter().any(Vec::is_empty) {
            // P1: a policy without evidence would grant without proof.
            problems.insert("at least one kind of evidence must be required".to_owned());
        }
        for alternative in &alternatives {
            let kinds: BTreeSet<_> = alternative
                .iter()
                .map(|requirement| requirement.kind())
                .collect();
            if kinds.len() != alternative.len() {
                problems.insert("each kind may be required once in a set".to_owned());
            }
            if alternative.len() > MAX_EVIDENCE {
                problems.insert(format!("at most {MAX_EVIDENCE} pieces in a set"));
            }
            problems.extend(
                alternative
                    .iter()
                    .filter_map(|requirement| requirement.problem(trust)),
            );
            let compares = |check: &CrossCheck| {
                check.among == "cosign.digest"
                    && kind_of(&check.claim)
                        .is_some_and(|kind| kind != "cosign" && kinds.contains(kind))
            };
            if kinds.contains("cosign") && !self.cross_checks.iter().any(compares) {
                problems.insert("cosign: cross_checks must have a claim of another kind in the same set `among` cosign.digest".to_owned());
            }
        }
        for check in self.cross_checks {
            for name in [&check.claim, &check.among] {
                if !kind_of(name).is_some_and(|kind| {
                    alternatives
                        .iter()
                        .flatten()
                        .any(|requirement| requirement.kind() == kind)
                }) {
                    problems.insert(format!(
                        "cross_checks: `{name}` must be `<kind>.<claim>` of a kind that is required"
                    ));
                }
            }
        }
        problems.into_iter().collect()
    }
}

/// Returns the kind in `<kind>.<claim>`.
fn kind_of(claim: &str) -> Option<&str> {
    claim.split_once('.').map(|(kind, _)| kind)
}

/// Returns the alternatives that meet all rules: every combination of theirs.
fn all_of(rules: &[Rule], depth: usize) -> Option<Vec<Alternative<'_>>> {
    let mut sets: Vec<Alternative<'_>> = vec![Vec::new()];
    for rule in rules {
        let more = one_of(rule, depth)?;
        if sets.len().saturating_mul(more.len()) > MAX_ALTERNATIVES {
            return None;
        }
        sets = sets
            .iter()
            .flat_map(|set| {
                more.iter()
                    .map(|more| set.iter().chain(more).copied().collect())
            })
            .collect();
    }
    Some(sets)
}

/// Returns the alternatives that meet one rule.
fn one_of(rule: &Rule, depth: usize) -> Option<Vec<Alternative<'_>>> {
    let deeper = depth.checked_sub(1)?;
    match rule {
        Rule::All { all_of: rules } => all_of(rules, deeper),
        Rule::Any { any_of } => {
            let mut sets = Vec::new();
            for rule in any_of {
                sets.extend(one_of(rule, deeper)?);
                if sets.len() > MAX_ALTERNATIVES {
                    return None;
                }
            }
            Some(sets)
        }
        Rule::One(requirement) => Some(vec![vec![requirement]]),
    }
}
