//! `sundew task`: beginning, delegating, ending and looking at tasks.

mod views;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use sundew_proto::v1::{
    CompleteTaskRequest, DelegateRequest, ListTasksRequest, Outcome, Selector, ShowTaskRequest,
    TaskState,
};
use sundew_sdk::Ttl;

use crate::args::{
    BeginTask, Connect, DelegateTask, EndAs, ListTasks, TaskCommand, TaskStateFilter,
};
use crate::client::{agent, agent_service, response, status_error};
use crate::output::{List, Output, note};
use crate::pending;
use crate::timestamp::now_ms;
use views::{BegunView, EndedView, GrantView, TaskDetails, TaskRow, outcome_label};

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
        TaskCommand::List(filter) => list(connect, output, filter).await,
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
    output.show(&BegunView {
        task_id: task.id().to_owned(),
        token: token.expose().to_owned(),
        token_id: token.id().to_owned(),
        scopes: task.scopes().to_vec(),
        deadline_ms: task.deadline_ms(),
    })?;
    if command.no_attend {
        // Dropping the task would end the task.
        std::mem::forget(task);
        return Ok(ExitCode::SUCCESS);
    }
    note("attending; Ctrl-C ends the task");
    tokio::select! {
        ended = task.ended() => bail!("the task was ended: {ended}"),
        _ = tokio::signal::ctrl_c() => {}
    }
    note(&task.complete().await?.to_string());
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
    output.show(&GrantView {
        grant: answer.grant,
        delegate: command.to,
        expires_at_ms: answer.expires_at_ms,
    })?;
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
    let (outcome, code) = match answer {
        Ok(answer) => (Some(answer.into_inner().outcome()), ExitCode::SUCCESS),
        Err(status) if pending::is_pending(&status) => (None, pending::exit_code()),
        Err(status) => return Err(status_error(status)),
    };
    output.show(&EndedView {
        task_id,
        outcome: outcome.map(|outcome| outcome_label(outcome).to_owned()),
        pending: outcome.is_none(),
    })?;
    Ok(code)
}

async fn list(connect: &Connect, output: &Output, filter: ListTasks) -> Result<ExitCode> {
    let answer = response(connect)
        .await?
        .list_tasks(request(filter, now_ms()))
        .await
        .map_err(status_error)?
        .into_inner();
    let tasks = answer.tasks.into_iter().map(TaskRow::from).collect();
    output.show(&List::page(tasks, answer.more))?;
    Ok(ExitCode::SUCCESS)
}

/// The request that a filter of the command line asks for, at `now_ms`, in milliseconds since the
/// epoch.
fn request(filter: ListTasks, now_ms: i64) -> ListTasksRequest {
    let ago = |ttl: Ttl| now_ms.saturating_sub(ttl.as_ms());
    let state = match filter.state {
        TaskStateFilter::Live => TaskState::Unspecified,
        TaskStateFilter::Alive => TaskState::Alive,
        TaskStateFilter::Suspended => TaskState::Suspended,
        TaskStateFilter::Ended => TaskState::Ended,
        TaskStateFilter::Any => TaskState::Any,
    };
    let selector = Selector {
        spiffe_path_prefix: filter.spiffe_prefix.unwrap_or_default(),
        scope: filter.scope.unwrap_or_default(),
        secret: filter.secret.unwrap_or_default(),
        claims: filter.claims,
        task_tree: filter.task_tree.unwrap_or_default(),
        registration_version: filter.registration.unwrap_or_default(),
        issued_before_ms: filter.older_than.map(ago).unwrap_or_default(),
        ..Selector::default()
    };
    ListTasksRequest {
        spiffe_id: filter.workload.unwrap_or_default(),
        limit: filter.limit,
        selector: (selector != Selector::default()).then_some(selector),
        state: state.into(),
        begun_from_ms: filter.younger_than.map(ago).unwrap_or_default(),
    }
}

async fn show(connect: &Connect, output: &Output, task_id: String) -> Result<ExitCode> {
    let answer = response(connect)
        .await?
        .show_task(ShowTaskRequest { task_id })
        .await
        .map_err(status_error)?
        .into_inner();
    let details = TaskDetails::new(answer).context("the broker sent no task")?;
    output.show(&details)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns how a task ended, and nothing while it lives.
pub(crate) fn outcome_of(outcome: Outcome) -> &'static str {
    if outcome == Outcome::Unspecified {
        ""
    } else {
        outcome_label(outcome)
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<views::BegunView>(),
        crate::shapes::of::<views::GrantView>(),
        crate::shapes::of::<views::EndedView>(),
        crate::shapes::of::<views::TaskDetails>(),
        crate::shapes::of::<List<views::TaskRow>>(),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn c6_a_filter_of_tasks_is_what_the_broker_is_asked_for() {
        let asked = |line: &str| {
            let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
            let Command::Task(TaskCommand::List(filter)) = cli.command else {
                panic!("{line}");
            };
            request(filter, 10_000_000)
        };
        let plain = asked("sundew task list");
        assert_eq!((plain.selector, plain.limit), (None, 100));
        assert_eq!(plain.state, i32::from(TaskState::Unspecified));
        let line = "sundew task list --state ended --scope a:b --claim k.n=v --older-than 1h \
                    --younger-than 2h";
        let some = asked(line);
        let selector = some.selector.unwrap();
        assert_eq!(
            (selector.scope, selector.claims),
            ("a:b".to_owned(), vec!["k.n=v".to_owned()])
        );
        assert_eq!(selector.issued_before_ms, 10_000_000 - 3_600_000);
        assert_eq!(some.begun_from_ms, 10_000_000 - 7_200_000);
        assert_eq!(some.state, i32::from(TaskState::Ended));
    }
}
