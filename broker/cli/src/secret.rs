//! `sundew secret` and `sundew keyring`: stored secrets, and the keys that seal them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use sundew_proto::v1::{
    DeleteSecretRequest, ListSecretsRequest, PutSecretRequest, RotateKeyringRequest, SecretInfo,
};

use crate::args::{Connect, KeyringCommand, Page, SecretCommand};
use crate::client::{registry, status_error};
use crate::enclosing;
use crate::engine::engine;
use crate::input::{read_file, read_secret};
use crate::output::{DeletedView, List, Output, Row, View};
use crate::timestamp::format_timestamp;

pub(crate) async fn secret(
    connect: &Connect,
    output: &Output,
    command: SecretCommand,
) -> Result<ExitCode> {
    match command {
        SecretCommand::Put { name, file } => put(connect, output, name, file).await,
        SecretCommand::Get { name } => enclosing::secret(output, name).await,
        SecretCommand::List { page } => list(connect, output, page).await,
        SecretCommand::Engine(command) => engine(connect, output, command).await,
        SecretCommand::Delete { name } => delete(connect, output, name).await,
    }
}

pub(crate) async fn keyring(
    connect: &Connect,
    output: &Output,
    command: KeyringCommand,
) -> Result<ExitCode> {
    match command {
        KeyringCommand::Rotate => rotate(connect, output).await,
    }
}

async fn put(
    connect: &Connect,
    output: &Output,
    name: String,
    file: Option<PathBuf>,
) -> Result<ExitCode> {
    // A file named `-` is a file here: standard input is what is read without --file.
    let value = match file {
        Some(path) => read_file(&path)?,
        None => read_secret(&format!("value of {name}"))?.to_vec(),
    };
    let request = PutSecretRequest {
        name: name.clone(),
        value,
        idempotency_key: String::new(),
    };
    let version = registry(connect)
        .await?
        .put_secret(request)
        .await
        .map_err(status_error)?
        .into_inner()
        .version;
    output.show(&WrittenView { name, version })?;
    Ok(ExitCode::SUCCESS)
}

async fn list(connect: &Connect, output: &Output, page: Page) -> Result<ExitCode> {
    let secrets = registry(connect)
        .await?
        .list_secrets(ListSecretsRequest {})
        .await
        .map_err(status_error)?
        .into_inner()
        .secrets;
    let secrets = secrets.into_iter().map(SecretRow::from).collect();
    let name = |row: &SecretRow| row.name.clone();
    output.show(&List::after(
        secrets,
        name,
        (page.after.as_deref(), page.limit),
    ))?;
    Ok(ExitCode::SUCCESS)
}

async fn delete(connect: &Connect, output: &Output, name: String) -> Result<ExitCode> {
    let action = registry(connect)
        .await?
        .delete_secret(DeleteSecretRequest { name: name.clone() })
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

async fn rotate(connect: &Connect, output: &Output) -> Result<ExitCode> {
    let key_id = registry(connect)
        .await?
        .rotate_keyring(RotateKeyringRequest::default())
        .await
        .map_err(status_error)?
        .into_inner()
        .key_id;
    output.show(&RotatedView { key_id })?;
    Ok(ExitCode::SUCCESS)
}

/// A secret that was written.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct WrittenView {
    name: String,
    version: u64,
}

impl View for WrittenView {
    const KIND: &'static str = "secret_written";

    fn lines(&self) -> Vec<String> {
        vec![format!("{} version {}", self.name, self.version)]
    }
}

/// The key that seals secrets from now on.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct RotatedView {
    key_id: u32,
}

impl View for RotatedView {
    const KIND: &'static str = "keyring_rotated";

    fn lines(&self) -> Vec<String> {
        vec![format!(
            "key {} is active; stored secrets are sealed anew in the background \
             (`sundew secret list` shows their keys)",
            self.key_id
        )]
    }
}

/// A stored secret, without its value.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct SecretRow {
    name: String,
    version: u64,
    key_id: u32,
    updated_at_ms: i64,
}

impl From<SecretInfo> for SecretRow {
    fn from(secret: SecretInfo) -> Self {
        Self {
            name: secret.name,
            version: secret.version,
            key_id: secret.key_id,
            updated_at_ms: secret.updated_at_ms,
        }
    }
}

impl Row for SecretRow {
    const KIND: &'static str = "secrets";
    const HEADING: &'static [&'static str] = &["NAME", "VERSION", "KEY", "WRITTEN"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.version.to_string(),
            self.key_id.to_string(),
            format_timestamp(self.updated_at_ms),
        ]
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<WrittenView>(),
        crate::shapes::of::<crate::output::DeletedView>(),
        crate::shapes::of::<RotatedView>(),
        crate::shapes::of::<List<SecretRow>>(),
    ]
}
