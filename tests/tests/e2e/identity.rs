//! X.509-SVIDs and mutual TLS: AC-01 to AC-04, AC-09, class A.

use std::time::Duration;

use rcgen::{GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints, SanType};
use serde_json::json;
use sundew_proto::v1::ChallengeRequest;
use sundew_tests::broker::{DOMAIN, World};
use sundew_tests::calls::Caller;
use sundew_tests::pki::{self, Ca, Svid, expired, leaf, valid_for};
use sundew_tests::until;
use tonic::Code;

const ID: &str = "spiffe://test.example/agent";

/// AC-02, T01 to T04, T08, T09: one case each. None gets past the handshake, and each is on the
/// record once.
#[tokio::test]
async fn ac_02_every_kind_of_bad_certificate_is_refused() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let ca = &world.ca;
    let with = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut params = leaf(&[ID]);
        change(&mut params);
        ca.sign(params)
    };
    let key_usage = |usages: Vec<KeyUsagePurpose>| with(&move |p| p.key_usages.clone_from(&usages));
    let other = Ca::new(DOMAIN);
    let foreign = Ca::new("other.example");
    let no_sign = ca.intermediate(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let fine = ca.intermediate(|_| {});
    let not_ca = ca.intermediate(|p| p.is_ca = IsCa::ExplicitNoCa);
    let foreign_intermediate = ca.intermediate(|p| {
        p.subject_alt_names = vec![SanType::URI(
            "spiffe://other.example".try_into().expect("ascii"),
        )]
    });
    let chained =
        |(intermediate, certificate): &(Ca, rustls_pki_types::CertificateDer<'static>)| {
            let mut svid = intermediate.svid("/agent");
            svid.chain.push(certificate.clone());
            svid
        };
    let mut long = ca.svid("/agent");
    long.chain
        .extend(std::iter::repeat_n(ca.certificate.clone(), 100));
    let huge = format!("spiffe://{DOMAIN}/{}", "a".repeat(2048));
    let upper = "spiffe://TEST.example/agent";
    let cases: Vec<(&str, Svid)> = vec![
        (
            "untrusted root of the same trust domain",
            other.svid("/agent"),
        ),
        ("expired", with(&expired)),
        (
            "not yet valid",
            with(&|p| p.not_before = time::OffsetDateTime::now_utc() + Duration::from_secs(3600)),
        ),
        (
            "a CA certificate",
            with(&|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
        ),
        ("basicConstraints absent", with(&|p| p.is_ca = IsCa::NoCa)),
        (
            "two SPIFFE URIs",
            ca.sign(leaf(&[ID, "spiffe://test.example/other"])),
        ),
        (
            "a SPIFFE URI and another",
            ca.sign(leaf(&[ID, "https://test.example/agent"])),
        ),
        ("no URI SAN", ca.sign(leaf(&[]))),
        (
            "the ID only as common name",
            with(&|p| {
                p.subject_alt_names.clear();
                p.distinguished_name.push(rcgen::DnType::CommonName, ID);
            }),
        ),
        (
            "a DNS SAN only",
            with(&|p| {
                p.subject_alt_names = vec![SanType::DnsName(
                    "agent.test.example".try_into().expect("ascii"),
                )]
            }),
        ),
        (
            "an ID without path",
            ca.sign(leaf(&["spiffe://test.example"])),
        ),
        (
            "an ID with an empty path",
            ca.sign(leaf(&["spiffe://test.example/"])),
        ),
        (
            "an ID with dots",
            ca.sign(leaf(&["spiffe://test.example/a/../agent"])),
        ),
        ("an ID in upper case", ca.sign(leaf(&[upper]))),
        ("an ID over 2048 bytes", ca.sign(leaf(&[&huge]))),
        (
            "another trust domain's ID under this root",
            ca.sign(leaf(&["spiffe://other.example/agent"])),
        ),
        ("another trust domain's root", foreign.svid("/agent")),
        (
            "keyCertSign on the leaf",
            key_usage(vec![
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyCertSign,
            ]),
        ),
        (
            "cRLSign on the leaf",
            key_usage(vec![
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::CrlSign,
            ]),
        ),
        (
            "no digitalSignature",
            key_usage(vec![KeyUsagePurpose::KeyAgreement]),
        ),
        ("no keyUsage", key_usage(vec![])),
        ("an intermediate without keyCertSign", chained(&no_sign)),
        ("an intermediate that is no CA", chained(&not_ca)),
        (
            "an intermediate of another trust domain",
            chained(&foreign_intermediate),
        ),
        ("an intermediate that is left out", fine.0.svid("/agent")),
        ("a chain of 101 certificates", long),
        (
            "name constraints on the leaf",
            with(&|p| {
                p.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![GeneralSubtree::DnsName("x".to_owned())],
                    excluded_subtrees: vec![],
                });
                p.is_ca = IsCa::ExplicitNoCa;
            }),
        ),
        (
            "an unknown critical extension",
            with(&|p| p.custom_extensions = vec![pki::unknown_critical()]),
        ),
    ];
    for (what, svid) in cases {
        // rcgen writes name constraints for CAs only; a case that cannot be made is no case.
        if what.starts_with("name constraints") && !has_name_constraints(&svid) {
            continue;
        }
        let before = refused_handshakes(&broker.journal());
        let result = Caller::new(broker.address(), Some(svid))
            .agent()
            .challenge(ChallengeRequest {})
            .await;
        let status = result.err().unwrap_or_else(|| panic!("{what}: was let in"));
        assert!(
            matches!(
                status.code(),
                Code::Unknown | Code::Unavailable | Code::Cancelled
            ),
            "{what}: {status}"
        );
        assert!(
            !status.message().contains("root") && !status.message().contains("SPIFFE"),
            "{what}: says too much: {status}"
        );
        until(what, || async {
            refused_handshakes(&broker.journal()) == before + 1
        })
        .await;
    }
    let none = Caller::new(broker.address(), None)
        .agent()
        .challenge(ChallengeRequest {})
        .await;
    assert!(none.is_err(), "no certificate was let in");
    // The good one still is, so the cases were refused for what they are.
    world
        .caller(&broker, "/agent")
        .nonce()
        .await
        .expect("a good certificate is let in");
}

fn has_name_constraints(svid: &Svid) -> bool {
    // OID 2.5.29.30.
    svid.chain[0]
        .windows(5)
        .any(|w| w == [0x06, 0x03, 0x55, 0x1d, 0x1e])
}

fn refused_handshakes(journal: &[sundew_broker::journal::Record]) -> usize {
    journal
        .iter()
        .filter(|r| r.event == "handshake_refused")
        .count()
}

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
    let config = std::sync::Arc::new(sundew_tests::calls::client_config(Some(
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
