//! Engines from the command line.

use anyhow::{Context as _, Result, bail};
use sundew_proto::v1::{DeleteEngineRequest, ListEnginesRequest, PutEngineRequest};

use crate::args::{Connect, EngineCommand};
use crate::client::{registry, status_error};
use crate::operator::read_input;
use crate::output::{Output, escape, table};

pub(crate) async fn engine(
    connect: &Connect,
    output: &Output,
    command: EngineCommand,
) -> Result<()> {
    match command {
        EngineCommand::Put { file, unchecked } => {
            let text = read_input(&file)?;
            let mut document: serde_json::Value = if text.trim_start().starts_with('{') {
                serde_json::from_str(&text)?
            } else {
                toml::from_str(&text)?
            };
            let password = password(&mut document).with_context(|| file.display().to_string())?;
            let request = PutEngineRequest {
                document: document.to_string(),
                password,
                unchecked,
            };
            let answer = registry(connect)
                .await?
                .put_engine(request)
                .await
                .map_err(status_error)?
                .into_inner();
            let name = document
                .get("name")
                .and_then(|name| name.as_str())
                .unwrap_or_default();
            output.result(
                &serde_json::json!({ "name": name, "action": answer.action }),
                || vec![format!("{} {}", escape(name, 128), answer.action)],
            );
        }
        EngineCommand::List => {
            let answer = registry(connect)
                .await?
                .list_engines(ListEnginesRequest {})
                .await
                .map_err(status_error)?
                .into_inner();
            let document = |text: &str| {
                serde_json::from_str::<serde_json::Value>(text)
                    .context("the broker sent an engine that is not JSON")
            };
            let engines = answer
                .engines
                .iter()
                .map(|e| Ok((e, document(&e.document)?)))
                .collect::<Result<Vec<_>>>()?;
            let value: Vec<_> =
                engines.iter().map(|(e, d)| serde_json::json!({ "engine": d, "leases": e.leases, "leases_due": e.leases_due, "problem": e.problem })).collect();
            output.result(&value, || {
                let text = |value: Option<&serde_json::Value>| {
                    value
                        .and_then(|v| v.as_str())
                        .unwrap_or_default()
                        .to_owned()
                };
                let rows: Vec<_> = engines
                    .iter()
                    .map(|(e, d)| {
                        let roles = d
                            .get("roles")
                            .and_then(|r| r.as_object())
                            .map(|r| r.keys().cloned().collect::<Vec<_>>().join(","))
                            .unwrap_or_default();
                        let kind = text(d.get("target").and_then(|t| t.get("kind")));
                        vec![
                            text(d.get("name")),
                            kind,
                            roles,
                            e.leases.to_string(),
                            e.leases_due.to_string(),
                            escape(&e.problem, 80),
                        ]
                    })
                    .collect();
                table(
                    &["ENGINE", "KIND", "ROLES", "LEASES", "DUE", "PROBLEM"],
                    &rows,
                )
            });
        }
        EngineCommand::Delete { name } => {
            registry(connect)
                .await?
                .delete_engine(DeleteEngineRequest { name: name.clone() })
                .await
                .map_err(status_error)?;
            output.result(&serde_json::json!({ "deleted": name }), || {
                vec![format!("{name} deleted")]
            });
        }
    }
    Ok(())
}

/// What the broker proves itself with: from a file or the environment, never in the document.
fn password(document: &mut serde_json::Value) -> Result<Vec<u8>> {
    let members = document.as_object_mut().context("must be one engine")?;
    if members.contains_key("password") {
        bail!("a password does not belong in this file: use `password_file` or `password_env`");
    }
    let mut text = |name: &str| {
        members
            .remove(name)
            .map(|value| {
                value
                    .as_str()
                    .map(str::to_owned)
                    .with_context(|| format!("{name}: must be text"))
            })
            .transpose()
    };
    match (text("password_file")?, text("password_env")?) {
        (Some(_), Some(_)) => bail!("`password_file` and `password_env` do not go together"),
        (Some(path), None) => Ok(std::fs::read(&path)
            .with_context(|| format!("password_file: {path}"))?
            .trim_ascii()
            .to_vec()),
        (None, Some(variable)) => Ok(std::env::var(&variable)
            .with_context(|| format!("password_env: {variable}"))?
            .into_bytes()),
        (None, None) => Ok(Vec::new()),
    }
}
