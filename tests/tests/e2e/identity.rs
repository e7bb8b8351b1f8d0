//! X.509-SVIDs and mutual TLS: AC-01 to AC-04, AC-09, class A.

use std::time::Duration;

use rcgen::{IsCa, KeyPair, KeyUsagePurpose};
use serde_json::json;
use sundew_tests::calls::Caller;
use sundew_tests::pki::{self, Ca, DOMAIN, expired, leaf, valid_for};
use sundew_tests::until;
use sundew_tests::world::World;
use tonic::Code;

pub(crate) const ID: &str = "spiffe://test.example/agent";

#[tokio::test]
async fn ac_02_a_valid_svid_that_is_not_registered_gets_nothing() {
    let world = World::embedded();
    let broker = world.broker().await;
    let status = world
        .caller(&broker, "/stranger")
        .nonce()
        .await
        .expect_err("refused");
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "not permitted")
    );
    until("on the record", || async {
        broker.refusals("Challenge") == ["workload is not registered"]
    })
    .await;
}

#[tokio::test]
async fn intermediates_that_may_sign_are_fine() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let (intermediate, certificate) = world.ca.intermediate(|_| {});
    let mut svid = intermediate.svid("/agent");
    svid.chain.push(certificate);
    world
        .caller_with(&broker, svid)
        .nonce()
        .await
        .expect("let in");
}

#[tokio::test]
async fn every_kind_of_key_that_spiffe_knows_works() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ] {
        let svid = world
            .ca
            .sign_for(leaf(&[ID]), KeyPair::generate_for(algorithm).expect("key"));
        world
            .caller_with(&broker, svid)
            .nonce()
            .await
            .unwrap_or_else(|e| panic!("{algorithm:?}: {e}"));
    }
}

/// AC-03, AC-04: the identity is the connection's, whatever the request says.
#[tokio::test]
async fn ac_04_byte_identical_requests_of_two_workloads_have_two_identities() {
    let world = World::embedded();
    let broker = world.broker().await;
    for path in ["/a", "/b"] {
        world
            .register(&broker, path, json!({ "evidence": [{ "kind": "oidc", "issuer": sundew_tests::issuer::ISSUER, "claims": { "sub": ["shared"] } }] }))
            .await;
    }
    let (a, b) = (world.caller(&broker, "/a"), world.caller(&broker, "/b"));
    let mut tasks = Vec::new();
    for caller in [&a, &b] {
        let mut request = caller
            .request(&world.issuer, "shared", &["exec:git"])
            .await
            .expect("request");
        request.idempotency_key = "same".to_owned();
        request.purpose = "spiffe://test.example/b owns this".to_owned();
        tasks.push(caller.send(request).await.expect("task"));
    }
    let ids: Vec<_> = tasks
        .iter()
        .map(|t| t.answer.task.clone().expect("task").spiffe_id)
        .collect();
    assert_eq!(ids, ["spiffe://test.example/a", "spiffe://test.example/b"]);
    assert_ne!(tasks[0].task, tasks[1].task);
}

/// AC-09, T07: the bundle changes under open connections.
#[tokio::test]
async fn ac_09_a_removed_root_is_refused_on_open_connections_and_a_bad_file_changes_nothing() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let next = Ca::new(DOMAIN);
    let old = world.caller(&broker, "/agent");
    old.nonce().await.expect("the old root is trusted");
    assert!(
        Caller::new(broker.address(), Some(next.svid("/agent")))
            .nonce()
            .await
            .is_err(),
        "the next root is not trusted yet"
    );

    world.write_bundle(&[&world.ca, &next]);
    until("the next root is trusted", || async {
        Caller::new(broker.address(), Some(next.svid("/agent")))
            .nonce()
            .await
            .is_ok()
    })
    .await;
    old.nonce().await.expect("the old root is still trusted");

    std::fs::write(
        world.folder().join("bundle.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .expect("bad bundle");
    until("health says so", || async {
        broker
            .http("/readyz")
            .await
            .is_some_and(|(code, text)| code == 200 && text.contains("bundle of test.example"))
    })
    .await;
    old.nonce()
        .await
        .expect("a bad bundle keeps the last good one");

    world.write_bundle(&[&next]);
    until("the open connection is refused", || async {
        old.nonce()
            .await
            .is_err_and(|s| s.code() == Code::Unauthenticated)
    })
    .await;
    let renewed = Caller::new(broker.address(), Some(next.svid("/agent")));
    renewed.nonce().await.expect("the next root goes on");

    // An empty bundle trusts nobody.
    std::fs::write(world.folder().join("bundle.pem"), "").expect("empty bundle");
    until("nobody is trusted", || async {
        renewed
            .nonce()
            .await
            .is_err_and(|s| s.code() == Code::Unauthenticated)
    })
    .await;
}

/// T07: an open connection ends with its SVID.
#[tokio::test]
async fn t07_an_open_connection_is_refused_when_its_svid_has_expired() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let caller = world.caller_with(
        &broker,
        world.ca.short_svid("/agent", Duration::from_secs(2)),
    );
    caller.nonce().await.expect("valid now");
    until("refused once expired", || async {
        caller
            .nonce()
            .await
            .is_err_and(|s| s.code() == Code::Unauthenticated)
    })
    .await;
}

/// T06: a session that was saved before trust was withdrawn opens nothing afterwards.
#[tokio::test]
async fn t06_no_session_is_resumed() {
    use tokio::io::AsyncReadExt as _;
    let world = World::embedded();
    let broker = world.broker().await;
    let config = std::sync::Arc::new(sundew_tests::tls::client_config(Some(
        &world.ca.svid("/agent"),
    )));
    for _ in 0..2 {
        let socket = tokio::net::TcpStream::connect(broker.address())
            .await
            .expect("connect");
        let name = rustls_pki_types::ServerName::try_from("broker").expect("name");
        let mut stream = tokio_rustls::TlsConnector::from(config.clone())
            .connect(name, socket)
            .await
            .expect("handshake");
        assert_eq!(stream.read_u8().await.expect("SETTINGS"), 0);
        assert_eq!(
            stream.get_ref().1.handshake_kind(),
            Some(rustls::HandshakeKind::Full)
        );
        assert_eq!(
            stream.get_ref().1.protocol_version(),
            Some(rustls::ProtocolVersion::TLSv1_3)
        );
    }
}

/// T08: roots that are expired, no CA, or have unknown critical extensions.
#[tokio::test]
async fn t08_bad_roots_are_no_roots() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let old = Ca::with(DOMAIN, expired);
    world.write_bundle(&[&world.ca, &old]);
    until("the bundle is taken", || async {
        broker.output().matches("trust bundle published").count() >= 2
    })
    .await;
    assert!(
        Caller::new(broker.address(), Some(old.svid("/agent")))
            .nonce()
            .await
            .is_err(),
        "an expired root was trusted"
    );
    for bad in [
        Ca::with(DOMAIN, |p| {
            p.custom_extensions = vec![pki::unknown_critical()]
        }),
        Ca::with(DOMAIN, |p| p.is_ca = IsCa::ExplicitNoCa),
        Ca::with(DOMAIN, |p| {
            p.key_usages = vec![KeyUsagePurpose::DigitalSignature]
        }),
    ] {
        world.write_bundle(&[&world.ca, &bad]);
        until("the bundle is refused", || async {
            broker
                .http("/readyz")
                .await
                .is_some_and(|(_, text)| text.contains("root 1"))
        })
        .await;
        world.write_bundle(&[&world.ca]);
        until("mended", || async {
            broker
                .http("/readyz")
                .await
                .is_some_and(|(_, text)| text == "ready\n")
        })
        .await;
    }
}

/// Several trust domains side by side, never mixed (T04).
#[tokio::test]
async fn t04_each_trust_domain_has_its_own_roots() {
    let world = World::embedded();
    let partner = Ca::new("partner.example");
    std::fs::write(
        world.folder().join("partner.pem"),
        pki::pem("CERTIFICATE", &partner.certificate),
    )
    .expect("bundle");
    let more = format!(
        "[[trust]]\ntrust_domain = \"partner.example\"\nbundle = \"{}/partner.pem\"\n",
        world.folder().display()
    );
    let broker = world.broker_with(&more).await;
    let mut document = World::registration("/agent", json!({}));
    document["spiffe_id"] = json!("spiffe://partner.example/agent");
    world
        .operator(&broker)
        .apply(&[document])
        .await
        .expect("registered");
    Caller::new(broker.address(), Some(partner.svid("/agent")))
        .nonce()
        .await
        .expect("a partner's workload is let in");
    for svid in [
        world.ca.sign(leaf(&["spiffe://partner.example/agent"])),
        partner.sign(leaf(&[ID])),
    ] {
        assert!(
            Caller::new(broker.address(), Some(svid))
                .nonce()
                .await
                .is_err(),
            "a root vouched for another trust domain"
        );
    }
}

/// The broker's own SVID rotates without a restart.
#[tokio::test]
async fn the_brokers_own_svid_is_reloaded() {
    let world = World::embedded();
    let broker = world.broker().await;
    let mut params = leaf(&["spiffe://test.example/sundew/broker"]);
    valid_for(&mut params, Duration::from_secs(7200));
    world.ca.sign(params).write(
        &world.folder().join("broker"),
        std::slice::from_ref(&world.ca.certificate),
    );
    until("loaded", || async {
        broker.output().matches("own SVID loaded").count() >= 2
    })
    .await;
    world
        .operator(&broker)
        .nonce()
        .await
        .expect_err("operators are not registered, but the handshake works");
}

/// AC-09: a bundle whose source fails is used until its limit, and not longer.
#[tokio::test]
async fn ac_09_a_bundle_whose_source_fails_is_refused_after_its_limit() {
    let world = World::embedded();
    let broker = world
        .broker_with("[limits]\nbundle_age = \"1500ms\"\n")
        .await;
    world.register(&broker, "/agent", json!({})).await;
    let caller = world.caller(&broker, "/agent");
    std::fs::remove_file(world.folder().join("bundle.pem")).expect("gone");
    until("health says so", || async {
        broker
            .http("/readyz")
            .await
            .is_some_and(|(_, text)| text.contains("bundle.pem"))
    })
    .await;
    caller.nonce().await.expect("the last good one is used");
    until("its limit has passed", || async {
        caller
            .nonce()
            .await
            .is_err_and(|s| s.code() == Code::Unauthenticated)
    })
    .await;
    world.write_bundle(&[&world.ca]);
    until("back", || async { caller.nonce().await.is_ok() }).await;
}
