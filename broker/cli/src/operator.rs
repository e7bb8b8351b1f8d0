//! What operators do from the command line: workloads, secrets, the keyring, revocation.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use sundew_proto::v1::{
    ApplyWorkloadsRequest, DeleteSecretRequest, DeleteWorkloadRequest, ListSecretsRequest,
    ListWorkloadsRequest, PutSecretRequest, RotateKeyringRequest, ShowWorkloadRequest,
};

use crate::args::{Connect, KeyringCommand, SecretCommand, WorkloadCommand};
use crate::client::{registry, status_error};
use crate::output::{Output, table};
use crate::timestamp::format_timestamp;

pub(crate) async fn workload(
    connect: &Connect,
    output: &Output,
    command: WorkloadCommand,
) -> Result<()> {
    match command {
        WorkloadCommand::Apply { file, dry_run } => apply(connect, output, &file, dry_run).await,
        WorkloadCommand::List => {
            let answer = registry(connect)
                .await?
                .list_workloads(ListWorkloadsRequest {})
                .await
                .map_err(status_error)?
                .into_inner();
            let documents = answer
                .workloads
                .iter()
                .map(|w| parse(&w.document))
                .collect::<Result<Vec<_>>>()?;
            output.result(&documents, || {
                let text = |document: &serde_json::Value, name: &str| {
                    document
                        .get(name)
                        .and_then(|v| v.as_str())
                        .unwrap_or_default()
                        .to_owned()
                };
                let rows: Vec<_> = answer
                    .workloads
                    .iter()
                    .zip(&documents)
                    .map(|(w, d)| {
                        vec![
                            w.spiffe_id.clone(),
                            w.version.clone(),
                            kinds(d),
                            text(d, "owner"),
                        ]
                    })
                    .collect();
                table(&["SPIFFE ID", "VERSION", "EVIDENCE", "OWNER"], &rows)
            });
            Ok(())
        }
        WorkloadCommand::Show { spiffe_id } => {
            let answer = registry(connect)
                .await?
                .show_workload(ShowWorkloadRequest { spiffe_id })
                .await
                .map_err(status_error)?
                .into_inner();
            let document = parse(
                &answer
                    .workload
                    .context("the broker sent no workload")?
                    .document,
            )?;
            output.result(&document, || {
                vec![serde_json::to_string_pretty(&document).unwrap_or_default()]
            });
            Ok(())
        }
        WorkloadCommand::Delete { spiffe_id } => {
            registry(connect)
                .await?
                .delete_workload(DeleteWorkloadRequest {
                    spiffe_id: spiffe_id.clone(),
                })
                .await
                .map_err(status_error)?;
            output.result(&serde_json::json!({ "deleted": spiffe_id }), || {
                vec![format!(
                    "{spiffe_id} deleted; everything issued to it is dead"
                )]
            });
            Ok(())
        }
    }
}

fn parse(document: &str) -> Result<serde_json::Value> {
    serde_json::from_str(document).context("the broker sent a registration that is not JSON")
}

/// The kinds that a registration names, alternatives with `|` between them.
fn kinds(document: &serde_json::Value) -> String {
    fn name(rule: &serde_json::Value) -> String {
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

async fn apply(connect: &Connect, output: &Output, file: &Path, dry_run: bool) -> Result<()> {
    let text = read_input(file)?;
    let documents = documents(&text).with_context(|| file.display().to_string())?;
    let answer = registry(connect)
        .await?
        .apply_workloads(ApplyWorkloadsRequest { documents, dry_run })
        .await
        .map_err(status_error)?
        .into_inner();
    let changes: Vec<_> = answer
        .changes
        .iter()
        .map(|c| serde_json::json!({ "spiffe_id": c.spiffe_id, "action": c.action, "diff": c.diff, "version": c.version, "dry_run": dry_run }))
        .collect();
    output.result(&changes, || {
        let mut lines = Vec::new();
        for change in &answer.changes {
            lines.push(format!(
                "{} {}{}",
                change.spiffe_id,
                change.action,
                if dry_run {
                    " (dry run: nothing was changed)"
                } else {
                    ""
                }
            ));
            lines.extend(change.diff.iter().map(|line| format!("  {line}")));
        }
        lines
    });
    Ok(())
}

/// TOML with `[[workload]]`, or JSON: one object, an array, or `{"workload": […]}`.
fn documents(text: &str) -> Result<Vec<String>> {
    let json = text.trim_start().starts_with(['{', '[']) && !text.trim_start().starts_with("[[");
    let value: serde_json::Value = if json {
        serde_json::from_str(text)?
    } else {
        toml::from_str(text)?
    };
    let list = match value {
        serde_json::Value::Array(list) => list,
        serde_json::Value::Object(mut members) => match members.remove("workload") {
            Some(serde_json::Value::Array(list)) if members.is_empty() => list,
            Some(_) => bail!("besides `workload`, a list, nothing may stand at the top"),
            None if json => vec![serde_json::Value::Object(members)],
            None => Vec::new(),
        },
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => {
            bail!("must be a workload or a list of workloads")
        }
    };
    if list.is_empty() {
        bail!("no workload in it: in TOML each begins with [[workload]]");
    }
    Ok(list.iter().map(ToString::to_string).collect())
}

pub(crate) fn read_input(file: &Path) -> Result<String> {
    if file == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).context("standard input");
    }
    std::fs::read_to_string(file).with_context(|| file.display().to_string())
}

pub(crate) async fn secret(
    connect: &Connect,
    output: &Output,
    command: SecretCommand,
) -> Result<()> {
    match command {
        SecretCommand::Put { name, file } => {
            let mut value = Vec::new();
            match file {
                Some(path) => {
                    value = std::fs::read(&path).with_context(|| path.display().to_string())?
                }
                None => drop(
                    std::io::stdin()
                        .read_to_end(&mut value)
                        .context("standard input")?,
                ),
            }
            let request = PutSecretRequest {
                name: name.clone(),
                value,
                idempotency_key: String::new(),
            };
            let answer = registry(connect)
                .await?
                .put_secret(request)
                .await
                .map_err(status_error)?
                .into_inner();
            output.result(
                &serde_json::json!({ "name": name, "version": answer.version }),
                || vec![format!("{name} version {}", answer.version)],
            );
        }
        SecretCommand::List => {
            let answer = registry(connect)
                .await?
                .list_secrets(ListSecretsRequest {})
                .await
                .map_err(status_error)?
                .into_inner();
            let value: Vec<_> = answer
                .secrets
                .iter()
                .map(|s| serde_json::json!({ "name": s.name, "version": s.version, "key_id": s.key_id, "updated_at_ms": s.updated_at_ms }))
                .collect();
            output.result(&value, || {
                let rows: Vec<_> = answer
                    .secrets
                    .iter()
                    .map(|s| {
                        vec![
                            s.name.clone(),
                            s.version.to_string(),
                            s.key_id.to_string(),
                            format_timestamp(s.updated_at_ms),
                        ]
                    })
                    .collect();
                table(&["NAME", "VERSION", "KEY", "WRITTEN"], &rows)
            });
        }
        SecretCommand::Engine(command) => crate::engine::engine(connect, output, command).await?,
        SecretCommand::Delete { name } => {
            registry(connect)
                .await?
                .delete_secret(DeleteSecretRequest { name: name.clone() })
                .await
                .map_err(status_error)?;
            output.result(&serde_json::json!({ "deleted": name }), || {
                vec![format!("{name} deleted")]
            });
        }
    }
    Ok(())
}

pub(crate) async fn keyring(
    connect: &Connect,
    output: &Output,
    command: KeyringCommand,
) -> Result<()> {
    match command {
        KeyringCommand::Rotate => {
            let answer = registry(connect)
                .await?
                .rotate_keyring(RotateKeyringRequest::default())
                .await
                .map_err(status_error)?
                .into_inner();
            let line = format!(
                "key {} is active; stored secrets are sealed anew in the background (`sundew secret list` shows their keys)",
                answer.key_id
            );
            output.result(&serde_json::json!({ "key_id": answer.key_id }), || {
                vec![line]
            });
        }
    }
    Ok(())
}
