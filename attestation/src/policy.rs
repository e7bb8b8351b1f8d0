//! What a registration says of evidence: the appraisal policy (RFC 9334, section 8.5).

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::constraint::{Constraint, Reference};
use crate::requirement::Requirement;
use crate::trust::{TrustItem, TrustMaterial};

/// Most sets of evidence that may do for one registration: each may be tried.
const MAX_ALTERNATIVES: usize = 16;
/// Most pieces of evidence in one set.
pub(crate) const MAX_EVIDENCE: usize = 8;
/// Deepest nesting of rules.
const MAX_DEPTH: usize = 4;

/// A piece of evidence, or several, or one of several.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Rule {
    /// All of these.
    All {
        /// The rules.
        all_of: Vec<Rule>,
    },
    /// One of these.
    Any {
        /// The rules.
        any_of: Vec<Rule>,
    },
    /// This piece.
    One(Requirement),
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By hand, so that an error names what is wrong with the requirement, and not that no
        // variant matches.
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

/// Values of one claim that must be among those of another, such as the digest that runs among the
/// digests that were signed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CrossCheck {
    /// `<kind>.<claim>`: each value of it…
    pub claim: String,
    /// …must be one of this one's, `<kind>.<claim>`.
    pub among: String,
}

/// Everything that a registration says of evidence.
#[derive(Clone, Copy, Debug)]
pub struct AppraisalPolicy<'a> {
    /// All of these.
    pub rules: &'a [Rule],
    /// What must hold between pieces.
    pub cross_checks: &'a [CrossCheck],
}

/// One set of requirements that does.
pub type Alternative<'a> = Vec<&'a Requirement>;

impl<'a> AppraisalPolicy<'a> {
    /// Every set of requirements that does, in the order of preference; `None` if there are more
    /// than 16.
    #[must_use]
    pub fn alternatives(&self) -> Option<Vec<Alternative<'a>>> {
        all_of(self.rules, MAX_DEPTH)
    }

    /// What rests on an item of trust: the claims by which to find it, or `None` for everything.
    /// Empty if nothing does.
    #[must_use]
    pub fn rests_on(&self, item: &TrustItem) -> Vec<Option<String>> {
        let alternatives = self.alternatives().unwrap_or_default();
        let mut found = BTreeSet::new();
        for requirement in alternatives.into_iter().flatten() {
            if requirement.needs().contains(&item.kind()) {
                found.insert(item.claim().map(|(name, value)| format!("{name}={value}")));
            }
            for (claim, constraint) in requirement.claims() {
                let set = if let Constraint::Reference(Reference { reference }) = constraint {
                    Some(reference)
                } else {
                    None
                };
                if let Some(value) = set.and_then(|set| item.value_in(set)) {
                    found.insert(Some(format!("{}.{claim}={value}", requirement.kind())));
                }
            }
        }
        found.into_iter().collect()
    }

    /// What is wrong with it as a registration: sentences for the registrar.
    #[must_use]
    pub fn problems(&self, trust: &TrustMaterial) -> Vec<String> {
        let Some(alternatives) = self.alternatives() else {
            return vec![format!(
                "at most {MAX_ALTERNATIVES} combinations, nested at most {MAX_DEPTH} levels deep"
            )];
        };
        let mut problems = BTreeSet::new();
        if alternatives.is_empty() || alternatives.iter().any(Vec::is_empty) {
            // P1: what proves nothing gets nothing.
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

fn kind_of(claim: &str) -> Option<&str> {
    claim.split_once('.').map(|(kind, _)| kind)
}

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
