//! Sources of identities, bundles and keys: a Workload API and https.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use sundew_proto::v1::BeginTaskRequest;
use sundew_tests::calls::{Caller, oidc};
use sundew_tests::dev::Dev;
use sundew_tests::issuer::{AUDIENCE, TestIssuer};
use sundew_tests::pki::{Ca, Svid, leaf, pem};
use sundew_tests::workload_api::{ScriptedApi, entry};
use sundew_tests::world::World;
use sundew_tests::{sundew, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A broker whose own SVID and bundles come from a Workload API: here the one of another Sundew.
#[tokio::test]
async fn a_broker_lives_on_a_workload_api() {
    let dev = Dev::new();
    let (socket, operator) = (dev.field("endpoint_socket"), dev.field("operator_svid_dir"));
    let document = json!({
        "spiffe_id": "spiffe://dev.local/broker", "owner": "t", "begin": "self", "scopes": ["exec:git"], "local": [{ "uid": rustix::process::geteuid().as_raw() }],
        "evidence": [{ "kind": "manifest", "keys": [rcgen::KeyPair::generate().expect("key").public_key_pem()] }],
    });
    dev.did(&["workload", "apply", "-f", "-"], &document.to_string());

    let world = World::embedded();
    let mut broker = world.prepare(
        "[[operators]]\nspiffe_id = \"spiffe://dev.local/operator\"\nroles = [\"registrar\"]\n",
    );
    let text = std::fs::read_to_string(broker.config_file()).expect("config");
    let (from, to) = (
        text.find("[identity]").expect("section"),
        text.find("[[trust]]").expect("section"),
    );
    let own = format!(
        "[identity]\nsource = \"workload_api\"\nsocket = \"{}\"\n",
        socket.trim_start_matches("unix://")
    );
    std::fs::write(
        broker.config_file(),
        format!("{}{own}{}", &text[..from], &text[to..]),
    )
    .expect("config");
    broker.up();
    broker.ready().await;
    // The bundle of dev.local came over the socket: its operator is let in, and knows the broker by
    // its ID.
    let list = Command::new(sundew())
        .args([
            "workload",
            "list",
            "--broker-id",
            "spiffe://dev.local/broker",
        ])
        .env("SUNDEW_BROKER", broker.address())
        .env("SUNDEW_SVID_DIR", operator)
        .output()
        .expect("list");
    assert!(
        list.status.success(),
        "{}",
        String::from_utf8_lossy(&list.stderr)
    );
    drop(dev);
    until("health says so, and the last good state stays", || async {
        broker
            .http("/readyz")
            .await
            .is_some_and(|(code, text)| code == 200 && text.contains("workload api"))
    })
    .await;
}

/// A broker on a Workload API that gives it two SVIDs, beside a partner whose bundle is bad (I4, I5,
/// I11).
#[tokio::test]
async fn i4_i5_i11_a_broker_takes_each_part_of_what_a_workload_api_says_by_itself() {
    let world = World::embedded();
    let (own, partner) = (Ca::new("own.example"), Ca::new("partner.example"));
    let api = ScriptedApi::serve(&world.folder().join("agent.sock"));
    let svids = [
        entry(&own, "/gateway", "edge"),
        entry(&own, "/broker", "core"),
    ];
    let bad = ("bad.example", b"\x30\x03\x02\x01\x00garbage".to_vec());
    let good = ("partner.example", partner.certificate.to_vec());
    api.says(&svids, &[bad.clone(), good]);
    let mut broker = world.prepare("");
    let text = std::fs::read_to_string(broker.config_file()).expect("config");
    let (from, to) = (
        text.find("[identity]").expect("section"),
        text.find("[store]").expect("section"),
    );
    let socket = api.socket().display();
    let identity =
        format!("[identity]\nsource = \"workload_api\"\nsocket = \"{socket}\"\nhint = \"core\"\n");
    let text = format!("{}{identity}{}", &text[..from], &text[to..]);
    let text = text.replace(
        "spiffe://test.example/operator",
        "spiffe://own.example/operator",
    );
    std::fs::write(broker.config_file(), text).expect("config");
    broker.up();
    broker.ready().await;
    let output = broker.output();
    assert!(output.contains("spiffe://own.example/broker"), "{output}");
    assert!(!output.contains("spiffe://own.example/gateway"), "{output}");
    let operator = world.caller_with(&broker, own.svid("/operator"));
    for domain in ["own.example", "partner.example"] {
        let id = json!({ "spiffe_id": format!("spiffe://{domain}/agent") });
        let document = [World::registration("/agent", id)];
        operator.apply(&document).await.expect("registration");
    }
    let (ours, theirs) = (
        world.caller_with(&broker, own.svid("/agent")),
        world.caller_with(&broker, partner.svid("/agent")),
    );
    ours.nonce().await.expect("one's own");
    theirs.nonce().await.expect("the partner's");
    let (status, health) = broker.http("/readyz").await.expect("health");
    let told =
        "bundle of bad.example: 2 left out: root 0: not an X.509 certificate; root 1: not DER";
    assert!(status == 200 && health.contains(told), "{health}");
    let (_, metrics) = broker.http("/metrics").await.expect("metrics");
    let counted = "sundew_trust_left_out{source=\"bundle of bad.example\"} 2";
    assert!(metrics.contains(counted), "{metrics}");
    // Absent is redacted, also for a connection that is open.
    api.says(&svids, &[bad]);
    until("the partner is out", || async {
        let refused = theirs.nonce().await;
        refused.is_err_and(|status| status.code() == tonic::Code::Unauthenticated)
    })
    .await;
    ours.nonce().await.expect("one's own");
    // What was taken back is not used, and comes back with the Workload API's word alone.
    api.denies();
    let is_without = |text: &str| text.contains("no identity issued") && text.contains("own SVID");
    until("the broker has no identity", || async {
        let health = broker.http("/readyz").await;
        health.is_some_and(|(status, text)| status == 503 && is_without(&text))
    })
    .await;
    assert!(ours.nonce().await.is_err());
    api.says(&svids, &[]);
    broker.ready().await;
    ours.nonce().await.expect("back");
}

/// An https server that answers what the test says for each path.
async fn https(
    svid: Svid,
    answer: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (u16, Arc<AtomicUsize>) {
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(svid.chain.clone(), svid.private_key())
        .expect("config");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("listen");
    let port = listener.local_addr().expect("address").port();
    let (asked, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(answer));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("accept");
            let (acceptor, answer, count) =
                (acceptor.clone(), Arc::clone(&answer), Arc::clone(&count));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(socket).await else {
                    return;
                };
                let mut buffer = vec![0; 8192];
                let Ok(length) = stream.read(&mut buffer).await else {
                    return;
                };
                count.fetch_add(1, Ordering::Relaxed);
                let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                let _ = stream.write_all(answer(&path).as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (port, asked)
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Answers as an issuer does at `/good`, and as one should not elsewhere.
fn answer(base: &str, path: &str, jwks: &str) -> String {
    match path {
        "/good/.well-known/openid-configuration" => ok(&json!({ "issuer": format!("{base}/good"), "jwks_uri": format!("{base}/keys") }).to_string()),
        "/keys" => ok(jwks),
        "/redirect/.well-known/openid-configuration" => {
            format!("HTTP/1.1 302 Found\r\nLocation: {base}/good/.well-known/openid-configuration\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        }
        "/foreign/.well-known/openid-configuration" => ok(&json!({ "issuer": format!("{base}/good"), "jwks_uri": format!("{base}/keys") }).to_string()),
        "/elsewhere/.well-known/openid-configuration" => {
            ok(&json!({ "issuer": format!("{base}/elsewhere"), "jwks_uri": "https://attacker.test/keys" }).to_string())
        }
        "/huge/.well-known/openid-configuration" => ok(&format!("\"{}\"", "x".repeat(2 << 20))),
        _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
    }
}

/// A server that answers so, with the CA that vouches for it in the folder: its port, and how often
/// it was asked for the good issuer's keys. Those that fail are asked again at their own pace.
async fn issuers(world: &World) -> (u16, Arc<AtomicUsize>) {
    let ca = Ca::new("https.example");
    let mut params = leaf(&[]);
    params.subject_alt_names = vec![rcgen::SanType::DnsName(
        "localhost".try_into().expect("ascii"),
    )];
    let server = ca.sign(params);
    std::fs::write(
        world.folder().join("https-ca.pem"),
        pem("CERTIFICATE", &ca.certificate),
    )
    .expect("CA");
    let (jwks, port_cell) = (
        world.issuer.jwks(),
        Arc::new(std::sync::OnceLock::<u16>::new()),
    );
    let cell = Arc::clone(&port_cell);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let (port, _) = https(server, move |path| {
        let base = format!("https://localhost:{}", cell.get().expect("port"));
        if path == "/keys" {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        answer(&base, path, &jwks)
    })
    .await;
    port_cell.set(port).expect("once");
    (port, asked)
}

/// T15, T18: keys are discovered over https, redirects and foreign discovery documents are not
/// followed, and a thousand tokens with unknown keys cause at most one fetch more.
#[tokio::test]
async fn t15_t18_keys_are_fetched_over_https_with_limits() {
    let world = World::embedded();
    let (port, asked) = issuers(&world).await;
    let base = format!("https://localhost:{port}");
    let names = ["good", "redirect", "foreign", "elsewhere", "huge", "absent"];
    let more: String = names
        .iter()
        .map(|name| format!("[[issuers]]\nurl = \"{base}/{name}\"\naudience = \"{AUDIENCE}\"\nca_file = \"{}/https-ca.pem\"\n", world.folder().display()))
        .collect();
    let broker = world.broker_with(&more).await;
    for name in names {
        let evidence = json!({ "evidence": [{ "kind": "oidc", "issuer": format!("{base}/{name}"), "claims": { "sub": ["s"] } }] });
        world.register(&broker, &format!("/{name}"), evidence).await;
    }
    let begin = |name: &'static str, kid: &'static str| {
        let caller: Caller = world.caller(&broker, &format!("/{name}"));
        let mut claims = TestIssuer::claims("s");
        claims["iss"] = json!(format!("{base}/{name}"));
        let token = world.issuer.sign(
            &json!({ "alg": "ES256", "kid": kid }).to_string(),
            &claims.to_string(),
        );
        async move {
            let nonce = caller.nonce().await?;
            let request = BeginTaskRequest {
                nonce,
                purpose: "x".to_owned(),
                scopes: vec!["exec:git".to_owned()],
                evidence: vec![oidc(token)],
                ..Default::default()
            };
            caller.send(request).await.map(drop)
        }
    };
    until("the keys are there", || async {
        begin("good", "k1").await.is_ok()
    })
    .await;
    until("what failed is told", || async {
        broker.http("/readyz").await.is_some_and(|(code, text)| {
            code == 200
                && names[1..]
                    .iter()
                    .all(|name| text.contains(&format!("{base}/{name}")))
        })
    })
    .await;
    for name in &names[1..] {
        assert!(begin(name, "k1").await.is_err(), "{name}");
    }
    let before = asked.load(Ordering::Relaxed);
    for _ in 0..1000 {
        assert!(begin("good", "unknown").await.is_err());
    }
    // `/foreign` never comes as far as the keys.
    assert!(
        asked.load(Ordering::Relaxed) <= before + 1,
        "{} fetches",
        asked.load(Ordering::Relaxed) - before
    );
}
