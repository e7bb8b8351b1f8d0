//! `sundew serve`: the production broker, which drains on SIGTERM and reloads on SIGHUP; and
//! `sundew config`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use sundew_broker::serve::config::Config;
use sundew_broker::serve::{Server, read_root_keys};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::ConfigCommand;
use crate::output::{Output, success_if};
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
        ConfigCommand::Check { config } => Ok(check(output, &config)),
    }
}

/// Says everything that is wrong with a configuration and its root keys. Fails if there is anything.
fn check(output: &Output, path: &Path) -> ExitCode {
    let problems = match Config::load(path) {
        Ok(config) => match read_root_keys(&config) {
            Ok(_) => Vec::new(),
            Err(error) => vec![error.to_string()],
        },
        Err(error) => error.0,
    };
    let value =
        serde_json::json!({ "file": path, "valid": problems.is_empty(), "problems": problems });
    output.result(&value, || {
        if problems.is_empty() {
            vec![format!("{}: valid", path.display())]
        } else {
            problems
                .iter()
                .map(|problem| format!("{}: {problem}", path.display()))
                .collect()
        }
    });
    success_if(problems.is_empty())
}
