//! `sundew demo`: the whole story in one process and one child. The demo fails if a step does not
//! hold.

mod agent_process;
mod example;
mod operator;
mod own_command;
mod record;
mod story;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use serde_json::json;
use tokio::process::Command;

use crate::local::{Local, Places};
use crate::manifest::{program_of, sign_program};
use crate::output::{Output, success_if};
use operator::Operator;
use story::Story;

const DOMAIN: &str = "demo.local";
/// The model that the agent says it runs with.
const MODEL: &str = "demo-model-1";

/// The broker, the operator and the agent's program, with which each part of the story happens.
struct Setup {
    local: Local,
    operator: Operator,
    /// The signed manifest of the agent.
    manifest: PathBuf,
    /// This very program, which is the agent too.
    program: PathBuf,
}

impl Setup {
    /// Returns a command that runs this program as the registered agent. The command must not find
    /// an identity or evidence of the user's in its environment.
    fn agent_command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("SUNDEW_BROKER", self.local.broker())
            .env("SPIFFE_ENDPOINT_SOCKET", self.local.socket())
            .env("SUNDEW_MANIFEST", &self.manifest)
            .env("SUNDEW_MODEL", MODEL);
        for variable in [
            "SUNDEW_SVID_DIR",
            "SUNDEW_BROKER_ID",
            "SUNDEW_CODE",
            "SUNDEW_SYSTEM_PROMPT_FILE",
            "SUNDEW_OIDC_TOKEN_FILE",
            "SUNDEW_OIDC_TOKEN_COMMAND",
        ] {
            command.env_remove(variable);
        }
        command.kill_on_drop(true);
        command
    }
}

pub(crate) async fn demo(output: &Output, command: Vec<String>) -> Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("sundew-demo-").tempdir()?;
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o711),
    )?;
    let mut story = Story::new(output);
    // Ctrl-C ends the story and not the process: the folder is removed and the agent killed.
    let ended = tokio::select! {
        ended = tell_story(&mut story, folder.path(), command) => ended,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    let held = ended.is_ok() && story.held();
    let problem = ended.err().map(|error| format!("{error:#}"));
    if output.is_json() {
        println!(
            "{}",
            json!({ "held": held, "steps": story.steps, "error": problem })
        );
    } else if held {
        println!("\nEvery promise shown held. Next: `sundew dev`, and the README.");
    } else {
        println!(
            "\nNOT everything held{}",
            problem.map(|p| format!(": {p}")).unwrap_or_default()
        );
    }
    Ok(success_if(held))
}

async fn tell_story(story: &mut Story<'_>, folder: &Path, command: Vec<String>) -> Result<()> {
    let local = Local::start(&folder.join("state"), DOMAIN, Places::any()).await?;
    story.tell(
        "broker",
        true,
        format!("listens on {} with its own CA for {DOMAIN}", local.broker()),
        "mutual TLS 1.3 only; state in one file, the record in a hash-chained journal",
    );
    let program = std::env::current_exe()?;
    let code = program_of(&command).unwrap_or_else(|| program.clone());
    let manifest = folder.join("manifest.json");
    let public_key = sign_program(&manifest, "demo agent", MODEL, &code)?;
    let setup = Setup {
        operator: Operator::connect(&local).await?,
        manifest,
        local,
        program,
    };
    let secret = setup.operator.register(&public_key).await?;
    story.tell(
        "registration",
        true,
        format!("spiffe://{DOMAIN}/agent may use secret:demo/*, if it shows a signed manifest"),
        "what is not registered, or proves nothing, gets nothing (P1)",
    );
    if command.is_empty() {
        example::tell(story, &setup, &secret).await?;
    } else {
        own_command::tell(story, &setup, &command).await?;
    }
    let journal = setup.local.journal();
    setup.local.server.stop().await;
    record::tell(story, &journal, folder, &secret)
}

fn activity_label(active: bool) -> &'static str {
    if active { "active" } else { "not active" }
}
