//! Previews: what a selector would hit, without changing anything.

use std::process::ExitCode;

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use serde::Serialize;
use sundew_proto::v1::{self, PreviewRequest, PreviewResponse, Selector};

use crate::args::Connect;
use crate::client::{response, status_error};
use crate::output::{Output, View, escape, table};
use crate::timestamp::format_timestamp;

/// Shows what a selector matches, with a spinner while the broker looks. Fails if the broker stops
/// before it has looked at every task.
pub(super) async fn preview(
    connect: &Connect,
    output: &Output,
    selector: Selector,
) -> Result<ExitCode> {
    let request = PreviewRequest {
        selector: Some(selector),
    };
    let mut counts = response(connect)
        .await?
        .preview(request)
        .await
        .map_err(status_error)?
        .into_inner();
    let bar = if output.is_json() {
        ProgressBar::hidden()
    } else {
        ProgressBar::new_spinner()
    };
    let mut last = PreviewResponse::default();
    while let Some(so_far) = counts.message().await.map_err(status_error)? {
        bar.set_message(format!(
            "{} tasks looked at; {} tasks and {} tokens match so far",
            so_far.looked_at, so_far.tasks, so_far.tokens
        ));
        bar.tick();
        last = so_far;
    }
    bar.finish_and_clear();
    if !last.done {
        bail!("the broker stopped before it had looked at everything");
    }
    output.show(&PreviewView::from(last))?;
    Ok(ExitCode::SUCCESS)
}

/// What a selector would hit.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct PreviewView {
    /// Live tasks and tokens.
    tasks: u64,
    tokens: u64,
    /// Credentials in other systems.
    leases: u64,
    looked_at: u64,
    /// The workloads with the most tokens, and the number of other ones.
    workloads: Vec<Counted>,
    other_workloads: u64,
    /// Some of the tasks.
    samples: Vec<Sample>,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Counted {
    spiffe_id: String,
    tasks: u64,
    tokens: u64,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Sample {
    task_id: String,
    spiffe_id: String,
    deadline_ms: i64,
    purpose: String,
}

impl From<PreviewResponse> for PreviewView {
    fn from(preview: PreviewResponse) -> Self {
        let counted = |count: v1::WorkloadCount| Counted {
            spiffe_id: count.spiffe_id,
            tasks: count.tasks,
            tokens: count.tokens,
        };
        let sample = |task: v1::Task| Sample {
            task_id: task.task_id,
            spiffe_id: task.spiffe_id,
            deadline_ms: task.deadline_ms,
            purpose: task.purpose,
        };
        Self {
            tasks: preview.tasks,
            tokens: preview.tokens,
            leases: preview.leases,
            looked_at: preview.looked_at,
            workloads: preview.workloads.into_iter().map(counted).collect(),
            other_workloads: preview.other_workloads,
            samples: preview.samples.into_iter().map(sample).collect(),
        }
    }
}

impl View for PreviewView {
    const KIND: &'static str = "preview";

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "would hit {} live tasks with {} live tokens, and {} credentials in other systems",
                self.tasks, self.tokens, self.leases
            ),
            format!("looked at {} tasks; nothing was changed", self.looked_at),
        ];
        if !self.workloads.is_empty() {
            lines.push(String::new());
            lines.extend(workload_table(&self.workloads));
        }
        if self.other_workloads > 0 {
            lines.push(format!("… and {} other workloads", self.other_workloads));
        }
        if !self.samples.is_empty() {
            lines.push(String::new());
            lines.extend(sample_table(&self.samples));
        }
        lines
    }
}

fn workload_table(workloads: &[Counted]) -> Vec<String> {
    let row = |count: &Counted| {
        vec![
            count.spiffe_id.clone(),
            count.tasks.to_string(),
            count.tokens.to_string(),
        ]
    };
    table(
        &["WORKLOAD", "TASKS", "TOKENS"],
        &workloads.iter().map(row).collect::<Vec<_>>(),
    )
}

fn sample_table(samples: &[Sample]) -> Vec<String> {
    let row = |task: &Sample| {
        vec![
            task.task_id.clone(),
            task.spiffe_id.clone(),
            format_timestamp(task.deadline_ms),
            escape(&task.purpose, 40),
        ]
    };
    table(
        &["TASK", "WORKLOAD", "DEADLINE", "PURPOSE"],
        &samples.iter().map(row).collect::<Vec<_>>(),
    )
}

#[cfg(test)]
mod tests {
    use sundew_proto::v1::{PreviewResponse, Task, WorkloadCount};

    use super::PreviewView;
    use crate::output::View as _;

    fn preview_lines(preview: &PreviewResponse) -> Vec<String> {
        PreviewView::from(preview.clone()).lines()
    }

    #[test]
    fn a_preview_shows_counts_then_workloads_then_samples() {
        let mut preview = PreviewResponse {
            tasks: 2,
            tokens: 3,
            leases: 1,
            looked_at: 9,
            ..PreviewResponse::default()
        };
        let counts = [
            "would hit 2 live tasks with 3 live tokens, and 1 credentials in other systems",
            "looked at 9 tasks; nothing was changed",
        ];
        assert_eq!(preview_lines(&preview), counts);
        preview.workloads = vec![WorkloadCount {
            spiffe_id: "w".to_owned(),
            tasks: 2,
            tokens: 3,
        }];
        preview.other_workloads = 4;
        preview.samples = vec![Task {
            task_id: "t".to_owned(),
            spiffe_id: "w".to_owned(),
            purpose: "p".to_owned(),
            ..Task::default()
        }];
        assert_eq!(
            preview_lines(&preview)[2..],
            [
                "",
                "WORKLOAD  TASKS  TOKENS",
                "w         2      3",
                "… and 4 other workloads",
                "",
                "TASK  WORKLOAD  DEADLINE              PURPOSE",
                "t     w         1970-01-01T00:00:00Z  p",
            ]
        );
    }
}
