//! What the values of a claim must be.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::trust::TrustMaterial;

/// What the values of a claim must be. Of a claim with several, all must: what no rule mentions
/// never grants.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Constraint {
    /// One of these.
    OneOf(BTreeSet<String>),
    /// A dotted number, such as a version or a TCB component, not below this one.
    AtLeast(AtLeast),
    /// A value that the platform team has approved.
    Reference(Reference),
}

/// See [`Constraint::AtLeast`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AtLeast {
    /// The lowest that is taken: numbers with dots between them, compared from the left; what is
    /// not there counts as 0.
    pub at_least: String,
}

/// See [`Constraint::Reference`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The set of reference values; `sundew trust add reference SET/VALUE` puts one in.
    pub reference: String,
}

impl Constraint {
    /// Whether all these values are taken, and there is one.
    #[must_use]
    pub fn takes(&self, values: &[String], trust: &TrustMaterial) -> bool {
        let takes = |value: &String| match self {
            Self::OneOf(allowed) => allowed.contains(value),
            Self::AtLeast(AtLeast { at_least }) => match (dotted(value), dotted(at_least)) {
                (Some(value), Some(least)) => value >= least,
                _ => false,
            },
            Self::Reference(Reference { reference }) => trust.is_reference(reference, value),
        };
        !values.is_empty() && values.iter().all(takes)
    }

    pub(crate) fn problem(&self) -> Option<&'static str> {
        match self {
            Self::OneOf(allowed) => allowed.is_empty().then_some("takes no value at all"),
            Self::AtLeast(AtLeast { at_least }) => dotted(at_least)
                .is_none()
                .then_some("at_least must be numbers with dots between them"),
            Self::Reference(Reference { reference }) => (reference.is_empty()
                || reference.contains('/'))
            .then_some("reference must name a set, without `/`"),
        }
    }
}

/// `1.2.3` as numbers, without zeros at the end: `1.0` is `1`.
fn dotted(text: &str) -> Option<Vec<u64>> {
    let number = |part: &str| {
        if part.bytes().all(|b| b.is_ascii_digit()) {
            part.parse().ok()
        } else {
            None
        }
    };
    let mut numbers: Vec<u64> = text.split('.').map(number).collect::<Option<_>>()?;
    while numbers.last() == Some(&0) {
        numbers.pop();
    }
    Some(numbers)
}

/// Claim name to what its values must be.
pub type Constraints = BTreeMap<String, Constraint>;
