//! Selectors: what a rule is about, from the command line and for people.

use std::collections::BTreeMap;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use sundew_proto::v1::Selector;

use crate::args::Select;
use crate::output::escape;
use crate::timestamp::format_timestamp;

/// Returns the criteria of a command line in the form that the broker takes.
pub(super) fn selector(select: Select) -> Selector {
    Selector {
        token: select.token.unwrap_or_default(),
        task_id: select.task.unwrap_or_default(),
        task_tree: select.task_tree.unwrap_or_default(),
        spiffe_id: select.workload.unwrap_or_default(),
        spiffe_path_prefix: select.spiffe_prefix.unwrap_or_default(),
        trust_domain: select.trust_domain.unwrap_or_default(),
        audience: select.audience.unwrap_or_default(),
        scope: select.scope.unwrap_or_default(),
        secret: select.secret.unwrap_or_default(),
        claims: select.claims,
        svid_serial: select.svid_serial.unwrap_or_default(),
        registration_version: select.registration.unwrap_or_default(),
        issued_before_ms: select.issued_before.unwrap_or_default(),
        dispatcher: select.dispatcher.unwrap_or_default(),
        order_id: select.order.unwrap_or_default(),
        ordered_tasks: select.ordered_tasks,
        everything: select.everything,
    }
}

/// The criteria that a selector has, by the names of the flags of `sundew revoke`, in their order. JSON
/// has them as an object; a criterion that stands there several times has a list.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Criteria(Vec<(&'static str, String)>);

impl Criteria {
    /// The criteria as words of one line.
    pub(super) fn words(&self) -> String {
        let word = |(name, value): &(&str, String)| format!("{name}={}", escape(value, 120));
        self.0.iter().map(word).collect::<Vec<_>>().join(" ")
    }
}

impl Serialize for Criteria {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, value) in &self.0 {
            members.entry(name).or_default().push(value);
        }
        let mut map = serializer.serialize_map(Some(members.len()))?;
        for (name, values) in &members {
            match values.as_slice() {
                [value] if *name != "claim" => map.serialize_entry(name, value)?,
                values => map.serialize_entry(name, values)?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Criteria {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Criteria".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "What must hold, by the names of the flags of `sundew revoke`.",
            "type": "object",
            "properties": { "claim": { "type": "array", "items": { "type": "string" } } },
            "additionalProperties": { "type": "string" }
        })
    }
}

/// Returns the criteria that a selector has.
pub(super) fn criteria(selector: &Selector) -> Criteria {
    let mut all = vec![
        ("token", selector.token.clone()),
        ("task", selector.task_id.clone()),
        ("task-tree", selector.task_tree.clone()),
        ("workload", selector.spiffe_id.clone()),
        ("spiffe-prefix", selector.spiffe_path_prefix.clone()),
        ("trust-domain", selector.trust_domain.clone()),
        ("audience", selector.audience.clone()),
        ("scope", selector.scope.clone()),
        ("secret", selector.secret.clone()),
        ("svid-serial", selector.svid_serial.clone()),
        ("registration", selector.registration_version.clone()),
    ];
    all.extend(selector.claims.iter().map(|claim| ("claim", claim.clone())));
    if selector.issued_before_ms > 0 {
        all.push(("issued-before", format_timestamp(selector.issued_before_ms)));
    }
    all.push(("dispatcher", selector.dispatcher.clone()));
    all.push(("order", selector.order_id.clone()));
    if selector.ordered_tasks {
        all.push(("ordered-tasks", "yes".to_owned()));
    }
    if selector.everything {
        all.push(("everything", "yes".to_owned()));
    }
    all.retain(|(_, value)| !value.is_empty());
    Criteria(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sundew_proto::v1::Selector;

    use super::{Criteria, criteria};

    #[test]
    fn criteria_that_are_not_given_are_left_out() {
        assert_eq!(criteria(&Selector::default()), Criteria::default());
        let selector = Selector {
            spiffe_id: "spiffe://a.test/b".to_owned(),
            claims: vec!["a.b=1".to_owned(), "a.b=2".to_owned()],
            issued_before_ms: 951_782_400_000,
            everything: true,
            ..Selector::default()
        };
        assert_eq!(
            criteria(&selector).words(),
            "workload=spiffe://a.test/b claim=a.b=1 claim=a.b=2 \
             issued-before=2000-02-29T00:00:00Z everything=yes"
        );
        // C6: no criterion hides another one of its name.
        assert_eq!(
            serde_json::to_value(criteria(&selector)).unwrap()["claim"],
            json!(["a.b=1", "a.b=2"])
        );
    }

    #[test]
    fn a_selector_in_json_has_one_member_for_each_criterion() {
        let selector = Selector {
            token: "tok-1".to_owned(),
            ..Selector::default()
        };
        let json = serde_json::to_value(criteria(&selector)).unwrap();
        assert_eq!(json, json!({ "token": "tok-1" }));
    }
}
