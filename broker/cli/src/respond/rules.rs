//! Rules and quarantines that stand.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use sundew_proto::v1::{ListRulesRequest, ListRulesResponse, Rule};

use super::selector::{Criteria, criteria};
use super::status::effect_label;
use crate::args::Connect;
use crate::client::{response, status_error};
use crate::output::{List, Output, Row, escape};
use crate::timestamp::format_timestamp;

pub(super) async fn list(connect: &Connect, output: &Output) -> Result<ExitCode> {
    let answer = response(connect)
        .await?
        .list_rules(ListRulesRequest {})
        .await
        .map_err(status_error)?
        .into_inner();
    output.show(&rules(answer))?;
    Ok(ExitCode::SUCCESS)
}

fn rules(answer: ListRulesResponse) -> List<RuleRow> {
    let notes = notes(&answer);
    let mut list = List::whole(answer.rules.into_iter().map(RuleRow::from).collect());
    list.notes = notes;
    list
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

/// A rule that stands.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct RuleRow {
    revocation_id: String,
    position: u64,
    /// What is left of it: a containment that was lifted only revokes.
    effect: &'static str,
    /// `stands`, `lifted`, or `pending`: in force at the broker that was asked only.
    state: &'static str,
    /// When it is forgotten; 0 if it stands until it is lifted.
    until_ms: i64,
    selector: Criteria,
    pending: bool,
    /// Who put it in force, why and when; empty and 0 if only the journal knows that still.
    actor: String,
    reason: String,
    at_ms: i64,
}

impl From<Rule> for RuleRow {
    fn from(rule: Rule) -> Self {
        Self {
            effect: effect_label(rule.effect()),
            state: match (rule.pending, rule.lifted) {
                (true, _) => "pending",
                (false, true) => "lifted",
                (false, false) => "stands",
            },
            selector: criteria(&rule.selector.unwrap_or_default()),
            revocation_id: rule.revocation_id,
            position: rule.position,
            until_ms: rule.until_ms,
            pending: rule.pending,
            actor: rule.actor,
            reason: rule.reason,
            at_ms: rule.at_ms,
        }
    }
}

impl Row for RuleRow {
    const KIND: &'static str = "rules";
    const HEADING: &'static [&'static str] = &[
        "REVOCATION",
        "EFFECT",
        "STATE",
        "UNTIL",
        "SINCE",
        "BY",
        "REASON",
        "SELECTOR",
    ];

    fn cells(&self) -> Vec<String> {
        let time = |ms: i64, none: &str| match ms {
            0 => none.to_owned(),
            ms => format_timestamp(ms),
        };
        let text = |text: &str, longest| match text {
            "" => "-".to_owned(),
            text => escape(text, longest),
        };
        vec![
            self.revocation_id.clone(),
            self.effect.to_owned(),
            match self.state {
                "pending" => "pending: here only".to_owned(),
                state => state.to_owned(),
            },
            time(self.until_ms, "until lifted"),
            time(self.at_ms, "-"),
            text(&self.actor, 100),
            text(&self.reason, 60),
            self.selector.words(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use sundew_proto::v1::{Effect, Selector};

    use super::*;

    #[test]
    fn c6_a_row_has_the_rule_its_state_who_put_it_in_force_and_until_when() {
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
        let row = |rule: &Rule| RuleRow::from(rule.clone()).cells();
        let (until, criteria) = ("2023-11-14T22:13:20Z", "trust-domain=a.test scope=b:c");
        let unknown = ["rev-1", "contain", "stands", until, "-", "-", "-", criteria];
        assert_eq!(row(&rule), unknown);
        (rule.until_ms, rule.at_ms) = (0, 1_700_000_000_000);
        (rule.actor, rule.reason) = ("spiffe://a.test/o".to_owned(), "why\n".to_owned());
        let known = [
            "rev-1",
            "contain",
            "stands",
            "until lifted",
            until,
            "spiffe://a.test/o",
            "why\\n",
            criteria,
        ];
        assert_eq!(row(&rule), known);
        rule.lifted = true;
        assert_eq!(row(&rule)[2], "lifted");
    }

    #[test]
    fn l7_a_rule_that_holds_at_one_broker_only_is_shown_as_pending() {
        let rule = Rule {
            revocation_id: "rev-1".to_owned(),
            effect: Effect::Quarantine.into(),
            pending: true,
            ..Rule::default()
        };
        let row = RuleRow::from(rule.clone());
        assert_eq!(
            (row.state, row.cells()[2].as_str()),
            ("pending", "pending: here only")
        );
        let answer = ListRulesResponse {
            rules: vec![rule],
            pending_endings: 3,
            stale: true,
        };
        let told = rules(answer).notes;
        assert!(told[0].contains("not fresh") && told[1].starts_with("3 endings hold"));
        assert!(rules(ListRulesResponse::default()).notes.is_empty());
    }
}
