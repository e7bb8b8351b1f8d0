//! The production broker: drain on SIGTERM, reload on SIGHUP, systemd readiness.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use sundew_broker::serve::Server;
use sundew_broker::serve::config::Config;
use tokio::signal::unix::{SignalKind, signal};

use crate::output::Output;

/// Runs a broker until SIGTERM or SIGINT.
pub(crate) async fn serve(path: &Path) -> Result<()> {
    let config =
        Config::load(path).map_err(|e| anyhow!("configuration {}:\n{e}", path.display()))?;
    let (mut terminate, mut interrupt, mut hangup) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    );
    let server = tokio::select! {
        server = Server::start(config) => server?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    tokio::select! {
        () = server.ready() => {}
        _ = terminate.recv() => { server.stop().await; return Ok(()) }
        _ = interrupt.recv() => { server.stop().await; return Ok(()) }
    }
    tell_systemd("READY=1");
    tracing::info!("ready");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                tell_systemd("RELOADING=1");
                server.reload(Config::load(path).map_err(|e| e.to_string()));
                tell_systemd("READY=1");
            }
        }
    }
    tell_systemd("STOPPING=1");
    server.stop().await;
    Ok(())
}

/// `sd_notify(3)`: a datagram to the socket that the service manager names.
fn tell_systemd(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let told = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = told {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// Says everything that is wrong with a configuration.
pub(crate) fn check(output: &Output, path: &Path) -> Result<ExitCode> {
    let problems = Config::load(path).err().map(|e| e.0).unwrap_or_default();
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
    Ok(if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
