//! `sundew dev`: a broker for trying things out.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::local::Local;
use crate::output::Output;

/// Runs a broker until SIGTERM or Ctrl-C, and renews its operator's SVID meanwhile.
pub(crate) async fn dev(output: &Output, state: &Path, listen: SocketAddr) -> Result<ExitCode> {
    let local = Local::start(state, "dev.local", listen).await?;
    let value = json!({
        "broker": local.broker(),
        "operations": local.server.operations().to_string(),
        "endpoint_socket": local.socket(),
        "operator_svid_dir": local.operator_dir(),
    });
    output.result(&value, || environment_lines(&local));
    let half_life = local.half_life()?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
            () = tokio::time::sleep(half_life) => local.write_operator()?,
        }
    }
    local.server.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Returns lines to paste into a shell, for an operator and for an agent.
fn environment_lines(local: &Local) -> Vec<String> {
    vec![
        "# Sundew for development: state is kept, nothing is for production. Ctrl-C ends it."
            .to_owned(),
        format!("# state: {}", local.state_dir().display()),
        "# As operator (workload, secret, revoke, task list, …):".to_owned(),
        format!(
            "export SUNDEW_BROKER={} SUNDEW_OPERATIONS={} SUNDEW_SVID_DIR={}",
            local.broker(),
            local.server.operations(),
            shell_word(&local.operator_dir())
        ),
        "# As agent, once a workload with a matching `local` selector is registered:".to_owned(),
        format!(
            "export SUNDEW_BROKER={} SPIFFE_ENDPOINT_SOCKET={}; unset SUNDEW_SVID_DIR",
            local.broker(),
            local.socket()
        ),
    ]
}

/// Returns a path as one word of a POSIX shell.
fn shell_word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::shell_word;

    #[test]
    fn a_path_with_quotes_is_one_word() {
        assert_eq!(shell_word(Path::new("/a b")), "'/a b'");
        assert_eq!(shell_word(Path::new("/it's")), r"'/it'\''s'");
    }
}
