//! Tasks and tokens from the command line.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use sundew_proto::v1::agent_service_client::AgentServiceClient;
use sundew_proto::v1::{
    self, CompleteTaskRequest, DelegateRequest, IntrospectRequest, ListTasksRequest, Outcome,
    ShowTaskRequest,
};

use crate::args::{
    BeginTask, Connect, DelegateTask, EndAs, IntrospectToken, TaskCommand, TokenCommand,
};
use crate::client::{access, agent, connection, response, status_error};
use crate::input::parse_hex_32;
use crate::output::{Output, escape, table};
use crate::respond::{of_token, put_in_force};
use crate::timestamp::format_timestamp;

pub(crate) async fn task(connect: &Connect, output: &Output, command: TaskCommand) -> Result<()> {
    match command {
        TaskCommand::Begin(BeginTask {
            purpose,
            instruction,
            scopes,
            ttl,
            grant,
            no_attend,
        }) => {
            let agent = agent(connect).await?;
            let mut builder = agent.task(&purpose).instruction(&instruction);
            for scope in &scopes {
                builder = builder.scope(scope);
            }
            if let Some(ttl) = ttl {
                builder = builder.ttl(ttl.to_std());
            }
            if let Some(grant) = &grant {
                builder = builder.under(grant);
            }
            let task = builder.begin().await?;
            let token = task.token();
            let value = serde_json::json!({ "task_id": task.id(), "token": token.expose(), "token_id": token.id(), "scopes": task.scopes(), "deadline_ms": task.deadline_ms() });
            output.result(&value, || {
                vec![
                    format!("task   {}", task.id()),
                    format!("until  {}", format_timestamp(task.deadline_ms())),
                    format!("token  {}", token.expose()),
                ]
            });
            if no_attend {
                // Not dropped: dropping would end it.
                std::mem::forget(task);
                return Ok(());
            }
            eprintln!("attending; Ctrl-C ends the task");
            tokio::select! {
                ended = task.ended() => bail!("the task was ended: {ended}"),
                _ = tokio::signal::ctrl_c() => {}
            }
            eprintln!("{}", task.complete().await?);
            Ok(())
        }
        TaskCommand::Delegate(DelegateTask {
            task_id,
            to,
            scopes,
            audience,
            ttl,
            depth,
        }) => {
            let ttl_ms = ttl.map_or(0, sundew_sdk::Ttl::as_ms);
            let request = DelegateRequest {
                task_id,
                delegate: to.clone(),
                scopes,
                audience,
                ttl_ms,
                depth,
            };
            let answer = AgentServiceClient::new(connection(connect).await?.channel())
                .delegate(request)
                .await
                .map_err(status_error)?
                .into_inner();
            let value = serde_json::json!({ "grant": answer.grant, "delegate": to, "expires_at_ms": answer.expires_at_ms });
            output.result(&value, || vec![answer.grant.clone()]);
            Ok(())
        }
        TaskCommand::Complete { task_id, outcome } => {
            let outcome = match outcome {
                EndAs::Completed => Outcome::Completed,
                EndAs::Failed => Outcome::Failed,
                EndAs::Canceled => Outcome::Canceled,
            };
            let request = CompleteTaskRequest {
                task_id: task_id.clone(),
                outcome: outcome.into(),
            };
            let answer = AgentServiceClient::new(connection(connect).await?.channel())
                .complete_task(request)
                .await
                .map_err(status_error)?
                .into_inner();
            let word = word(answer.outcome());
            output.result(
                &serde_json::json!({ "task_id": task_id, "outcome": word }),
                || vec![format!("{task_id} {word}")],
            );
            Ok(())
        }
        TaskCommand::List { workload, limit } => {
            let request = ListTasksRequest {
                spiffe_id: workload.unwrap_or_default(),
                limit,
            };
            let answer = response(connect)
                .await?
                .list_tasks(request)
                .await
                .map_err(status_error)?
                .into_inner();
            let value: Vec<_> = answer.tasks.iter().map(json).collect();
            output.result(&value, || {
                let row = |t: &v1::Task| {
                    vec![
                        t.task_id.clone(),
                        t.spiffe_id.clone(),
                        state(t),
                        format_timestamp(t.deadline_ms),
                        escape(&t.purpose, 40),
                    ]
                };
                table(
                    &["TASK", "WORKLOAD", "STATE", "DEADLINE", "PURPOSE"],
                    &answer.tasks.iter().map(row).collect::<Vec<_>>(),
                )
            });
            Ok(())
        }
        TaskCommand::Show { task_id } => {
            let answer = response(connect)
                .await?
                .show_task(ShowTaskRequest { task_id })
                .await
                .map_err(status_error)?
                .into_inner();
            let task = answer.task.context("the broker sent no task")?;
            output.result(&json(&task), || {
                vec![
                    format!("task          {}", task.task_id),
                    format!("workload      {}", task.spiffe_id),
                    format!("state         {}", state(&task)),
                    format!("purpose       {}", escape(&task.purpose, 1024)),
                    format!("instruction   {}", escape(&task.instruction, 4096)),
                    format!("scopes        {}", task.scopes.join(" ")),
                    format!("began         {}", format_timestamp(task.created_at_ms)),
                    format!("deadline      {}", format_timestamp(task.deadline_ms)),
                    format!("registration  {}", task.registration_version),
                    format!(
                        "delegated by  {}",
                        if task.ancestors.is_empty() {
                            "nobody".to_owned()
                        } else {
                            task.ancestors.join(" > ")
                        }
                    ),
                ]
            });
            Ok(())
        }
    }
}

fn word(outcome: Outcome) -> &'static str {
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

fn state(task: &v1::Task) -> String {
    if task.suspended && task.outcome() == Outcome::Unspecified {
        "suspended".to_owned()
    } else {
        word(task.outcome()).to_owned()
    }
}

fn json(task: &v1::Task) -> serde_json::Value {
    serde_json::json!({
        "task_id": task.task_id, "spiffe_id": task.spiffe_id, "state": state(task), "purpose": task.purpose, "instruction": task.instruction,
        "scopes": task.scopes, "created_at_ms": task.created_at_ms, "deadline_ms": task.deadline_ms, "registration_version": task.registration_version,
        "ancestors": task.ancestors, "audience": task.audience,
    })
}

/// The chain of actors, as RFC 8693 writes it.
fn act(actor: &v1::Actor) -> serde_json::Value {
    let mut value = serde_json::json!({ "sub": actor.spiffe_id, "task_id": actor.task_id, "purpose": actor.purpose });
    if let (Some(members), Some(next)) = (value.as_object_mut(), &actor.act) {
        members.insert("act".to_owned(), act(next));
    }
    value
}

pub(crate) async fn token(
    connect: &Connect,
    output: &Output,
    command: TokenCommand,
) -> Result<ExitCode> {
    match command {
        TokenCommand::Introspect(IntrospectToken {
            presenter,
            audience,
            scopes,
        }) => {
            let mut token = zeroize::Zeroizing::new(String::new());
            std::io::stdin()
                .read_to_string(&mut token)
                .context("token from standard input")?;
            let request = IntrospectRequest {
                token: token.trim().to_owned(),
                presenter_certificate_sha256: presenter
                    .as_deref()
                    .map(|digits| {
                        parse_hex_32(digits).context("--presenter must be 64 hexadecimal digits")
                    })
                    .transpose()?
                    .map(Vec::from)
                    .unwrap_or_default(),
                audience: audience.unwrap_or_default(),
                required_scopes: scopes,
            };
            let answer = access(connect)
                .await?
                .introspect(request)
                .await
                .map_err(status_error)?
                .into_inner();
            if !answer.active {
                output.result(&serde_json::json!({ "active": false }), || {
                    vec!["not active".to_owned()]
                });
                return Ok(ExitCode::FAILURE);
            }
            let value = serde_json::json!({
                "active": true, "spiffe_id": answer.spiffe_id, "task_id": answer.task_id, "token_id": answer.token_id, "scopes": answer.scopes,
                "audience": answer.audience, "expires_at_ms": answer.expires_at_ms, "registration_version": answer.registration_version,
                "bearer": answer.binding() == v1::Binding::Bearer, "on_behalf_of": answer.on_behalf_of, "act": answer.act.as_ref().map(act),
            });
            output.result(&value, || {
                vec![
                    "active".to_owned(),
                    format!("workload  {}", answer.spiffe_id),
                    format!("task      {}", answer.task_id),
                    format!("token id  {}", answer.token_id),
                    format!("scopes    {}", answer.scopes.join(" ")),
                    format!("until     {}", format_timestamp(answer.expires_at_ms)),
                    format!(
                        "binding   {}",
                        if answer.binding() == v1::Binding::Bearer {
                            "BEARER: whoever holds it"
                        } else {
                            "certificate"
                        }
                    ),
                    format!(
                        "for       {}",
                        if answer.on_behalf_of.is_empty() {
                            "itself"
                        } else {
                            &answer.on_behalf_of
                        }
                    ),
                ]
            });
            Ok(ExitCode::SUCCESS)
        }
        TokenCommand::Revoke { token_id, reason } => {
            put_in_force(
                connect,
                output,
                of_token(token_id),
                v1::Effect::Revoke,
                reason,
                true,
            )
            .await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
