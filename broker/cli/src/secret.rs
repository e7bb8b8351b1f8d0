//! `sundew secret` and `sundew keyring`: stored secrets, and the keys that seal them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use sundew_proto::v1::{
    DeleteSecretRequest, ListSecretsRequest, PutSecretRequest, RotateKeyringRequest, SecretInfo,
};

use crate::args::{Connect, KeyringCommand, SecretCommand};
use crate::client::{registry, status_error};
use crate::engine::engine;
use crate::input::{read_file, read_stdin};
use crate::output::{Output, deletion, table};
use crate::timestamp::format_timestamp;

pub(crate) async fn secret(
    connect: &Connect,
    output: &Output,
    command: SecretCommand,
) -> Result<ExitCode> {
    match command {
        SecretCommand::Put { name, file } => put(connect, output, name, file).await,
        SecretCommand::List => list(connect, output).await,
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
        None => read_stdin()?,
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
    output.result(&json!({ "name": name, "version": version }), || {
        vec![format!("{name} version {version}")]
    });
    Ok(ExitCode::SUCCESS)
}

async fn list(connect: &Connect, output: &Output) -> Result<ExitCode> {
    let secrets = registry(connect)
        .await?
        .list_secrets(ListSecretsRequest {})
        .await
        .map_err(status_error)?
        .into_inner()
        .secrets;
    let value: Vec<_> = secrets.iter().map(secret_json).collect();
    output.result(&value, || {
        let rows: Vec<_> = secrets.iter().map(secret_row).collect();
        table(&["NAME", "VERSION", "KEY", "WRITTEN"], &rows)
    });
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
    output.result(&json!({ "deleted": name, "action": action }), || {
        vec![format!("{name} {}", deletion(&action))]
    });
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
    output.result(&json!({ "key_id": key_id }), || {
        vec![format!(
            "key {key_id} is active; stored secrets are sealed anew in the background \
             (`sundew secret list` shows their keys)"
        )]
    });
    Ok(ExitCode::SUCCESS)
}

fn secret_json(secret: &SecretInfo) -> Value {
    json!({
        "name": secret.name, "version": secret.version, "key_id": secret.key_id,
        "updated_at_ms": secret.updated_at_ms,
    })
}

fn secret_row(secret: &SecretInfo) -> Vec<String> {
    vec![
        secret.name.clone(),
        secret.version.to_string(),
        secret.key_id.to_string(),
        format_timestamp(secret.updated_at_ms),
    ]
}
