//! How a machine gets its first SVID by the TPM that is in it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};
use sundew_attestation::{Binding, BindingPurpose};
use sundew_proto::v1::{EnrollChallengeRequest, EnrollRequest, EnrollResponse, Evidence};
use sundew_tests::calls::Caller;
use sundew_tests::pki::pem;
use sundew_tests::sundew;
use sundew_tests::tpm::Tpm;
use sundew_tests::world::World;

use crate::cli::text;
use crate::enrollment::{own_root, with_own_ca};

fn registration(path: &str, changes: Value) -> Value {
    let mut document = World::registration(path, changes);
    document["spiffe_id"] = json!(format!("spiffe://own.example{path}"));
    document
}

/// Registers a host that enrolls by its TPM, and a workload that does not.
async fn register_host(operator: &Caller) {
    let wanted = json!([{ "kind": "tpm2", "claims": { "pcr.sha256.7": ["0".repeat(64)] } }]);
    // A manifest can be shown by anybody who has it.
    let manifest = json!([{ "kind": "manifest", "keys": [KeyPair::generate().expect("key").public_key_pem()] }]);
    let refused = operator
        .apply(&[registration("/host", json!({ "enrollment": manifest }))])
        .await
        .expect_err("a manifest alone");
    assert!(
        refused.message().contains("identifies the claimant"),
        "{refused}"
    );
    operator
        .apply(&[
            registration("/host", json!({ "enrollment": wanted })),
            registration("/plain", json!({})),
        ])
        .await
        .expect("registered");
}

/// Runs `sundew svid enroll` with this TPM as evidence.
fn enroll_by_tpm(id: &str, tpm: &Tpm, port: u16, bundle: &Path, out: &Path) -> Output {
    Command::new(sundew())
        .args([
            "svid",
            "enroll",
            "--enrollment",
            &format!("127.0.0.1:{port}"),
            "--trust-domain",
            "own.example",
            "--spiffe-id",
            id,
            "--evidence",
            "tpm2",
            "--bundle",
        ])
        .arg(bundle)
        .arg("--out")
        .arg(out)
        .env("SUNDEW_TPM2", tpm.settings("4+7").tpm2.expect("TPM"))
        .stdin(Stdio::null())
        .output()
        .expect("run")
}

/// Enrollment by hand, over one connection.
pub(crate) struct ByHand {
    caller: Caller,
}

impl ByHand {
    /// Comes to the enrollment listener at this port.
    pub(crate) fn new(port: u16) -> Self {
        let caller = Caller::new(format!("127.0.0.1:{port}"), None);
        Self { caller }
    }

    pub(crate) async fn nonce(&self) -> Vec<u8> {
        self.caller
            .enrollment()
            .enroll_challenge(EnrollChallengeRequest {})
            .await
            .expect("challenge")
            .into_inner()
            .nonce
    }

    /// Evidence of a TPM, bound to this connection.
    pub(crate) async fn evidence(
        &self,
        tpm: &Tpm,
        purpose: BindingPurpose,
        nonce: &[u8],
        key: &KeyPair,
    ) -> Vec<u8> {
        let key = key.subject_public_key_info();
        let bound = Binding::new(purpose, nonce, &key, &self.caller.exporter());
        tpm.evidence("7", *bound.as_bytes())
            .await
            .expect("evidence")
    }

    pub(crate) async fn enroll(
        &self,
        key: &KeyPair,
        nonce: Vec<u8>,
        payload: Vec<u8>,
    ) -> Result<EnrollResponse, tonic::Status> {
        let csr = rcgen::CertificateParams::default()
            .serialize_request(key)
            .expect("csr")
            .der()
            .to_vec();
        let evidence = vec![Evidence {
            kind: "tpm2".to_owned(),
            payload,
        }];
        let request = EnrollRequest {
            csr,
            spiffe_id: "spiffe://own.example/host".to_owned(),
            nonce,
            evidence,
            ..EnrollRequest::default()
        };
        let answer = self.caller.enrollment().enroll(request).await?;
        Ok(answer.into_inner())
    }
}

/// By hand: evidence is bound to this key, this nonce, this purpose, and from this TPM.
async fn enrollment_evidence_is_bound(port: u16, tpm: &Tpm, other: &Tpm) {
    let client = ByHand::new(port);
    let (key, thief) = (
        KeyPair::generate().expect("key"),
        KeyPair::generate().expect("key"),
    );
    let (first, own) = (client.nonce().await, BindingPurpose::Enroll);
    let evidence = client.evidence(tpm, own, &first, &key).await;
    client
        .enroll(&key, first.clone(), evidence.clone())
        .await
        .expect("a good one");
    let again = client.enroll(&key, first, evidence.clone()).await;
    assert!(again.is_err(), "the nonce again");
    let replayed = client.enroll(&key, client.nonce().await, evidence).await;
    assert!(replayed.is_err(), "evidence for another nonce");
    for (what, tpm, purpose, signer) in [
        ("evidence for another key", tpm, own, &thief),
        (
            "evidence for another purpose",
            tpm,
            BindingPurpose::BeginTask,
            &key,
        ),
        ("another TPM", other, own, &key),
    ] {
        let next = client.nonce().await;
        let evidence = client.evidence(tpm, purpose, &next, &key).await;
        assert!(
            client.enroll(signer, next, evidence).await.is_err(),
            "{what}"
        );
    }
}

/// A machine gets its first identity by what it is, not by a secret that somebody carried there.
#[tokio::test]
async fn a_tpm_gives_a_first_svid_to_the_key_that_it_was_asked_for() {
    let (world, broker, port) = with_own_ca().await;
    let operator = world.operator(&broker);
    let (tpm, other) = (
        Tpm::new("ecc", "sha256", "ecdsa"),
        Tpm::new("ecc", "sha256", "ecdsa"),
    );
    operator
        .trust("tpm2_ak", "host", &tpm.registered().to_string())
        .await;
    register_host(&operator).await;

    let token = operator.join_token("spiffe://own.example/plain").await;
    let root = own_root(&token, port).await;
    let bundle = world.folder().join("own-root.pem");
    std::fs::write(&bundle, pem("CERTIFICATE", &root)).expect("bundle");
    let out = world.folder().join("host");
    let enroll = |id: &str| enroll_by_tpm(id, &tpm, port, &bundle, &out);
    let enrolled = enroll("spiffe://own.example/host");
    assert!(
        enrolled.status.success() && text(&enrolled).contains("spiffe://own.example/host"),
        "{}",
        text(&enrolled)
    );
    assert!(out.join("svid.pem").exists());
    for bad in [
        "spiffe://own.example/plain",
        "spiffe://own.example/nobody",
        "spiffe://test.example/agent",
    ] {
        let output = enroll(bad);
        assert!(
            !output.status.success() && text(&output).contains("not permitted"),
            "{bad}: {}",
            text(&output)
        );
    }

    enrollment_evidence_is_bound(port, &tpm, &other).await;
    tpm.extend(7, &[1; 32]);
    let output = enroll("spiffe://own.example/host");
    assert!(
        !output.status.success() && text(&output).contains("not permitted"),
        "{}",
        text(&output)
    );
}
