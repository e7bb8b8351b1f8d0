//! Evidence of kind `manifest`: AC-05, T27, T33.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};
use sundew_attestation::kinds::manifest::{
    Measured, PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, pre_authentication_encoding,
    signed_bytes,
};
use sundew_attestation::{Binding, BindingPurpose};
use sundew_proto::v1::RemoveTrustRequest;
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::world::World;
use tonic::{Code, Status};

#[derive(Clone)]
struct Manifest {
    signer: Arc<KeyPair>,
    code: String,
}

impl Manifest {
    fn new() -> Self {
        Self {
            signer: Arc::new(KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key")),
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

/// A caller with what it needs to show a manifest: its key, and what it measured.
struct Prover {
    caller: Caller,
    key: KeyPair,
    manifest: Manifest,
}

impl Prover {
    fn new(caller: Caller, manifest: Manifest) -> Self {
        let key =
            KeyPair::try_from(caller.svid.clone().expect("SVID").key.as_slice()).expect("key");
        Self {
            caller,
            key,
            manifest,
        }
    }

    /// Returns what evidence for this purpose has to be bound to.
    fn bound_for(&self, purpose: BindingPurpose, nonce: &[u8]) -> Binding {
        let key = self.key.subject_public_key_info();
        Binding::new(purpose, nonce, &key, &self.caller.exporter())
    }

    fn bound(&self, nonce: &[u8]) -> Binding {
        self.bound_for(BindingPurpose::BeginTask, nonce)
    }

    /// A good envelope.
    fn envelope(&self) -> Value {
        self.manifest.envelope(&self.manifest.statement())
    }

    /// Evidence with this envelope and a good measurement.
    fn enclosing(&self, envelope: &Value, nonce: &[u8]) -> Vec<u8> {
        let measured = self.manifest.measured().to_string();
        evidence_of(envelope, &measured, &self.key, &self.bound(nonce))
    }

    /// Evidence with a good envelope and another measurement.
    fn measuring(&self, change: impl Fn(&mut Value), nonce: &[u8]) -> Vec<u8> {
        let mut measured = self.manifest.measured();
        change(&mut measured);
        evidence_of(
            &self.envelope(),
            &measured.to_string(),
            &self.key,
            &self.bound(nonce),
        )
    }

    /// Evidence with a good measurement and another statement.
    fn stating(&self, change: impl Fn(&mut Value), nonce: &[u8]) -> Vec<u8> {
        let mut statement = self.manifest.statement();
        change(&mut statement);
        self.enclosing(&self.manifest.envelope(&statement), nonce)
    }

    /// Evidence that measures well and is bound to this instead.
    fn bound_to(&self, binding: &Binding, key: &KeyPair) -> Vec<u8> {
        let measured = self.manifest.measured().to_string();
        evidence_of(&self.envelope(), &measured, key, binding)
    }

    async fn nonce(&self) -> Vec<u8> {
        self.caller.nonce().await.expect("nonce")
    }

    async fn begin(&self, payload: Vec<u8>, nonce: Vec<u8>) -> Result<Begun, Status> {
        self.caller
            .begin_on(nonce, vec![("manifest", payload)])
            .await
    }
}

/// A way to bend evidence for a nonce, and what it is.
type Bend = (&'static str, fn(&Prover, &[u8]) -> Vec<u8>);

const BINDINGS: [Bend; 4] = [
    ("bound to another nonce", |p, _| {
        p.bound_to(&p.bound(&[1; 32]), &p.key)
    }),
    ("bound to another connection", |p, n| {
        let key = p.key.subject_public_key_info();
        let binding = Binding::new(BindingPurpose::BeginTask, n, &key, &[0; 32]);
        p.bound_to(&binding, &p.key)
    }),
    ("bound to another purpose", |p, n| {
        p.bound_to(&p.bound_for(BindingPurpose::ResumeTask, n), &p.key)
    }),
    ("signed by another key than the SVID's", |p, n| {
        p.bound_to(&p.bound(n), &KeyPair::generate().expect("key"))
    }),
];

const MEASUREMENTS: [Bend; 5] = [
    ("another code", |p, n| {
        p.measuring(|m| m["subjects"]["code"] = json!("ee".repeat(32)), n)
    }),
    ("a tool that is not listed", |p, n| {
        p.measuring(|m| m["subjects"]["tool:shell"] = json!("ee".repeat(32)), n)
    }),
    ("a tool that is not measured", |p, n| {
        let without = |m: &mut Value| {
            m["subjects"]
                .as_object_mut()
                .expect("object")
                .remove("tool:git");
        };
        p.measuring(without, n)
    }),
    ("another model", |p, n| {
        p.measuring(|m| m["model"] = json!("m-2"), n)
    }),
    ("a model that is not registered", |p, n| {
        let mut statement = p.manifest.statement();
        statement["predicate"]["model"] = json!("m-9");
        let mut measured = p.manifest.measured();
        measured["model"] = json!("m-9");
        evidence_of(
            &p.manifest.envelope(&statement),
            &measured.to_string(),
            &p.key,
            &p.bound(n),
        )
    }),
];

const ENVELOPES: [Bend; 7] = [
    ("expired", |p, n| {
        p.stating(|s| s["predicate"]["expires_ms"] = json!(1), n)
    }),
    ("another predicate", |p, n| {
        p.stating(|s| s["predicateType"] = json!("x"), n)
    }),
    ("another payload type", |p, n| {
        let mut envelope = p.envelope();
        envelope["payloadType"] = json!("text/plain");
        p.enclosing(&envelope, n)
    }),
    ("payload swapped under the signature", |p, n| {
        let other = p.manifest.statement().to_string().replace("m-1", "m-2");
        let mut envelope = p.envelope();
        envelope["payload"] = json!(STANDARD.encode(other));
        let measured = p.manifest.measured().to_string().replace("m-1", "m-2");
        evidence_of(&envelope, &measured, &p.key, &p.bound(n))
    }),
    ("signed by a stranger", |p, n| {
        p.enclosing(&Manifest::new().envelope(&p.manifest.statement()), n)
    }),
    ("an unknown member", |p, n| {
        let mut text: Value = serde_json::from_slice(&p.enclosing(&p.envelope(), n)).expect("JSON");
        text["payload"] = json!("unsigned copy");
        text.to_string().into_bytes()
    }),
    ("no JSON", |_, _| b"{".to_vec()),
];

/// T33: a threshold of two is not met by one key that signs twice.
async fn a_threshold_needs_two_keys(prover: &Prover, second: &Manifest) {
    let good = prover.envelope();
    let mut twice = good.clone();
    let one = twice["signatures"][0].clone();
    twice["signatures"] = json!([one.clone(), { "keyid": "other", "sig": one["sig"] }]);
    let nonce = prover.nonce().await;
    let evidence = prover.enclosing(&twice, &nonce);
    assert!(prover.begin(evidence, nonce).await.is_err());
    let mut both = good.clone();
    let other = second.envelope(&prover.manifest.statement())["signatures"][0].clone();
    both["signatures"] = json!([one, other]);
    let nonce = prover.nonce().await;
    let evidence = prover.enclosing(&both, &nonce);
    prover.begin(evidence, nonce).await.expect("two keys");
}

/// AC-05, T27, T33 for manifests: bound to nonce, key, purpose and connection; signed by enough
/// keys; measured exactly.
#[tokio::test]
async fn ac_05_t33_a_manifest_must_be_signed_fresh_bound_and_match_what_is_measured() {
    let world = World::embedded();
    let broker = world.broker().await;
    let manifest = Manifest::new();
    let second = Manifest::new();
    let keys = [&manifest, &second].map(|m| m.signer.public_key_pem());
    let requirement = |threshold: usize| json!({ "evidence": [{ "kind": "manifest", "keys": keys, "threshold": threshold, "claims": { "model": ["m-1", "m-2"] } }], "require_fresh_evidence": true });
    world.register(&broker, "/agent", requirement(1)).await;
    let prover = Prover::new(world.caller(&broker, "/agent"), manifest);
    let nonce = prover.nonce().await;
    let good = prover.enclosing(&prover.envelope(), &nonce);
    prover.begin(good, nonce).await.expect("a good one");
    for (what, bend) in BINDINGS.iter().chain(&MEASUREMENTS).chain(&ENVELOPES) {
        let nonce = prover.nonce().await;
        let bent = bend(&prover, &nonce);
        let status = prover.begin(bent, nonce).await.expect_err(what);
        assert_eq!(status.code(), Code::PermissionDenied, "{what}");
    }

    world.register(&broker, "/agent", requirement(2)).await;
    a_threshold_needs_two_keys(&prover, &second).await;
    let measured = prover.manifest.measured().to_string();
    let _: Measured = serde_json::from_str(&measured).expect("measured");
}

/// The digest of a manifest's statement, as it is approved.
fn digest(manifest: &Manifest) -> String {
    let statement = manifest.statement().to_string();
    sundew_attestation::hex(
        ring::digest::digest(&ring::digest::SHA256, statement.as_bytes()).as_ref(),
    )
}

/// Begins a task on a manifest: its token, and the thumbprint of whoever holds it.
async fn begin_on(
    world: &World,
    manifest: &Manifest,
    at: &Broker,
) -> Result<(String, Vec<u8>), Status> {
    let prover = Prover::new(world.caller(at, "/agent"), manifest.clone());
    let nonce = prover.nonce().await;
    let evidence = prover.enclosing(&prover.envelope(), &nonce);
    let begun = prover.begin(evidence, nonce).await?;
    Ok((begun.token, prover.caller.thumbprint()))
}

/// Whether a token is active at a broker in the hands of whoever holds it.
async fn active_at(world: &World, at: &Broker, (token, holder): &(String, Vec<u8>)) -> bool {
    world
        .caller(at, "/introspector")
        .active(token, holder)
        .await
        .expect("answer")
}

/// AC-0A: provenance alone is not enough; an approved digest is; and withdrawing the approval ends
/// what rests on it, at every broker.
#[tokio::test]
async fn ac_0a_a_digest_counts_while_it_is_approved() {
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
    let begin = |manifest, at| begin_on(&world, manifest, at);
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
    for at in [&broker, &second] {
        assert!(active_at(&world, at, &mine).await && active_at(&world, at, &others).await);
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
            !active_at(&world, at, &mine).await,
            "dead at every broker at once"
        );
        assert!(
            active_at(&world, at, &others).await,
            "the other digest is still approved"
        );
        assert_eq!(
            begin(&manifest, at).await.expect_err("withdrawn").code(),
            Code::PermissionDenied
        );
    }
    begin(&other, &second).await.expect("still approved");
}
