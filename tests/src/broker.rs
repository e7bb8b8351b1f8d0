//! A broker as its users run it: `sundew serve --config FILE`, a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::calls::Caller;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::issuer::{AUDIENCE, ISSUER, TestIssuer};
use crate::pki::{Ca, DOMAIN, Svid, write_private};
use crate::process;
use crate::redis::Redis;

/// The store in which a broker of a test keeps its state.
#[derive(Clone, Debug)]
pub enum StoreKind {
    /// The embedded store, in a file of the broker's own.
    Embedded,
    /// The Redis at this URL.
    Redis(String),
}

/// Everything that the brokers of a test share: CA, issuer, root key and store.
pub struct World {
    /// The CA that the bundle of the trust domain holds.
    pub ca: Ca,
    /// The issuer whose tokens the brokers take as evidence.
    pub issuer: Arc<TestIssuer>,
    /// The Redis, if there is one.
    pub redis: Option<Redis>,
    /// URL and further settings of the store, if it is neither that Redis nor a file.
    store: Option<String>,
    folder: TempDir,
}

impl World {
    /// Makes a world whose brokers have embedded stores.
    pub fn embedded() -> Self {
        Self::new(None)
    }

    /// Makes a world whose brokers share a Redis that is started for them.
    pub fn redis() -> Self {
        Self::new(Some(Redis::start()))
    }

    /// Makes a world whose brokers share this Redis.
    pub fn with_redis(redis: Redis) -> Self {
        Self::new(Some(redis))
    }

    /// Makes a world with embedded stores, and one with a Redis.
    pub fn both() -> [Self; 2] {
        [Self::embedded(), Self::redis()]
    }

    /// Makes a world whose brokers use the store at this URL, in which each primary has so many
    /// replicas.
    pub fn with_store(url: &str, replicas: usize) -> Self {
        Self {
            store: Some(format!("url = \"{url}\"\nreplicas = {replicas}")),
            ..Self::new(None)
        }
    }

    fn new(redis: Option<Redis>) -> Self {
        crate::init();
        let folder = tempfile::tempdir().expect("folder");
        let world = Self {
            ca: Ca::new(DOMAIN),
            issuer: Arc::default(),
            redis,
            store: None,
            folder,
        };
        let path = world.folder.path();
        write_private(&path.join("root.key"), &"7a".repeat(32));
        world.ca.svid("/sundew/broker").write(
            &path.join("broker"),
            std::slice::from_ref(&world.ca.certificate),
        );
        world.write_bundle(&[&world.ca]);
        std::fs::write(path.join("jwks.json"), world.issuer.jwks()).expect("jwks");
        world
    }

    /// Returns the folder with the files that all brokers read.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces the trust bundle by these CAs.
    pub fn write_bundle(&self, cas: &[&Ca]) {
        let text: String = cas
            .iter()
            .map(|ca| crate::pki::pem("CERTIFICATE", &ca.certificate))
            .collect();
        let fresh = self.folder.path().join("bundle.fresh");
        std::fs::write(&fresh, text).expect("bundle");
        std::fs::rename(fresh, self.folder.path().join("bundle.pem")).expect("bundle");
    }

    /// Starts a broker and waits until it answers.
    pub async fn broker(&self) -> Broker {
        self.broker_with("").await
    }

    /// Starts a broker with more configuration, appended to the file.
    pub async fn broker_with(&self, more: &str) -> Broker {
        let mut broker = self.prepare(more);
        broker.up();
        broker.ready().await;
        broker
    }

    /// Starts a broker that reaches the store by another URL.
    pub async fn broker_by(&self, url: &str) -> Broker {
        self.broker_by_with(url, ("", "")).await
    }

    /// Starts a broker that reaches the store by another URL, with one text of its configuration
    /// replaced by another.
    pub async fn broker_by_with(&self, url: &str, (text, by): (&str, &str)) -> Broker {
        let mut broker = self.prepare("");
        let mut config = std::fs::read_to_string(&broker.file).expect("config");
        if !text.is_empty() {
            assert!(config.contains(text), "{text}");
            config = config.replace(text, by);
        }
        let own = self.redis.as_ref().expect("redis").url();
        std::fs::write(&broker.file, config.replace(&own, url)).expect("config");
        broker.up();
        broker.ready().await;
        broker
    }

    /// Returns a broker that is configured and not started; `more` is appended to its configuration.
    pub fn prepare(&self, more: &str) -> Broker {
        let own = tempfile::tempdir_in(self.folder.path()).expect("folder");
        let (port, operations) = (crate::free_port(), crate::free_port());
        let files = self.folder.path().display();
        let store = match (&self.store, &self.redis) {
            (Some(store), _) => store.clone(),
            (None, Some(redis)) => format!("url = \"{}\"", redis.url()),
            (None, None) => format!(
                "url = \"embedded:{}\"",
                own.path().join("store.log").display()
            ),
        };
        let config = format!(
            r#"
[listen]
workloads = "127.0.0.1:{port}"
operations = "127.0.0.1:{operations}"
[identity]
source = "files"
certificate = "{files}/broker/svid.pem"
key = "{files}/broker/key.pem"
[[trust]]
trust_domain = "{DOMAIN}"
bundle = "{files}/bundle.pem"
[store]
{store}
[keys]
root_key_file = "{files}/root.key"
[journal]
directory = "{journal}"
refusals_whole = 1000
reserve = "1MiB"
[revocation]
freshness = "400ms"
[[operators]]
spiffe_id = "spiffe://{DOMAIN}/operator"
roles = ["registrar", "responder", "introspector"]
[[operators]]
spiffe_id = "spiffe://{DOMAIN}/introspector"
roles = ["introspector"]
[[operators]]
spiffe_id = "spiffe://{DOMAIN}/registrar"
roles = ["registrar"]
[[operators]]
spiffe_id = "spiffe://{DOMAIN}/responder"
roles = ["responder"]
[[issuers]]
url = "{ISSUER}"
audience = "{AUDIENCE}"
jwks_file = "{files}/jwks.json"
{more}
"#,
            journal = own.path().join("journal").display(),
        );
        let file = own.path().join("sundew.toml");
        std::fs::write(&file, config).expect("config");
        Broker {
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

    /// Returns a broker that is configured and not started, with its journal on this disk and a
    /// reserve for the journal of this size.
    pub fn prepare_with_journal_on(&self, disk: &Disk, reserve: &str) -> Broker {
        let mut broker = self.prepare("");
        let own = std::mem::replace(&mut broker.journal, disk.path().join("journal"));
        let text = std::fs::read_to_string(&broker.file).expect("config");
        let text = text
            .replace(
                &own.display().to_string(),
                &broker.journal.display().to_string(),
            )
            .replace("reserve = \"1MiB\"", &format!("reserve = \"{reserve}\""));
        std::fs::write(&broker.file, text).expect("config");
        broker
    }

    /// Returns a caller with a new SVID of `/path` from the test CA.
    pub fn caller(&self, broker: &Broker, path: &str) -> Caller {
        self.caller_with(broker, self.ca.svid(path))
    }

    /// Returns a caller that presents this SVID.
    pub fn caller_with(&self, broker: &Broker, svid: Svid) -> Caller {
        Caller::new(broker.address(), Some(svid))
    }

    /// Returns a caller that has the roles registrar, responder and introspector.
    pub fn operator(&self, broker: &Broker) -> Caller {
        self.caller(broker, "/operator")
    }

    /// Returns a registration of `/path` that wants a token with its path as `sub`, with changes.
    pub fn registration(path: &str, changes: Value) -> Value {
        let mut document = json!({
            "spiffe_id": format!("spiffe://{DOMAIN}{path}"),
            "evidence": [{ "kind": "oidc", "issuer": ISSUER, "claims": { "sub": [path] } }],
            "scopes": ["secret:app/*", "tool:github.create_pr", "exec:git"],
            "owner": "tests",
        });
        if let (Some(document), Value::Object(changes)) = (document.as_object_mut(), changes) {
            document.extend(changes);
        }
        document
    }

    /// Starts a broker with `/agent` registered; returns it with a caller that has an SVID of `/agent`.
    pub async fn broker_and_agent(&self) -> (Broker, Caller) {
        let broker = self.broker().await;
        self.register(&broker, "/agent", json!({})).await;
        let caller = self.caller(&broker, "/agent");
        (broker, caller)
    }

    /// Registers `/path`.
    pub async fn register(&self, broker: &Broker, path: &str, changes: Value) {
        self.operator(broker)
            .apply(&[Self::registration(path, changes)])
            .await
            .expect("registration");
    }
}

/// A broker's process.
pub struct Broker {
    child: Option<Child>,
    clock: Option<Clock>,
    journal: PathBuf,
    own: TempDir,
    file: PathBuf,
    port: u16,
    operations: u16,
    output: Arc<Mutex<String>>,
    /// The threads that read what the process prints, until it ends.
    readers: Vec<JoinHandle<()>>,
}

impl Broker {
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
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.operations())
            .await
            .ok()?;
        stream
            .write_all(
                format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
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
