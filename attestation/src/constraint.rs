//! Constraints on the values of claims.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::trust::TrustMaterial;

/// A constraint on the values of a claim. If a claim has several values, every one must meet it: a
/// value that the registration does not mention never grants anything.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Constraint {
    /// The value must be one of these.
    OneOf(BTreeSet<String>),
    /// The value must be a dotted number, such as a version or a TCB component, not below this one.
    AtLeast(AtLeast),
    /// The value must be in a set of reference values (RFC 9334, section 8.3).
    Reference(Reference),
}

/// The content of [`Constraint::AtLeast`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AtLeast {
    /// The lowest value that is accepted: numbers with dots between them, compared from the left. A
    /// missing number counts as 0.
    pub at_least: String,
}

/// The content of [`Constraint::Reference`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The name of the set; `sundew trust add reference SET/VALUE` adds a value to it.
    pub reference: String,
}

impl Constraint {
    /// Returns whether there is at least one value and every value meets the constraint.
    #[must_use]
    pub fn accepts(&self, values: &[String], trust: &TrustMaterial) -> bool {
        let accepts = |value: &String| match self {
            Self::OneOf(allowed) => allowed.contains(value),
            Self::AtLeast(AtLeast { at_least }) => match (dotted(value), dotted(at_least)) {
                (Some(value), Some(least)) => value >= least,
                _ => false,
            },
            Self::Reference(Reference { reference }) => trust.is_reference(reference, value),
        };
        !values.is_empty() && values.iter().all(accepts)
    }

    /// Returns whether the constraint names what it accepts, value by value.
    pub(crate) fn names_values(&self) -> bool {
        match self {
            Self::OneOf(_) | Self::Reference(_) => true,
            Self::AtLeast(_) => false,
        }
    }

    /// Returns why the constraint is invalid in a registration, if it is.
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

/// Returns the numbers of a text like `1.2.3`, without zeros at the end: `1.0` equals `1`.
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

/// The constraints of a requirement, by claim name.
pub type Constraints = BTreeMap<String, Constraint>;
