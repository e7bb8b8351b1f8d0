//! Attempts to prove something, and findings in evidence, as JSON and as lines of text.

use serde_json::{Map, Value, json};
use sundew_proto::v1::{EvidenceAttempt, EvidenceFinding};

use crate::output::escape;
use crate::timestamp::format_timestamp;

pub(super) fn attempt_json(attempt: &EvidenceAttempt) -> Value {
    let wanted: Value = serde_json::from_str(&attempt.wanted).unwrap_or_default();
    json!({
        "at_ms": attempt.at_ms, "spiffe_id": attempt.spiffe_id, "purpose": attempt.purpose,
        "shown": attempt.shown, "wanted": wanted,
        "findings": attempt.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "refusal": attempt.refusal, "assurance": attempt.assurance,
    })
}

pub(super) fn attempt_lines(attempt: &EvidenceAttempt) -> Vec<String> {
    let verdict = if attempt.refusal.is_empty() {
        format!("taken, worth `{}`", attempt.assurance)
    } else {
        format!("REFUSED: {}", escape(&attempt.refusal, 400))
    };
    let mut lines = vec![format!(
        "{} {} {}: {verdict}",
        format_timestamp(attempt.at_ms),
        attempt.spiffe_id,
        attempt.purpose
    )];
    let shown = if attempt.shown.is_empty() {
        "nothing".to_owned()
    } else {
        escape(&attempt.shown.join(", "), 300)
    };
    lines.push(format!("  shown:  {shown}"));
    // The requirement is JSON, whose own escapes would be escaped again.
    let wanted: String = attempt
        .wanted
        .chars()
        .take(2000)
        .map(|c| if c.is_ascii() { c } else { '?' })
        .collect();
    lines.push(format!("  wanted: {wanted}"));
    lines.extend(
        attempt
            .findings
            .iter()
            .flat_map(finding_lines)
            .map(|line| format!("  {line}")),
    );
    lines
}

pub(super) fn finding_json(finding: &EvidenceFinding) -> Value {
    let claims: Map<_, _> = finding
        .claims
        .iter()
        .map(|claim| (claim.name.clone(), claim.values.clone().into()))
        .collect();
    json!({
        "kind": finding.kind, "problem": finding.problem, "fresh": finding.fresh,
        "claims": claims,
    })
}

pub(super) fn finding_lines(finding: &EvidenceFinding) -> Vec<String> {
    let mut lines = vec![match finding.problem.as_str() {
        "" => format!(
            "{}: good{}",
            finding.kind,
            if finding.fresh {
                ", fresh"
            } else {
                ", without the nonce"
            }
        ),
        problem => format!("{}: {}", finding.kind, escape(problem, 400)),
    }];
    lines.extend(finding.claims.iter().map(|claim| {
        format!(
            "  {} = {}",
            escape(&claim.name, 128),
            escape(&claim.values.join(" "), 400)
        )
    }));
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sundew_proto::v1::{EvidenceAttempt, EvidenceFinding};

    use super::{attempt_json, attempt_lines, finding_lines};

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
        assert_eq!(
            attempt_json(&refused())["wanted"],
            json!([{ "kind": "tpm2" }])
        );
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
