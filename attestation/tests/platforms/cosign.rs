//! Statements and envelopes as cosign and other signers write them.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};
use sundew_attestation::dsse::{DsseError, Envelope, VerifyingKey, pre_authentication_encoding};
use sundew_attestation::kinds::cosign;
use sundew_attestation::spiffe::BundleSet;
use sundew_attestation::{
    AppraisalPolicy, Binding, Circumstances, Presented, Rule, TrustMaterial, appraise,
};
use sundew_rebuilt::edits::{self, json};

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const V0: &str = "https://in-toto.io/Statement/v0.1";
const V1: &str = "https://in-toto.io/Statement/v1";
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const SUMMARY: &str = "https://slsa.dev/verification_summary/v1";
const SUMMARY_V0: &str = "https://slsa.dev/verification_summary/v0.1";
const TEST_RESULT: &str = "https://in-toto.io/attestation/test-result/v0.1";

struct Signer(KeyPair);

impl Signer {
    fn envelope(&self, payload_type: &str, payload: &str) -> Value {
        let message = pre_authentication_encoding(payload_type, payload.as_bytes());
        let signature = STANDARD.encode(self.0.sign(&message).unwrap());
        json!({
            "payloadType": payload_type,
            "payload": STANDARD.encode(payload),
            "signatures": [{ "keyid": "", "sig": signature }],
        })
    }

    fn statement(&self, version: &str, predicate_type: &str, predicate: Value) -> Vec<u8> {
        let payload = json!({
            "_type": version,
            "predicateType": predicate_type,
            "subject": [{ "name": "registry.example/agent", "digest": { "sha256": "ab".repeat(32) } }],
            "predicate": predicate,
        });
        let envelope = self.envelope(PAYLOAD_TYPE, &payload.to_string());
        json!({ "envelope": envelope }).to_string().into_bytes()
    }

    fn keys(&self) -> [VerifyingKey; 1] {
        [VerifyingKey::from_pem(&self.0.public_key_pem()).unwrap()]
    }

    /// Appraises evidence against a registration with these constraints.
    fn appraise(&self, evidence: &[u8], claims: Value) -> Result<(), String> {
        let rule = json!({ "kind": "cosign", "keys": [self.0.public_key_pem()], "claims": claims });
        let rules: Vec<Rule> = serde_json::from_value(json!([rule])).unwrap();
        let policy = AppraisalPolicy {
            rules: &rules,
            cross_checks: &[],
        };
        let presented = [Presented {
            kind: "cosign",
            payload: evidence,
        }];
        let circumstances = Circumstances {
            public_key: &[],
            binding: &Binding::from_bytes([9; 32]),
            trust: &TrustMaterial::default(),
            bundles: &BundleSet::default(),
            now_ms: 1_800_000_000_000,
        };
        let mut findings = Vec::new();
        appraise(policy, &presented, circumstances, &mut findings)
            .map(|_| ())
            .map_err(|error| error.to_string())
    }
}

fn signer() -> Signer {
    Signer(KeyPair::generate().unwrap())
}

#[test]
fn e6_statements_of_both_versions_are_taken_and_of_no_other() {
    let signer = signer();
    let verify = |version| {
        let evidence = signer.statement(version, PROVENANCE, json!({}));
        cosign::verify(&evidence, &signer.keys())
    };
    for version in [V0, V1] {
        let claims = verify(version).unwrap();
        assert_eq!(claims.values["digest"], ["ab".repeat(32)]);
        assert_eq!(claims.values["predicate_type"], [PROVENANCE]);
    }
    assert!(verify("https://in-toto.io/Statement/v2").is_err());
}

/// The in-toto attestation framework, "Envelope", names a type for each predicate, too.
#[test]
fn e6_the_payload_types_of_in_toto_are_taken_and_no_others() {
    let signer = signer();
    let statement = json!({
        "_type": V1,
        "predicateType": PROVENANCE,
        "subject": [{ "digest": { "sha256": "ab".repeat(32) } }],
    })
    .to_string();
    let verify = |signed_as: &str, shown_as: &str| {
        let mut envelope = signer.envelope(signed_as, &statement);
        envelope["payloadType"] = json!(shown_as);
        let evidence = json!({ "envelope": envelope }).to_string();
        cosign::verify(evidence.as_bytes(), &signer.keys())
    };
    let provenance = "application/vnd.in-toto.provenance+json";
    for payload_type in [PAYLOAD_TYPE, provenance] {
        verify(payload_type, payload_type).unwrap();
    }
    verify(PAYLOAD_TYPE, provenance).unwrap_err();
    for other in [
        "application/json",
        "application/vnd.in-toto",
        "application/vnd.in-toto-other+json",
        "application/vnd.in-toto.+json",
        "text/application/vnd.in-toto+json",
    ] {
        verify(other, other).unwrap_err();
    }
}

#[test]
fn e6_a_statement_counts_only_where_the_registration_says_of_what_kind() {
    let signer = signer();
    let provenance = signer.statement(V1, PROVENANCE, json!({}));
    let wants = |kind: &str| json!({ "predicate_type": [kind] });
    signer.appraise(&provenance, wants(PROVENANCE)).unwrap();
    let unmet = "cosign: claim `predicate_type` is not one of the registered values";
    for claims in [
        json!({}),
        wants("https://cosign.sigstore.dev/attestation/vuln/v1"),
    ] {
        let refused = signer.appraise(&provenance, claims);
        assert_eq!(refused, Err(unmet.to_owned()));
    }
    // The signature of an image is an approval by itself, and never one of a statement's kind.
    let payload = json!({
        "critical": {
            "identity": { "docker-reference": "" },
            "image": { "docker-manifest-digest": format!("sha256:{}", "ab".repeat(32)) },
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string();
    let signature = STANDARD.encode(signer.0.sign(payload.as_bytes()).unwrap());
    let image = json!({ "payload": STANDARD.encode(&payload), "signature": signature });
    let image = image.to_string().into_bytes();
    signer.appraise(&image, json!({})).unwrap();
    assert_eq!(
        signer.appraise(&image, wants(PROVENANCE)),
        Err(unmet.to_owned())
    );
}

#[test]
fn e6_a_verdict_in_the_predicate_must_be_one_that_the_registration_wants() {
    let signer = signer();
    for (kind, member) in [
        (SUMMARY, "verificationResult"),
        (SUMMARY_V0, "verification_result"),
        (TEST_RESULT, "result"),
    ] {
        let claim = format!("predicate.{member}");
        let of = |verdict: &str| signer.statement(V1, kind, json!({ member: verdict }));
        let wanted = json!({ "predicate_type": [kind], claim.as_str(): ["PASSED"] });
        signer.appraise(&of("PASSED"), wanted.clone()).unwrap();
        let unmet = format!("cosign: claim `{claim}` is not one of the registered values");
        for (verdict, claims) in [
            ("FAILED", wanted.clone()),
            ("FAILED", json!({ "predicate_type": [kind] })),
            ("PASSED", json!({ "predicate_type": [kind] })),
        ] {
            let refused = signer.appraise(&of(verdict), claims);
            assert_eq!(refused, Err(unmet.clone()), "{verdict}");
        }
        let without = signer.statement(V1, kind, json!({ "policy": {} }));
        assert_eq!(signer.appraise(&without, wanted), Err(unmet));
    }
}

#[test]
fn e13_envelopes_are_taken_in_both_alphabets_and_with_members_of_later_versions() {
    let signer = signer();
    // The payload and the signature have characters in which the alphabets differ.
    let payload = "{\"a\":\"\u{ff}\u{3f}\u{3e}\u{fb}~~~???>>>\"}";
    let message = pre_authentication_encoding(PAYLOAD_TYPE, payload.as_bytes());
    let signature = loop {
        let signature = signer.0.sign(&message).unwrap();
        if STANDARD.encode(&signature).contains(['+', '/']) {
            break signature;
        }
    };
    let envelope = |payload: String, sig: String| {
        let envelope = json!({
            "payloadType": PAYLOAD_TYPE,
            "payload": payload,
            "signatures": [{ "sig": sig, "extension": { "kind": "later" } }],
            "unknown": 1,
        });
        let envelope: Envelope = serde_json::from_value(envelope).unwrap();
        envelope.verify(PAYLOAD_TYPE, &signer.keys(), 1)
    };
    for alphabet in [&STANDARD, &URL_SAFE, &URL_SAFE_NO_PAD] {
        let signed = envelope(alphabet.encode(payload), alphabet.encode(&signature));
        assert_eq!(signed.unwrap(), payload.as_bytes());
    }
    let mixed = format!("{}-_", STANDARD.encode(&signature));
    assert_eq!(
        envelope(STANDARD.encode(payload), mixed),
        Err(DsseError::Base64)
    );
}

/// The edits know the envelope and the statement in it. The attacker has a key of his own, and signs
/// other statements with it.
#[test]
fn t34_no_structural_edit_of_a_signed_statement_changes_what_it_says() {
    let (signer, evil) = (signer(), signer());
    let keys = signer.keys();
    let genuine = signer.statement(V1, PROVENANCE, json!({ "builder": { "id": "b" } }));
    let genuine: Value = serde_json::from_slice(&genuine).unwrap();
    let theirs = evil.statement(V1, SUMMARY, json!({ "verificationResult": "PASSED" }));
    let theirs: Value = serde_json::from_slice(&theirs).unwrap();
    let outcome = edits::structural(
        &genuine,
        0x5eed_0000_0000_0007,
        |dice| {
            let mut variant = genuine.clone();
            for pointer in [
                "/envelope/payload",
                "/envelope/signatures",
                "/envelope/payloadType",
            ] {
                if dice.one_in(4) {
                    *variant.pointer_mut(pointer).unwrap() =
                        theirs.pointer(pointer).unwrap().clone();
                }
            }
            if dice.one_in(2) {
                let more = theirs["envelope"]["signatures"][0].clone();
                variant["envelope"]["signatures"]
                    .as_array_mut()
                    .unwrap()
                    .push(more);
            }
            if dice.one_in(2) {
                json::edit_within(&mut variant, "/envelope/payload", dice);
            }
            if dice.one_in(2) {
                json::edit(&mut variant, dice);
            }
            variant
        },
        |evidence| {
            let claims = cosign::verify(evidence.to_string().as_bytes(), &keys).ok()?;
            Some(format!("{:?}", claims.values))
        },
    );
    // Signatures of others may stand beside, and names of keys mean nothing.
    assert!(
        outcome.taken > 0 && outcome.taken < outcome.different / 2,
        "{outcome:?}"
    );
}
