//! The state of one response, and how far the clean-up after it is.

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use sundew_proto::v1::{Effect, RevocationStatus, WatchRevocationRequest};

use super::selector::{Criteria, criteria};
use crate::args::Connect;
use crate::client::{response, status_error};
use crate::output::{Output, View, escape};

/// Returns the last state of a response's clean-up that the broker tells: the present one, or the
/// final one if `to_the_end`. A bar shows the progress where somebody looks.
pub(super) async fn follow(
    connect: &Connect,
    output: &Output,
    id: &str,
    to_the_end: bool,
) -> Result<RevocationStatus> {
    let request = WatchRevocationRequest {
        revocation_id: id.to_owned(),
        follow: to_the_end,
    };
    let mut states = response(connect)
        .await?
        .watch_revocation(request)
        .await
        .map_err(status_error)?
        .into_inner();
    let bar = if output.is_json() || !to_the_end {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(0)
    };
    bar.set_style(
        ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut last = None;
    while let Some(status) = states.message().await.map_err(status_error)? {
        let (message, length, position) = progress(&status);
        bar.set_message(message);
        bar.set_length(length);
        bar.set_position(position);
        last = Some(status);
    }
    bar.finish_and_clear();
    last.context("the broker told nothing of it")
}

/// Returns what a clean-up is at, how many there are of it, and how many of them are done.
fn progress(status: &RevocationStatus) -> (&'static str, u64, u64) {
    if !status.counted {
        ("counting", 0, 0)
    } else if status.reaped_tasks < status.tasks {
        ("tasks cleaned up", status.tasks, status.reaped_tasks)
    } else {
        let removed = status.leases.saturating_sub(status.leases_left);
        ("leases removed", status.leases, removed)
    }
}

pub(super) fn effect_label(effect: Effect) -> &'static str {
    match effect {
        Effect::Unspecified | Effect::Revoke => "revoke",
        Effect::Quarantine => "quarantine",
        Effect::Contain => "contain",
        Effect::Suspend => "suspend",
    }
}

/// A response, and how far the clean-up after it is.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct StatusView {
    revocation_id: String,
    effect: &'static str,
    actor: String,
    reason: String,
    at_ms: i64,
    selector: Criteria,
    /// Whether what it killed is counted.
    counted: bool,
    tasks: u64,
    tokens: u64,
    /// Tasks that are off all lists.
    reaped_tasks: u64,
    /// Credentials in other systems, and how many are not removed yet.
    leases: u64,
    leases_left: u64,
    lease_problem: String,
    done: bool,
    lifted: bool,
}

impl From<RevocationStatus> for StatusView {
    fn from(status: RevocationStatus) -> Self {
        Self {
            effect: effect_label(status.effect()),
            selector: criteria(&status.selector.unwrap_or_default()),
            revocation_id: status.revocation_id,
            actor: status.actor,
            reason: status.reason,
            at_ms: status.at_ms,
            counted: status.counted,
            tasks: status.tasks,
            tokens: status.tokens,
            reaped_tasks: status.reaped_tasks,
            leases: status.leases,
            leases_left: status.leases_left,
            lease_problem: status.lease_problem,
            done: status.done,
            lifted: status.lifted,
        }
    }
}

impl View for StatusView {
    const KIND: &'static str = "revocation_status";

    fn lines(&self) -> Vec<String> {
        if !self.counted {
            return vec![format!(
                "{}: in force; still counting what it hit",
                self.revocation_id
            )];
        }
        let mut lines = vec![format!(
            "{} live tasks with {} live tokens were killed",
            self.tasks, self.tokens
        )];
        if self.leases > 0 {
            lines.push(format!(
                "{} of {} credentials in other systems are removed",
                self.leases.saturating_sub(self.leases_left),
                self.leases
            ));
        }
        if !self.lease_problem.is_empty() && self.leases_left > 0 {
            lines.push(format!(
                "the rest is tried again for ever; the last one failed: {}",
                escape(&self.lease_problem, 300)
            ));
        }
        let done = if self.done {
            "done"
        } else {
            "the clean-up goes on"
        };
        lines.push(done.to_owned());
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_lines(status: &RevocationStatus) -> Vec<String> {
        StatusView::from(status.clone()).lines()
    }

    fn counted() -> RevocationStatus {
        RevocationStatus {
            revocation_id: "rev-1".to_owned(),
            counted: true,
            tasks: 2,
            tokens: 3,
            reaped_tasks: 1,
            ..RevocationStatus::default()
        }
    }

    #[test]
    fn progress_is_of_tasks_first_and_of_leases_then() {
        let mut status = RevocationStatus::default();
        assert_eq!(progress(&status), ("counting", 0, 0));
        status = counted();
        assert_eq!(progress(&status), ("tasks cleaned up", 2, 1));
        (status.reaped_tasks, status.leases, status.leases_left) = (2, 5, 4);
        assert_eq!(progress(&status), ("leases removed", 5, 1));
    }

    #[test]
    fn a_response_whose_hits_are_not_counted_is_in_force() {
        let mut status = counted();
        status.counted = false;
        assert_eq!(
            status_lines(&status),
            ["rev-1: in force; still counting what it hit"]
        );
    }

    #[test]
    fn the_lines_tell_of_leases_that_are_left_and_why() {
        let mut status = counted();
        (status.leases, status.leases_left) = (5, 4);
        status.lease_problem = "refused\n".to_owned();
        assert_eq!(
            status_lines(&status),
            [
                "2 live tasks with 3 live tokens were killed",
                "1 of 5 credentials in other systems are removed",
                "the rest is tried again for ever; the last one failed: refused\\n",
                "the clean-up goes on",
            ]
        );
        (status.leases_left, status.done) = (0, true);
        assert_eq!(
            status_lines(&status),
            [
                "2 live tasks with 3 live tokens were killed",
                "5 of 5 credentials in other systems are removed",
                "done",
            ]
        );
    }
}
