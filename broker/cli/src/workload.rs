//! `sundew workload`: registrations of workloads.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sundew_proto::v1::{
    ApplyWorkloadsRequest, DeleteWorkloadRequest, ListWorkloadsRequest, ShowWorkloadRequest,
    Workload, WorkloadChange,
};

use crate::args::{Connect, WorkloadCommand};
use crate::client::{registry, status_error};
use crate::input::read_text;
use crate::output::{Output, deletion, table};

pub(crate) async fn workload(
    connect: &Connect,
    output: &Output,
    command: WorkloadCommand,
) -> Result<ExitCode> {
    match command {
        WorkloadCommand::Apply { file, dry_run } => apply(connect, output, &file, dry_run).await,
        WorkloadCommand::List => list(connect, output).await,
        WorkloadCommand::Show { spiffe_id } => show(connect, output, spiffe_id).await,
        WorkloadCommand::Delete { spiffe_id } => delete(connect, output, spiffe_id).await,
    }
}

async fn apply(connect: &Connect, output: &Output, file: &Path, dry_run: bool) -> Result<ExitCode> {
    let text = read_text(file)?;
    let documents = parse_documents(&text).with_context(|| file.display().to_string())?;
    let changes = registry(connect)
        .await?
        .apply_workloads(ApplyWorkloadsRequest { documents, dry_run })
        .await
        .map_err(status_error)?
        .into_inner()
        .changes;
    let value: Vec<_> = changes
        .iter()
        .map(|change| change_json(change, dry_run))
        .collect();
    output.result(&value, || {
        changes
            .iter()
            .flat_map(|change| change_lines(change, dry_run))
            .collect()
    });
    Ok(ExitCode::SUCCESS)
}

async fn list(connect: &Connect, output: &Output) -> Result<ExitCode> {
    let workloads = registry(connect)
        .await?
        .list_workloads(ListWorkloadsRequest {})
        .await
        .map_err(status_error)?
        .into_inner()
        .workloads;
    let documents = workloads
        .iter()
        .map(|workload| parse_registration(&workload.document))
        .collect::<Result<Vec<_>>>()?;
    output.result(&documents, || {
        let rows: Vec<_> = workloads
            .iter()
            .zip(&documents)
            .map(|(workload, document)| workload_row(workload, document))
            .collect();
        table(&["SPIFFE ID", "VERSION", "EVIDENCE", "OWNER"], &rows)
    });
    Ok(ExitCode::SUCCESS)
}

async fn show(connect: &Connect, output: &Output, spiffe_id: String) -> Result<ExitCode> {
    let workload = registry(connect)
        .await?
        .show_workload(ShowWorkloadRequest { spiffe_id })
        .await
        .map_err(status_error)?
        .into_inner()
        .workload
        .context("the broker sent no workload")?;
    let document = parse_registration(&workload.document)?;
    output.result(&document, || {
        vec![serde_json::to_string_pretty(&document).unwrap_or_default()]
    });
    Ok(ExitCode::SUCCESS)
}

async fn delete(connect: &Connect, output: &Output, spiffe_id: String) -> Result<ExitCode> {
    let action = registry(connect)
        .await?
        .delete_workload(DeleteWorkloadRequest {
            spiffe_id: spiffe_id.clone(),
        })
        .await
        .map_err(status_error)?
        .into_inner()
        .action;
    output.result(&json!({ "deleted": spiffe_id, "action": action }), || {
        vec![format!(
            "{spiffe_id} {}; everything issued to it is dead",
            deletion(&action)
        )]
    });
    Ok(ExitCode::SUCCESS)
}

/// Returns each workload of a file as a JSON document.
///
/// The file is TOML with `[[workload]]`, or JSON: one object, an array, or `{"workload": […]}`.
fn parse_documents(text: &str) -> Result<Vec<String>> {
    let json = text.trim_start().starts_with(['{', '[']) && !text.trim_start().starts_with("[[");
    let value: Value = if json {
        serde_json::from_str(text)?
    } else {
        toml::from_str(text)?
    };
    let list = match value {
        Value::Array(list) => list,
        Value::Object(mut members) => match members.remove("workload") {
            Some(Value::Array(list)) if members.is_empty() => list,
            Some(_) => bail!("besides `workload`, a list, nothing may stand at the top"),
            None if json => vec![Value::Object(members)],
            None => Vec::new(),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            bail!("must be a workload or a list of workloads")
        }
    };
    if list.is_empty() {
        bail!("no workload in it: in TOML each begins with [[workload]]");
    }
    Ok(list.iter().map(ToString::to_string).collect())
}

fn parse_registration(document: &str) -> Result<Value> {
    serde_json::from_str(document).context("the broker sent a registration that is not JSON")
}

fn change_json(change: &WorkloadChange, dry_run: bool) -> Value {
    json!({
        "spiffe_id": change.spiffe_id, "action": change.action, "diff": change.diff,
        "revocations": change.revocations,
        "version": change.version, "dry_run": dry_run,
    })
}

fn change_lines(change: &WorkloadChange, dry_run: bool) -> Vec<String> {
    let remark = if dry_run {
        " (dry run: nothing was changed)"
    } else {
        ""
    };
    let mut lines = vec![format!("{} {}{remark}", change.spiffe_id, change.action)];
    lines.extend(change.diff.iter().map(|line| format!("  {line}")));
    lines.extend(
        change
            .revocations
            .iter()
            .map(|id| format!("  what it allows no more is dead ({id})")),
    );
    lines
}

fn workload_row(workload: &Workload, document: &Value) -> Vec<String> {
    let owner = document.get("owner").and_then(Value::as_str);
    vec![
        workload.spiffe_id.clone(),
        workload.version.clone(),
        kinds(document),
        owner.unwrap_or_default().to_owned(),
    ]
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
    use sundew_proto::v1::WorkloadChange;

    use super::{change_lines, kinds, parse_documents};

    #[test]
    fn workloads_are_read_from_toml_and_from_each_form_of_json() {
        let toml = "[[workload]]\nspiffe_id = \"a\"\n[[workload]]\nspiffe_id = \"b\"\n";
        let both = [r#"{"spiffe_id":"a"}"#, r#"{"spiffe_id":"b"}"#];
        assert_eq!(parse_documents(toml).unwrap(), both);
        let list = format!("[{}]", both.join(","));
        assert_eq!(parse_documents(&list).unwrap(), both);
        let named = format!(" {{\"workload\": {list}}}");
        assert_eq!(parse_documents(&named).unwrap(), both);
        assert_eq!(parse_documents(both[0]).unwrap(), both[..1]);
    }

    #[test]
    fn a_file_that_is_no_list_of_workloads_is_refused() {
        for (text, reason) in [
            (
                "",
                "no workload in it: in TOML each begins with [[workload]]",
            ),
            (
                "[]",
                "no workload in it: in TOML each begins with [[workload]]",
            ),
            (
                "workload = 1",
                "besides `workload`, a list, nothing may stand at the top",
            ),
            (
                r#"{"workload": [], "more": 1}"#,
                "besides `workload`, a list, nothing may stand at the top",
            ),
        ] {
            let error = parse_documents(text).unwrap_err();
            assert_eq!(error.to_string(), reason, "{text}");
        }
    }

    #[test]
    fn the_kinds_of_a_registration_are_one_text() {
        let document = json!({ "evidence": [
            { "kind": "manifest" },
            { "any_of": [{ "kind": "tpm2" }, { "all_of": [{ "kind": "a" }, { "kind": "b" }] }] },
        ] });
        assert_eq!(kinds(&document), "manifest,tpm2|a+b");
        assert_eq!(kinds(&json!({})), "");
    }

    #[test]
    fn a_dry_run_says_that_nothing_was_changed() {
        let change = WorkloadChange {
            spiffe_id: "spiffe://a.test/b".to_owned(),
            action: "created".to_owned(),
            diff: vec!["+ owner".to_owned()],
            ..WorkloadChange::default()
        };
        assert_eq!(
            change_lines(&change, true),
            [
                "spiffe://a.test/b created (dry run: nothing was changed)",
                "  + owner"
            ]
        );
        assert_eq!(change_lines(&change, false)[0], "spiffe://a.test/b created");
    }
}
