//! `sundew task`: beginning, delegating, ending and looking at tasks.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sundew_proto::v1::{
    self, CompleteTaskRequest, DelegateRequest, ListTasksRequest, Outcome, ShowTaskRequest,
};
use sundew_sdk::Ttl;

use crate::args::{BeginTask, Connect, DelegateTask, EndAs, TaskCommand};
use crate::client::{agent, agent_service, response, status_error};
use crate::output::{Output, escape, table};
use crate::pending;
use crate::timestamp::format_timestamp;

pub(crate) async fn task(
    connect: &Connect,
    output: &Output,
    command: TaskCommand,
) -> Result<ExitCode> {
    match command {
        TaskCommand::Begin(begin_task) => begin(connect, output, begin_task).await,
        TaskCommand::Delegate(delegate_task) => delegate(connect, output, delegate_task).await,
        TaskCommand::Complete { task_id, outcome } => {
            complete(connect, output, task_id, outcome).await
        }
        TaskCommand::List { workload, limit } => list(connect, output, workload, limit).await,
        TaskCommand::Show { task_id } => show(connect, output, task_id).await,
    }
}

async fn begin(connect: &Connect, output: &Output, command: BeginTask) -> Result<ExitCode> {
    let agent = agent(connect).await?;
    let mut builder = agent
        .task(&command.purpose)
        .instruction(&command.instruction);
    for scope in &command.scopes {
        builder = builder.scope(scope);
    }
    if let Some(ttl) = command.ttl {
        builder = builder.ttl(ttl.to_std());
    }
    if let Some(grant) = &command.grant {
        builder = builder.under(grant);
    }
    let task = builder.begin().await?;
    let token = task.token();
    let value = json!({
        "task_id": task.id(), "token": token.expose(), "token_id": token.id(),
        "scopes": task.scopes(), "deadline_ms": task.deadline_ms(),
    });
    output.result(&value, || {
        vec![
            format!("task   {}", task.id()),
            format!("until  {}", format_timestamp(task.deadline_ms())),
            format!("token  {}", token.expose()),
        ]
    });
    if command.no_attend {
        // Dropping the task would end the task.
        std::mem::forget(task);
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("attending; Ctrl-C ends the task");
    tokio::select! {
        ended = task.ended() => bail!("the task was ended: {ended}"),
        _ = tokio::signal::ctrl_c() => {}
    }
    eprintln!("{}", task.complete().await?);
    Ok(ExitCode::SUCCESS)
}

async fn delegate(connect: &Connect, output: &Output, command: DelegateTask) -> Result<ExitCode> {
    let request = DelegateRequest {
        task_id: command.task_id,
        delegate: command.to.clone(),
        scopes: command.scopes,
        audience: command.audience,
        ttl_ms: command.ttl.map_or(0, Ttl::as_ms),
        depth: command.depth,
    };
    let answer = agent_service(connect)
        .await?
        .delegate(request)
        .await
        .map_err(status_error)?
        .into_inner();
    let value = json!({
        "grant": answer.grant, "delegate": command.to, "expires_at_ms": answer.expires_at_ms,
    });
    output.result(&value, || vec![answer.grant.clone()]);
    Ok(ExitCode::SUCCESS)
}

async fn complete(
    connect: &Connect,
    output: &Output,
    task_id: String,
    outcome: EndAs,
) -> Result<ExitCode> {
    let outcome = match outcome {
        EndAs::Completed => Outcome::Completed,
        EndAs::Failed => Outcome::Failed,
        EndAs::Canceled => Outcome::Canceled,
    };
    let request = CompleteTaskRequest {
        task_id: task_id.clone(),
        outcome: outcome.into(),
    };
    let answer = agent_service(connect).await?.complete_task(request).await;
    let answer = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) if pending::is_pending(&status) => {
            let value = json!({ "task_id": task_id, "pending": true });
            output.result(&value, || {
                vec![format!(
                    "{task_id} has ended at this broker, PENDING elsewhere: repeat it until it is \
                     in force everywhere"
                )]
            });
            return Ok(pending::exit_code());
        }
        Err(status) => return Err(status_error(status)),
    };
    let outcome = outcome_label(answer.outcome());
    output.result(&json!({ "task_id": task_id, "outcome": outcome }), || {
        vec![format!("{task_id} {outcome}")]
    });
    Ok(ExitCode::SUCCESS)
}

async fn list(
    connect: &Connect,
    output: &Output,
    workload: Option<String>,
    limit: u32,
) -> Result<ExitCode> {
    let request = ListTasksRequest {
        spiffe_id: workload.unwrap_or_default(),
        limit,
    };
    let tasks = response(connect)
        .await?
        .list_tasks(request)
        .await
        .map_err(status_error)?
        .into_inner()
        .tasks;
    let value: Vec<_> = tasks.iter().map(task_json).collect();
    output.result(&value, || {
        table(
            &["TASK", "WORKLOAD", "STATE", "DEADLINE", "PURPOSE"],
            &tasks.iter().map(task_row).collect::<Vec<_>>(),
        )
    });
    Ok(ExitCode::SUCCESS)
}

async fn show(connect: &Connect, output: &Output, task_id: String) -> Result<ExitCode> {
    let answer = response(connect)
        .await?
        .show_task(ShowTaskRequest { task_id })
        .await
        .map_err(status_error)?
        .into_inner();
    let task = answer.task.context("the broker sent no task")?;
    output.result(&task_json(&task), || task_lines(&task));
    Ok(ExitCode::SUCCESS)
}

fn outcome_label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unspecified => "alive",
        Outcome::Completed => "completed",
        Outcome::Failed => "failed",
        Outcome::Canceled => "canceled",
        Outcome::Expired => "expired",
        Outcome::Abandoned => "abandoned",
        Outcome::Revoked => "revoked",
    }
}

/// Returns how a task ended, or `suspended` or `alive` for a task that has not ended.
fn state_label(task: &v1::Task) -> &'static str {
    if task.suspended && task.outcome() == Outcome::Unspecified {
        "suspended"
    } else {
        outcome_label(task.outcome())
    }
}

fn task_json(task: &v1::Task) -> Value {
    json!({
        "task_id": task.task_id, "spiffe_id": task.spiffe_id, "state": state_label(task),
        "purpose": task.purpose, "instruction": task.instruction, "scopes": task.scopes,
        "created_at_ms": task.created_at_ms, "deadline_ms": task.deadline_ms,
        "registration_version": task.registration_version, "ancestors": task.ancestors,
        "audience": task.audience,
    })
}

fn task_row(task: &v1::Task) -> Vec<String> {
    vec![
        task.task_id.clone(),
        task.spiffe_id.clone(),
        state_label(task).to_owned(),
        format_timestamp(task.deadline_ms),
        escape(&task.purpose, 40),
    ]
}

fn task_lines(task: &v1::Task) -> Vec<String> {
    let delegators = if task.ancestors.is_empty() {
        "nobody".to_owned()
    } else {
        task.ancestors.join(" > ")
    };
    vec![
        format!("task          {}", task.task_id),
        format!("workload      {}", task.spiffe_id),
        format!("state         {}", state_label(task)),
        format!("purpose       {}", escape(&task.purpose, 1024)),
        format!("instruction   {}", escape(&task.instruction, 4096)),
        format!("scopes        {}", task.scopes.join(" ")),
        format!("began         {}", format_timestamp(task.created_at_ms)),
        format!("deadline      {}", format_timestamp(task.deadline_ms)),
        format!("registration  {}", task.registration_version),
        format!("delegated by  {delegators}"),
    ]
}

#[cfg(test)]
mod tests {
    use sundew_proto::v1::{Outcome, Task};

    use super::{state_label, task_json, task_lines, task_row};

    fn a_task() -> Task {
        Task {
            task_id: "task-1".to_owned(),
            spiffe_id: "spiffe://a.test/b".to_owned(),
            purpose: format!("first\n{}", "x".repeat(40)),
            scopes: vec!["a:b".to_owned(), "c:d".to_owned()],
            created_at_ms: 0,
            deadline_ms: 951_782_400_000,
            ..Task::default()
        }
    }

    #[test]
    fn a_task_that_has_not_ended_is_alive_or_suspended() {
        let mut task = a_task();
        assert_eq!(state_label(&task), "alive");
        task.suspended = true;
        assert_eq!(state_label(&task), "suspended");
        task.outcome = Outcome::Revoked.into();
        assert_eq!(state_label(&task), "revoked");
    }

    #[test]
    fn a_row_cuts_the_purpose_and_keeps_it_on_its_line() {
        assert_eq!(
            task_row(&a_task()),
            [
                "task-1",
                "spiffe://a.test/b",
                "alive",
                "2000-02-29T00:00:00Z",
                &format!("first\\n{}…", "x".repeat(34)),
            ]
        );
    }

    #[test]
    fn the_lines_of_a_task_name_who_delegated_it() {
        let mut task = a_task();
        assert!(task_lines(&task).contains(&"delegated by  nobody".to_owned()));
        task.ancestors = vec!["task-3".to_owned(), "task-2".to_owned()];
        assert!(task_lines(&task).contains(&"delegated by  task-3 > task-2".to_owned()));
        assert!(task_lines(&task).contains(&"scopes        a:b c:d".to_owned()));
    }

    #[test]
    fn the_json_of_a_task_has_its_texts_unchanged() {
        let task = a_task();
        let value = task_json(&task);
        assert_eq!(value["purpose"], task.purpose.as_str());
        assert_eq!(value["deadline_ms"], 951_782_400_000_i64);
        assert_eq!(value.as_object().unwrap().len(), 11);
    }
}
