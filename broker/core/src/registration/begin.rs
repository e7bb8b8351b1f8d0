//! Whether a workload may begin tasks on its own word.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// Who decides that a workload begins a task.
///
/// There is no default: whoever registers a workload says it (P1).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Begin {
    /// A dispatcher, by an order.
    Ordered,
    /// The workload itself.
    #[serde(rename = "self")]
    Own,
}

impl Begin {
    /// The choice, for whoever has not made it.
    pub const EXPLAINED: &'static str = "must be `begin = \"ordered\"`: the workload begins only tasks that a dispatcher has \
         ordered, with the scopes, the purpose and the instruction of the order, so that whoever \
         takes over the workload cannot give itself another task; or `begin = \"self\"`: it begins \
         tasks as it likes, within this registration";

    /// The word for the choice, as in registrations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Own => "self",
        }
    }
}

/// A field that is missing is read as an absent option, which is how its fault gets a text.
impl<'de> Deserialize<'de> for Begin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(BeginVisitor)
    }
}

struct BeginVisitor;

impl<'de> Visitor<'de> for BeginVisitor {
    type Value = Begin;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("`ordered` or `self`")
    }

    fn visit_none<E: de::Error>(self) -> Result<Begin, E> {
        Err(E::custom(format_args!("begin: {}", Begin::EXPLAINED)))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Begin, D::Error> {
        let word = String::deserialize(deserializer)?;
        match word.as_str() {
            "ordered" => Ok(Begin::Ordered),
            "self" => Ok(Begin::Own),
            _ => Err(de::Error::custom(Begin::EXPLAINED)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::registration::{Begin, Registration, WorkloadRecord};

    fn document() -> serde_json::Value {
        json!({
            "spiffe_id": "spiffe://a.test/agent", "evidence": [], "scopes": ["exec:git"],
            "owner": "tests",
        })
    }

    #[test]
    fn ac_90_a_registration_that_does_not_say_who_begins_is_told_both() {
        let mut document = document();
        for begin in [None, Some(json!("anybody")), Some(json!(null))] {
            if let Some(begin) = begin {
                document["begin"] = begin;
            }
            let error = serde_json::from_value::<Registration>(document.clone()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(Begin::EXPLAINED), "{text}");
        }
        for begin in [Begin::Ordered, Begin::Own] {
            document["begin"] = json!(begin.as_str());
            let read: Registration = serde_json::from_value(document.clone()).unwrap();
            assert_eq!(read.begin, begin);
            assert_eq!(read.document()["begin"], document["begin"]);
        }
    }

    #[test]
    fn o2_a_stored_registration_of_the_time_before_orders_begins_by_itself() {
        let stored = json!({
            "registration": document(), "version": "v", "applied_at_ms": 1, "applied_by": "x",
        });
        let read = WorkloadRecord::decode(stored.to_string().as_bytes()).unwrap();
        assert_eq!(read.registration.begin, Begin::Own);
    }
}
