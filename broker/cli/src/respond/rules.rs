//! Rules and quarantines that stand.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use sundew_proto::v1::{ListRulesRequest, ListRulesResponse, Rule};

use super::selector::{criteria, selector_json};
use super::status::effect_label;
use crate::args::Connect;
use crate::client::{response, status_error};
use crate::output::{Output, escape, table};
use crate::timestamp::format_timestamp;

pub(super) async fn list(connect: &Connect, output: &Output) -> Result<ExitCode> {
    let answer = response(connect)
        .await?
        .list_rules(ListRulesRequest {})
        .await
        .map_err(status_error)?
        .into_inner();
    for note in notes(&answer) {
        eprintln!("{note}");
    }
    let rules = answer.rules;
    let value: Vec<_> = rules.iter().map(rule_json).collect();
    output.result(&value, || {
        table(
            &["REVOCATION", "EFFECT", "UNTIL", "SELECTOR"],
            &rules.iter().map(rule_row).collect::<Vec<_>>(),
        )
    });
    Ok(ExitCode::SUCCESS)
}

/// Returns what to know of a list beside its rows.
fn notes(answer: &ListRulesResponse) -> Vec<String> {
    let mut notes = Vec::new();
    if answer.stale {
        notes.push(
            "the broker's view of the revocation log is not fresh: what was put in force at others \
             may be missing"
                .to_owned(),
        );
    }
    if answer.pending_endings > 0 {
        notes.push(format!(
            "{} endings hold at this broker only, and wait for the store",
            answer.pending_endings
        ));
    }
    notes
}

fn rule_json(rule: &Rule) -> Value {
    json!({
        "revocation_id": rule.revocation_id, "position": rule.position,
        "effect": effect_label(rule.effect()), "until_ms": rule.until_ms,
        "selector": rule.selector.as_ref().map(selector_json), "pending": rule.pending,
    })
}

fn rule_row(rule: &Rule) -> Vec<String> {
    let criteria: Vec<_> = rule
        .selector
        .as_ref()
        .map(criteria)
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| format!("{name}={}", escape(&value, 120)))
        .collect();
    let mut until = if rule.until_ms == 0 {
        "until lifted".to_owned()
    } else {
        format_timestamp(rule.until_ms)
    };
    if rule.pending {
        until.push_str(" (pending: here only)");
    }
    vec![
        rule.revocation_id.clone(),
        effect_label(rule.effect()).to_owned(),
        until,
        criteria.join(" "),
    ]
}

#[cfg(test)]
mod tests {
    use sundew_proto::v1::{Effect, ListRulesResponse, Rule, Selector};

    use super::{notes, rule_row};

    #[test]
    fn c6_a_row_has_the_criteria_of_the_rule_and_until_when_it_stands() {
        let mut rule = Rule {
            revocation_id: "rev-1".to_owned(),
            effect: Effect::Contain.into(),
            until_ms: 1_700_000_000_000,
            selector: Some(Selector {
                trust_domain: "a.test".to_owned(),
                scope: "b:c".to_owned(),
                ..Selector::default()
            }),
            ..Rule::default()
        };
        let until = "2023-11-14T22:13:20Z";
        let criteria = "trust-domain=a.test scope=b:c";
        assert_eq!(rule_row(&rule), ["rev-1", "contain", until, criteria]);
        rule.until_ms = 0;
        assert_eq!(
            rule_row(&rule),
            ["rev-1", "contain", "until lifted", criteria]
        );
    }

    #[test]
    fn l7_a_rule_that_holds_at_one_broker_only_is_shown_as_pending() {
        let rule = Rule {
            revocation_id: "rev-1".to_owned(),
            effect: Effect::Quarantine.into(),
            pending: true,
            ..Rule::default()
        };
        let until = "until lifted (pending: here only)";
        assert_eq!(rule_row(&rule), ["rev-1", "quarantine", until, ""]);
        let answer = ListRulesResponse {
            rules: vec![rule],
            pending_endings: 3,
            stale: true,
        };
        let notes = notes(&answer);
        assert!(notes[0].contains("not fresh"), "{notes:?}");
        assert!(notes[1].starts_with("3 endings hold at this broker only"));
    }
}
