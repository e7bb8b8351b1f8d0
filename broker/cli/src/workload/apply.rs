//! `sundew workload apply` and `diff`: what is in files, and what is registered.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use sundew_proto::v1::{ApplyWorkloadsRequest, DeleteWorkloadRequest};

use super::files::Document;
use super::views::{AppliedView, Change, DiffView};
use super::{Registry, registrations};
use crate::args::WorkloadChoice;
use crate::client::status_error;
use crate::output::{Output, success_if};

/// Registrations that are sent at a time.
const SENT_TOGETHER: usize = 20;
/// From how many registrations on it is shown how far it is.
const MANY: usize = 50;

/// How registrations are applied.
pub(super) struct How {
    pub(super) dry_run: bool,
    /// Of which registrations those are removed that are not in the files.
    pub(super) prune: Option<WorkloadChoice>,
}

/// Applies registrations; prints a line for each that changes, and a summary.
pub(super) async fn apply(
    registry: &mut Registry,
    output: &Output,
    documents: Vec<Document>,
    how: How,
) -> Result<ExitCode> {
    let kept: BTreeSet<_> = documents.iter().map(|d| d.spiffe_id.clone()).collect();
    let mut changes = send(registry, output, documents, how.dry_run).await?;
    if let Some(choice) = &how.prune {
        for known in registrations(registry, choice).await? {
            if !kept.contains(&known.spiffe_id) {
                let id = known.spiffe_id;
                changes.push(remove(registry, id, how.dry_run).await?);
            }
        }
    }
    let view = AppliedView::new(changes, how.dry_run);
    output.show(&view)?;
    Ok(success_if(!how.dry_run || view.is_unchanged()))
}

/// Shows how registrations differ, line by line.
pub(super) async fn diff(
    registry: &mut Registry,
    output: &Output,
    documents: Vec<Document>,
) -> Result<ExitCode> {
    let view = DiffView::new(send(registry, output, documents, true).await?);
    output.show(&view)?;
    Ok(success_if(view.is_same()))
}

/// Sends registrations, some at a time, and shows people how far it is if there are many.
async fn send(
    registry: &mut Registry,
    output: &Output,
    documents: Vec<Document>,
    dry_run: bool,
) -> Result<Vec<Change>> {
    let total = documents.len();
    let bar = if total < MANY || output.is_json() {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(u64::try_from(total).unwrap_or(u64::MAX))
    };
    let mut changes = Vec::new();
    for some in documents.chunks(SENT_TOGETHER) {
        let request = ApplyWorkloadsRequest {
            documents: some.iter().map(|document| document.json.clone()).collect(),
            dry_run,
        };
        let sent = registry.apply_workloads(request).await;
        let first = some
            .first()
            .map_or("", |document| document.spiffe_id.as_str());
        let done = changes.len();
        let answer = match sent.map_err(status_error) {
            // Of few it is clear which they are.
            Err(error) if total > SENT_TOGETHER => {
                let of = format!("{done} of {total} were taken; from {first} on");
                return Err(error.context(of));
            }
            answer => answer?,
        };
        changes.extend(answer.into_inner().changes.into_iter().map(Change::from));
        bar.set_position(u64::try_from(changes.len()).unwrap_or(u64::MAX));
    }
    bar.finish_and_clear();
    Ok(changes)
}

async fn remove(registry: &mut Registry, spiffe_id: String, dry_run: bool) -> Result<Change> {
    if !dry_run {
        let request = DeleteWorkloadRequest {
            spiffe_id: spiffe_id.clone(),
        };
        let removed = registry.delete_workload(request).await;
        removed
            .map_err(status_error)
            .with_context(|| spiffe_id.clone())?;
    }
    Ok(Change::removed(spiffe_id))
}
