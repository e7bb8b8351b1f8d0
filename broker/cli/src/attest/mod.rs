//! `sundew attest`: looking at evidence, collecting it, verifying it, and activating TPM keys.

mod activate;
mod kinds;
mod render;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde::Serialize;
use sundew_proto::v1::ExplainEvidenceRequest;
use sundew_proto::v1::registry_service_client::RegistryServiceClient;

use crate::args::{AttestCommand, CollectEvidence, Connect};
use crate::client::{each_broker, open_identity, settings, status_error};
use crate::input::parse_hex_32;
use crate::output::{Output, View};
use render::{AskedBroker, AttemptView, AttemptsView};

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
        AttestCommand::Kinds => kinds::kinds(output),
        AttestCommand::Activate(command) => activate::activate(connect, output, command).await,
        AttestCommand::Verify(command) => verify::verify(output, command),
    }
}

/// C6: a workload may have shown its evidence to any broker, so all are asked for which the address
/// stands.
async fn explain(
    connect: &Connect,
    output: &Output,
    spiffe_id: Option<String>,
    limit: u32,
) -> Result<ExitCode> {
    let (mut items, mut brokers, mut failed) = (Vec::new(), Vec::new(), None);
    for (address, connection) in each_broker(connect).await? {
        let request = ExplainEvidenceRequest {
            spiffe_id: spiffe_id.clone().unwrap_or_default(),
            limit,
        };
        let mut client = RegistryServiceClient::new(connection.channel());
        let asked = client.explain_evidence(request).await;
        let problem = match asked.map_err(status_error) {
            Ok(answer) => {
                let attempts = answer.into_inner().attempts.into_iter();
                items.extend(attempts.map(|attempt| AttemptView::new(&address, attempt)));
                None
            }
            Err(error) => {
                let problem = format!("{error:#}");
                failed.get_or_insert(error);
                Some(problem)
            }
        };
        brokers.push(AskedBroker { address, problem });
    }
    if let Some(error) = failed.filter(|_| brokers.iter().all(|asked| asked.problem.is_some())) {
        return Err(error);
    }
    items.sort_by_key(|attempt| std::cmp::Reverse(attempt.at_ms()));
    items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    output.show(&AttemptsView { items, brokers })?;
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
        Some(open_identity(&settings).await?)
    } else {
        None
    };
    let binding = parse_binding(&binding)?;
    let evidence =
        sundew_sdk::collect(&settings, &kind, binding, &audience, identity.as_deref()).await?;
    if out == Path::new("-") {
        output.bytes(&evidence)?;
        return Ok(ExitCode::SUCCESS);
    }
    std::fs::write(&out, &evidence).with_context(|| out.display().to_string())?;
    output.show(&CollectedView {
        evidence: kind,
        bytes: evidence.len(),
        file: out,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Evidence that was collected into a file.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct CollectedView {
    /// The kind of the evidence.
    evidence: String,
    bytes: usize,
    file: PathBuf,
}

impl View for CollectedView {
    const KIND: &'static str = "evidence_collected";

    fn lines(&self) -> Vec<String> {
        vec![format!(
            "{} bytes of `{}` evidence are in {}",
            self.bytes,
            self.evidence,
            self.file.display()
        )]
    }
}

fn parse_binding(digits: &str) -> Result<[u8; 32]> {
    parse_hex_32(digits).context("--binding: must be 64 hexadecimal digits")
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<AttemptsView>(),
        crate::shapes::of::<CollectedView>(),
        crate::shapes::of::<kinds::KindsView>(),
        crate::shapes::of::<activate::ActivatedView>(),
        crate::shapes::of::<verify::VerifiedView>(),
    ]
}
