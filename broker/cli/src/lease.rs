//! `sundew lease`: credentials in other systems that are still to be removed.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use sundew_proto::v1::{LeaseInfo, ListLeasesRequest, ListLeasesResponse};

use crate::args::{Connect, LeaseCommand};
use crate::client::{response, status_error};
use crate::output::{Output, escape, table};
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
    let leases: Vec<_> = answer.leases.iter().map(lease_json).collect();
    let value = json!({
        "leases": leases, "total": answer.total, "total_due": answer.total_due,
    });
    output.result(&value, || lease_lines(&answer));
    Ok(ExitCode::SUCCESS)
}

fn lease_json(lease: &LeaseInfo) -> Value {
    json!({
        "lease_id": lease.lease_id, "engine": lease.engine, "role": lease.role,
        "task_id": lease.task_id, "username": lease.username, "due_ms": lease.due_ms,
        "failures": lease.failures, "problem": lease.problem,
    })
}

fn lease_lines(answer: &ListLeasesResponse) -> Vec<String> {
    let row = |lease: &LeaseInfo| {
        vec![
            lease.lease_id.clone(),
            format!("{}/{}", lease.engine, lease.role),
            lease.task_id.clone(),
            format_timestamp(lease.due_ms),
            lease.failures.to_string(),
            escape(&lease.problem, 80),
        ]
    };
    let mut lines = table(
        &["LEASE", "SECRET", "TASK", "DUE", "FAILURES", "PROBLEM"],
        &answer.leases.iter().map(row).collect::<Vec<_>>(),
    );
    lines.push(format!(
        "{} leases, {} of them due",
        answer.total, answer.total_due
    ));
    lines
}

#[cfg(test)]
mod tests {
    use sundew_proto::v1::{LeaseInfo, ListLeasesResponse};

    use super::lease_lines;

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
        };
        assert_eq!(
            lease_lines(&answer),
            [
                "LEASE    SECRET     TASK    DUE                   FAILURES  PROBLEM",
                "lease-1  db/reader  task-1  1970-01-01T00:00:00Z  2         down",
                "7 leases, 3 of them due",
            ]
        );
    }
}
