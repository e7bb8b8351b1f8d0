//! A broker as its users run it: `sundew serve --config FILE`, a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::process;

/// A broker's process.
pub struct Broker {
    child: Option<Child>,
    clock: Option<Clock>,
    pub(crate) journal: PathBuf,
    own: TempDir,
    file: PathBuf,
    port: u16,
    operations: u16,
    output: Arc<Mutex<String>>,
    /// The threads that read what the process prints, until it ends.
    readers: Vec<JoinHandle<()>>,
}

impl Broker {
    /// A broker that is not started, with its files in this folder.
    pub(crate) fn new(own: TempDir, file: PathBuf, port: u16, operations: u16) -> Self {
        Self {
            child: None,
            clock: None,
            journal: own.path().join("journal"),
            own,
            file,
            port,
            operations,
            output: Arc::default(),
            readers: Vec::new(),
        }
    }

    /// Configures the journal to be on this disk, with a reserve of this size.
    pub fn journal_on(&mut self, disk: &Disk, reserve: &str) {
        let own = std::mem::replace(&mut self.journal, disk.path().join("journal"));
        let text = std::fs::read_to_string(&self.file).expect("config");
        let text = text
            .replace(
                &own.display().to_string(),
                &self.journal.display().to_string(),
            )
            .replace("reserve = \"1MiB\"", &format!("reserve = \"{reserve}\""));
        std::fs::write(&self.file, text).expect("config");
    }

    /// Returns `host:port` of the listener for agents.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the port of the listener for workloads and operators.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns `host:port` of the listener for health and metrics.
    pub fn operations(&self) -> String {
        format!("127.0.0.1:{}", self.operations)
    }

    /// Returns the path of the configuration file.
    pub fn config_file(&self) -> &Path {
        &self.file
    }

    /// Returns the folder with the embedded store and the journal.
    pub fn folder(&self) -> &Path {
        self.own.path()
    }

    /// Gives the process a clock of its own from its next start on, and returns it.
    pub fn own_clock(&mut self) -> Clock {
        let clock = Clock::in_folder(self.folder());
        self.clock.insert(clock).clone()
    }

    /// Starts the process.
    pub fn up(&mut self) {
        let plain = || Command::new(crate::sundew());
        self.up_as(self.clock.as_ref().map_or_else(plain, Clock::command));
    }

    /// Starts the process by another command that takes the rest of the command line, such as
    /// `strace`.
    pub fn up_as(&mut self, mut command: Command) {
        let mut child = command
            .args(["serve", "--config"])
            .arg(&self.file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("broker starts");
        for pipe in [
            child
                .stdout
                .take()
                .map(|p| Box::new(p) as Box<dyn std::io::Read + Send>),
            child.stderr.take().map(|p| Box::new(p) as _),
        ]
        .into_iter()
        .flatten()
        {
            let output = Arc::clone(&self.output);
            let reader = std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let mut output = output.lock().expect("output");
                    output.push_str(&line);
                    output.push('\n');
                }
            });
            self.readers.push(reader);
        }
        self.child = Some(child);
    }

    /// Returns everything that the broker has printed so far.
    pub fn output(&self) -> String {
        self.output.lock().expect("output").clone()
    }

    /// Waits until the broker is ready and takes connections; panics after twenty seconds.
    pub async fn ready(&mut self) {
        self.ready_within(Duration::from_secs(20)).await;
    }

    /// Waits until the broker is ready and takes connections; panics after this time.
    pub async fn ready_within(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        loop {
            if self
                .http("/readyz")
                .await
                .is_some_and(|(status, _)| status == 200)
                && tokio::net::TcpStream::connect(self.address()).await.is_ok()
            {
                return;
            }
            let ended = self
                .child
                .as_mut()
                .is_none_or(|child| child.try_wait().ok().flatten().is_some());
            assert!(
                !ended && Instant::now() < deadline,
                "broker is not ready:\n{}",
                self.output()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the process ends by itself, and everything that it printed was read.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let status = self.child.as_mut().expect("running").wait().expect("wait");
        for reader in self.readers.drain(..) {
            reader.join().expect("reader");
        }
        status
    }

    /// Gets a path from the operations listener: status and body, or nothing without an answer.
    pub async fn http(&self, path: &str) -> Option<(u16, String)> {
        self.http_for(&self.operations(), path).await
    }

    /// Gets a path from the operations listener for this `Host`.
    pub async fn http_for(&self, host: &str, path: &str) -> Option<(u16, String)> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.operations())
            .await
            .ok()?;
        stream
            .write_all(
                format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .await
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Returns the id of the process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.pid(), signal);
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // What `strace` has started outlives it.
            for own in crate::process::children(child.id()) {
                crate::process::end(own);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Kills the process with SIGKILL and starts it again on the same state.
    pub async fn restart(&mut self) {
        self.kill();
        self.up();
        self.ready().await;
    }

    /// Returns the journal so far, after it was verified.
    pub fn journal(&self) -> Vec<sundew_broker::journal::Record> {
        let mut records = Vec::new();
        sundew_broker::journal::read(&self.journal, |record| records.push(record))
            .expect("journal verifies");
        records
    }

    /// Returns the reasons of all refusals of one RPC that are on the record.
    pub fn refusals(&self, rpc: &str) -> Vec<String> {
        let journal = self.journal();
        journal
            .iter()
            .filter(|r| r.event == "refused" && r.field("rpc") == Some(rpc))
            .filter_map(|r| r.field("reason").map(str::to_owned))
            .collect()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- broker {} printed:\n{}", self.port, self.output());
        }
    }
}
