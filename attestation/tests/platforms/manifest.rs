//! Manifests of workloads with each kind of SVID key (E11).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};
use sundew_attestation::Binding;
use sundew_attestation::dsse::{DsseError, VerifyingKey};
use sundew_attestation::kinds::manifest::{
    self, Measured, PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, pre_authentication_encoding,
    signed_bytes,
};
use sundew_rebuilt::edits::{self, json};

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

/// The edits know the manifest, the measurement and the envelope. The attacker has keys of his own
/// in the place of the platform team's and of the workload's.
#[test]
fn t34_no_structural_edit_of_a_manifest_changes_what_it_says() {
    let key = || KeyPair::generate().unwrap();
    let (platform, holder, evil) = (key(), key(), key());
    let keys = [VerifyingKey::from_pem(&platform.public_key_pem()).unwrap()];
    let binding = Binding::from_bytes([9; 32]);
    let of = |platform: &KeyPair, holder: &KeyPair| -> Value {
        let evidence = evidence(
            |message| platform.sign(message).unwrap(),
            |message| holder.sign(message).unwrap(),
            &binding,
        );
        serde_json::from_slice(&evidence).unwrap()
    };
    let (genuine, theirs) = (of(&platform, &holder), of(&evil, &evil));
    let outcome = edits::structural(
        &genuine,
        0x5eed_0000_0000_0008,
        |dice| {
            let mut variant = genuine.clone();
            for pointer in [
                "/envelope/payload",
                "/envelope/signatures",
                "/measured",
                "/signature",
            ] {
                if dice.one_in(4) {
                    *variant.pointer_mut(pointer).unwrap() =
                        theirs.pointer(pointer).unwrap().clone();
                }
                if dice.one_in(3) {
                    json::edit_within(&mut variant, pointer, dice);
                }
            }
            if dice.one_in(3) {
                json::edit(&mut variant, dice);
            }
            variant
        },
        |evidence| {
            let (evidence, peer) = (evidence.to_string(), holder.subject_public_key_info());
            let verdict = manifest::verify(evidence.as_bytes(), &keys, 1, &binding, &peer, 0);
            Some(format!("{:?}", verdict.ok()?.values))
        },
    );
    assert!(outcome.taken < outcome.different / 2, "{outcome:?}");
}
