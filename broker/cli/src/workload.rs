//! `sundew workload`: registrations of workloads.

mod apply;
mod files;
mod views;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sundew_proto::v1::registry_service_client::RegistryServiceClient;
use sundew_proto::v1::{DeleteWorkloadRequest, ListWorkloadsRequest, ShowWorkloadRequest};
use tonic::transport::Channel;

use crate::args::{Connect, WorkloadChoice, WorkloadCommand};
use crate::client::{registry, status_error};
use crate::output::{DeletedView, List, Output};
use views::{ExportView, RegistrationView, WorkloadRow};

/// A connection to a broker, for registrars.
type Registry = RegistryServiceClient<Channel>;

pub(crate) async fn workload(
    connect: &Connect,
    output: &Output,
    command: WorkloadCommand,
) -> Result<ExitCode> {
    match command {
        WorkloadCommand::Apply {
            from,
            dry_run,
            prune,
            choice,
        } => {
            // Files are read first: what is wrong with them needs no broker.
            let documents = files::read(&from.files)?;
            let prune = prune.then_some(choice);
            let how = apply::How { dry_run, prune };
            apply::apply(&mut registry(connect).await?, output, documents, how).await
        }
        WorkloadCommand::Diff { from } => {
            let documents = files::read(&from.files)?;
            apply::diff(&mut registry(connect).await?, output, documents).await
        }
        WorkloadCommand::Export { choice } => {
            let workloads = registrations(&mut registry(connect).await?, &choice).await?;
            output.show(&ExportView {
                workload: workloads.into_iter().map(|known| known.document).collect(),
            })?;
            Ok(ExitCode::SUCCESS)
        }
        WorkloadCommand::List { choice, page } => {
            let workloads = registrations(&mut registry(connect).await?, &choice).await?;
            let rows = workloads.into_iter().map(WorkloadRow::from).collect();
            let name = |row: &WorkloadRow| row.name().to_owned();
            output.show(&List::after(
                rows,
                name,
                (page.after.as_deref(), page.limit),
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        WorkloadCommand::Show { spiffe_id } => show(connect, output, spiffe_id).await,
        WorkloadCommand::Delete { spiffe_id } => delete(connect, output, spiffe_id).await,
    }
}

/// A registration as the broker has it.
struct Known {
    spiffe_id: String,
    version: String,
    document: Value,
}

impl Known {
    fn is_chosen(&self, choice: &WorkloadChoice) -> bool {
        let below = |prefix: &String| {
            let rest = self.spiffe_id.strip_prefix(prefix.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let owner = self.document.get("owner").and_then(Value::as_str);
        let labels = self.document.get("labels");
        let is_labeled = |(name, value): &(String, String)| {
            let label = labels.and_then(|labels| labels.get(name));
            label.and_then(Value::as_str) == Some(value)
        };
        choice.prefix.as_ref().is_none_or(below)
            && choice.labels.iter().all(is_labeled)
            && choice.owner.as_deref().is_none_or(|of| owner == Some(of))
    }
}

/// The registrations that are chosen, by their SPIFFE IDs.
async fn registrations(registry: &mut Registry, choice: &WorkloadChoice) -> Result<Vec<Known>> {
    let workloads = registry
        .list_workloads(ListWorkloadsRequest {})
        .await
        .map_err(status_error)?
        .into_inner()
        .workloads;
    let mut known = Vec::new();
    for workload in workloads {
        let one = Known {
            document: parse_registration(&workload.document)?,
            spiffe_id: workload.spiffe_id,
            version: workload.version,
        };
        if one.is_chosen(choice) {
            known.push(one);
        }
    }
    known.sort_by(|one, other| one.spiffe_id.cmp(&other.spiffe_id));
    Ok(known)
}

async fn show(connect: &Connect, output: &Output, spiffe_id: String) -> Result<ExitCode> {
    let workload = registry(connect)
        .await?
        .show_workload(ShowWorkloadRequest { spiffe_id })
        .await
        .map_err(status_error)?
        .into_inner()
        .workload
        .context("the broker sent no workload")?;
    output.show(&RegistrationView {
        version: workload.version,
        workload: parse_registration(&workload.document)?,
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn delete(connect: &Connect, output: &Output, spiffe_id: String) -> Result<ExitCode> {
    let request = DeleteWorkloadRequest {
        spiffe_id: spiffe_id.clone(),
    };
    let action = registry(connect)
        .await?
        .delete_workload(request)
        .await
        .map_err(status_error)?
        .into_inner()
        .action;
    output.show(&DeletedView {
        deleted: spiffe_id,
        action,
        remark: "; everything issued to it is dead",
    })?;
    Ok(ExitCode::SUCCESS)
}

fn parse_registration(document: &str) -> Result<Value> {
    serde_json::from_str(document).context("the broker sent a registration that is not JSON")
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<views::AppliedView>(),
        crate::shapes::of::<views::DiffView>(),
        crate::shapes::of::<views::RegistrationView>(),
        crate::shapes::of::<views::ExportView>(),
        crate::shapes::of::<List<views::WorkloadRow>>(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn c6_a_choice_is_by_whole_segments_and_owner() {
        let known = |id: &str| Known {
            spiffe_id: id.to_owned(),
            version: String::new(),
            document: json!({ "owner": "team", "labels": { "env": "prod" } }),
        };
        let choice = |prefix: Option<&str>, owner: Option<&str>| WorkloadChoice {
            prefix: prefix.map(str::to_owned),
            owner: owner.map(str::to_owned),
            labels: Vec::new(),
        };
        let (one, below, beside) = (
            "spiffe://a.test/b",
            "spiffe://a.test/b/c",
            "spiffe://a.test/bc",
        );
        let prefix = choice(Some("spiffe://a.test/b/"), None);
        assert!(known(one).is_chosen(&prefix) && known(below).is_chosen(&prefix));
        assert!(!known(beside).is_chosen(&prefix));
        assert!(known(one).is_chosen(&choice(None, Some("team"))));
        assert!(!known(one).is_chosen(&choice(Some(one), Some("other"))));
        let labeled = |value: &str| WorkloadChoice {
            labels: vec![("env".to_owned(), value.to_owned())],
            ..choice(None, None)
        };
        assert!(known(one).is_chosen(&labeled("prod")));
        assert!(!known(one).is_chosen(&labeled("test")));
    }
}
