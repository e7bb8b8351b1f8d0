//! Registrations as they are shown.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use sundew_proto::v1::WorkloadChange;

use super::Known;
use crate::output::{Row, View, escape};

/// The action of a registration that stays as it is.
const UNCHANGED: &str = "unchanged";

/// What became of a registration, or would.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Change {
    spiffe_id: String,
    /// `created`, `changed`, `unchanged` or `removed`.
    action: String,
    /// How it differs from the former registration: lines that begin with `-` or `+`.
    diff: Vec<String>,
    /// The version of the new registration; empty for one that is removed.
    version: String,
    /// The revocations of what the former one allowed and this one does not.
    revocations: Vec<String>,
}

impl From<WorkloadChange> for Change {
    fn from(change: WorkloadChange) -> Self {
        Self {
            spiffe_id: change.spiffe_id,
            action: change.action,
            diff: change.diff,
            version: change.version,
            revocations: change.revocations,
        }
    }
}

impl Change {
    pub(super) fn removed(spiffe_id: String) -> Self {
        Self {
            spiffe_id,
            action: "removed".to_owned(),
            diff: Vec::new(),
            version: String::new(),
            revocations: Vec::new(),
        }
    }

    fn is_unchanged(&self) -> bool {
        self.action == UNCHANGED
    }

    /// One line for people.
    fn line(&self) -> String {
        let lines = match (self.action.as_str(), self.diff.len()) {
            ("changed", 1) => " (1 line)".to_owned(),
            ("changed", count) => format!(" ({count} lines)"),
            _ => String::new(),
        };
        let dead = match self.revocations.as_slice() {
            [] => String::new(),
            revocations => format!(
                "; what it allows no more is dead ({})",
                revocations.join(" ")
            ),
        };
        format!("{} {}{lines}{dead}", self.spiffe_id, self.action)
    }
}

/// What `apply` did, or would do.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct AppliedView {
    items: Vec<Change>,
    /// The number of registrations by action.
    totals: BTreeMap<String, u64>,
    dry_run: bool,
}

impl AppliedView {
    pub(super) fn new(items: Vec<Change>, dry_run: bool) -> Self {
        let mut totals = BTreeMap::new();
        for change in &items {
            let total: &mut u64 = totals.entry(change.action.clone()).or_default();
            *total = total.saturating_add(1);
        }
        Self {
            items,
            totals,
            dry_run,
        }
    }

    pub(super) fn is_unchanged(&self) -> bool {
        self.items.iter().all(Change::is_unchanged)
    }
}

impl View for AppliedView {
    const KIND: &'static str = "workloads_applied";

    fn lines(&self) -> Vec<String> {
        let changed = self.items.iter().filter(|change| !change.is_unchanged());
        let mut lines: Vec<_> = changed.map(Change::line).collect();
        let counts: Vec<_> = self
            .totals
            .iter()
            .map(|(action, count)| format!("{count} {action}"))
            .collect();
        let remark = if self.dry_run {
            " (dry run: nothing was changed)"
        } else {
            ""
        };
        lines.push(format!("{}{remark}", counts.join(", ")));
        lines
    }
}

/// How files differ from what is registered.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct DiffView {
    items: Vec<Change>,
}

impl DiffView {
    pub(super) fn new(mut items: Vec<Change>) -> Self {
        items.retain(|change| !change.is_unchanged());
        Self { items }
    }

    pub(super) fn is_same(&self) -> bool {
        self.items.is_empty()
    }
}

impl View for DiffView {
    const KIND: &'static str = "workloads_diff";

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for change in &self.items {
            lines.push(format!("{} {}", change.spiffe_id, change.action));
            let diff = change.diff.iter();
            // The lines are JSON, whose own escapes would be escaped again.
            lines.extend(diff.map(|line| format!("  {}", line.replace(char::is_control, "?"))));
        }
        lines
    }
}

/// A registration in a list.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct WorkloadRow {
    spiffe_id: String,
    version: String,
    /// The kinds of evidence: `+` stands between kinds that are wanted together, `|` between
    /// alternatives.
    evidence: String,
    owner: String,
    /// The registration, as `apply` takes it.
    workload: Value,
}

impl From<Known> for WorkloadRow {
    fn from(known: Known) -> Self {
        let owner = known.document.get("owner").and_then(Value::as_str);
        Self {
            evidence: kinds(&known.document),
            owner: owner.unwrap_or_default().to_owned(),
            spiffe_id: known.spiffe_id,
            version: known.version,
            workload: known.document,
        }
    }
}

impl WorkloadRow {
    pub(super) fn name(&self) -> &str {
        &self.spiffe_id
    }
}

impl Row for WorkloadRow {
    const KIND: &'static str = "workloads";
    const HEADING: &'static [&'static str] = &["SPIFFE ID", "VERSION", "EVIDENCE", "OWNER"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.spiffe_id.clone(),
            self.version.clone(),
            self.evidence.clone(),
            escape(&self.owner, 60),
        ]
    }
}

/// One registration.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct RegistrationView {
    pub(super) version: String,
    /// The registration, as `apply` takes it.
    pub(super) workload: Value,
}

impl View for RegistrationView {
    const KIND: &'static str = "workload";

    fn lines(&self) -> Vec<String> {
        vec![serde_json::to_string_pretty(&self.workload).unwrap_or_default()]
    }
}

/// Registrations as `apply` takes them.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct ExportView {
    pub(super) workload: Vec<Value>,
}

impl View for ExportView {
    const KIND: &'static str = "workload_export";

    fn lines(&self) -> Vec<String> {
        if self.workload.is_empty() {
            return vec!["# no workload is registered".to_owned()];
        }
        // TOML has no null, and none stands in a registration.
        let text = toml::to_string(self).unwrap_or_default();
        vec![text.trim_end().to_owned()]
    }
}

/// Returns the kinds of evidence that a registration names: `+` stands between kinds that are
/// wanted together, and `|` between alternatives.
fn kinds(document: &Value) -> String {
    fn name(rule: &Value) -> String {
        let all = |key: &str, between: &str| {
            rule.get(key)
                .and_then(|r| r.as_array())
                .map(|rules| rules.iter().map(name).collect::<Vec<_>>().join(between))
        };
        let kind = || {
            rule.get("kind")
                .and_then(|kind| kind.as_str())
                .unwrap_or_default()
                .to_owned()
        };
        all("all_of", "+")
            .or_else(|| all("any_of", "|"))
            .unwrap_or_else(kind)
    }
    let list = document
        .get("evidence")
        .and_then(|e| e.as_array())
        .cloned()
        .unwrap_or_default();
    list.iter().map(name).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_of_evidence_are_one_word() {
        let document = json!({ "evidence": [
            { "kind": "manifest" },
            { "any_of": [{ "kind": "tpm2" }, { "all_of": [{ "kind": "a" }, { "kind": "b" }] }] },
        ] });
        assert_eq!(kinds(&document), "manifest,tpm2|a+b");
        assert_eq!(kinds(&json!({})), "");
    }

    fn change(action: &str, diff: &[&str]) -> Change {
        WorkloadChange {
            spiffe_id: "spiffe://a.test/b".to_owned(),
            action: action.to_owned(),
            diff: diff.iter().map(ToString::to_string).collect(),
            ..WorkloadChange::default()
        }
        .into()
    }

    #[test]
    fn c6_apply_tells_a_line_for_each_that_changes_and_a_summary() {
        let all = || vec![change("changed", &["- a", "+ b"]), change(UNCHANGED, &[])];
        let view = AppliedView::new(all(), true);
        assert!(!view.is_unchanged());
        assert_eq!(
            view.lines(),
            [
                "spiffe://a.test/b changed (2 lines)",
                "1 changed, 1 unchanged (dry run: nothing was changed)",
            ]
        );
        let diff = DiffView::new(all());
        assert_eq!(
            diff.lines(),
            ["spiffe://a.test/b changed", "  - a", "  + b"]
        );
        assert!(DiffView::new(vec![change(UNCHANGED, &[])]).is_same());
    }
}
