//! A development broker: `sundew dev`, and its operator.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A running `sundew dev`.
pub struct Dev {
    folder: TempDir,
    child: Child,
    place: Value,
}

impl Dev {
    /// Starts one.
    pub fn new() -> Self {
        let folder = TempDir::new().expect("folder");
        let mut child = Command::new(crate::sundew())
            .args(["--json", "dev", "--listen", "127.0.0.1:0", "--state"])
            .arg(folder.path().join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dev");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("pipe"))
            .read_line(&mut line)
            .expect("line");
        Self {
            folder,
            child,
            place: serde_json::from_str(&line).expect("JSON"),
        }
    }

    /// Returns a folder for files that belong to this broker.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Returns a value that the broker prints to be pasted: `broker`, `endpoint_socket` or
    /// `operator_svid_dir`.
    pub fn field(&self, name: &str) -> String {
        self.place[name].as_str().expect("field").to_owned()
    }

    /// Runs `sundew` as the operator of this broker.
    pub fn operator(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(crate::sundew());
        command
            .args(arguments)
            .env("SUNDEW_BROKER", self.field("broker"))
            .env("SUNDEW_SVID_DIR", self.field("operator_svid_dir"));
        crate::process::run(command, input)
    }

    /// Runs `sundew` as the operator, which must succeed; returns what it prints.
    pub fn did(&self, arguments: &[&str], input: &str) -> String {
        let output = self.operator(arguments, input);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// Ends the broker as Ctrl-C or systemd would.
    pub fn stop(&mut self) -> ExitStatus {
        crate::process::signal(self.child.id(), rustix::process::Signal::TERM);
        self.child.wait().expect("wait")
    }
}

impl Default for Dev {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
