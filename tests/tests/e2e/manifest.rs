//! Evidence of kind `manifest`: AC-05, T27, T33.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};
use sundew_attestation::kinds::manifest::{
    Measured, PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, pre_authentication_encoding,
    signed_bytes,
};
use sundew_attestation::{Binding, BindingPurpose};
use sundew_proto::v1::{BeginTaskRequest, Evidence};
use sundew_tests::broker::World;
use tonic::Code;

struct Manifest {
    signer: KeyPair,
    code: String,
}

impl Manifest {
    fn new() -> Self {
        Self {
            signer: KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key"),
            code: "ab".repeat(32),
        }
    }

    fn statement(&self) -> Value {
        json!({
            "_type": STATEMENT_TYPE, "predicateType": PREDICATE_TYPE, "predicate": { "name": "agent", "model": "m-1" },
            "subject": [{ "name": "code", "digest": { "sha256": self.code } }, { "name": "tool:git", "digest": { "sha256": "cd".repeat(32) } }],
        })
    }

    fn measured(&self) -> Value {
        json!({ "subjects": { "code": self.code, "tool:git": "cd".repeat(32) }, "model": "m-1" })
    }

    fn envelope(&self, statement: &Value) -> Value {
        let payload = statement.to_string();
        let signature = self
            .signer
            .sign(&pre_authentication_encoding(
                PAYLOAD_TYPE,
                payload.as_bytes(),
            ))
            .expect("signature");
        json!({ "payloadType": PAYLOAD_TYPE, "payload": STANDARD.encode(payload), "signatures": [{ "sig": STANDARD.encode(signature) }] })
    }
}

fn evidence_of(envelope: &Value, measured: &str, key: &KeyPair, binding: &Binding) -> Vec<u8> {
    let signature = key
        .sign(&signed_bytes(binding, measured))
        .expect("signature");
    json!({ "envelope": envelope, "measured": measured, "signature": STANDARD.encode(signature) })
        .to_string()
        .into_bytes()
}

/// AC-05, T27, T33 for manifests: bound to nonce, key, purpose and connection; signed by enough
/// keys; measured exactly.
#[tokio::test]
async fn ac_05_t33_a_manifest_must_be_signed_fresh_bound_and_match_what_is_measured() {
    let world = World::embedded();
    let broker = world.broker().await;
    let manifest = Manifest::new();
    let second = Manifest::new();
    let pem = |m: &Manifest| m.signer.public_key_pem();
    let requirement = |threshold: usize| json!({ "evidence": [{ "kind": "manifest", "keys": [pem(&manifest), pem(&second)], "threshold": threshold, "claims": { "model": ["m-1", "m-2"] } }], "require_fresh_evidence": true });
    world.register(&broker, "/agent", requirement(1)).await;
    let caller = world.caller(&broker, "/agent");
    let key = KeyPair::try_from(caller.svid.clone().expect("SVID").key.as_slice()).expect("key");
    let stranger = KeyPair::generate().expect("key");
    let spki = key.subject_public_key_info();
    let begin = |payload: Vec<u8>, nonce: Vec<u8>| {
        let caller = caller.clone();
        async move {
            let evidence = vec![Evidence {
                kind: "manifest".to_owned(),
                payload,
            }];
            caller
                .send(BeginTaskRequest {
                    nonce,
                    purpose: "x".to_owned(),
                    scopes: vec!["exec:git".to_owned()],
                    evidence,
                    ..BeginTaskRequest::default()
                })
                .await
        }
    };
    let good_measure = manifest.measured().to_string();
    let bound =
        |nonce: &[u8]| Binding::new(BindingPurpose::BeginTask, nonce, &spki, &caller.exporter());

    let nonce = caller.nonce().await.expect("nonce");
    begin(
        evidence_of(
            &manifest.envelope(&manifest.statement()),
            &good_measure,
            &key,
            &bound(&nonce),
        ),
        nonce,
    )
    .await
    .expect("a good one");

    type Bend<'a> = (&'a str, Box<dyn Fn(&[u8]) -> Vec<u8> + 'a>);
    let measure = |change: &dyn Fn(&mut Value)| {
        let mut measured = manifest.measured();
        change(&mut measured);
        measured.to_string()
    };
    let state = |change: &dyn Fn(&mut Value)| {
        let mut statement = manifest.statement();
        change(&mut statement);
        manifest.envelope(&statement)
    };
    let good = manifest.envelope(&manifest.statement());
    let cases: Vec<Bend<'_>> = vec![
        (
            "bound to another nonce",
            Box::new(|_| evidence_of(&good, &good_measure, &key, &bound(&[1; 32]))),
        ),
        (
            "bound to another connection",
            Box::new(|n| {
                evidence_of(
                    &good,
                    &good_measure,
                    &key,
                    &Binding::new(BindingPurpose::BeginTask, n, &spki, &[0; 32]),
                )
            }),
        ),
        (
            "bound to another purpose",
            Box::new(|n| {
                evidence_of(
                    &good,
                    &good_measure,
                    &key,
                    &Binding::new(BindingPurpose::ResumeTask, n, &spki, &caller.exporter()),
                )
            }),
        ),
        (
            "signed by another key than the SVID's",
            Box::new(|n| evidence_of(&good, &good_measure, &stranger, &bound(n))),
        ),
        (
            "another code",
            Box::new(|n| {
                evidence_of(
                    &good,
                    &measure(&|m| m["subjects"]["code"] = json!("ee".repeat(32))),
                    &key,
                    &bound(n),
                )
            }),
        ),
        (
            "a tool that is not listed",
            Box::new(|n| {
                evidence_of(
                    &good,
                    &measure(&|m| m["subjects"]["tool:shell"] = json!("ee".repeat(32))),
                    &key,
                    &bound(n),
                )
            }),
        ),
        (
            "a tool that is not measured",
            Box::new(|n| {
                evidence_of(
                    &good,
                    &measure(&|m| {
                        drop(
                            m["subjects"]
                                .as_object_mut()
                                .expect("object")
                                .remove("tool:git"),
                        )
                    }),
                    &key,
                    &bound(n),
                )
            }),
        ),
        (
            "another model",
            Box::new(|n| {
                evidence_of(
                    &good,
                    &measure(&|m| m["model"] = json!("m-2")),
                    &key,
                    &bound(n),
                )
            }),
        ),
        (
            "a model that is not registered",
            Box::new(|n| {
                evidence_of(
                    &state(&|s| s["predicate"]["model"] = json!("m-9")),
                    &measure(&|m| m["model"] = json!("m-9")),
                    &key,
                    &bound(n),
                )
            }),
        ),
        (
            "expired",
            Box::new(|n| {
                evidence_of(
                    &state(&|s| s["predicate"]["expires_ms"] = json!(1)),
                    &good_measure,
                    &key,
                    &bound(n),
                )
            }),
        ),
        (
            "another predicate",
            Box::new(|n| {
                evidence_of(
                    &state(&|s| s["predicateType"] = json!("x")),
                    &good_measure,
                    &key,
                    &bound(n),
                )
            }),
        ),
        (
            "another payload type",
            Box::new(|n| {
                let mut envelope = good.clone();
                envelope["payloadType"] = json!("text/plain");
                evidence_of(&envelope, &good_measure, &key, &bound(n))
            }),
        ),
        (
            "payload swapped under the signature",
            Box::new(|n| {
                let mut envelope = good.clone();
                envelope["payload"] =
                    json!(STANDARD.encode(manifest.statement().to_string().replace("m-1", "m-2")));
                evidence_of(
                    &envelope,
                    &measure(&|m| m["model"] = json!("m-2")),
                    &key,
                    &bound(n),
                )
            }),
        ),
        (
            "signed by a stranger",
            Box::new(|n| {
                evidence_of(
                    &Manifest::new().envelope(&manifest.statement()),
                    &good_measure,
                    &key,
                    &bound(n),
                )
            }),
        ),
        (
            "an unknown member",
            Box::new(|n| {
                let mut text: Value =
                    serde_json::from_slice(&evidence_of(&good, &good_measure, &key, &bound(n)))
                        .expect("JSON");
                text["payload"] = json!("unsigned copy");
                text.to_string().into_bytes()
            }),
        ),
        ("no JSON", Box::new(|_| b"{".to_vec())),
    ];
    for (what, bend) in cases {
        let nonce = caller.nonce().await.expect("nonce");
        let status = begin(bend(&nonce), nonce).await.expect_err(what);
        assert_eq!(status.code(), Code::PermissionDenied, "{what}");
    }

    // T33: a threshold of two is not met by one key that signs twice.
    world.register(&broker, "/agent", requirement(2)).await;
    let mut twice = good.clone();
    let one = twice["signatures"][0].clone();
    twice["signatures"] = json!([one.clone(), { "keyid": "other", "sig": one["sig"] }]);
    let nonce = caller.nonce().await.expect("nonce");
    assert!(
        begin(
            evidence_of(&twice, &good_measure, &key, &bound(&nonce)),
            nonce
        )
        .await
        .is_err()
    );
    let mut both = good.clone();
    both["signatures"] = json!([one, second.envelope(&manifest.statement())["signatures"][0]]);
    let nonce = caller.nonce().await.expect("nonce");
    begin(
        evidence_of(&both, &good_measure, &key, &bound(&nonce)),
        nonce,
    )
    .await
    .expect("two keys");
    let _: Measured = serde_json::from_str(&good_measure).expect("measured");
}

/// AC-0A: provenance alone is not enough; an approved digest is; and withdrawing the approval ends
/// what rests on it, at every broker.
#[tokio::test]
async fn ac_0a_a_digest_counts_while_it_is_approved() {
    use sundew_proto::v1::RemoveTrustRequest;
    let world = World::redis();
    let (broker, second) = (world.broker().await, world.broker().await);
    let (manifest, other) = (
        Manifest::new(),
        Manifest {
            code: "cd".repeat(32),
            ..Manifest::new()
        },
    );
    let keys = [
        manifest.signer.public_key_pem(),
        other.signer.public_key_pem(),
    ];
    let requirement = json!({ "kind": "manifest", "keys": keys, "claims": { "digest": { "reference": "agents" } } });
    world
        .register(&broker, "/agent", json!({ "evidence": [requirement] }))
        .await;
    let operator = world.operator(&broker);
    let digest = |manifest: &Manifest| {
        let hash = ring::digest::digest(
            &ring::digest::SHA256,
            manifest.statement().to_string().as_bytes(),
        );
        hash.as_ref()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    };
    let begin = |manifest: &Manifest, at: &sundew_tests::broker::Broker| {
        let caller = world.caller(at, "/agent");
        let key =
            KeyPair::try_from(caller.svid.clone().expect("SVID").key.as_slice()).expect("key");
        let (envelope, measured) = (
            manifest.envelope(&manifest.statement()),
            manifest.measured().to_string(),
        );
        async move {
            let nonce = caller.nonce().await.expect("nonce");
            let binding = Binding::new(
                BindingPurpose::BeginTask,
                &nonce,
                &key.subject_public_key_info(),
                &caller.exporter(),
            );
            let evidence = vec![Evidence {
                kind: "manifest".to_owned(),
                payload: evidence_of(&envelope, &measured, &key, &binding),
            }];
            let request = BeginTaskRequest {
                nonce,
                purpose: "x".to_owned(),
                scopes: vec!["exec:git".to_owned()],
                evidence,
                ..BeginTaskRequest::default()
            };
            let thumbprint = caller.thumbprint();
            caller
                .send(request)
                .await
                .map(|begun| (begun.token, thumbprint))
        }
    };
    assert_eq!(
        begin(&manifest, &broker)
            .await
            .expect_err("signed, not approved")
            .code(),
        Code::PermissionDenied
    );
    for manifest in [&manifest, &other] {
        operator
            .trust("reference", &format!("agents/{}", digest(manifest)), "")
            .await;
    }
    let (mine, others) = (
        begin(&manifest, &broker).await.expect("approved"),
        begin(&other, &second).await.expect("approved"),
    );
    let introspector = |at| world.caller(at, "/introspector");
    for at in [&broker, &second] {
        assert!(
            introspector(at)
                .active(&mine.0, &mine.1)
                .await
                .expect("answer")
                && introspector(at)
                    .active(&others.0, &others.1)
                    .await
                    .expect("answer")
        );
    }
    let withdraw = RemoveTrustRequest {
        kind: "reference".to_owned(),
        name: format!("agents/{}", digest(&manifest)),
        reason: "bad model".to_owned(),
    };
    let answer = operator
        .registry()
        .remove_trust(withdraw)
        .await
        .expect("withdrawn")
        .into_inner();
    assert_eq!(answer.revocations.len(), 1);
    for at in [&broker, &second] {
        assert!(
            !introspector(at)
                .active(&mine.0, &mine.1)
                .await
                .expect("answer"),
            "dead at every broker at once"
        );
        assert!(
            introspector(at)
                .active(&others.0, &others.1)
                .await
                .expect("answer"),
            "the other digest is still approved"
        );
        assert_eq!(
            begin(&manifest, at).await.expect_err("withdrawn").code(),
            Code::PermissionDenied
        );
    }
    begin(&other, &second).await.expect("still approved");
}
