//! The story of a command of the user's, which is run as the agent.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use sundew_broker::journal::read;
use sundew_proto::v1::ListTasksRequest;

use super::Setup;
use super::story::Story;
use crate::client::status_error;

/// Runs the user's command under `sundew run`, and looks at what is left of its task.
pub(super) async fn tell(story: &mut Story<'_>, setup: &Setup, command: &[String]) -> Result<()> {
    let mut run = setup.agent_command();
    run.args([
        "run",
        "--task",
        "sundew demo",
        "--scope",
        "secret:demo/api-key",
        "--secret",
        "DEMO_API_KEY=demo/api-key",
        "--",
    ])
    .args(command);
    // Standard output is for the JSON of the demo.
    if story.output.is_json() {
        run.stdout(Stdio::from(std::io::stderr()));
    }
    let status = run.status().await?;
    story.tell(
        "your command",
        status.success(),
        format!(
            "`{}` ran under `sundew run` with DEMO_API_KEY and SUNDEW_TOKEN: {status}",
            command.join(" ")
        ),
        "the command needs no SDK; its secrets live as long as its task",
    );
    let mut begun = None;
    let mut ended = None;
    read(&setup.local.journal(), |record| {
        match record.event.as_str() {
            "task_begun" => begun = record.field("token_id").map(str::to_owned),
            "task_ended" => ended = record.field("outcome").map(str::to_owned),
            _ => {}
        }
    })?;
    let token = begun.context("the journal has no task")?;
    let live = setup
        .operator
        .response
        .clone()
        .list_tasks(ListTasksRequest::default())
        .await
        .map_err(status_error)?
        .into_inner()
        .tasks
        .len();
    story.tell(
        "task complete",
        ended.is_some() && live == 0,
        format!(
            "{}; {live} live tasks are left; {token} is dead",
            ended.as_deref().unwrap_or("not ended")
        ),
        "the task ended with the command, however the command ended",
    );
    Ok(())
}
