//! How a workload gets its SVID from the broker's own CA: over the Workload API, and with a join
//! token.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sundew_tests::broker::{Broker, World};
use sundew_tests::dev::Dev;
use sundew_tests::{sundew, until};

use crate::cli::text;

/// The development broker, its Workload API, and an unmodified SPIFFE client.
#[tokio::test]
async fn an_unmodified_spiffe_client_gets_an_identity_and_loses_it_with_the_registration() {
    let mut dev = Dev::new();
    let exe = std::env::current_exe()
        .expect("own path")
        .canonicalize()
        .expect("own path");
    let digest: String = ring::digest::digest(
        &ring::digest::SHA256,
        &std::fs::read(&exe).expect("own code"),
    )
    .as_ref()
    .iter()
    .map(|b| format!("{b:02x}"))
    .collect();
    let key = rcgen::KeyPair::generate().expect("key").public_key_pem();
    let workload = |path: &str, local: Value| json!({ "spiffe_id": format!("spiffe://dev.local{path}"), "owner": "t", "scopes": ["exec:git"], "local": [local], "evidence": [{ "kind": "manifest", "keys": [key] }] });
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

    // Without the header, the call may come from a confused deputy.
    let channel = tonic::transport::Endpoint::from_shared(
        dev.field("endpoint_socket").replacen("unix://", "unix:", 1),
    )
    .expect("uri")
    .connect()
    .await
    .expect("connect");
    let mut bare =
        sundew_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient::new(channel);
    let refused = bare
        .fetch_x509svid(sundew_proto::spiffe::X509svidRequest {})
        .await;
    assert_eq!(
        refused.expect_err("no header").code(),
        tonic::Code::InvalidArgument
    );

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

/// A join token gives one SVID, once; the SVID renews itself.
#[tokio::test]
async fn a_join_token_is_good_once_and_gives_an_svid_that_can_be_renewed() {
    let (world, broker, port) = with_own_ca().await;
    let operator = world.operator(&broker);
    let mut document = World::registration("/agent", json!({}));
    document["spiffe_id"] = json!("spiffe://own.example/agent");
    operator.apply(&[document]).await.expect("registered");
    let create = |id: &str| sundew_proto::v1::CreateJoinTokenRequest {
        spiffe_id: id.to_owned(),
        ttl_ms: 0,
    };
    assert!(
        operator
            .registry()
            .create_join_token(create("spiffe://own.example/unknown"))
            .await
            .is_err()
    );
    let token = operator
        .registry()
        .create_join_token(create("spiffe://own.example/agent"))
        .await
        .expect("token")
        .into_inner()
        .join_token;
    // The roots come out of band; here from the broker's own handshake.
    let bundle = world.folder().join("own-root.pem");
    let chain = server_chain(&world, &broker).await;
    assert_eq!(
        chain.len(),
        1,
        "the CA's certificate is not in the handshake"
    );
    let root = own_root(&token, port).await;
    std::fs::write(&bundle, sundew_tests::pki::pem("CERTIFICATE", &root)).expect("bundle");
    let second = operator
        .registry()
        .create_join_token(create("spiffe://own.example/agent"))
        .await
        .expect("token")
        .into_inner()
        .join_token;
    let out = world.folder().join("enrolled");
    let enroll = |token: &str| {
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
            .arg(&bundle)
            .arg("--out")
            .arg(&out);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run");
        child
            .stdin
            .take()
            .expect("pipe")
            .write_all(token.as_bytes())
            .expect("input");
        child.wait_with_output().expect("run")
    };
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
    let before = std::fs::read(out.join("svid.pem")).expect("svid");
    let renew = Command::new(sundew())
        .args(["svid", "renew"])
        .env("SUNDEW_BROKER", broker.address())
        .env("SUNDEW_SVID_DIR", &out)
        .stdin(Stdio::null())
        .output()
        .expect("renew");
    assert!(renew.status.success(), "{}", text(&renew));
    assert_ne!(before, std::fs::read(out.join("svid.pem")).expect("svid"));
    let doctor = Command::new(sundew())
        .arg("doctor")
        .env("SUNDEW_BROKER", broker.address())
        .env("SUNDEW_SVID_DIR", &out)
        .env("SUNDEW_OIDC_TOKEN_FILE", "/dev/null")
        .stdin(Stdio::null())
        .output()
        .expect("doctor");
    assert!(doctor.status.success(), "{}", text(&doctor));
}

/// gRPC's C library, which Python's SPIFFE client is built on, names the socket's path as the
/// authority; HTTP/2 by hand, as it sends it.
#[test]
fn a_client_that_names_the_socket_as_the_authority_gets_an_identity() {
    use std::io::Read as _;
    let dev = Dev::new();
    let uid = rustix::process::geteuid().as_raw();
    let document = json!({
        "spiffe_id": "spiffe://dev.local/mine", "owner": "t", "scopes": ["exec:git"], "local": [{ "uid": uid }],
        "evidence": [{ "kind": "manifest", "keys": [rcgen::KeyPair::generate().expect("key").public_key_pem()] }],
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

/// A machine gets its first identity by what it is, not by a secret that somebody carried there.
#[tokio::test]
async fn a_tpm_gives_a_first_svid_to_the_key_that_it_was_asked_for() {
    use rcgen::PublicKeyData as _;
    use sundew_attestation::{Binding, BindingPurpose};
    use sundew_proto::v1::{
        CreateJoinTokenRequest, EnrollChallengeRequest, EnrollRequest, Evidence,
    };
    let (world, broker, port) = with_own_ca().await;
    let operator = world.operator(&broker);
    let (tpm, other) = (
        sundew_tests::tpm::Tpm::new("ecc", "sha256", "ecdsa"),
        sundew_tests::tpm::Tpm::new("ecc", "sha256", "ecdsa"),
    );
    operator
        .trust("tpm2_ak", "host", &tpm.registered().to_string())
        .await;
    let registration = |path: &str, changes: Value| {
        let mut document = World::registration(path, changes);
        document["spiffe_id"] = json!(format!("spiffe://own.example{path}"));
        document
    };
    let wanted = json!([{ "kind": "tpm2", "claims": { "pcr.sha256.7": ["0".repeat(64)] } }]);
    // A manifest can be shown by anybody who has it.
    let manifest = json!([{ "kind": "manifest", "keys": [rcgen::KeyPair::generate().expect("key").public_key_pem()] }]);
    let refused = operator
        .apply(&[registration("/host", json!({ "enrollment": manifest }))])
        .await
        .expect_err("a manifest alone");
    assert!(
        refused.message().contains("identifies the claimant"),
        "{refused}"
    );
    operator
        .apply(&[
            registration("/host", json!({ "enrollment": wanted })),
            registration("/plain", json!({})),
        ])
        .await
        .expect("registered");

    let token = operator
        .registry()
        .create_join_token(CreateJoinTokenRequest {
            spiffe_id: "spiffe://own.example/plain".to_owned(),
            ttl_ms: 0,
        })
        .await;
    let root = own_root(&token.expect("token").into_inner().join_token, port).await;
    let bundle = world.folder().join("own-root.pem");
    std::fs::write(&bundle, sundew_tests::pki::pem("CERTIFICATE", &root)).expect("bundle");
    let out = world.folder().join("host");
    let enroll = |id: &str| {
        Command::new(sundew())
            .args([
                "svid",
                "enroll",
                "--enrollment",
                &format!("127.0.0.1:{port}"),
                "--trust-domain",
                "own.example",
                "--spiffe-id",
                id,
                "--evidence",
                "tpm2",
                "--bundle",
            ])
            .arg(&bundle)
            .arg("--out")
            .arg(&out)
            .env("SUNDEW_TPM2", tpm.settings("4+7").tpm2.expect("TPM"))
            .stdin(Stdio::null())
            .output()
            .expect("run")
    };
    let enrolled = enroll("spiffe://own.example/host");
    assert!(
        enrolled.status.success() && text(&enrolled).contains("spiffe://own.example/host"),
        "{}",
        text(&enrolled)
    );
    assert!(out.join("svid.pem").exists());
    for bad in [
        "spiffe://own.example/plain",
        "spiffe://own.example/nobody",
        "spiffe://test.example/agent",
    ] {
        let output = enroll(bad);
        assert!(
            !output.status.success() && text(&output).contains("not permitted"),
            "{bad}: {}",
            text(&output)
        );
    }

    // By hand: bound to this key, this nonce, this connection; from this TPM.
    let caller = sundew_tests::calls::Caller::new(format!("127.0.0.1:{port}"), None);
    let (key, thief) = (
        rcgen::KeyPair::generate().expect("key"),
        rcgen::KeyPair::generate().expect("key"),
    );
    let csr = |key: &rcgen::KeyPair| {
        rcgen::CertificateParams::default()
            .serialize_request(key)
            .expect("csr")
            .der()
            .to_vec()
    };
    let bound = |purpose, nonce: &[u8], key: &rcgen::KeyPair| {
        *Binding::new(
            purpose,
            nonce,
            &key.subject_public_key_info(),
            &caller.exporter(),
        )
        .as_bytes()
    };
    let send = |csr: Vec<u8>, nonce: Vec<u8>, payload: Vec<u8>| {
        let evidence = vec![Evidence {
            kind: "tpm2".to_owned(),
            payload,
        }];
        let request = EnrollRequest {
            csr,
            spiffe_id: "spiffe://own.example/host".to_owned(),
            nonce,
            evidence,
            ..EnrollRequest::default()
        };
        let mut client = caller.enrollment();
        async move { client.enroll(request).await }
    };
    let nonce = || async {
        caller
            .enrollment()
            .enroll_challenge(EnrollChallengeRequest {})
            .await
            .expect("challenge")
            .into_inner()
            .nonce
    };
    let (first, own) = (nonce().await, BindingPurpose::Enroll);
    let evidence = tpm
        .evidence("7", bound(own, &first, &key))
        .await
        .expect("evidence");
    send(csr(&key), first.clone(), evidence.clone())
        .await
        .expect("a good one");
    assert!(
        send(csr(&key), first, evidence.clone()).await.is_err(),
        "the nonce again"
    );
    assert!(
        send(csr(&key), nonce().await, evidence).await.is_err(),
        "evidence for another nonce"
    );
    let next = nonce().await;
    let evidence = tpm
        .evidence("7", bound(own, &next, &key))
        .await
        .expect("evidence");
    assert!(
        send(csr(&thief), next, evidence).await.is_err(),
        "evidence for another key"
    );
    let next = nonce().await;
    let evidence = tpm
        .evidence("7", bound(BindingPurpose::BeginTask, &next, &key))
        .await
        .expect("evidence");
    assert!(
        send(csr(&key), next, evidence).await.is_err(),
        "evidence for another purpose"
    );
    let next = nonce().await;
    let evidence = other
        .evidence("7", bound(own, &next, &key))
        .await
        .expect("evidence");
    assert!(
        send(csr(&key), next, evidence).await.is_err(),
        "another TPM"
    );
    tpm.extend(7, &[1; 32]);
    let output = enroll("spiffe://own.example/host");
    assert!(
        !output.status.success() && text(&output).contains("not permitted"),
        "{}",
        text(&output)
    );
}

/// A broker with a CA of its own and an enrollment listener at this port; operators are of the
/// test's CA.
pub(crate) async fn with_own_ca() -> (World, Broker, u16) {
    let world = World::embedded();
    let port = sundew_tests::free_port();
    let mut broker = world.prepare("");
    let text_of = std::fs::read_to_string(broker.config_file()).expect("config");
    let from = text_of.find("[identity]").expect("section");
    let to = text_of.find("[store]").expect("section");
    let own = format!(
        "[identity]\nsource = \"embedded_ca\"\ntrust_domain = \"own.example\"\n[[trust]]\ntrust_domain = \"test.example\"\nbundle = \"{}/bundle.pem\"\n",
        world.folder().display()
    );
    let config = format!("{}{own}{}", &text_of[..from], &text_of[to..]).replace(
        "[identity]",
        &format!("enrollment = \"127.0.0.1:{port}\"\n[identity]"),
    );
    std::fs::write(broker.config_file(), config).expect("config");
    broker.up();
    broker.ready().await;
    (world, broker, port)
}

async fn server_chain(
    world: &World,
    broker: &Broker,
) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    let config = std::sync::Arc::new(sundew_tests::calls::client_config(Some(
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
    let key = rcgen::KeyPair::generate().expect("key");
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .expect("csr")
        .der()
        .to_vec();
    let caller = sundew_tests::calls::Caller::new(format!("127.0.0.1:{port}"), None);
    let request = sundew_proto::v1::EnrollRequest {
        join_token: token.to_owned(),
        csr,
        ..Default::default()
    };
    caller
        .enrollment()
        .enroll(request)
        .await
        .expect("enrolled")
        .into_inner()
        .svid
        .expect("svid")
        .bundle[0]
        .clone()
}
