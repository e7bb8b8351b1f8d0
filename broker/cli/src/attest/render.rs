//! Attempts to prove something, and findings in evidence, as they are shown.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use sundew_proto::v1::{EvidenceAttempt, EvidenceFinding};

use crate::output::{View, escape};
use crate::timestamp::format_timestamp;

/// What was shown lately, at each broker that was asked.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct AttemptsView {
    pub(super) items: Vec<AttemptView>,
    /// The brokers that were asked, and why those did not answer that did not.
    pub(super) brokers: Vec<AskedBroker>,
}

/// A broker that was asked.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct AskedBroker {
    pub(super) address: String,
    /// Why it did not answer; absent if it did.
    pub(super) problem: Option<String>,
}

/// Something that was shown, what the registration wanted, and what came of it.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct AttemptView {
    /// The address of the broker to which it was shown.
    broker: String,
    at_ms: i64,
    spiffe_id: String,
    purpose: String,
    shown: Vec<String>,
    /// The requirement, as it stands in the registration.
    wanted: Value,
    findings: Vec<FindingView>,
    /// Why it was refused; empty if it was taken.
    refusal: String,
    assurance: String,
}

impl AttemptView {
    pub(super) fn new(broker: &str, attempt: EvidenceAttempt) -> Self {
        Self {
            broker: broker.to_owned(),
            at_ms: attempt.at_ms,
            spiffe_id: attempt.spiffe_id,
            purpose: attempt.purpose,
            shown: attempt.shown,
            wanted: serde_json::from_str(&attempt.wanted).unwrap_or_default(),
            findings: attempt.findings.into_iter().map(Into::into).collect(),
            refusal: attempt.refusal,
            assurance: attempt.assurance,
        }
    }

    /// When it was, for the order of attempts of several brokers.
    pub(super) fn at_ms(&self) -> i64 {
        self.at_ms
    }

    fn lines(&self, names_broker: bool) -> Vec<String> {
        let verdict = if self.refusal.is_empty() {
            format!("taken, worth `{}`", self.assurance)
        } else {
            format!("REFUSED: {}", escape(&self.refusal, 400))
        };
        let at = match names_broker {
            true => format!(" at {}", self.broker),
            false => String::new(),
        };
        let mut lines = vec![format!(
            "{} {} {}{at}: {verdict}",
            format_timestamp(self.at_ms),
            self.spiffe_id,
            self.purpose
        )];
        let shown = if self.shown.is_empty() {
            "nothing".to_owned()
        } else {
            escape(&self.shown.join(", "), 300)
        };
        lines.push(format!("  shown:  {shown}"));
        // The requirement is JSON, whose own escapes would be escaped again.
        let wanted: String = self
            .wanted
            .to_string()
            .chars()
            .take(2000)
            .map(|c| if c.is_ascii() { c } else { '?' })
            .collect();
        lines.push(format!("  wanted: {wanted}"));
        let findings = self.findings.iter().flat_map(FindingView::lines);
        lines.extend(findings.map(|line| format!("  {line}")));
        lines
    }
}

impl View for AttemptsView {
    const KIND: &'static str = "evidence_attempts";

    fn lines(&self) -> Vec<String> {
        let several = self.brokers.len() > 1;
        let mut lines: Vec<_> = self
            .items
            .iter()
            .flat_map(|attempt| attempt.lines(several))
            .collect();
        if self.items.is_empty() {
            lines.push(
                "no attempt is remembered: each broker remembers the last 256 since it started; an \
                 agent that cannot collect its evidence shows none, and says so itself (`sundew doctor`)"
                    .to_owned(),
            );
        }
        lines.extend(self.brokers.iter().filter_map(|broker| {
            let problem = broker.problem.as_ref()?;
            Some(format!(
                "{} was not asked: {}",
                broker.address,
                escape(problem, 400)
            ))
        }));
        lines
    }
}

/// What was found in one piece of evidence.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct FindingView {
    kind: String,
    /// Why it does not count; empty if it does.
    problem: String,
    /// Whether it was made for the nonce of this attempt.
    fresh: bool,
    claims: BTreeMap<String, Vec<String>>,
}

impl From<EvidenceFinding> for FindingView {
    fn from(finding: EvidenceFinding) -> Self {
        let claims = finding.claims.into_iter();
        Self {
            kind: finding.kind,
            problem: finding.problem,
            fresh: finding.fresh,
            claims: claims.map(|claim| (claim.name, claim.values)).collect(),
        }
    }
}

impl FindingView {
    pub(super) fn lines(&self) -> Vec<String> {
        let fresh = match self.fresh {
            true => ", fresh",
            false => ", without the nonce",
        };
        let mut lines = vec![match self.problem.as_str() {
            "" => format!("{}: good{fresh}", self.kind),
            problem => format!("{}: {}", self.kind, escape(problem, 400)),
        }];
        let claim = |(name, values): (&String, &Vec<String>)| {
            let values = escape(&values.join(" "), 400);
            format!("  {} = {values}", escape(name, 128))
        };
        lines.extend(self.claims.iter().map(claim));
        lines
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn attempt_lines(attempt: &EvidenceAttempt) -> Vec<String> {
        AttemptView::new("b:1", attempt.clone()).lines(false)
    }

    fn finding_lines(finding: &EvidenceFinding) -> Vec<String> {
        FindingView::from(finding.clone()).lines()
    }

    fn refused() -> EvidenceAttempt {
        EvidenceAttempt {
            spiffe_id: "spiffe://a.test/b".to_owned(),
            purpose: "task".to_owned(),
            wanted: r#"[{"kind":"tpm2"}]"#.to_owned(),
            refusal: "no\nevidence".to_owned(),
            ..EvidenceAttempt::default()
        }
    }

    #[test]
    fn a_refused_attempt_says_why_and_what_was_wanted() {
        assert_eq!(
            attempt_lines(&refused()),
            [
                "1970-01-01T00:00:00Z spiffe://a.test/b task: REFUSED: no\\nevidence",
                "  shown:  nothing",
                r#"  wanted: [{"kind":"tpm2"}]"#,
            ]
        );
    }

    #[test]
    fn the_requirement_is_part_of_the_json_and_not_a_text_in_it() {
        let json = serde_json::to_value(AttemptView::new("b:1", refused())).unwrap();
        assert_eq!(json["wanted"], json!([{ "kind": "tpm2" }]));
    }

    #[test]
    fn a_finding_says_whether_it_is_good_and_fresh() {
        let mut finding = EvidenceFinding {
            kind: "tpm2".to_owned(),
            fresh: true,
            ..EvidenceFinding::default()
        };
        assert_eq!(finding_lines(&finding), ["tpm2: good, fresh"]);
        finding.fresh = false;
        assert_eq!(finding_lines(&finding), ["tpm2: good, without the nonce"]);
        finding.problem = "bad\tquote".to_owned();
        assert_eq!(finding_lines(&finding), ["tpm2: bad\\tquote"]);
    }
}
