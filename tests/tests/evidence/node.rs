//! Statements of nodes about the processes that they see.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{IsCa, KeyPair, KeyUsagePurpose, SigningKey as _};
use serde_json::{Value, json};
use sundew_attestation::Assurance;
use sundew_attestation::kinds::process::{ProcessError, Statement, signed_bytes, verify};
use sundew_attestation::spiffe::{BundleSet, SpiffeId};
use sundew_tests::hardware::{Authority, named};

/// A trust domain with nodes.
struct Domain {
    authority: Authority,
}

impl Domain {
    fn svid(&self, id: &str, key: &KeyPair) -> Vec<u8> {
        let mut params = named("node");
        params.subject_alt_names =
            vec![rcgen::SanType::URI(id.to_owned().try_into().expect("made"))];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        self.authority.sign(&params, key)
    }

    fn bundles(&self) -> BundleSet {
        use sundew_attestation::spiffe::{TrustBundle, TrustDomain};
        let mut bundles = BundleSet::default();
        bundles.insert(
            TrustBundle::from_der(
                TrustDomain::parse("example.org").expect("made"),
                [self.authority.certificate().as_slice()],
            )
            .expect("made"),
        );
        bundles
    }
}

const NODE: &str = "spiffe://example.org/node";

/// A statement with its signature and the node's SVID, as a node sends it.
fn stated(text: &str, id: &str, signer: &KeyPair, holder: &KeyPair, domain: &Domain) -> Value {
    let signature = STANDARD.encode(signer.sign(&signed_bytes(text)).expect("made"));
    json!({ "statement": text, "signature": signature, "chain": [STANDARD.encode(domain.svid(id, holder))] })
}

/// Returns a statement of a node about a process that it sees.
fn statement() -> String {
    let statement = Statement {
        binding: "09".repeat(32),
        task: "task-x".to_owned(),
        exe: "/bin/a".to_owned(),
        exe_sha256: "ab".repeat(32),
        ..Statement::default()
    };
    serde_json::to_string(&statement).expect("made")
}

/// A good statement, bent, with the challenge for which it is shown.
fn bent_statements(
    domain: &Domain,
    key: &KeyPair,
    statement: &str,
) -> Vec<(&'static str, Value, [u8; 32])> {
    let good = stated(statement, NODE, key, key, domain);
    let other = KeyPair::generate().expect("made");
    let evil = Domain {
        authority: Authority::new("example.org"),
    };
    let mut changed = good.clone();
    changed["statement"] = json!(statement.replace("/bin/a", "/bin/b"));
    let mut more = good.clone();
    more["note"] = json!("x");
    let twice = statement.replacen('{', "{\"exe\":\"/bin/b\",", 1);
    let of = |id: &str| stated(statement, id, key, key, domain);
    vec![
        ("bound to another challenge", good, [8; 32]),
        (
            "a node that is not registered",
            of("spiffe://example.org/node2"),
            [9; 32],
        ),
        (
            "a workload below the node",
            of("spiffe://example.org/node/x"),
            [9; 32],
        ),
        (
            "signed by another key than the SVID's",
            stated(statement, NODE, &other, key, domain),
            [9; 32],
        ),
        (
            "another root of the same name",
            stated(statement, NODE, key, key, &evil),
            [9; 32],
        ),
        ("changed under the signature", changed, [9; 32]),
        ("a member that nobody knows", more, [9; 32]),
        (
            "a member twice",
            stated(&twice, NODE, key, key, domain),
            [9; 32],
        ),
        (
            "no SVID",
            json!({ "statement": statement, "signature": "", "chain": [] }),
            [9; 32],
        ),
    ]
}

#[test]
fn ac_05_a_nodes_statement_counts_if_a_registered_node_signed_it_for_this_challenge() {
    let domain = Domain {
        authority: Authority::new("example.org"),
    };
    let key = KeyPair::generate().expect("made");
    let now_ms = sundew_tests::now_ms();
    let nodes = [SpiffeId::parse(NODE).expect("made")];
    let statement = statement();
    let check = |evidence: &Value, binding: &[u8], at| {
        verify(
            evidence.to_string().as_bytes(),
            &nodes,
            &domain.bundles(),
            binding,
            at,
        )
    };
    let good = stated(&statement, NODE, &key, &key, &domain);
    let claims = check(&good, &[9; 32], now_ms).expect("made");
    assert_eq!(
        (
            claims.values["node"][0].as_str(),
            claims.values["exe"][0].as_str(),
            claims.assurance
        ),
        (NODE, "/bin/a", Assurance::Vouched)
    );
    assert!(claims.fresh && claims.not_after_ms.is_some());
    // Its word counts only while the broker finds the node's task alive.
    assert_eq!(
        claims.voucher.map(|voucher| voucher.task),
        Some("task-x".to_owned())
    );

    for (what, evidence, binding) in bent_statements(&domain, &key, &statement) {
        assert!(check(&evidence, &binding, now_ms).is_err(), "{what}: taken");
    }
    assert!(matches!(
        check(&good, &[9; 31], now_ms),
        Err(ProcessError::Binding)
    ));
    assert!(
        matches!(
            check(&good, &[9; 32], now_ms + 3_000_000 * 86_400_000),
            Err(ProcessError::Svid(_))
        ),
        "expired"
    );
}
