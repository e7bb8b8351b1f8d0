//! Certificates that nobody may come in with: AC-02, T01 to T04, T08, T09.

use std::time::Duration;

use rcgen::{CertificateParams, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, SanType};
use serde_json::json;
use sundew_proto::v1::ChallengeRequest;
use sundew_tests::calls::Caller;
use sundew_tests::pki::{self, Ca, DOMAIN, Svid, expired, leaf};
use sundew_tests::until;
use sundew_tests::world::World;
use tonic::Code;

use crate::identity::ID;

/// A leaf of this CA with something else about it.
fn with(ca: &Ca, change: impl FnOnce(&mut CertificateParams)) -> Svid {
    let mut params = leaf(&[ID]);
    change(&mut params);
    ca.sign(params)
}

/// Leaves with the wrong purpose, time or extensions.
fn bent_leaves(ca: &Ca) -> Vec<(&'static str, Svid)> {
    let key_usage = |usages: Vec<KeyUsagePurpose>| with(ca, |p| p.key_usages = usages);
    vec![
        ("expired", with(ca, expired)),
        (
            "not yet valid",
            with(ca, |p| {
                p.not_before = time::OffsetDateTime::now_utc() + Duration::from_secs(3600)
            }),
        ),
        (
            "a CA certificate",
            with(ca, |p| {
                p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)
            }),
        ),
        (
            "basicConstraints absent",
            with(ca, |p| p.is_ca = IsCa::NoCa),
        ),
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
        (
            "name constraints on the leaf",
            with(ca, |p| {
                p.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![GeneralSubtree::DnsName("x".to_owned())],
                    excluded_subtrees: vec![],
                });
                p.is_ca = IsCa::ExplicitNoCa;
            }),
        ),
        (
            "an unknown critical extension",
            with(ca, |p| p.custom_extensions = vec![pki::unknown_critical()]),
        ),
    ]
}

/// Leaves with other names than exactly one good SPIFFE ID of this trust domain.
fn bent_names(ca: &Ca) -> Vec<(&'static str, Svid)> {
    let huge = format!("spiffe://{DOMAIN}/{}", "a".repeat(2048));
    let upper = "spiffe://TEST.example/agent";
    vec![
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
            with(ca, |p| {
                p.subject_alt_names.clear();
                p.distinguished_name.push(rcgen::DnType::CommonName, ID);
            }),
        ),
        (
            "a DNS SAN only",
            with(ca, |p| {
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
    ]
}

/// Chains that do not lead to this trust domain's root, or not as they should.
fn bent_chains(ca: &Ca) -> Vec<(&'static str, Svid)> {
    let other = Ca::new(DOMAIN);
    let foreign = Ca::new("other.example");
    let fine = ca.intermediate(|_| {});
    let chained = |change: fn(&mut CertificateParams)| {
        let (intermediate, certificate) = ca.intermediate(change);
        let mut svid = intermediate.svid("/agent");
        svid.chain.push(certificate);
        svid
    };
    let mut long = ca.svid("/agent");
    long.chain
        .extend(std::iter::repeat_n(ca.certificate.clone(), 100));
    vec![
        (
            "untrusted root of the same trust domain",
            other.svid("/agent"),
        ),
        ("another trust domain's root", foreign.svid("/agent")),
        (
            "an intermediate without keyCertSign",
            chained(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        ),
        (
            "an intermediate that is no CA",
            chained(|p| p.is_ca = IsCa::ExplicitNoCa),
        ),
        (
            "an intermediate of another trust domain",
            chained(|p| {
                p.subject_alt_names = vec![SanType::URI(
                    "spiffe://other.example".try_into().expect("ascii"),
                )]
            }),
        ),
        ("an intermediate that is left out", fine.0.svid("/agent")),
        ("a chain of 101 certificates", long),
    ]
}

/// AC-02, T01 to T04, T08, T09: one case each. None gets past the handshake, and each is on the
/// record once.
#[tokio::test]
async fn ac_02_every_kind_of_bad_certificate_is_refused() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let ca = &world.ca;
    let cases = [bent_leaves(ca), bent_names(ca), bent_chains(ca)].concat();
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
