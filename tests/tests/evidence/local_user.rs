//! Statements of brokers about the users that ask at their sockets.

use rcgen::KeyPair;
use serde_json::{Value, json};
use sundew_attestation::kinds::local_user::{Statement, signed_bytes, verify};
use sundew_attestation::kinds::process;
use sundew_attestation::spiffe::SpiffeId;
use sundew_attestation::{
    AppraisalPolicy, Assurance, Binding, Circumstances, Presented, Rule, TrustMaterial, appraise,
};
use sundew_tests::hardware::Authority;

use super::node::{Domain, signed};

const BROKER: &str = "spiffe://example.org/sundew/broker";

fn statement(uid: u32) -> String {
    let statement = Statement {
        binding: "09".repeat(32),
        uid,
    };
    serde_json::to_string(&statement).expect("made")
}

/// A statement as a broker of this ID sends it.
fn stated(text: &str, id: &str, key: &KeyPair, domain: &Domain) -> Value {
    signed(text, &signed_bytes(text), id, (key, key), domain)
}

fn domain() -> Domain {
    Domain {
        authority: Authority::new("example.org"),
    }
}

#[test]
fn d7_a_brokers_statement_about_a_user_counts_for_this_challenge_and_is_a_claim() {
    let (domain, key) = (domain(), KeyPair::generate().expect("made"));
    let brokers = [SpiffeId::parse(BROKER).expect("made")];
    let check = |evidence: &Value, binding: u8| {
        let binding = Binding::from_bytes([binding; 32]);
        let evidence = evidence.to_string().into_bytes();
        let now_ms = sundew_tests::now_ms();
        verify(&evidence, &brokers, &domain.bundles(), &binding, now_ms)
    };
    let text = statement(1000);
    let good = stated(&text, BROKER, &key, &domain);
    let claims = check(&good, 9).expect("good");
    assert_eq!(claims.values["uid"], ["1000"]);
    assert_eq!(claims.values["broker"], [BROKER]);
    assert_eq!((claims.assurance, claims.fresh), (Assurance::Claimed, true));

    let other = KeyPair::generate().expect("made");
    let mut changed = good.clone();
    changed["statement"] = json!(statement(0));
    let twice = text.replacen('{', "{\"uid\":0,", 1);
    // A node's statement has a label of its own: it is no broker's, though the same key signed it.
    let of_node = signed(
        &text,
        &process::signed_bytes(&text),
        BROKER,
        (&key, &key),
        &domain,
    );
    let by_other = signed(&text, &signed_bytes(&text), BROKER, (&other, &key), &domain);
    let elsewhere = Domain {
        authority: Authority::new("example.org"),
    };
    for (what, evidence, binding) in [
        ("bound to another challenge", good, 8),
        ("changed under the signature", changed, 9),
        ("a member twice", stated(&twice, BROKER, &key, &domain), 9),
        ("a node's statement", of_node, 9),
        ("signed by another key than the SVID's", by_other, 9),
        (
            "a workload of the domain",
            stated(&text, "spiffe://example.org/agent", &key, &domain),
            9,
        ),
        (
            "another root of the name",
            stated(&text, BROKER, &key, &elsewhere),
            9,
        ),
    ] {
        assert!(check(&evidence, binding).is_err(), "{what}: taken");
    }
    // Who has no number here is nobody in particular.
    let nobody = stated(&statement(process::NOBODY), BROKER, &key, &domain);
    assert!(
        !check(&nobody, 9)
            .expect("signed")
            .values
            .contains_key("uid")
    );
}

#[test]
fn d7_a_registration_names_users_and_brokers() {
    let trust = TrustMaterial::default();
    let rule = |claims: Value, brokers: Value| -> Rule {
        let rule = json!({ "kind": "local_user", "brokers": brokers, "claims": claims });
        serde_json::from_value(rule).expect("rule")
    };
    let problems = |rule: &Rule| {
        let rules = std::slice::from_ref(rule);
        let policy = AppraisalPolicy {
            rules,
            cross_checks: &[],
        };
        policy.problems(&trust).join("; ")
    };
    let uid = json!({ "uid": ["1000"] });
    assert_eq!(problems(&rule(uid.clone(), json!([BROKER]))), "");
    for (claims, brokers, hint) in [
        (json!({}), json!([BROKER]), "must pin `uid`"),
        (
            json!({ "broker": [BROKER] }),
            json!([BROKER]),
            "must pin `uid`",
        ),
        (uid, json!([]), "brokers must name"),
        (
            json!({ "uid": ["65534"] }),
            json!([BROKER]),
            "not the number of a user",
        ),
        (
            json!({ "uid": ["me"] }),
            json!([BROKER]),
            "not the number of a user",
        ),
    ] {
        let problem = problems(&rule(claims, brokers));
        assert!(problem.contains(hint), "{problem}");
    }
}

#[test]
fn d7_the_statement_of_another_user_is_refused() {
    let (domain, key) = (domain(), KeyPair::generate().expect("made"));
    let rule: Rule = serde_json::from_value(
        json!({ "kind": "local_user", "brokers": [BROKER], "claims": { "uid": ["1000"] } }),
    )
    .expect("rule");
    let begin = |uid: u32| {
        let payload = stated(&statement(uid), BROKER, &key, &domain).to_string();
        let policy = AppraisalPolicy {
            rules: std::slice::from_ref(&rule),
            cross_checks: &[],
        };
        let presented = [Presented {
            kind: "local_user",
            payload: payload.as_bytes(),
        }];
        let circumstances = Circumstances {
            public_key: &[],
            binding: &Binding::from_bytes([9; 32]),
            trust: &TrustMaterial::default(),
            bundles: &domain.bundles(),
            now_ms: sundew_tests::now_ms(),
        };
        appraise(policy, &presented, circumstances, &mut Vec::new()).map(drop)
    };
    begin(1000).expect("the user");
    for uid in [0, 1001, process::NOBODY] {
        assert!(begin(uid).is_err(), "{uid}");
    }
}
