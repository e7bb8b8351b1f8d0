//! A redis-server of Debian's package as a child process.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sundew_broker::store::redis::{Durability, RedisSettings, RedisUrl};
use tempfile::TempDir;

/// Returns the settings with which a store reaches a Redis at this URL that stands alone.
pub fn settings(url: &str, timeout: Duration) -> RedisSettings {
    let url = RedisUrl::parse(url).expect("url");
    RedisSettings {
        url,
        password: None,
        ca: None,
        client: None,
        timeout,
        replicas: 0,
        durability: Durability::Primary,
    }
}

/// A running Redis with an append-only file, synced at every write.
pub struct Redis {
    child: Option<Child>,
    folder: TempDir,
    port: u16,
    options: Vec<String>,
}

impl Redis {
    /// Starts one.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with options such as `--maxmemory 10mb`.
    pub fn with(options: &[&str]) -> Self {
        let mut redis = Self {
            child: None,
            folder: tempfile::tempdir().expect("folder"),
            port: crate::free_port(),
            options: options.iter().map(ToString::to_string).collect(),
        };
        redis.up();
        redis
    }

    /// Returns the folder with the append-only file.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the URL for the configuration of a broker.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns the options with which the server was started.
    pub fn options(&self) -> &[String] {
        &self.options
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: rustix::process::Signal) {
        crate::process::signal(self.pid(), signal);
    }

    /// Returns the port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the id of the process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Starts it again on the same port and data.
    pub fn up(&mut self) {
        let child = Command::new("redis-server")
            .args([
                "--bind",
                "127.0.0.1",
                "--port",
                &self.port.to_string(),
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
            ])
            .args([
                "--dir",
                &self.folder.path().display().to_string(),
                "--maxmemory-policy",
                "noeviction",
                "--daemonize",
                "no",
            ])
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is not installed: run ./tests/run");
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Copies what the server has on disk at this moment into a folder: a backup.
    pub fn back_up(&self) -> TempDir {
        let backup = tempfile::tempdir().expect("folder");
        copy(self.folder(), backup.path());
        backup
    }

    /// Kills the server, puts a backup in the place of its data, and starts it again.
    pub fn restore(&mut self, backup: &TempDir) {
        self.kill();
        for entry in std::fs::read_dir(self.folder()).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).expect("removed");
            } else {
                std::fs::remove_file(path).expect("removed");
            }
        }
        copy(backup.path(), self.folder());
        self.up();
    }

    /// Returns a plain connection, for looking and breaking.
    pub fn connection(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).expect("url");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Copies everything in a folder into another one.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("folder") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&target).expect("folder");
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("copied");
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
