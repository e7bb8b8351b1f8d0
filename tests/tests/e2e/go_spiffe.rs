//! go-spiffe, which most SPIFFE programs are built on, against us in both directions: the Workload
//! API, mutual TLS, and bundle endpoints.

mod federation;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use sundew_attestation::spiffe::spiffe_id_of;
use sundew_proto::v1::{Effect, Selector};
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::pki::{Ca, DOMAIN, Svid, pem};
use sundew_tests::world::World;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::enrollment::{own_ca_in, own_root};

const TOOL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../target/toolchains/bin/spiffe"
);
const AGENT: &str = "spiffe://own.example/agent";
const BROKER: &str = "spiffe://own.example/sundew/broker";
const CLIENT: &str = "spiffe://test.example/client";
const AUDIENCE: &str = "https://api.example";

/// How long the tool may take to say something: longer than an SVID lives here.
const LIMIT: Duration = Duration::from_secs(15);

/// The tool of `tests/go/spiffe`, while it runs.
struct Go {
    child: Child,
    lines: UnboundedReceiver<String>,
}

impl Go {
    /// Starts the tool as a local process of the broker of this world.
    fn start(world: &World, arguments: &[&str]) -> Self {
        let socket = format!("unix://{}/api.sock", world.folder().display());
        let mut child = Command::new(TOOL)
            .args(arguments)
            .env("SPIFFE_ENDPOINT_SOCKET", socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{TOOL}: {e}; run `tests/toolchains` first"));
        let output = BufReader::new(child.stdout.take().expect("pipe"));
        let (sender, lines) = unbounded_channel();
        std::thread::spawn(move || {
            let mut output = output.lines().map_while(Result::ok);
            output.try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    /// Waits for a line that holds, and passes over the lines before it.
    async fn says(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = timeout(LIMIT, self.lines.recv()).await;
            let line = line.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"));
            let line = line.unwrap_or_else(|| panic!("{what}: the tool has ended"));
            println!("{line}");
            let line = serde_json::from_str(&line).expect("JSON");
            if holds(&line) {
                return line;
            }
        }
    }

    /// Waits for the next line.
    async fn next(&mut self, what: &str) -> Value {
        self.says(what, |_| true).await
    }

    /// Waits for the address of the server that it is.
    async fn address(&mut self) -> String {
        let line = self.next("an address").await;
        line["address"].as_str().expect("address").to_owned()
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A broker with a CA of its own, more after the section of its identity, and the identity `AGENT`
/// for all processes of the user.
async fn broker(world: &World, more: &str) -> (Broker, u16, Caller) {
    let (broker, port) = own_ca_in(world, more).await;
    let operator = world.operator(&broker);
    let uid = rustix::process::geteuid().as_raw();
    let agent = json!({
        "spiffe_id": AGENT, "local": [{ "uid": uid }], "jwt_svid_audiences": [AUDIENCE],
    });
    let documents = [World::registration("/agent", agent)];
    operator.apply(&documents).await.expect("registered");
    (broker, port, operator)
}

/// The line is a refusal for this reason.
fn refuses(line: &Value, why: &str) {
    let said = line["refused"].as_str().unwrap_or_default();
    assert!(said.contains(why), "{why}: {line}");
}

/// P1, P4: every document of the Workload API is good for go-spiffe, it hears of the next SVID, and
/// a quarantine takes all of them. I5: roots of a partner that go-spiffe refuses cost nobody.
#[tokio::test]
async fn go_spiffe_has_an_identity_and_the_next_one_and_none_under_a_quarantine() {
    let world = World::embedded();
    let [one, other] = world.ca.odd_certificates();
    world.write_roots(&[&one, &world.ca.certificate, &other]);
    let (broker, _, operator) = broker(&world, "svid_ttl = \"12s\"").await;
    let (_, health) = broker.http("/readyz").await.expect("health");
    let told = format!(
        "bundle of {DOMAIN}: 2 left out: root 0: serial number is negative; root 2: bad UTF8String"
    );
    assert!(health.contains(&told), "{health}");
    let mut go = Go::start(&world, &["identity", AUDIENCE]);
    let bundles = json!({ "own.example": 1, DOMAIN: 1 });
    let expected = json!({
        "x509": AGENT, "jwt_by_keys": AGENT, "jwt_by_call": AGENT, "elsewhere": "InvalidArgument",
        "wit": "Unimplemented", "roots": bundles, "keys": { "own.example": 1 },
    });
    assert_eq!(go.next("all documents").await, expected);
    let first = go.next("an SVID").await;
    assert_eq!((&first["id"], &first["roots"]), (&json!(AGENT), &bundles));
    let next = go
        .says("the next SVID", |line| line["serial"] != first["serial"])
        .await;
    assert_eq!(next["id"], AGENT, "{next}");

    let selector = Selector {
        spiffe_id: AGENT.to_owned(),
        ..Selector::default()
    };
    let rule = operator.respond(selector, Effect::Quarantine).await;
    let rule = rule.expect("quarantined").revocation_id;
    let refused = "PermissionDenied";
    let expected = json!({ "watch": refused, "x509": refused, "jwt": refused });
    let said = go.says("a refusal", |line| line["watch"].is_string());
    assert_eq!(said.await, expected);
    operator.lift(&rule).await.expect("lifted");
    go.says("an SVID again", |line| line["id"] == AGENT).await;
}

/// Connects to a server of go-spiffe. Returns whom it has shown, and what it has answered.
async fn connect(address: &str, svid: Option<&Svid>) -> (String, Option<String>) {
    let mut config = sundew_tests::tls::client_config(svid);
    config.alpn_protocols.clear();
    let socket = tokio::net::TcpStream::connect(address).await;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").expect("name");
    let stream = connector.connect(name, socket.expect("connect")).await;
    let mut stream = stream.expect("handshake");
    let chain = stream.get_ref().1.peer_certificates().expect("chain");
    let shown = spiffe_id_of(&chain[0]).expect("ID").to_string();
    let mut answer = String::new();
    // A client hears of the refusal of its certificate when it reads.
    let read = stream.read_to_string(&mut answer).await;
    (shown, read.is_ok().then_some(answer))
}

/// P1: servers and clients of go-spiffe take our SVIDs, those of a partner whose bundle they have
/// from us, and nobody else's.
#[tokio::test]
async fn go_spiffe_takes_our_svids_and_partners_in_mutual_tls_and_nobody_else() {
    let world = World::embedded();
    let (ours, port, operator) = broker(&world, "").await;
    let enrollment = Caller::new(format!("127.0.0.1:{port}"), None);
    let redeemed = enrollment.redeem(&operator.join_token(AGENT).await).await;
    let (agent, _) = redeemed.expect("enrolled");
    let partner = world.ca.svid("/client");
    let stranger = Ca::new("own.example").svid("/agent");
    let other_id = "unexpected ID";
    let other_domain = "unexpected trust domain";
    let other_ca = "unknown authority";
    for (whom, svid, id, refused, why) in [
        (AGENT, &agent, AGENT, &partner, other_id),
        ("own.example", &agent, AGENT, &stranger, other_ca),
        (DOMAIN, &partner, CLIENT, &agent, other_domain),
    ] {
        let mut go = Go::start(&world, &["serve", whom]);
        let address = go.address().await;
        let expected = (AGENT.to_owned(), Some(id.to_owned()));
        assert_eq!(connect(&address, Some(svid)).await, expected);
        assert_eq!(go.next("a client").await, json!({ "peer": id }));
        let nobody = "client didn't provide a certificate";
        for (svid, why) in [(Some(refused), why), (None, nobody)] {
            assert_eq!(connect(&address, svid).await.1, None, "{whom}");
            refuses(&go.next("a refusal").await, why);
        }
    }

    let root = own_root(&operator.join_token(AGENT).await, port).await;
    let file = world.folder().join("own-root.pem");
    std::fs::write(&file, pem("CERTIFICATE", &root)).expect("bundle");
    let trust = format!(
        "[[trust]]\ntrust_domain = \"own.example\"\nbundle = \"{}\"\n",
        file.display()
    );
    let of_partner = world.broker_with(&trust).await;
    let agent = World::registration("/agent", json!({ "spiffe_id": AGENT }));
    let registered = world.operator(&of_partner).apply(&[agent]).await;
    registered.expect("registered");
    let other = World::embedded();
    let unknown = other.broker().await;
    let theirs = "spiffe://test.example/sundew/broker";
    for (server, whom, id) in [
        (&ours, BROKER, BROKER),
        (&ours, "own.example", BROKER),
        (&of_partner, DOMAIN, theirs),
    ] {
        let line = dial(&world, server, whom).await;
        assert_eq!(line["peer"], id, "{line}");
        assert!(line["answer"].as_u64() > Some(16), "{line}");
    }
    for (server, whom, why) in [
        (&ours, AGENT, other_id),
        (&ours, DOMAIN, other_domain),
        (&unknown, DOMAIN, other_ca),
    ] {
        refuses(&dial(&world, server, whom).await, why);
    }
}

/// What go-spiffe says of a broker that it connects to.
async fn dial(world: &World, broker: &Broker, whom: &str) -> Value {
    let mut go = Go::start(world, &["dial", &broker.address(), whom]);
    go.next("an answer").await
}
