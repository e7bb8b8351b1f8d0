//! `sundew serve`: the production broker, which drains on SIGTERM and reloads on SIGHUP; and
//! `sundew config`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use serde::Serialize;
use sundew_broker::serve::Server;
use sundew_broker::serve::config::Config;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::ConfigCommand;
use crate::output::{Output, View, success_if};
use crate::service_manager::ServiceManager;

/// Runs a broker until SIGTERM or SIGINT, which also end a start that takes long.
pub(crate) async fn serve(path: &Path) -> Result<ExitCode> {
    let config =
        Config::load(path).map_err(|e| anyhow!("configuration {}:\n{e}", path.display()))?;
    let (mut terminate, mut interrupt, mut hangup) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    );
    let server = tokio::select! {
        server = Server::start(config) => server?,
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
    };
    tokio::select! {
        () = server.ready() => {}
        _ = terminate.recv() => { server.stop().await; return Ok(ExitCode::SUCCESS) }
        _ = interrupt.recv() => { server.stop().await; return Ok(ExitCode::SUCCESS) }
    }
    let mut manager = ServiceManager::from_env();
    manager.ready();
    tracing::info!("ready");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                manager.reloading();
                server.reload(Config::load(path).map_err(|e| e.to_string()));
                manager.ready();
            }
            () = manager.live() => {}
        }
    }
    manager.stopping();
    server.stop().await;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn config(output: &Output, command: ConfigCommand) -> Result<ExitCode> {
    match command {
        ConfigCommand::Check { config } => check(output, &config),
    }
}

/// Says everything that is wrong with a configuration and the files that it names. Fails if there is
/// anything.
fn check(output: &Output, path: &Path) -> Result<ExitCode> {
    let problems = Config::check(path);
    let view = CheckedView {
        file: path.to_owned(),
        valid: problems.is_empty(),
        problems,
    };
    output.show(&view)?;
    Ok(success_if(view.valid))
}

/// What is wrong with a configuration.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct CheckedView {
    file: PathBuf,
    valid: bool,
    /// Each begins with the key that it is about.
    problems: Vec<String>,
}

impl View for CheckedView {
    const KIND: &'static str = "config_checked";

    fn lines(&self) -> Vec<String> {
        let file = self.file.display();
        if self.valid {
            return vec![format!("{file}: valid")];
        }
        let problems = self.problems.iter();
        problems
            .map(|problem| format!("{file}: {problem}"))
            .collect()
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![crate::shapes::of::<CheckedView>()]
}
