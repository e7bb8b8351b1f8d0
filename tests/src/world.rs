//! What the brokers of a test share, and their configuration.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::broker::Broker;
use crate::calls::Caller;
use crate::disk::Disk;
use crate::issuer::{AUDIENCE, ISSUER, TestIssuer};
use crate::pki::{Ca, DOMAIN, Svid, write_private};
use crate::redis::Redis;

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
        let roots: Vec<&[u8]> = cas.iter().map(|ca| ca.certificate.as_ref()).collect();
        self.write_roots(&roots);
    }

    /// Replaces the trust bundle by these certificates, each in DER.
    pub fn write_roots(&self, roots: &[&[u8]]) {
        let text: String = roots
            .iter()
            .map(|root| crate::pki::pem("CERTIFICATE", root))
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
        let mut config = std::fs::read_to_string(broker.config_file()).expect("config");
        if !text.is_empty() {
            assert!(config.contains(text), "{text}");
            config = config.replace(text, by);
        }
        let own = self.redis.as_ref().expect("redis").url();
        std::fs::write(broker.config_file(), config.replace(&own, url)).expect("config");
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
        Broker::new(own, file, port, operations)
    }

    /// Returns a broker that is configured and not started, with its journal on this disk and a
    /// reserve for the journal of this size.
    pub fn prepare_with_journal_on(&self, disk: &Disk, reserve: &str) -> Broker {
        let mut broker = self.prepare("");
        broker.journal_on(disk, reserve);
        broker
    }

    /// Returns a broker that is configured and not started, with a CA of its own for the trust domain
    /// `own.example`, the socket `api.sock` in the folder and this in the section of its identity; and
    /// the port of its listener for enrollment.
    pub fn prepare_with_own_ca(&self, identity: &str) -> (Broker, u16) {
        let port = crate::free_port();
        let broker = self.prepare("");
        let text = std::fs::read_to_string(broker.config_file()).expect("config");
        let from = text.find("[identity]").expect("section");
        let to = text.find("[store]").expect("section");
        let files = self.folder.path().display();
        let own = format!(
            r#"
enrollment = "127.0.0.1:{port}"
workload_api = "{files}/api.sock"
[identity]
source = "embedded_ca"
trust_domain = "own.example"
{identity}
[[trust]]
trust_domain = "{DOMAIN}"
bundle = "{files}/bundle.pem"
"#
        );
        let text = format!("{}{own}{}", &text[..from], &text[to..]);
        std::fs::write(broker.config_file(), text).expect("config");
        (broker, port)
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
            "begin": "self",
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
