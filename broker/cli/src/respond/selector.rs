//! Selectors: what a rule is about, from the command line and for people.

use serde_json::{Map, Value};
use sundew_proto::v1::Selector;

use crate::args::Select;
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
        everything: select.everything,
    }
}

/// Returns the name and the value of each criterion that a selector has. The names are those of the
/// flags of `sundew revoke`.
pub(super) fn criteria(selector: &Selector) -> Vec<(&'static str, String)> {
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
    if selector.everything {
        all.push(("everything", "yes".to_owned()));
    }
    all.retain(|(_, value)| !value.is_empty());
    all
}

pub(super) fn selector_json(selector: &Selector) -> Value {
    criteria(selector)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Value::String(value)))
        .collect::<Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sundew_proto::v1::Selector;

    use super::{criteria, selector_json};

    #[test]
    fn criteria_that_are_not_given_are_left_out() {
        assert_eq!(criteria(&Selector::default()), []);
        let selector = Selector {
            spiffe_id: "spiffe://a.test/b".to_owned(),
            claims: vec!["a.b=1".to_owned(), "a.b=2".to_owned()],
            issued_before_ms: 951_782_400_000,
            everything: true,
            ..Selector::default()
        };
        assert_eq!(
            criteria(&selector),
            [
                ("workload", "spiffe://a.test/b".to_owned()),
                ("claim", "a.b=1".to_owned()),
                ("claim", "a.b=2".to_owned()),
                ("issued-before", "2000-02-29T00:00:00Z".to_owned()),
                ("everything", "yes".to_owned()),
            ]
        );
    }

    #[test]
    fn a_selector_in_json_has_one_member_for_each_criterion() {
        let selector = Selector {
            token: "tok-1".to_owned(),
            ..Selector::default()
        };
        assert_eq!(selector_json(&selector), json!({ "token": "tok-1" }));
    }
}
