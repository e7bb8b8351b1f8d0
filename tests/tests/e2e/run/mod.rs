//! `sundew run`: it owns what it starts, and both end together.

mod descendants;
mod given;
mod signals;
mod socket;
mod socket_answers;
mod terminal;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sundew_tests::broker::Broker;
use sundew_tests::until;
use sundew_tests::world::World;

use super::cli::{command_as, run_as};

/// A broker whose `/agent` may run commands, and a folder for what a test writes.
struct Place {
    world: World,
    broker: Broker,
    folder: tempfile::TempDir,
}

impl Place {
    async fn new() -> Self {
        Self::with(json!({ "attendance_grace": "60s" })).await
    }

    async fn with(changes: Value) -> Self {
        let world = World::embedded();
        let broker = world.broker().await;
        world.register(&broker, "/agent", changes).await;
        Self {
            world,
            broker,
            folder: tempfile::tempdir().expect("folder"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns `sundew run` with these options and a script of a shell, without a terminal.
    fn script(&self, options: &[&str], script: &str) -> Command {
        let run = self.run(options, &["sh", "-c", script]);
        // Whoever runs the tests may ignore signals, as `nohup` does, and children inherit that.
        let mut command = Command::new("env");
        command.args(["--default-signal", "setsid"]);
        command.arg(run.get_program()).args(run.get_args());
        for (name, value) in run.get_envs() {
            command.env(name, value.expect("value"));
        }
        command
    }

    fn run(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = command_as(&self.world, &self.broker, "/agent");
        command
            .args(["run", "--task", "t", "--scope", "exec:git"])
            .args(["--scope", "secret:app/*", "--kill-after", "500ms"])
            .args(options)
            .arg("--")
            .args(words)
            .env("FOLDER", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    fn revoke(&self) {
        let agent = "spiffe://test.example/agent";
        let arguments = ["revoke", "--workload", agent, "--reason", "test"];
        let revoked = run_as(&self.world, &self.broker, "/operator", &arguments, "");
        assert!(revoked.status.success());
    }

    fn put(&self, name: &str, value: &[u8]) {
        let file = self.path("value");
        std::fs::write(&file, value).expect("file");
        let file = file.display().to_string();
        let arguments = ["secret", "put", name, "--file", &file];
        let put = run_as(&self.world, &self.broker, "/operator", &arguments, "");
        assert!(put.status.success());
        std::fs::remove_file(file).expect("file");
    }

    /// Returns how tasks have ended, in the order of their ends. A task that was ended twice at once
    /// is on the record twice.
    fn outcomes(&self) -> Vec<String> {
        let mut ended: Vec<(String, String)> = Vec::new();
        let journal = self.broker.journal();
        for record in journal.iter().filter(|r| r.event == "task_ended") {
            let field = |name| record.field(name).expect("field").to_owned();
            let (task, outcome) = (field("task"), field("outcome"));
            if ended.iter().all(|(known, _)| *known != task) {
                ended.push((task, outcome));
            }
        }
        ended.into_iter().map(|(_, outcome)| outcome).collect()
    }
}

/// Starts a command whose first line of output is `up`; returns it with its further output.
fn start(command: &mut Command) -> (Child, BufReader<ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("run");
    let mut output = BufReader::new(child.stdout.take().expect("output"));
    let mut line = String::new();
    output.read_line(&mut line).expect("output");
    assert_eq!(line, "up\n");
    (child, output)
}

/// Waits for the end of a command, and returns its exit code.
async fn code(child: &mut Child) -> Option<i32> {
    let mut status = None;
    until("the command has ended", || {
        status = child.try_wait().expect("wait");
        let ended = status.is_some();
        async move { ended }
    })
    .await;
    status.and_then(|status| status.code())
}

/// Tells whether a process is there and has not ended.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
    state.is_some_and(|state| state != "Z")
}

/// Returns the ids in a file, one on each line.
fn ids(file: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.parse().expect("id")).collect()
}

/// Waits until processes have ended, for as long as they may take.
async fn gone(ids: &[u32], how: &str) {
    let begun = Instant::now();
    while ids.iter().any(|id| lives(*id)) && begun.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let left: Vec<_> = ids.iter().filter(|id| lives(**id)).collect();
    for id in &left {
        sundew_tests::process::end(**id);
    }
    assert!(
        left.is_empty(),
        "{how}: {} of {} live on",
        left.len(),
        ids.len()
    );
}
