//! A node: proven by its TPM, it vouches for local processes and gives them the identities that are
//! delegated to it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use spiffe::WorkloadApiClient;
use sundew_tests::dev::Dev;
use sundew_tests::process::signal;
use sundew_tests::tpm::Tpm;
use sundew_tests::{sundew, until};

/// A development broker, a TPM, and a node that it proves.
struct Host {
    dev: Dev,
    node: Option<Child>,
    tpm: Tpm,
}

impl Host {
    fn new() -> Self {
        Self {
            dev: Dev::new(),
            node: None,
            tpm: Tpm::new("ecc", "sha256", "ecdsa"),
        }
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.dev.folder().join("node.sock").display())
    }

    fn start_node(&mut self) {
        let child = Command::new(sundew())
            .args(["node", "--socket"])
            .arg(self.dev.folder().join("node.sock"))
            .env("SUNDEW_BROKER", self.dev.field("broker"))
            .env("SPIFFE_ENDPOINT_SOCKET", self.dev.field("endpoint_socket"))
            .env("SUNDEW_TPM2", self.tpm.settings("7").tpm2.expect("TPM"))
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(self.dev.folder().join("node.log")).expect("log"))
            .spawn()
            .expect("node");
        self.node = Some(child);
    }

    /// Runs a command as an agent of this host.
    fn run_as(&self, program: &Path) -> Output {
        Command::new(program)
            .args(["run", "--task", "x", "--scope", "exec:git", "--", "true"])
            .env("SUNDEW_BROKER", self.dev.field("broker"))
            .env("SPIFFE_ENDPOINT_SOCKET", self.socket())
            .env("SUNDEW_NODE_SOCKET", self.socket())
            .output()
            .expect("run")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(node) = &mut self.node {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

pub(crate) fn digest(path: &Path) -> String {
    ring::digest::digest(&ring::digest::SHA256, &std::fs::read(path).expect("file"))
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

async fn identity(socket: &str) -> Option<spiffe::X509Source> {
    // The crate asks for ever when it is refused.
    let source = spiffe::X509Source::builder()
        .endpoint(socket.replacen("unix:///", "unix:/", 1))
        .build();
    tokio::time::timeout(std::time::Duration::from_secs(2), source)
        .await
        .ok()?
        .ok()
}

fn id(path: &str) -> String {
    format!("spiffe://dev.local{path}")
}

/// Registrations of a node, an agent that it vouches for, and a client that it gives an identity.
fn registrations(node: &str, program: &str) -> Value {
    let (uid, own) = (
        rustix::process::geteuid().as_raw(),
        digest(&std::env::current_exe().expect("own path")),
    );
    json!([
        {
            "spiffe_id": node, "owner": "platform", "begin": "self", "scopes": ["node:serve"], "local": [{ "uid": uid, "exe_sha256": program }],
            "evidence": [{ "kind": "tpm2", "claims": { "pcr.sha256.7": ["0".repeat(64)] } }], "require_fresh_evidence": true,
        },
        {
            "spiffe_id": id("/agent"), "owner": "team", "begin": "self", "scopes": ["exec:git"], "local": [{ "node": node, "uid": uid, "exe_sha256": program }],
            "evidence": [{ "kind": "process", "nodes": [node], "claims": { "exe_sha256": [program], "uid": [uid.to_string()] } }],
            "require_fresh_evidence": true,
        },
        {
            "spiffe_id": id("/client"), "owner": "team", "begin": "self", "scopes": ["exec:git"], "local": [{ "node": node, "uid": uid, "exe_sha256": own }],
            "evidence": [{ "kind": "process", "nodes": [node], "claims": { "exe_sha256": ["0".repeat(64)], "uid": [uid.to_string()] } }],
            "jwt_svid_audiences": ["us"],
        },
    ])
}

/// An unmodified SPIFFE client gets its identity and its JWT-SVIDs from the node.
async fn a_spiffe_client_is_served(socket: &str) -> WorkloadApiClient {
    let source = identity(socket)
        .await
        .expect("the spiffe crate gets an identity");
    assert_eq!(
        source.svid().expect("SVID").spiffe_id().to_string(),
        id("/client")
    );

    let client = WorkloadApiClient::connect_to(socket.replacen("unix:///", "unix:/", 1))
        .await
        .expect("connect");
    let token = client
        .fetch_jwt_svid(["us"], None)
        .await
        .expect("a JWT-SVID");
    assert_eq!(token.spiffe_id().to_string(), id("/client"));
    assert!(
        client.validate_jwt_token("us", token.token()).await.is_ok()
            && client
                .validate_jwt_token("them", token.token())
                .await
                .is_err()
    );
    assert_eq!(client.fetch_jwt_bundles().await.expect("bundles").len(), 1);
    assert!(
        client.fetch_jwt_svid(["them"], None).await.is_err(),
        "an audience that the registration does not name"
    );
    client
}

/// An operator sees what an agent has shown, and what was found in it.
fn evidence_is_explained(host: &Host, program: &str, node: &str) {
    let explained = host.dev.did(&["attest", "explain", &id("/agent")], "");
    for part in [
        "taken, worth `vouched`",
        "process: good, fresh",
        &format!("exe_sha256 = {program}"),
        &format!("node = {node}"),
    ] {
        assert!(
            explained.contains(part),
            "{part} is missing from {explained}"
        );
    }
}

#[tokio::test]
async fn a_node_proven_by_its_tpm_vouches_for_processes_and_gives_them_identities_until_it_is_contained()
 {
    let mut host = Host::new();
    let program = digest(&sundew());

    let node = id("/node");
    host.dev.did(
        &["trust", "add", "tpm2_ak", "this-host", "-f", "-"],
        &host.tpm.registered().to_string(),
    );
    let documents = registrations(&node, &program);
    host.dev
        .did(&["workload", "apply", "-f", "-"], &documents.to_string());
    assert!(host.dev.did(&["workload", "list"], "").contains("tpm2"));
    // What is delegated to a node is not given out by the broker itself.
    assert!(identity(&host.dev.field("endpoint_socket")).await.is_none());
    host.start_node();
    let socket = host.socket();
    until("the node serves", || async {
        host.run_as(&sundew()).status.success()
    })
    .await;

    let client = a_spiffe_client_is_served(&socket).await;

    // The same program with one byte more is another program.
    let copy: PathBuf = host.dev.folder().join("copy");
    std::fs::copy(sundew(), &copy).expect("copy");
    std::fs::OpenOptions::new()
        .append(true)
        .open(&copy)
        .and_then(|mut file| file.write_all(b"x"))
        .expect("append");
    assert!(!host.run_as(&copy).status.success());

    evidence_is_explained(&host, &program, &node);

    // The node's word counts no more, and its identities are withdrawn.
    host.dev
        .did(&["contain", "--workload", &node, "--reason", "stolen"], "");
    assert!(
        !host.run_as(&sundew()).status.success(),
        "a process that a contained node vouches for"
    );
    assert!(
        client.fetch_jwt_svid(["us"], None).await.is_err(),
        "a JWT-SVID through a contained node"
    );
    until("withdrawn", || async { identity(&socket).await.is_none() }).await;

    let node = host.node.take().expect("node");
    signal(node.id(), Signal::TERM);
    let status = { node }.wait().expect("wait");
    assert!(
        status.success(),
        "{status}: {}",
        std::fs::read_to_string(host.dev.folder().join("node.log")).unwrap_or_default()
    );
}
