//! Rotations of the embedded CA: agents, brokers and clients that go on through all of it (I10).

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sundew_proto::v1::{CaKey, DropOldCaKeysRequest, RotateCaRequest, ShowCaRequest};
use sundew_tests::broker::Broker;
use sundew_tests::dev::Dev;
use sundew_tests::pki::pem;
use sundew_tests::world::World;
use sundew_tests::{now_ms, sundew, until};

use crate::cli::text;
use crate::enrollment::{enroll_with, own_ca_in, own_root};

/// Connects to a broker with the SVID in a folder, verifies the broker by the bundle there, and
/// renews the SVID.
fn renew(broker: &Broker, folder: &Path) -> Output {
    Command::new(sundew())
        .args(["svid", "renew"])
        .env("SUNDEW_BROKER", broker.address())
        .env("SUNDEW_SVID_DIR", folder)
        .stdin(Stdio::null())
        .output()
        .expect("renew")
}

fn copy(folder: &Path, to: PathBuf) -> PathBuf {
    std::fs::create_dir_all(&to).expect("folder");
    for name in ["svid.pem", "key.pem", "bundle.pem"] {
        std::fs::copy(folder.join(name), to.join(name)).expect("copy");
    }
    to
}

fn roots_in(folder: &Path) -> usize {
    let bundle = std::fs::read_to_string(folder.join("bundle.pem")).expect("bundle");
    bundle.matches("BEGIN CERTIFICATE").count()
}

async fn roots(world: &World, broker: &Broker) -> Vec<CaKey> {
    let operator = world.operator(broker);
    let shown = operator.registry().show_ca(ShowCaRequest {}).await;
    shown.expect("shown").into_inner().roots
}

/// An agent `/agent` of the CA, in a folder.
async fn enrolled(world: &World, broker: &Broker, port: u16) -> PathBuf {
    let operator = world.operator(broker);
    let mut document = World::registration("/agent", json!({}));
    document["spiffe_id"] = json!("spiffe://own.example/agent");
    operator.apply(&[document]).await.expect("registered");
    let token = || operator.join_token("spiffe://own.example/agent");
    let bundle = world.folder().join("own-root.pem");
    let root = own_root(&token().await, port).await;
    std::fs::write(&bundle, pem("CERTIFICATE", &root)).expect("bundle");
    let folder = world.folder().join("agent");
    let output = enroll_with(&token().await, port, &bundle, &folder);
    assert!(output.status.success(), "{}", text(&output));
    folder
}

/// Two brokers of one Redis, and an agent that connects now to one and now to the other, from
/// before the rotation until the old root is dropped. An SVID of the old root is refused then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_agents_connect_to_both_brokers_through_the_whole_rotation() {
    let world = World::redis();
    let (one, port) = own_ca_in(&world, "svid_ttl = \"20s\"").await;
    let (two, _) = own_ca_in(&world, "svid_ttl = \"20s\"").await;
    let agent = enrolled(&world, &one, port).await;
    let brokers = [&one, &two];
    let mut turn = 0;
    let mut connects = |folder: &Path| {
        turn += 1;
        let output = renew(brokers[turn % 2], folder);
        assert!(output.status.success(), "{turn}: {}", text(&output));
    };
    connects(&agent);
    assert_eq!(roots_in(&agent), 1);
    let request = RotateCaRequest {
        activate_after_ms: 10_000,
        ..RotateCaRequest::default()
    };
    let operator = world.operator(&one);
    let rotated = operator.registry().rotate_ca(request).await;
    let active_from_ms = rotated.expect("rotated").into_inner().keys[1].active_from_ms;
    let mut old = agent.clone();
    while now_ms() < active_from_ms + 2000 {
        connects(&agent);
        if now_ms() < active_from_ms - 1000 {
            old = copy(&agent, world.folder().join("old"));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(roots_in(&agent), 2);
    for broker in brokers {
        let roots = roots(&world, broker).await;
        let states: Vec<_> = roots.iter().map(|key| key.state.as_str()).collect();
        assert_eq!(states, ["former", "active"]);
    }
    // What the old root signed is good until then, and not a moment longer.
    for (n, broker) in brokers.into_iter().enumerate() {
        let output = renew(broker, &copy(&old, world.folder().join(format!("old-{n}"))));
        assert!(output.status.success(), "{}", text(&output));
    }
    let request = DropOldCaKeysRequest::default();
    let dropped = operator.registry().drop_old_ca_keys(request).await;
    assert_eq!(dropped.expect("dropped").into_inner().keys.len(), 1);
    for broker in brokers {
        until("the old root is refused", || async {
            !renew(broker, &copy(&old, world.folder().join("refused")))
                .status
                .success()
        })
        .await;
    }
    for _ in 0..4 {
        connects(&agent);
    }
    assert_eq!(roots_in(&agent), 1);
}

/// The commands, and an unmodified SPIFFE client whose bundle and SVID follow.
#[tokio::test]
async fn i10_the_command_line_rotates_and_a_spiffe_client_follows() {
    let dev = Dev::new();
    let uid = rustix::process::geteuid().as_raw();
    let key = rcgen::KeyPair::generate().expect("key").public_key_pem();
    let document = json!({
        "spiffe_id": "spiffe://dev.local/mine", "owner": "t", "begin": "self", "scopes": ["exec:git"],
        "local": [{ "uid": uid }], "evidence": [{ "kind": "manifest", "keys": [key] }],
    });
    dev.did(&["workload", "apply", "-f", "-"], &document.to_string());
    let endpoint = dev.field("endpoint_socket");
    let endpoint = endpoint.replacen("unix:///", "unix:/", 1);
    let source = spiffe::X509Source::builder().endpoint(&endpoint).build();
    let source = source.await.expect("identity");
    let authorities = || {
        let bundles = source.bundle_set().expect("bundles");
        let (_, bundle) = bundles.iter().next().expect("bundle");
        bundle.authorities().len()
    };
    let status = || -> Value {
        serde_json::from_str(&dev.did(&["--json", "ca", "status"], "")).expect("JSON")
    };
    assert_eq!(authorities(), 1);
    assert_eq!(status()["roots"][0]["state"], "active");
    dev.did(&["ca", "rotate"], "");
    dev.did(&["ca", "rotate", "--jwt", "--activate-after", "1s"], "");
    let again = dev.operator(&["ca", "rotate"], "");
    assert!(
        !again.status.success() && text(&again).contains("under way"),
        "{}",
        text(&again)
    );
    until("both roots are in the bundle", || async {
        authorities() == 2
    })
    .await;
    until("the next JWT key signs", || async {
        status()["jwt_keys"][1]["state"] == "active"
    })
    .await;
    assert!(!dev.operator(&["ca", "drop-old"], "").status.success());
    let before = source.svid().expect("SVID").cert_chain().to_vec();
    dev.did(&["ca", "drop-old", "--now"], "");
    until("one root is left, and the SVID is another", || async {
        authorities() == 1 && source.svid().expect("SVID").cert_chain() != before
    })
    .await;
}
