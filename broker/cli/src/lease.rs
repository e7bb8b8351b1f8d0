//! `sundew lease`: credentials in other systems that are still to be removed.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use sundew_proto::v1::{LeaseInfo, ListLeasesRequest, ListLeasesResponse};

use crate::args::{Connect, LeaseCommand};
use crate::client::{response, status_error};
use crate::output::{List, Output, Row, escape};
use crate::timestamp::format_timestamp;

pub(crate) async fn lease(
    connect: &Connect,
    output: &Output,
    command: LeaseCommand,
) -> Result<ExitCode> {
    let LeaseCommand::List { engine, due, limit } = command;
    let request = ListLeasesRequest {
        engine: engine.unwrap_or_default(),
        due,
        limit,
    };
    let answer = response(connect)
        .await?
        .list_leases(request)
        .await
        .map_err(status_error)?
        .into_inner();
    output.show(&list(answer))?;
    Ok(ExitCode::SUCCESS)
}

fn list(answer: ListLeasesResponse) -> List<LeaseRow> {
    let leases = answer.leases.into_iter().map(LeaseRow::from).collect();
    let mut list = List::page(leases, answer.more);
    list.totals = BTreeMap::from([("leases", answer.total), ("due", answer.total_due)]);
    list.notes.push(format!(
        "{} leases, {} of them due",
        answer.total, answer.total_due
    ));
    list
}

/// A credential in another system.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct LeaseRow {
    lease_id: String,
    engine: String,
    role: String,
    task_id: String,
    username: String,
    due_ms: i64,
    /// Attempts to remove it that failed, and why the last one did.
    failures: u32,
    problem: String,
}

impl From<LeaseInfo> for LeaseRow {
    fn from(lease: LeaseInfo) -> Self {
        Self {
            lease_id: lease.lease_id,
            engine: lease.engine,
            role: lease.role,
            task_id: lease.task_id,
            username: lease.username,
            due_ms: lease.due_ms,
            failures: lease.failures,
            problem: lease.problem,
        }
    }
}

impl Row for LeaseRow {
    const KIND: &'static str = "leases";
    const HEADING: &'static [&'static str] =
        &["LEASE", "SECRET", "TASK", "DUE", "FAILURES", "PROBLEM"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.lease_id.clone(),
            format!("{}/{}", self.engine, self.role),
            self.task_id.clone(),
            format_timestamp(self.due_ms),
            self.failures.to_string(),
            escape(&self.problem, 80),
        ]
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![crate::shapes::of::<List<LeaseRow>>()]
}

#[cfg(test)]
mod tests {
    use sundew_proto::v1::{LeaseInfo, ListLeasesResponse};

    use super::list;
    use crate::output::View as _;

    #[test]
    fn leases_are_a_table_and_their_counts() {
        let answer = ListLeasesResponse {
            leases: vec![LeaseInfo {
                lease_id: "lease-1".to_owned(),
                engine: "db".to_owned(),
                role: "reader".to_owned(),
                task_id: "task-1".to_owned(),
                failures: 2,
                problem: "down".to_owned(),
                ..LeaseInfo::default()
            }],
            total: 7,
            total_due: 3,
            more: true,
        };
        assert_eq!(
            list(answer).lines(),
            [
                "LEASE    SECRET     TASK    DUE                   FAILURES  PROBLEM",
                "lease-1  db/reader  task-1  1970-01-01T00:00:00Z  2         down",
                "only the first 1 are shown; --limit shows more, filters show fewer",
                "7 leases, 3 of them due",
            ]
        );
    }
}
