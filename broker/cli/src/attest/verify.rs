//! `sundew attest verify`: verifying a piece of evidence away from any broker.

use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;
use sundew_broker::evidence::offline::{Inspection, Trusted, inspect, public_key_in};
use sundew_broker::serve::config::Config;

use super::parse_binding;
use super::render::FindingView;
use crate::args::VerifyEvidence;
use crate::input::read_bytes;
use crate::output::{Output, View, escape, success_if};
use crate::timestamp::{now_ms, parse_timestamp};

pub(super) fn verify(output: &Output, command: VerifyEvidence) -> Result<ExitCode> {
    let config = command
        .config
        .map(|path| Config::load(&path).with_context(|| path.display().to_string()))
        .transpose()?;
    let sources = config
        .as_ref()
        .map(Config::trust_sources)
        .unwrap_or_default();
    let trusted = Trusted::read(&sources, &command.trust).map_err(|e| anyhow!(e))?;
    let public_key = command
        .certificate
        .map(|path| public_key_in(&path))
        .transpose()
        .map_err(|e| anyhow!(e))?
        .unwrap_or_default();
    // Evidence that was kept is looked at as of its own day: certificates and collateral have ended
    // since.
    let now_ms = match command.at {
        Some(at) => parse_timestamp(&at)
            .context("--at: must be a time in UTC, such as 2026-01-31T12:00:00Z")?,
        None => now_ms(),
    };
    let payload = read_bytes(&command.file)?;
    let requirement =
        String::from_utf8(read_bytes(&command.requirement)?).context("requirement")?;
    let inspection = Inspection {
        kind: &command.kind,
        payload: &payload,
        requirement: &requirement,
        binding: parse_binding(&command.binding)?,
        public_key: &public_key,
        now_ms,
    };
    let (findings, refusal) = inspect(&inspection, &trusted).map_err(|e| anyhow!(e))?;
    let view = VerifiedView {
        taken: refusal.is_none(),
        refusal,
        findings: findings.into_iter().map(FindingView::from).collect(),
    };
    output.show(&view)?;
    Ok(success_if(view.taken))
}

/// What came of a piece of evidence.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct VerifiedView {
    taken: bool,
    refusal: Option<String>,
    findings: Vec<FindingView>,
}

impl View for VerifiedView {
    const KIND: &'static str = "evidence_verified";

    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.findings.iter().flat_map(FindingView::lines).collect();
        lines.push(self.refusal.as_ref().map_or_else(
            || "taken".to_owned(),
            |refusal| format!("refused: {}", escape(refusal, 400)),
        ));
        lines
    }
}
