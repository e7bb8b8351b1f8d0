//! `sundew ca`: the keys of the embedded CA, and their rotation.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use sundew_proto::v1::{CaKey, DropOldCaKeysRequest, RotateCaRequest, ShowCaRequest};
use sundew_sdk::Ttl;

use crate::args::{CaCommand, Connect};
use crate::client::{registry, status_error};
use crate::output::{Output, View, escape, table};
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
    output.show(&CaView {
        trust_domain: answer.trust_domain,
        roots: keys(answer.roots),
        jwt_keys: keys(answer.jwt_keys),
    })?;
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
    tell(output, jwt, keys)?;
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
    tell(output, jwt, keys)?;
    Ok(ExitCode::SUCCESS)
}

fn tell(output: &Output, jwt: bool, told: Vec<CaKey>) -> Result<()> {
    output.show(&KeysView {
        keys: keys(told),
        of: if jwt { "jwt" } else { "root" },
    })
}

const HEADING: [&str; 6] = ["KIND", "STATE", "SIGNS_FROM", "TRUSTED_UNTIL", "ENDS", "ID"];

/// A key of the embedded CA.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct KeyView {
    id: String,
    /// `next`, `active` or `former`.
    state: String,
    /// When it begins to sign, when it leaves the bundles and when it ends; 0 if never.
    active_from_ms: i64,
    retires_at_ms: i64,
    not_after_ms: i64,
}

fn keys(told: Vec<CaKey>) -> Vec<KeyView> {
    let key = |key: CaKey| KeyView {
        id: key.id,
        state: key.state,
        active_from_ms: key.active_from_ms,
        retires_at_ms: key.retires_at_ms,
        not_after_ms: key.not_after_ms,
    };
    told.into_iter().map(key).collect()
}

/// The keys of the embedded CA.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct CaView {
    trust_domain: String,
    roots: Vec<KeyView>,
    jwt_keys: Vec<KeyView>,
}

impl View for CaView {
    const KIND: &'static str = "ca";

    fn lines(&self) -> Vec<String> {
        let rows = [rows("root", &self.roots), rows("jwt", &self.jwt_keys)];
        table(&HEADING, &rows.concat())
    }
}

/// The keys of one sort, after a change.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct KeysView {
    keys: Vec<KeyView>,
    /// `root`, or `jwt` for those that sign JWT-SVIDs.
    of: &'static str,
}

impl View for KeysView {
    const KIND: &'static str = "ca_keys";

    fn lines(&self) -> Vec<String> {
        table(&HEADING, &rows(self.of, &self.keys))
    }
}

fn rows(kind: &str, keys: &[KeyView]) -> Vec<Vec<String>> {
    let time = |ms: i64| match ms {
        0 => "-".to_owned(),
        ms => format_timestamp(ms),
    };
    let row = |key: &KeyView| {
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

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<CaView>(),
        crate::shapes::of::<KeysView>(),
    ]
}
