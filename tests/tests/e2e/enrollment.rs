//! How a workload gets its SVID from the broker's own CA: over the Workload API, and with a join
//! token.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rcgen::KeyPair;
use serde_json::{Value, json};
use sundew_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use sundew_proto::v1::CreateJoinTokenRequest;
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::dev::Dev;
use sundew_tests::pki::pem;
use sundew_tests::world::World;
use sundew_tests::{sundew, until};
use tonic::transport::Channel;

use crate::cli::text;
use crate::node::digest;

/// Without the header, the call may come from a confused deputy.
async fn a_call_without_the_header_is_refused(dev: &Dev) -> SpiffeWorkloadApiClient<Channel> {
    let channel = tonic::transport::Endpoint::from_shared(
        dev.field("endpoint_socket").replacen("unix://", "unix:", 1),
    )
    .expect("uri")
    .connect()
    .await
    .expect("connect");
    let mut bare = SpiffeWorkloadApiClient::new(channel);
    let refused = bare
        .fetch_x509svid(sundew_proto::spiffe::X509svidRequest {})
        .await;
    assert_eq!(
        refused.expect_err("no header").code(),
        tonic::Code::InvalidArgument
    );
    bare
}

/// The development broker, its Workload API, and an unmodified SPIFFE client.
#[tokio::test]
async fn an_unmodified_spiffe_client_gets_an_identity_and_loses_it_with_the_registration() {
    let mut dev = Dev::new();
    let exe = std::env::current_exe()
        .expect("own path")
        .canonicalize()
        .expect("own path");
    let digest = digest(&exe);
    let key = KeyPair::generate().expect("key").public_key_pem();
    let workload = |path: &str, local: Value| json!({ "spiffe_id": format!("spiffe://dev.local{path}"), "owner": "t", "begin": "self", "scopes": ["exec:git"], "local": [local], "evidence": [{ "kind": "manifest", "keys": [key] }] });
    let uid = rustix::process::geteuid().as_raw();
    let documents = json!([
        workload(
            "/mine",
            json!({ "uid": uid, "exe": exe, "exe_sha256": digest })
        ),
        workload("/other-user", json!({ "uid": uid + 1 })),
        workload(
            "/other-code",
            json!({ "uid": uid, "exe_sha256": "00".repeat(32) })
        ),
    ]);
    dev.did(&["workload", "apply", "-f", "-"], &documents.to_string());
    let endpoint = dev
        .field("endpoint_socket")
        .replacen("unix:///", "unix:/", 1);
    let source = spiffe::X509Source::builder()
        .endpoint(&endpoint)
        .build()
        .await
        .expect("the spiffe crate gets an identity");
    assert_eq!(
        source.svid().expect("SVID").spiffe_id().to_string(),
        "spiffe://dev.local/mine"
    );
    assert_eq!(source.bundle_set().expect("bundles").len(), 1);

    let bare = a_call_without_the_header_is_refused(&dev).await;

    dev.did(&["workload", "delete", "spiffe://dev.local/mine"], "");
    until("withdrawn", || {
        let mut bare = bare.clone();
        async move {
            let mut request = tonic::Request::new(sundew_proto::spiffe::X509svidRequest {});
            request
                .metadata_mut()
                .insert("workload.spiffe.io", "true".parse().expect("value"));
            match bare.fetch_x509svid(request).await {
                Ok(stream) => stream
                    .into_inner()
                    .message()
                    .await
                    .is_err_and(|s| s.code() == tonic::Code::PermissionDenied),
                Err(status) => status.code() == tonic::Code::PermissionDenied,
            }
        }
    })
    .await;
    assert!(dev.stop().success());
}

/// I2: who connects, hands the socket to another process and becomes a trusted program gets nothing
/// that is the program's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_a_socket_that_is_handed_over_proves_nothing_of_who_connected() {
    let mut dev = Dev::new();
    let program = Path::new("/bin/sleep").canonicalize().expect("program");
    let key = KeyPair::generate().expect("key").public_key_pem();
    let uid = rustix::process::geteuid().as_raw();
    let document = json!([{
        "spiffe_id": "spiffe://dev.local/trusted", "owner": "t", "begin": "self", "scopes": ["exec:git"],
        "local": [{ "uid": uid, "exe": program }],
        "evidence": [{ "kind": "manifest", "keys": [key] }],
    }]);
    dev.did(&["workload", "apply", "-f", "-"], &document.to_string());
    let socket = dev.field("endpoint_socket").replacen("unix://", "", 1);
    let output = Command::new(env!("CARGO_BIN_EXE_handing_over"))
        .arg(&socket)
        .arg(&program)
        .output()
        .expect("attacker");
    let said = crate::cli::text(&output);
    assert!(
        said.contains("refused: ") && !said.contains("got "),
        "{said}"
    );
    assert!(dev.stop().success());
}

/// Runs `sundew svid enroll` with a join token on standard input.
pub(crate) fn enroll_with(token: &str, port: u16, bundle: &Path, out: &Path) -> Output {
    let mut command = Command::new(sundew());
    command
        .args([
            "svid",
            "enroll",
            "--enrollment",
            &format!("127.0.0.1:{port}"),
            "--trust-domain",
            "own.example",
            "--bundle",
        ])
        .arg(bundle)
        .arg("--out")
        .arg(out);
    sundew_tests::process::run(command, token)
}

/// An SVID that was enrolled renews itself, and the doctor finds nothing wrong with it.
fn renews(broker: &Broker, out: &Path) {
    let before = std::fs::read(out.join("svid.pem")).expect("svid");
    let renew = Command::new(sundew())
        .args(["svid", "renew"])
        .env("SUNDEW_BROKER", broker.address())
        .env("SUNDEW_SVID_DIR", out)
        .stdin(Stdio::null())
        .output()
        .expect("renew");
    assert!(renew.status.success(), "{}", text(&renew));
    assert_ne!(before, std::fs::read(out.join("svid.pem")).expect("svid"));
    let doctor = Command::new(sundew())
        .arg("doctor")
        .env("SUNDEW_BROKER", broker.address())
        .env("SUNDEW_SVID_DIR", out)
        .env("SUNDEW_OIDC_TOKEN_FILE", "/dev/null")
        .stdin(Stdio::null())
        .output()
        .expect("doctor");
    assert!(doctor.status.success(), "{}", text(&doctor));
}

/// A join token gives one SVID, once; the SVID renews itself.
#[tokio::test]
async fn a_join_token_is_good_once_and_gives_an_svid_that_can_be_renewed() {
    let (world, broker, port) = with_own_ca().await;
    let operator = world.operator(&broker);
    let mut document = World::registration("/agent", json!({}));
    document["spiffe_id"] = json!("spiffe://own.example/agent");
    operator.apply(&[document]).await.expect("registered");
    let of_unknown = CreateJoinTokenRequest {
        spiffe_id: "spiffe://own.example/unknown".to_owned(),
        ttl_ms: 0,
    };
    let refused = operator.registry().create_join_token(of_unknown).await;
    assert!(refused.is_err());
    let agent = "spiffe://own.example/agent";
    let token = operator.join_token(agent).await;
    // The roots come out of band; here from the broker's own handshake.
    let bundle = world.folder().join("own-root.pem");
    let chain = server_chain(&world, &broker).await;
    assert_eq!(
        chain.len(),
        1,
        "the CA's certificate is not in the handshake"
    );
    let root = own_root(&token, port).await;
    std::fs::write(&bundle, pem("CERTIFICATE", &root)).expect("bundle");
    let second = operator.join_token(agent).await;
    let out = world.folder().join("enrolled");
    let enroll = |token: &str| enroll_with(token, port, &bundle, &out);
    let first = enroll(&second);
    assert!(first.status.success(), "{}", text(&first));
    for bad in [second.as_str(), "sdj_AAAA", "", &second[..second.len() - 2]] {
        let output = enroll(bad);
        assert!(
            !output.status.success() && text(&output).contains("not permitted"),
            "{bad:?}: {}",
            text(&output)
        );
    }
    renews(&broker, &out);
}

/// gRPC's C library, which Python's SPIFFE client is built on, names the socket's path as the
/// authority; HTTP/2 by hand, as it sends it.
#[test]
fn a_client_that_names_the_socket_as_the_authority_gets_an_identity() {
    use std::io::Read as _;
    let dev = Dev::new();
    let uid = rustix::process::geteuid().as_raw();
    let document = json!({
        "spiffe_id": "spiffe://dev.local/mine", "owner": "t", "begin": "self", "scopes": ["exec:git"], "local": [{ "uid": uid }],
        "evidence": [{ "kind": "manifest", "keys": [KeyPair::generate().expect("key").public_key_pem()] }],
    });
    dev.did(&["workload", "apply", "-f", "-"], &document.to_string());
    let socket = dev.field("endpoint_socket").replacen("unix://", "", 1);
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).expect("connect");
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .expect("timeout");
    let frame = |kind: u8, flags: u8, id: u8, payload: &[u8]| {
        let length = u16::try_from(payload.len()).expect("length").to_be_bytes();
        [
            &[0, length[0], length[1], kind, flags, 0, 0, 0, id],
            payload,
        ]
        .concat()
    };
    let literal = |name: &[u8], value: &str| {
        [
            name,
            &[u8::try_from(value.len()).expect("length")],
            value.as_bytes(),
        ]
        .concat()
    };
    let named = |name: &str, value: &str| {
        literal(
            &[
                &[0x40, u8::try_from(name.len()).expect("length")],
                name.as_bytes(),
            ]
            .concat(),
            value,
        )
    };
    let block = [
        vec![0x83, 0x86],
        literal(&[0x44], "/SpiffeWorkloadAPI/FetchX509SVID"),
        named(":authority", &socket.replace('/', "%2F")),
        named("te", "trailers"),
        named("content-type", "application/grpc"),
        named("workload.spiffe.io", "true"),
    ]
    .concat();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let sent = [
        preface,
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &block),
        frame(0, 1, 1, &[0; 5]),
    ]
    .concat();
    stream.write_all(&sent).expect("request");
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).expect("frame");
        let mut payload = vec![0; usize::from(u16::from_be_bytes([header[1], header[2]]))];
        stream.read_exact(&mut payload).expect("frame");
        assert_ne!(
            (header[3], header[8]),
            (3, 1),
            "the stream was reset: {payload:?}"
        );
        if header[3] == 0 && header[8] == 1 {
            assert!(
                payload
                    .windows(23)
                    .any(|window| window == b"spiffe://dev.local/mine")
            );
            return;
        }
    }
}

/// A broker with a CA of its own and an enrollment listener at this port; operators are of the
/// test's CA.
pub(crate) async fn with_own_ca() -> (World, Broker, u16) {
    let world = World::embedded();
    let (broker, port) = own_ca_in(&world, "").await;
    (world, broker, port)
}

/// Another such broker, with more in the section of its identity.
pub(crate) async fn own_ca_in(world: &World, identity: &str) -> (Broker, u16) {
    let (mut broker, port) = world.prepare_with_own_ca(identity);
    broker.up();
    broker.ready().await;
    (broker, port)
}

async fn server_chain(
    world: &World,
    broker: &Broker,
) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    let config = std::sync::Arc::new(sundew_tests::tls::client_config(Some(
        &world.ca.svid("/operator"),
    )));
    let socket = tokio::net::TcpStream::connect(broker.address())
        .await
        .expect("connect");
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(
            rustls_pki_types::ServerName::try_from("b").expect("name"),
            socket,
        )
        .await
        .expect("handshake");
    stream
        .get_ref()
        .1
        .peer_certificates()
        .expect("chain")
        .to_vec()
}

/// Enrolls by hand, without looking at the server, to learn the root.
pub(crate) async fn own_root(token: &str, port: u16) -> Vec<u8> {
    let caller = Caller::new(format!("127.0.0.1:{port}"), None);
    let (_, bundle) = caller.redeem(token).await.expect("enrolled");
    bundle[0].clone()
}
