//! `sundew dev`: a broker for trying things out, with a first workload that works.
//!
//! P1: nothing is different for who asks this broker. Its first workload is a registration like any
//! other, and shows evidence like any other.

mod first_workload;
mod reset;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Dev;
use crate::local::{Local, Places};
use crate::output::{Output, View};

/// The trust domain of the broker.
const DOMAIN: &str = "dev.local";

/// Runs a broker until SIGTERM or Ctrl-C, and renews its operator's SVID meanwhile.
pub(crate) async fn dev(output: &Output, dev: Dev) -> Result<ExitCode> {
    require_free("--listen", dev.listen)?;
    require_free("--operations", dev.operations)?;
    if dev.reset {
        reset::reset(&dev.state)?;
    }
    let places = Places {
        workloads: dev.listen,
        operations: dev.operations,
    };
    let local = Local::start(&dev.state, DOMAIN, places).await?;
    let half_life = local.half_life()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let workload = tokio::select! {
        registered = first_workload::register(&local) => registered?,
        _ = tokio::signal::ctrl_c() => return stop(local).await,
        _ = terminate.recv() => return stop(local).await,
    };
    output.show(&DevView {
        broker: local.broker(),
        operations: local.server.operations().to_string(),
        endpoint_socket: local.socket(),
        operator_svid_dir: local.operator_dir(),
        state: local.state_dir().to_owned(),
        environment: write_environment(&local)?,
        commands: first_workload::commands(&local),
        workload,
    })?;
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
            () = tokio::time::sleep(half_life) => local.write_operator()?,
        }
    }
    stop(local).await
}

async fn stop(local: Local) -> Result<ExitCode> {
    local.server.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Says which flag helps where something else listens already.
fn require_free(flag: &str, address: SocketAddr) -> Result<()> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!(
            "{address} is in use, perhaps by another `sundew dev`: end that one, or choose another \
             address by {flag}"
        ),
        Err(error) => Err(error).with_context(|| format!("{flag} {address}")),
    }
}

/// Writes the agent's environment into the file `env`, for a shell to read. Returns its path.
fn write_environment(local: &Local) -> Result<std::path::PathBuf> {
    let path = local.state_dir().join("env");
    let text = format!(
        "# The environment of an agent, and of `sundew`, with this broker: `. {}`\n\
         export SUNDEW_BROKER={} SPIFFE_ENDPOINT_SOCKET={} SUNDEW_OPERATIONS={}\n\
         unset SUNDEW_SVID_DIR SUNDEW_BROKER_ID\n",
        shell_word(&path),
        local.broker(),
        shell_word(Path::new(&local.socket())),
        local.server.operations(),
    );
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// A broker for development that runs, and how to use it.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct DevView {
    /// Where it listens for agents and operators.
    broker: String,
    /// Where it serves health and metrics.
    operations: String,
    /// Its SPIFFE Workload API.
    endpoint_socket: String,
    /// The folder with the SVID of its operator.
    operator_svid_dir: PathBuf,
    /// Where its state is.
    state: PathBuf,
    /// A file for a shell to read, with the environment of an agent.
    environment: PathBuf,
    /// The SPIFFE ID of whoever started it.
    workload: String,
    /// Lines to paste into a shell that has read the file.
    commands: Vec<String>,
}

impl View for DevView {
    const KIND: &'static str = "dev";

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "Sundew for development, on {}; nothing here is for production.",
                self.broker
            ),
            format!(
                "State is kept in {}; `sundew dev --reset` forgets it.",
                self.state.display()
            ),
            format!(
                "You, as a user of this machine, are registered as {}.",
                self.workload
            ),
            String::new(),
            "In another shell, paste: put a secret, run an agent with it, see that nothing is left."
                .to_owned(),
            String::new(),
            format!("  . {}", shell_word(&self.environment)),
        ];
        lines.extend(self.commands.iter().map(|command| format!("  {command}")));
        lines.push(String::new());
        lines.push("Ctrl-C ends it.".to_owned());
        lines
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![crate::shapes::of::<DevView>()]
}

/// Returns a path as one word of a POSIX shell.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@+=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser as _;

    use super::{require_free, shell_word};
    use crate::args::{Cli, Command};

    #[test]
    fn a_path_with_quotes_is_one_word() {
        assert_eq!(shell_word(Path::new("/a/b.c")), "/a/b.c");
        assert_eq!(shell_word(Path::new("/a b")), "'/a b'");
        assert_eq!(shell_word(Path::new("/it's")), r"'/it'\''s'");
    }

    #[test]
    fn d7_both_ports_are_the_same_at_each_start() {
        let Command::Dev(dev) = Cli::parse_from(["sundew", "dev"]).command else {
            panic!("dev");
        };
        assert_eq!(dev.listen.to_string(), "127.0.0.1:8443");
        assert_eq!(dev.operations.to_string(), "127.0.0.1:9090");
    }

    #[test]
    fn d7_an_address_that_is_in_use_names_the_flag_that_helps() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = require_free("--operations", address)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("--operations") && error.contains("in use"),
            "{error}"
        );
        require_free("--listen", ([127, 0, 0, 1], 0).into()).unwrap();
    }
}
