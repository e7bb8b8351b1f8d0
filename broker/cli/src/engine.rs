//! `sundew secret engine`: engines, which make secrets for one task each in another system.

#![expect(
    clippy::disallowed_methods,
    reason = "a password may come from the environment"
)]

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::Value;
use sundew_core::client::read_secret_file;
use sundew_proto::v1::{DeleteEngineRequest, EngineInfo, ListEnginesRequest, PutEngineRequest};

use crate::args::{Connect, EngineCommand};
use crate::client::{registry, status_error};
use crate::input::read_text;
use crate::output::{DeletedView, List, Output, Row, View, escape};

pub(crate) async fn engine(
    connect: &Connect,
    output: &Output,
    command: EngineCommand,
) -> Result<ExitCode> {
    match command {
        EngineCommand::Put { file, unchecked } => put(connect, output, &file, unchecked).await,
        EngineCommand::List => list(connect, output).await,
        EngineCommand::Delete { name } => delete(connect, output, name).await,
    }
}

async fn put(connect: &Connect, output: &Output, file: &Path, unchecked: bool) -> Result<ExitCode> {
    let mut document = parse_engine(&read_text(file)?)?;
    let password = take_password(&mut document).with_context(|| file.display().to_string())?;
    let request = PutEngineRequest {
        document: document.to_string(),
        password,
        unchecked,
    };
    let action = registry(connect)
        .await?
        .put_engine(request)
        .await
        .map_err(status_error)?
        .into_inner()
        .action;
    let name = text(document.get("name")).to_owned();
    output.show(&WrittenView { name, action })?;
    Ok(ExitCode::SUCCESS)
}

async fn list(connect: &Connect, output: &Output) -> Result<ExitCode> {
    let answer = registry(connect)
        .await?
        .list_engines(ListEnginesRequest {})
        .await
        .map_err(status_error)?
        .into_inner();
    let engines = answer
        .engines
        .into_iter()
        .map(EngineRow::parse)
        .collect::<Result<Vec<_>>>()?;
    output.show(&List::whole(engines))?;
    Ok(ExitCode::SUCCESS)
}

async fn delete(connect: &Connect, output: &Output, name: String) -> Result<ExitCode> {
    let action = registry(connect)
        .await?
        .delete_engine(DeleteEngineRequest { name: name.clone() })
        .await
        .map_err(status_error)?
        .into_inner()
        .action;
    output.show(&DeletedView {
        deleted: name,
        action,
        remark: "",
    })?;
    Ok(ExitCode::SUCCESS)
}

/// An engine that was written.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct WrittenView {
    name: String,
    /// `created`, `changed` or `unchanged`.
    action: String,
}

impl View for WrittenView {
    const KIND: &'static str = "engine_written";

    fn lines(&self) -> Vec<String> {
        vec![format!("{} {}", escape(&self.name, 128), self.action)]
    }
}

/// An engine as the broker lists it, with its document.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct EngineRow {
    /// The engine, as `put` takes it, without a password.
    engine: Value,
    leases: u64,
    leases_due: u64,
    problem: String,
}

impl EngineRow {
    fn parse(info: EngineInfo) -> Result<Self> {
        let engine = serde_json::from_str(&info.document)
            .context("the broker sent an engine that is not JSON")?;
        Ok(Self {
            engine,
            leases: info.leases,
            leases_due: info.leases_due,
            problem: info.problem,
        })
    }
}

impl Row for EngineRow {
    const KIND: &'static str = "engines";
    const HEADING: &'static [&'static str] =
        &["ENGINE", "KIND", "ROLES", "LEASES", "DUE", "PROBLEM"];

    fn cells(&self) -> Vec<String> {
        let roles = self
            .engine
            .get("roles")
            .and_then(Value::as_object)
            .map(|roles| roles.keys().cloned().collect::<Vec<_>>().join(","))
            .unwrap_or_default();
        let target = self.engine.get("target");
        vec![
            text(self.engine.get("name")).to_owned(),
            text(target.and_then(|target| target.get("kind"))).to_owned(),
            roles,
            self.leases.to_string(),
            self.leases_due.to_string(),
            escape(&self.problem, 80),
        ]
    }
}

/// Returns a text in a document, or an empty one where there is none.
fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

/// Reads an engine from JSON, which begins with a brace, or from TOML.
fn parse_engine(text: &str) -> Result<Value> {
    Ok(if text.trim_start().starts_with('{') {
        serde_json::from_str(text)?
    } else {
        toml::from_str(text)?
    })
}

/// Takes `password_file` or `password_env` out of an engine, and returns the password that the
/// broker shows to the engine's target. An engine without either of them has an empty password.
///
/// The password itself may not stand in the document, which the broker shows to every registrar.
fn take_password(document: &mut Value) -> Result<Vec<u8>> {
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
        (Some(path), None) => Ok(read_secret_file(Path::new(&path))
            .context("password_file")?
            .trim_ascii()
            .to_vec()),
        (None, Some(variable)) => Ok(std::env::var(&variable)
            .with_context(|| format!("password_env: {variable}"))?
            .into_bytes()),
        (None, None) => Ok(Vec::new()),
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<WrittenView>(),
        crate::shapes::of::<List<EngineRow>>(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sundew_proto::v1::EngineInfo;

    use super::{EngineRow, parse_engine, take_password};
    use crate::output::Row as _;

    #[test]
    fn an_engine_is_read_from_toml_and_from_json() {
        let read = json!({ "name": "db", "target": { "kind": "redis" } });
        let toml = "name = \"db\"\n[target]\nkind = \"redis\"\n";
        assert_eq!(parse_engine(toml).unwrap(), read);
        assert_eq!(parse_engine(&format!("\n {read}")).unwrap(), read);
        assert!(parse_engine("{").is_err());
    }

    #[test]
    fn the_password_is_taken_out_of_the_document() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, " s3cret\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode;
        std::fs::set_permissions(&path, mode(0o644)).unwrap();
        let mut document = json!({ "name": "db", "password_file": path });
        let error = format!("{:#}", take_password(&mut document.clone()).unwrap_err());
        assert!(error.contains("chmod 600"), "{error}");
        std::fs::set_permissions(&path, mode(0o600)).unwrap();
        assert_eq!(take_password(&mut document).unwrap(), b"s3cret");
        assert_eq!(document, json!({ "name": "db" }));
        assert_eq!(take_password(&mut document).unwrap(), b"");
    }

    #[test]
    fn a_password_in_the_file_and_two_sources_of_one_are_refused() {
        for (mut document, reason) in [
            (
                json!({ "password": "x" }),
                "a password does not belong in this file: use `password_file` or `password_env`",
            ),
            (
                json!({ "password_file": "x", "password_env": "y" }),
                "`password_file` and `password_env` do not go together",
            ),
            (json!({ "password_env": 1 }), "password_env: must be text"),
            (json!([]), "must be one engine"),
        ] {
            let error = take_password(&mut document).unwrap_err();
            assert_eq!(error.to_string(), reason);
        }
    }

    #[test]
    fn a_row_names_the_roles_and_cuts_the_problem() {
        let engine = EngineRow::parse(EngineInfo {
            document: json!({
                "name": "db", "target": { "kind": "postgres" }, "roles": { "a": {}, "b": {} },
            })
            .to_string(),
            leases: 2,
            leases_due: 1,
            problem: "p".repeat(81),
        })
        .unwrap();
        let problem = format!("{}…", "p".repeat(80));
        assert_eq!(
            engine.cells(),
            ["db", "postgres", "a,b", "2", "1", &problem]
        );
    }
}
