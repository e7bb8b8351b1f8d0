//! A development broker: `sundew dev`, and its operator.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A running `sundew dev`.
pub struct Dev {
    folder: TempDir,
    listen: String,
    operations: String,
    child: Child,
    place: Value,
}

impl Dev {
    /// Starts one on free ports, and takes its first workload away.
    pub fn new() -> Self {
        let dev = Self::with_first_workload();
        dev.did(&["workload", "delete", "spiffe://dev.local/me"], "");
        dev
    }

    /// Starts one on free ports, as it is.
    pub fn with_first_workload() -> Self {
        Self::begin("127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned())
    }

    /// Starts one on this port, with its operations listener on the next.
    pub fn at(port: u16) -> Self {
        Self::begin(
            format!("127.0.0.1:{port}"),
            format!("127.0.0.1:{}", port + 1),
        )
    }

    fn begin(listen: String, operations: String) -> Self {
        let folder = TempDir::new().expect("folder");
        // Other users go through it to the socket.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(folder.path(), mode).expect("mode");
        let (child, place) = start(folder.path(), &listen, &operations, &[]);
        Self {
            folder,
            listen,
            operations,
            child,
            place,
        }
    }

    /// Starts it again with the state that it has left, and with these arguments.
    pub fn start_again(&mut self, arguments: &[&str]) {
        let folder = self.folder.path();
        (self.child, self.place) = start(folder, &self.listen, &self.operations, arguments);
    }

    /// Returns the folder of its journal.
    pub fn journal(&self) -> String {
        self.folder
            .path()
            .join("state/journal")
            .display()
            .to_string()
    }

    /// Returns a value that the broker prints.
    pub fn value(&self, name: &str) -> Value {
        self.place[name].clone()
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

fn start(
    folder: &std::path::Path,
    listen: &str,
    operations: &str,
    arguments: &[&str],
) -> (Child, Value) {
    let mut child = Command::new(crate::sundew())
        .args([
            "--json",
            "dev",
            "--listen",
            listen,
            "--operations",
            operations,
        ])
        .args(arguments)
        .arg("--state")
        .arg(folder.join("state"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("dev");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("pipe"))
        .read_line(&mut line)
        .expect("line");
    (child, serde_json::from_str(&line).expect("JSON"))
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
