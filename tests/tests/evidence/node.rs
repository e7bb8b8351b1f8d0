//! Statements of nodes about the processes that they see.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{IsCa, KeyPair, KeyUsagePurpose, SigningKey as _};
use serde_json::{Value, json};
use sundew_attestation::kinds::process::{ProcessError, Statement, signed_bytes, verify};
use sundew_attestation::spiffe::{BundleSet, SpiffeId};
use sundew_attestation::statement::StatementError;
use sundew_attestation::{
    AppraisalError, AppraisalPolicy, Assurance, Binding, Circumstances, Presented, Rule,
    TrustMaterial, appraise,
};
use sundew_tests::hardware::{Authority, named};

/// A trust domain with nodes.
pub(crate) struct Domain {
    pub(crate) authority: Authority,
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

    pub(crate) fn bundles(&self) -> BundleSet {
        use sundew_attestation::spiffe::{TrustBundle, TrustDomain};
        let mut bundles = BundleSet::default();
        bundles.insert(TrustBundle::from_der(
            TrustDomain::parse("example.org").expect("made"),
            [self.authority.certificate().as_slice()],
        ));
        bundles
    }
}

const NODE: &str = "spiffe://example.org/node";

/// A statement with its signature and the node's SVID, as a node sends it.
fn stated(text: &str, id: &str, signer: &KeyPair, holder: &KeyPair, domain: &Domain) -> Value {
    signed(text, &signed_bytes(text), id, (signer, holder), domain)
}

/// A statement with a signature over these bytes, and the SVID of who is said to have signed.
pub(crate) fn signed(
    text: &str,
    bytes: &[u8],
    id: &str,
    (signer, holder): (&KeyPair, &KeyPair),
    domain: &Domain,
) -> Value {
    let signature = STANDARD.encode(signer.sign(bytes).expect("made"));
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
            Err(ProcessError::Statement(StatementError::Svid(_)))
        ),
        "expired"
    );
}

/// A statement whose node has concluded this unit and container itself, of this control group.
fn statement_in(cgroup: &str) -> String {
    let statement = Statement {
        binding: "09".repeat(32),
        uid: 1000,
        exe_sha256: "ab".repeat(32),
        cgroup: Some(cgroup.to_owned()),
        container_id: Some("4f".repeat(32)),
        systemd_unit: Some("agent.service".to_owned()),
        ..Statement::default()
    };
    serde_json::to_string(&statement).expect("made")
}

/// I3: nodes of earlier versions read the end of the path, which users write.
#[test]
fn i3_a_broker_reads_the_control_group_itself() {
    let domain = Domain {
        authority: Authority::new("example.org"),
    };
    let key = KeyPair::generate().expect("made");
    let nodes = [SpiffeId::parse(NODE).expect("made")];
    let claims = |statement: &str| {
        let evidence = stated(statement, NODE, &key, &key, &domain).to_string();
        let now_ms = sundew_tests::now_ms();
        verify(
            evidence.as_bytes(),
            &nodes,
            &domain.bundles(),
            &[9; 32],
            now_ms,
        )
        .expect("made")
    };
    let of_user = "/user.slice/user-1000.slice/user@1000.service/app.slice/agent.service";
    for (cgroup, container, unit) in [
        (of_user.to_owned(), None, Some("user@1000.service")),
        (
            "/system.slice/agent.service".to_owned(),
            None,
            Some("agent.service"),
        ),
        (
            format!("/docker/{}", "4f".repeat(32)),
            Some("4f".repeat(32)),
            None,
        ),
        ("/../agent.service".to_owned(), None, None),
    ] {
        let claims = claims(&statement_in(&cgroup));
        let value = |name: &str| Some(claims.values.get(name)?.first()?.as_str());
        assert_eq!(value("systemd_unit"), unit, "{cgroup}");
        assert_eq!(value("container_id"), container.as_deref(), "{cgroup}");
        assert_eq!(value("uid"), Some("1000"));
        // A node that has another file at the path says no path.
        assert_eq!(value("exe"), None);
    }
    let nobody = statement_in(of_user).replace("1000,", "65534,");
    assert!(!claims(&nobody).values.contains_key("uid"));
}

/// I2: also for registrations that were applied when an executable was enough.
#[test]
fn i2_a_requirement_that_pins_only_an_executable_is_met_by_no_process() {
    let domain = Domain {
        authority: Authority::new("example.org"),
    };
    let key = KeyPair::generate().expect("made");
    let statement = statement_in("/system.slice/agent.service");
    let payload = stated(&statement, NODE, &key, &key, &domain).to_string();
    let appraised = |claims: Value| {
        let rule = json!([{ "kind": "process", "nodes": [NODE], "claims": claims }]);
        let rules: Vec<Rule> = serde_json::from_value(rule).expect("made");
        let policy = AppraisalPolicy {
            rules: &rules,
            cross_checks: &[],
        };
        let circumstances = Circumstances {
            public_key: &[],
            binding: &Binding::from_bytes([9; 32]),
            trust: &TrustMaterial::default(),
            bundles: &domain.bundles(),
            now_ms: sundew_tests::now_ms(),
        };
        let presented = [Presented {
            kind: "process",
            payload: payload.as_bytes(),
        }];
        appraise(policy, &presented, circumstances, &mut Vec::new()).map(drop)
    };
    let digest = "ab".repeat(32);
    for pinned in [
        json!({ "uid": ["1000"] }),
        json!({ "systemd_unit": ["agent.service"] }),
    ] {
        let mut claims = pinned.clone();
        claims["exe_sha256"] = json!([digest]);
        assert!(appraised(claims).is_ok(), "{pinned}");
        assert!(appraised(pinned).is_ok());
    }
    for free in [
        json!({}),
        json!({ "exe_sha256": [digest] }),
        json!({ "exe_sha256": [digest], "uid": { "at_least": "0" } }),
    ] {
        let refused = appraised(free.clone()).expect_err("refused");
        assert!(
            matches!(refused, AppraisalError::Unpinned(_)),
            "{free}: {refused}"
        );
        assert!(refused.to_string().contains("only narrows"), "{refused}");
    }
}
