//! Agents of a test: a key, an SVID of a CA that the broker trusts, and evidence.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType, SigningKey as _,
};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use sundew_attestation::kinds::manifest::{
    PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, pre_authentication_encoding, signed_bytes,
};
use sundew_attestation::spiffe::{TrustBundle, TrustDomain, validate_chain};
use sundew_attestation::{Binding, BindingPurpose};
use sundew_proto::v1;

use super::DOMAIN;
use crate::clock;
use crate::peer::{Peer, Trust};

/// A workload, or an operator, with a connection to the broker.
pub(crate) struct Agent {
    pub(crate) peer: Arc<Peer>,
    key: KeyPair,
    manifest: Manifest,
}

impl Agent {
    /// Somebody with a new key and an SVID of `/path`, on a connection of their own.
    pub(super) fn connect(ca: &TestCa, trust: &Trust, manifest: &Manifest, path: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let chain = vec![ca.leaf(path, &key)];
        let current = trust.current();
        let now_s = clock::now_ms().div_euclid(1000);
        let svid = validate_chain(&chain, &current.bundles, now_s).unwrap();
        let exporter = *svid.thumbprint();
        let remote = "127.0.0.1:1".parse().unwrap();
        Self {
            peer: Arc::new(Peer::new(svid, current.generation, chain, exporter, remote)),
            key,
            manifest: manifest.clone(),
        }
    }

    /// The same agent with another model in its manifest, signed all the same.
    pub(crate) fn with_model(mut self, model: &'static str) -> Self {
        self.manifest.model = model;
        self
    }

    /// The same agent with a manifest that somebody else has signed.
    pub(crate) fn with_own_signer(mut self) -> Self {
        self.manifest = Manifest::new();
        self
    }

    /// The challenge, and evidence that answers it for a purpose.
    pub(crate) fn proof(&self, purpose: BindingPurpose) -> (Vec<u8>, Vec<v1::Evidence>) {
        let nonce = self.nonce();
        let evidence = self.evidence(purpose, &nonce);
        (nonce, evidence)
    }

    /// A new challenge on this connection.
    pub(crate) fn nonce(&self) -> Vec<u8> {
        self.peer.channel().challenge().unwrap().0.to_vec()
    }

    /// SHA-256 of the certificate.
    pub(crate) fn thumbprint(&self) -> Vec<u8> {
        self.peer.svid().thumbprint().to_vec()
    }

    /// Another certificate of the key of this agent's SVID, which nobody vouches for.
    pub(crate) fn self_signed(&self) -> Vec<u8> {
        let params = rcgen::CertificateParams::default();
        params.self_signed(&self.key).unwrap().der().to_vec()
    }

    /// Evidence for a purpose: the manifest, signed by the key of this agent's SVID over a
    /// challenge of this connection.
    pub(crate) fn evidence(&self, purpose: BindingPurpose, nonce: &[u8]) -> Vec<v1::Evidence> {
        let key = self.key.subject_public_key_info();
        let binding = Binding::new(purpose, nonce, &key, self.peer.channel().exporter());
        vec![v1::Evidence {
            kind: "manifest".to_owned(),
            payload: self.manifest.evidence(&self.key, &binding),
        }]
    }

    /// A request for a task, with a new challenge and evidence for it.
    pub(crate) fn request(&self, scopes: &[&str]) -> v1::BeginTaskRequest {
        let nonce = self.nonce();
        v1::BeginTaskRequest {
            evidence: self.evidence(BindingPurpose::BeginTask, &nonce),
            nonce,
            purpose: "test".to_owned(),
            instruction: "do the test".to_owned(),
            scopes: scopes.iter().map(ToString::to_string).collect(),
            ..v1::BeginTaskRequest::default()
        }
    }
}

/// A task that a test has begun.
pub(crate) struct Begun {
    pub(crate) id: String,
    pub(crate) token: v1::Token,
    pub(crate) task: v1::Task,
}

impl Begun {
    /// A request for another token of the task that asks for nothing in particular.
    pub(crate) fn mint(&self) -> v1::MintTokenRequest {
        v1::MintTokenRequest {
            task_id: self.id.clone(),
            ..v1::MintTokenRequest::default()
        }
    }
}

/// What the agents of a test are made of, and who says so.
#[derive(Clone)]
pub(super) struct Manifest {
    model: &'static str,
    signer: Arc<KeyPair>,
}

impl Manifest {
    pub(super) fn new() -> Self {
        let signer = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        Self {
            model: "m-1",
            signer: Arc::new(signer),
        }
    }

    /// The key that registrations name.
    pub(super) fn public_key_pem(&self) -> String {
        self.signer.public_key_pem()
    }

    fn evidence(&self, key: &KeyPair, binding: &Binding) -> Vec<u8> {
        let code = "ab".repeat(32);
        let statement = json!({
            "_type": STATEMENT_TYPE,
            "predicateType": PREDICATE_TYPE,
            "predicate": { "name": "agent", "model": self.model },
            "subject": [{ "name": "code", "digest": { "sha256": code } }],
        })
        .to_string();
        let signed = pre_authentication_encoding(PAYLOAD_TYPE, statement.as_bytes());
        let by_platform = STANDARD.encode(self.signer.sign(&signed).unwrap());
        let measured = json!({ "subjects": { "code": code }, "model": self.model }).to_string();
        let by_agent = key.sign(&signed_bytes(binding, &measured)).unwrap();
        json!({
            "envelope": {
                "payloadType": PAYLOAD_TYPE,
                "payload": STANDARD.encode(statement),
                "signatures": [{ "sig": by_platform }],
            },
            "measured": measured,
            "signature": STANDARD.encode(by_agent),
        })
        .to_string()
        .into_bytes()
    }
}

/// The CA of the trust domain. Its certificates and SVIDs are good for 30 days.
pub(super) struct TestCa {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl TestCa {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params("");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::from_ca_cert_der(&certificate, key).unwrap(),
            certificate,
        }
    }

    pub(super) fn bundle(&self) -> TrustBundle {
        let domain = TrustDomain::parse(DOMAIN).unwrap();
        TrustBundle::from_der(domain, [self.certificate.as_ref()])
    }

    fn leaf(&self, path: &str, key: &KeyPair) -> CertificateDer<'static> {
        let mut params = params(path);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }
}

fn params(path: &str) -> CertificateParams {
    let now = time::OffsetDateTime::from_unix_timestamp(clock::now_ms().div_euclid(1000)).unwrap();
    let mut params = CertificateParams::default();
    let id = format!("spiffe://{DOMAIN}{path}");
    params.distinguished_name.push(DnType::CommonName, &id);
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
    params.not_before = now - Duration::from_secs(60);
    params.not_after = now + Duration::from_secs(30 * 24 * 3600);
    params
}
