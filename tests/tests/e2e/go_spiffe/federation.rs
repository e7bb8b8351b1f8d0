//! Bundle endpoints (SPIFFE Federation) of go-spiffe and of ours.

use std::path::{Path, PathBuf};

use rcgen::SanType;
use serde_json::json;
use sundew_proto::v1::RotateCaRequest;
use sundew_tests::pki::{Ca, leaf, pem};
use sundew_tests::until;
use sundew_tests::world::World;

use super::{AGENT, AUDIENCE, BROKER, Go, broker, refuses};

/// Writes a certificate for the host `localhost` and its key, and returns their files.
fn web_certificate(ca: &Ca, folder: PathBuf) -> [String; 2] {
    let mut params = leaf(&[]);
    let name = "localhost".try_into().expect("name");
    params.subject_alt_names = vec![SanType::DnsName(name)];
    ca.sign(params).write(&folder, &[]);
    files(&folder)
}

/// The files of a certificate and its key.
fn files(folder: &Path) -> [String; 2] {
    ["svid.pem", "key.pem"].map(|name| folder.join(name).display().to_string())
}

/// go-spiffe fetches our bundle in both profiles of SPIFFE Federation, and follows rotations.
#[tokio::test]
async fn go_spiffe_follows_the_bundle_that_we_serve_in_both_profiles() {
    let worlds = [World::embedded(), World::embedded()];
    for (world, profile) in worlds.iter().zip(["web", "spiffe"]) {
        let port = sundew_tests::free_port();
        let [certificate, key] = web_certificate(&world.ca, world.folder().join("web"));
        let mut more = format!("[bundle_endpoint]\nlisten = \"127.0.0.1:{port}\"\n");
        let whom = match profile {
            "web" => {
                more += &format!("certificate = \"{certificate}\"\nkey = \"{key}\"\n");
                world.folder().join("bundle.pem").display().to_string()
            }
            _ => BROKER.to_owned(),
        };
        let (_broker, _, operator) = broker(world, &more).await;
        let url = format!("https://localhost:{port}/bundle.json");
        let watch = |whom: &str| Go::start(world, &["watch", "own.example", &url, profile, whom]);
        let mut go = watch(&whom);
        let first = go.next("a bundle").await;
        assert_eq!((&first["roots"], &first["keys"]), (&json!(1), &json!(1)));
        assert!(first["refresh_s"].as_u64() >= Some(30), "{first}");
        let mut sequence = first["sequence"].as_u64().expect("sequence");
        for (jwt, expected) in [(false, (2, 1)), (true, (2, 2))] {
            let request = RotateCaRequest {
                jwt,
                activate_after_ms: 0,
                idempotency_key: format!("rotation-{jwt}"),
            };
            let rotated = operator.registry().rotate_ca(request).await;
            rotated.expect("rotated");
            let next = go.next("the next bundle").await;
            let (roots, keys) = expected;
            assert_eq!(
                (&next["roots"], &next["keys"]),
                (&json!(roots), &json!(keys))
            );
            let grown = next["sequence"].as_u64().expect("sequence");
            assert!(grown > sequence, "{first}, {next}");
            sequence = grown;
        }
        if profile == "spiffe" {
            refuses(&watch(AGENT).next("a refusal").await, "unexpected ID");
        }
    }
}

/// A partner whose bundle a handler of go-spiffe serves.
struct Partner {
    ca: Ca,
    bundle: PathBuf,
    /// The port of its endpoint.
    port: String,
    _endpoint: Go,
}

impl Partner {
    async fn start(world: &World, profile: &str) -> Self {
        let ca = Ca::new(&format!("{profile}.example"));
        let folder = world.folder().join(profile);
        let [certificate, key] = match profile {
            "web" => web_certificate(&world.ca, folder.clone()),
            _ => {
                ca.svid("/spire/server").write(&folder, &[]);
                files(&folder)
            }
        };
        let bundle = folder.join("roots.pem");
        write_roots(&bundle, &[&ca]);
        let file = bundle.display().to_string();
        let arguments = ["federate", &ca.domain, &file, profile, &certificate, &key];
        let mut endpoint = Go::start(world, &arguments);
        let address = endpoint.address().await;
        let (_, port) = address.split_once(':').expect("port");
        Self {
            port: port.to_owned(),
            ca,
            bundle,
            _endpoint: endpoint,
        }
    }

    fn id(&self, path: &str) -> String {
        format!("spiffe://{}{path}", self.ca.domain)
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/", self.port)
    }
}

fn write_roots(file: &Path, cas: &[&Ca]) {
    let text: String = cas
        .iter()
        .map(|ca| pem("CERTIFICATE", &ca.certificate))
        .collect();
    let fresh = file.with_extension("fresh");
    std::fs::write(&fresh, text).expect("bundle");
    std::fs::rename(fresh, file).expect("bundle");
}

/// P1: our brokers fetch what handlers of go-spiffe serve in both profiles, follow rotations, and
/// hand it on to local processes. Keys of a kind that we do not know (WIT-SVIDs) are passed over.
#[tokio::test]
async fn we_follow_the_bundles_that_go_spiffe_serves_in_both_profiles() {
    let world = World::embedded();
    let web = Partner::start(&world, "web").await;
    let spiffe = Partner::start(&world, "spiffe").await;
    let roots = world.folder().join("first.pem");
    std::fs::copy(&spiffe.bundle, &roots).expect("bundle");
    let more = format!(
        r#"
[limits]
bundle_age = "3s"
[[federation]]
trust_domain = "web.example"
url = "{}"
profile = "https_web"
ca_file = "{}"
[[federation]]
trust_domain = "spiffe.example"
url = "{}"
profile = "https_spiffe"
spiffe_id = "{}"
bundle = "{}"
"#,
        web.url(),
        world.folder().join("bundle.pem").display(),
        spiffe.url(),
        spiffe.id("/spire/server"),
        roots.display(),
    );
    let (broker, _, operator) = broker(&world, &more).await;
    for partner in [&web, &spiffe] {
        let changes = json!({ "spiffe_id": partner.id("/agent") });
        let documents = [World::registration("/agent", changes)];
        operator.apply(&documents).await.expect("registered");
    }
    let begins = |ca: &Ca| {
        let caller = world.caller_with(&broker, ca.svid("/agent"));
        let issuer = &world.issuer;
        async move { caller.begin(issuer, "/agent", &["exec:git"]).await.is_ok() }
    };
    for partner in [&web, &spiffe] {
        until("the partner is let in", || begins(&partner.ca)).await;
    }
    let mut go = Go::start(&world, &["identity", AUDIENCE]);
    let all = go.next("all documents").await;
    for domain in ["web.example", "spiffe.example"] {
        let (roots, keys) = (&all["roots"][domain], &all["keys"][domain]);
        assert_eq!((roots, keys), (&json!(1), &json!(1)), "{all}");
    }

    for partner in [&web, &spiffe] {
        let next = Ca::new(&partner.ca.domain);
        assert!(!begins(&next).await);
        write_roots(&partner.bundle, &[&partner.ca, &next]);
        until("the next root", || begins(&next)).await;
        assert!(begins(&partner.ca).await);
        if partner.ca.domain == "spiffe.example" {
            let folder = partner.bundle.parent().expect("folder");
            next.svid("/spire/server").write(folder, &[]);
        }
        write_roots(&partner.bundle, &[&next]);
        until("the old root ends", || async { !begins(&partner.ca).await }).await;
        assert!(begins(&next).await);
    }
}
