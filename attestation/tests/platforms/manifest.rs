//! Manifests of workloads with each kind of SVID key (E11).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use serde_json::json;
use sundew_attestation::Binding;
use sundew_attestation::dsse::{DsseError, VerifyingKey};
use sundew_attestation::kinds::manifest::{
    self, Measured, PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, pre_authentication_encoding,
    signed_bytes,
};

use crate::rsa::RsaKey;

/// Returns a manifest, signed by `platform`, with a measurement that `holder` signs.
fn evidence(
    platform: impl Fn(&[u8]) -> Vec<u8>,
    holder: impl Fn(&[u8]) -> Vec<u8>,
    binding: &Binding,
) -> Vec<u8> {
    let code = "ab".repeat(32);
    let statement = json!({
        "_type": STATEMENT_TYPE,
        "subject": [{ "name": "code", "digest": { "sha256": code } }],
        "predicateType": PREDICATE_TYPE,
        "predicate": { "name": "agent", "model": "m" },
    })
    .to_string();
    let measured = serde_json::to_string(&Measured {
        subjects: [("code".to_owned(), code)].into(),
        model: "m".to_owned(),
    })
    .unwrap();
    let message = pre_authentication_encoding(PAYLOAD_TYPE, statement.as_bytes());
    json!({
        "envelope": {
            "payloadType": PAYLOAD_TYPE,
            "payload": STANDARD.encode(&statement),
            "signatures": [{ "sig": STANDARD.encode(platform(&message)) }],
        },
        "measured": measured,
        "signature": STANDARD.encode(holder(&signed_bytes(binding, &measured))),
    })
    .to_string()
    .into_bytes()
}

#[test]
fn e11_a_workload_with_an_rsa_svid_proves_its_manifest() {
    let (own, other, platform) = (RsaKey::new(), RsaKey::new(), KeyPair::generate().unwrap());
    let keys = [VerifyingKey::from_pem(&platform.public_key_pem()).unwrap()];
    let binding = Binding::from_bytes([9; 32]);
    let by_platform = |message: &[u8]| platform.sign(message).unwrap();
    let verify = |evidence: &[u8], peer: &RsaKey, binding: &Binding| {
        manifest::verify(evidence, &keys, 1, binding, &peer.public_key(), 0)
    };
    let genuine = evidence(by_platform, |message| own.sign(message), &binding);
    let claims = verify(&genuine, &own, &binding).unwrap();
    assert_eq!(claims.values["model"], ["m"]);
    assert!(verify(&genuine, &other, &binding).is_err());
    assert!(verify(&genuine, &own, &Binding::from_bytes([8; 32])).is_err());
}

#[test]
fn e11_an_rsa_key_signs_manifests_too_and_short_ones_do_not() {
    let (platform, holder) = (RsaKey::new(), KeyPair::generate().unwrap());
    let keys = [VerifyingKey::from_der(&platform.public_key()).unwrap()];
    let binding = Binding::from_bytes([9; 32]);
    let signed = evidence(
        |message| platform.sign(message),
        |message| holder.sign(message).unwrap(),
        &binding,
    );
    let peer = holder.subject_public_key_info();
    assert!(manifest::verify(&signed, &keys, 1, &binding, &peer, 0).is_ok());
    let short = RsaKey::of_bits(1024);
    assert_eq!(
        VerifyingKey::from_der(&short.public_key()).unwrap_err(),
        DsseError::Key
    );
}
