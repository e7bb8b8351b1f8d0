//! `sundew attest`: looking at evidence, collecting it, verifying it, and activating TPM keys.

mod activate;
mod kinds;
mod render;
mod verify;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::json;
use sundew_proto::v1::ExplainEvidenceRequest;
use sundew_sdk::IdentitySource;

use crate::args::{AttestCommand, CollectEvidence, Connect};
use crate::client::{registry, settings, status_error};
use crate::input::parse_hex_32;
use crate::output::Output;

pub(crate) async fn attest(
    connect: &Connect,
    output: &Output,
    command: AttestCommand,
) -> Result<ExitCode> {
    match command {
        AttestCommand::Explain { spiffe_id, limit } => {
            explain(connect, output, spiffe_id, limit).await
        }
        AttestCommand::Collect(command) => collect(connect, output, command).await,
        AttestCommand::Kinds => Ok(kinds::kinds(output)),
        AttestCommand::Activate(command) => activate::activate(connect, output, command).await,
        AttestCommand::Verify(command) => verify::verify(output, command),
    }
}

async fn explain(
    connect: &Connect,
    output: &Output,
    spiffe_id: Option<String>,
    limit: u32,
) -> Result<ExitCode> {
    let request = ExplainEvidenceRequest {
        spiffe_id: spiffe_id.unwrap_or_default(),
        limit,
    };
    let attempts = registry(connect)
        .await?
        .explain_evidence(request)
        .await
        .map_err(status_error)?
        .into_inner()
        .attempts;
    let value: Vec<_> = attempts.iter().map(render::attempt_json).collect();
    output.result(&value, || {
        if attempts.is_empty() {
            let text = "no attempt is remembered at this broker: \
                        it remembers the last 256 since it started";
            return vec![text.to_owned()];
        }
        attempts.iter().flat_map(render::attempt_lines).collect()
    });
    Ok(ExitCode::SUCCESS)
}

async fn collect(connect: &Connect, output: &Output, command: CollectEvidence) -> Result<ExitCode> {
    let CollectEvidence {
        kind,
        binding,
        audience,
        out,
    } = command;
    let settings = settings(connect);
    // Only some kinds are signed by the caller's key: a host without an SVID collects the others.
    let identity = if settings.svid_dir.is_some() || settings.endpoint_socket.is_some() {
        Some(IdentitySource::open(&settings).await?.current())
    } else {
        None
    };
    let binding = parse_binding(&binding)?;
    let evidence =
        sundew_sdk::collect(&settings, &kind, binding, &audience, identity.as_deref()).await?;
    if out == Path::new("-") {
        std::io::stdout().write_all(&evidence)?;
        return Ok(ExitCode::SUCCESS);
    }
    std::fs::write(&out, &evidence).with_context(|| out.display().to_string())?;
    let value = json!({ "kind": kind, "bytes": evidence.len(), "file": out });
    output.result(&value, || {
        vec![format!(
            "{} bytes of `{kind}` evidence are in {}",
            evidence.len(),
            out.display()
        )]
    });
    Ok(ExitCode::SUCCESS)
}

fn parse_binding(digits: &str) -> Result<[u8; 32]> {
    parse_hex_32(digits).context("--binding: must be 64 hexadecimal digits")
}
