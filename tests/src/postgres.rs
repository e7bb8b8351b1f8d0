//! A PostgreSQL server of Debian's package as a child process, with a database and an administrator
//! that is no superuser.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// The administrator's password.
pub const PASSWORD: &str = "adm1n pass'word";

/// A running server.
pub struct Postgres {
    child: Option<Child>,
    folder: TempDir,
    port: u16,
    options: Vec<String>,
}

/// Returns the path of a program of the package.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .expect("postgresql is not installed: run ./tests/run");
    let mut found: Vec<PathBuf> = versions
        .filter_map(|v| Some(v.ok()?.path().join("bin").join(name)))
        .filter(|p| p.exists())
        .collect();
    found.sort();
    found
        .pop()
        .expect("postgresql is not installed: run ./tests/run")
}

/// Returns user and group of the account that the package made. PostgreSQL refuses to run as root;
/// for another user there is nothing to change.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").expect("users");
    let line = passwd
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("the package makes a user `postgres`");
    let mut fields = line
        .split(':')
        .skip(2)
        .map(|field| field.parse().expect("number"));
    Some((fields.next().expect("uid"), fields.next().expect("gid")))
}

fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    if let Some((uid, gid)) = user() {
        command.gid(gid).uid(uid);
    }
    command
        .current_dir("/tmp")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .stdin(Stdio::null());
    command
}

impl Postgres {
    /// Starts one.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts one that speaks TLS with this certificate and key, which it reads from `folder`.
    pub async fn with_tls(server: &crate::pki::Svid, folder: &Path) -> Self {
        server.write(folder, &[]);
        if let Some((uid, gid)) = user() {
            for place in [
                folder.to_owned(),
                folder.join("key.pem"),
                folder.join("svid.pem"),
            ] {
                std::os::unix::fs::chown(place, Some(uid), Some(gid)).expect("chown");
            }
        }
        let setting = |name: &str, file: &str| format!("{name}={}", folder.join(file).display());
        Self::with(&[
            "ssl=on",
            &setting("ssl_cert_file", "svid.pem"),
            &setting("ssl_key_file", "key.pem"),
        ])
        .await
    }

    /// Starts one with settings such as `max_connections=12`.
    pub async fn with(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        if let Some((uid, gid)) = user() {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).expect("chown");
        }
        let data = folder.path().join("data");
        let made = command("initdb")
            .args(["-U", "postgres", "-A", "trust", "--no-sync", "-D"])
            .arg(&data)
            .status()
            .expect("initdb");
        assert!(made.success(), "initdb failed");
        // The superuser is trusted on the socket, everybody else needs a password.
        let rules = "local all postgres trust\nhost all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(data.join("pg_hba.conf"), rules).expect("rules");
        let mut postgres = Self {
            child: None,
            folder,
            port: crate::free_port(),
            options: options.iter().map(ToString::to_string).collect(),
        };
        postgres.up().await;
        let client = postgres.superuser().await;
        let password = PASSWORD.replace('\'', "''");
        client
            .batch_execute(&format!(
                "CREATE ROLE admin LOGIN CREATEROLE PASSWORD '{password}'"
            ))
            .await
            .expect("role");
        client.batch_execute("GRANT pg_signal_backend TO admin; CREATE ROLE reader; GRANT reader TO admin WITH ADMIN OPTION").await.expect("role");
        client
            .batch_execute("CREATE DATABASE app OWNER admin")
            .await
            .expect("database");
        let app = postgres
            .client("postgres", "", "app")
            .await
            .expect("connection");
        app.batch_execute("GRANT ALL ON SCHEMA public TO admin; CREATE TABLE things (id int); INSERT INTO things VALUES (7); GRANT SELECT ON things TO reader")
            .await
            .expect("table");
        postgres
    }

    /// Returns the port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the id of the process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Returns the folder with data and log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it again on the same port and data.
    pub async fn up(&mut self) {
        let mut server = command("postgres");
        server
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-k"])
            .arg(self.folder.path());
        for setting in ["fsync=on", "log_statement=all"]
            .into_iter()
            .chain(self.options.iter().map(String::as_str))
        {
            server.args(["-c", setting]);
        }
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("log");
        self.child = Some(server.stderr(log).spawn().expect("postgres"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.client("postgres", "", "postgres").await.is_err() {
            assert!(
                Instant::now() < deadline,
                "PostgreSQL does not answer:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Returns everything that the server has logged, statements included.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it at once, as a crash does: SIGQUIT to the whole of it, since what it started must not
    /// outlive it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            crate::process::signal(child.id(), rustix::process::Signal::QUIT);
            let _ = child.wait();
        }
    }

    /// Connects as this user; the connection ends with the client.
    pub async fn client(
        &self,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user(user)
            .password(password)
            .dbname(database)
            .connect_timeout(Duration::from_secs(5));
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Connects as superuser.
    pub async fn superuser(&self) -> Client {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            // A server at its limit of connections has none to spare for a moment.
            match self.client("postgres", "", "postgres").await {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the names of all roles that Sundew made.
    pub async fn roles(&self) -> Vec<String> {
        let rows = self
            .superuser()
            .await
            .query(
                "SELECT rolname FROM pg_roles WHERE rolname LIKE 'sdw\\_%' ORDER BY 1",
                &[],
            )
            .await
            .expect("roles");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Returns an engine for this server, as `sundew secret engine put` reads it.
    pub fn engine(&self, name: &str) -> serde_json::Value {
        serde_json::json!({
            "name": name,
            "target": { "kind": "postgres", "host": "127.0.0.1", "port": self.port, "database": "app", "username": "admin" },
            "roles": { "readonly": { "grants": ["GRANT reader TO {{name}}"] }, "owner": { "grants": ["GRANT ALL ON SCHEMA public TO {{name}}"] } },
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}
