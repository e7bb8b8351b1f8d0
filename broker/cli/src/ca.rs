//! `sundew ca`: the keys of the embedded CA, and their rotation.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use sundew_proto::v1::{CaKey, DropOldCaKeysRequest, RotateCaRequest, ShowCaRequest};
use sundew_sdk::Ttl;

use crate::args::{CaCommand, Connect};
use crate::client::{registry, status_error};
use crate::output::{Output, escape, table};
use crate::timestamp::format_timestamp;

pub(crate) async fn ca(connect: &Connect, output: &Output, command: CaCommand) -> Result<ExitCode> {
    match command {
        CaCommand::Status => status(connect, output).await,
        CaCommand::Rotate {
            jwt,
            activate_after,
        } => rotate(connect, output, jwt, activate_after).await,
        CaCommand::DropOld { now: _, jwt } => drop_old(connect, output, jwt).await,
    }
}

async fn status(connect: &Connect, output: &Output) -> Result<ExitCode> {
    let answer = registry(connect)
        .await?
        .show_ca(ShowCaRequest {})
        .await
        .map_err(status_error)?
        .into_inner();
    let value = json!({
        "trust_domain": answer.trust_domain,
        "roots": keys_json(&answer.roots),
        "jwt_keys": keys_json(&answer.jwt_keys),
    });
    output.result(&value, || {
        let rows = [rows("root", &answer.roots), rows("jwt", &answer.jwt_keys)];
        table(&HEADING, &rows.concat())
    });
    Ok(ExitCode::SUCCESS)
}

async fn rotate(
    connect: &Connect,
    output: &Output,
    jwt: bool,
    activate_after: Option<Ttl>,
) -> Result<ExitCode> {
    let request = RotateCaRequest {
        jwt,
        activate_after_ms: activate_after.map_or(0, Ttl::as_ms),
        idempotency_key: String::new(),
    };
    let keys = registry(connect)
        .await?
        .rotate_ca(request)
        .await
        .map_err(status_error)?
        .into_inner()
        .keys;
    tell(output, jwt, &keys);
    Ok(ExitCode::SUCCESS)
}

async fn drop_old(connect: &Connect, output: &Output, jwt: bool) -> Result<ExitCode> {
    let keys = registry(connect)
        .await?
        .drop_old_ca_keys(DropOldCaKeysRequest { jwt })
        .await
        .map_err(status_error)?
        .into_inner()
        .keys;
    tell(output, jwt, &keys);
    Ok(ExitCode::SUCCESS)
}

fn tell(output: &Output, jwt: bool, keys: &[CaKey]) {
    let kind = if jwt { "jwt" } else { "root" };
    output.result(&json!({ "keys": keys_json(keys) }), || {
        table(&HEADING, &rows(kind, keys))
    });
}

const HEADING: [&str; 6] = ["KIND", "STATE", "SIGNS_FROM", "TRUSTED_UNTIL", "ENDS", "ID"];

fn rows(kind: &str, keys: &[CaKey]) -> Vec<Vec<String>> {
    let time = |ms: i64| match ms {
        0 => "-".to_owned(),
        ms => format_timestamp(ms),
    };
    let row = |key: &CaKey| {
        vec![
            kind.to_owned(),
            escape(&key.state, 16),
            time(key.active_from_ms),
            time(key.retires_at_ms),
            time(key.not_after_ms),
            escape(&key.id, 64),
        ]
    };
    keys.iter().map(row).collect()
}

fn keys_json(keys: &[CaKey]) -> Vec<Value> {
    let key = |key: &CaKey| {
        json!({
            "id": key.id, "state": key.state, "active_from_ms": key.active_from_ms,
            "retires_at_ms": key.retires_at_ms, "not_after_ms": key.not_after_ms,
        })
    };
    keys.iter().map(key).collect()
}
