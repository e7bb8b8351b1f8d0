//! Attestation keys that are trusted because a maker vouches for their TPM: credential activation
//! with a real TPM emulator and its own tools' CA.

use serde_json::{Value, json};
use sundew_proto::v1::{
    ActivateTpmKeyRequest, ActivateTpmKeyResponse, AddTrustRequest, ChallengeTpmKeyRequest,
    ChallengeTpmKeyResponse, RemoveTrustRequest, TpmKey as Brought,
};
use sundew_sdk::{TpmError, TpmKey};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::tpm::{Maker, Tpm};
use sundew_tests::until;
use sundew_tests::world::World;
use tonic::{Code, Status};

pub(crate) const KEY: u32 = 0x8101_0002;

const ENDORSEMENT_KEY: u32 = 0x8101_0001;

pub(crate) fn ek(tpm: &Tpm) -> String {
    sundew_attestation::hex(
        ring::digest::digest(&ring::digest::SHA256, &tpm.endorsement_key()).as_ref(),
    )
}

pub(crate) fn wanted(more: Value) -> Value {
    let mut claims = json!({ "pcr.sha256.7": ["0".repeat(64)] });
    claims
        .as_object_mut()
        .expect("object")
        .extend(more.as_object().expect("object").clone());
    json!([{ "kind": "tpm2", "claims": claims }])
}

pub(crate) fn brought(tpm: &Tpm) -> Brought {
    brought_key(tpm, KEY)
}

pub(crate) fn brought_key(tpm: &Tpm, key: u32) -> Brought {
    let keys = TpmKey::read(&tpm.device(), key, ENDORSEMENT_KEY).expect("keys");
    Brought {
        attestation_key: keys.attestation_key,
        endorsement_key: keys.endorsement_key,
        certificate: keys.certificate.unwrap_or_default(),
        intermediates: Vec::new(),
    }
}

pub(crate) async fn challenge(
    caller: &Caller,
    key: &Brought,
) -> Result<ChallengeTpmKeyResponse, Status> {
    Ok(caller
        .enrollment()
        .challenge_tpm_key(ChallengeTpmKeyRequest {
            key: Some(key.clone()),
        })
        .await?
        .into_inner())
}

pub(crate) async fn answer(
    caller: &Caller,
    key: &Brought,
    opened: Vec<u8>,
    expires_at_ms: i64,
) -> Result<ActivateTpmKeyResponse, Status> {
    Ok(caller
        .enrollment()
        .activate_tpm_key(ActivateTpmKeyRequest {
            key: Some(key.clone()),
            opened,
            expires_at_ms,
        })
        .await?
        .into_inner())
}

pub(crate) fn open(tpm: &Tpm, made: &ChallengeTpmKeyResponse) -> Result<Vec<u8>, TpmError> {
    open_with(tpm, KEY, made)
}

pub(crate) fn open_with(
    tpm: &Tpm,
    key: u32,
    made: &ChallengeTpmKeyResponse,
) -> Result<Vec<u8>, TpmError> {
    TpmKey::open(
        &tpm.device(),
        key,
        ENDORSEMENT_KEY,
        &made.credential,
        &made.secret,
    )
}

pub(crate) async fn begin(caller: &Caller, tpm: &Tpm) -> Result<Begun, Status> {
    let nonce = caller.nonce().await?;
    let payload = tpm
        .evidence("4+7", *caller.bound(&nonce).as_bytes())
        .await
        .expect("evidence");
    caller.begin_on(nonce, vec![("tpm2", payload)]).await
}

/// Returns a key with something else about it.
fn changed(own: &Brought, change: fn(&mut Brought)) -> Brought {
    let mut key = own.clone();
    change(&mut key);
    key
}

/// A genuine TPM is not enough: the registration has to name it. Answers the other TPM's keys.
async fn only_the_named_tpm_counts(
    operator: &Caller,
    caller: &Caller,
    anyone: &Caller,
    tpm: &Tpm,
    other: &Tpm,
) -> Brought {
    begin(anyone, tpm)
        .await
        .expect_err("a registration that names no TPM");
    until("the record", || async {
        operator.last_refusal().await.contains("claim `ek`")
    })
    .await;
    let second = brought(other);
    let made_for_other = challenge(caller, &second).await.expect("credential");
    answer(
        caller,
        &second,
        open(other, &made_for_other).expect("opened"),
        made_for_other.expires_at_ms,
    )
    .await
    .expect("activated");
    begin(caller, other)
        .await
        .expect_err("another TPM of the same maker");
    second
}

/// A key that is elsewhere: no TPM opens the credential for it, and no other answer is taken.
async fn a_key_elsewhere_is_refused(
    caller: &Caller,
    [tpm, other]: [&Tpm; 2],
    [own, second]: [&Brought; 2],
    made: &ChallengeTpmKeyResponse,
    opened: Vec<u8>,
) {
    let mixed = Brought {
        attestation_key: second.attestation_key.clone(),
        ..own.clone()
    };
    let made_for_mixed = challenge(caller, &mixed).await.expect("credential");
    open(tpm, &made_for_mixed).expect_err("the key is not in this TPM");
    open(other, &made_for_mixed).expect_err("the seed is not for this TPM");
    let now_ms = sundew_tests::now_ms();
    for (what, key, opened, expires_at_ms) in [
        (
            "another key",
            mixed.clone(),
            opened.clone(),
            made.expires_at_ms,
        ),
        (
            "a guess",
            mixed.clone(),
            vec![0; 32],
            made_for_mixed.expires_at_ms,
        ),
        ("nothing", mixed, Vec::new(), made_for_mixed.expires_at_ms),
        (
            "another time",
            own.clone(),
            opened.clone(),
            made.expires_at_ms + 1,
        ),
        ("too late", own.clone(), opened.clone(), now_ms),
        ("far ahead", own.clone(), opened.clone(), now_ms + 3_600_000),
        (
            "an intermediate more",
            changed(own, |key| key.intermediates.push(key.certificate.clone())),
            opened,
            made.expires_at_ms,
        ),
    ] {
        let refused = answer(caller, &key, opened, expires_at_ms)
            .await
            .expect_err(what);
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::PermissionDenied, "not permitted"),
            "{what}"
        );
    }
}

/// Keys and certificates that do not belong together, or to no maker that is known.
async fn no_credential_is_made(caller: &Caller, own: &Brought, second: &Brought, foreign: &Tpm) {
    for (what, key, code) in [
        ("an unknown maker", brought(foreign), Code::PermissionDenied),
        (
            "the certificate of another TPM",
            Brought {
                certificate: second.certificate.clone(),
                ..own.clone()
            },
            Code::InvalidArgument,
        ),
        (
            "no certificate",
            changed(own, |key| key.certificate.clear()),
            Code::InvalidArgument,
        ),
        (
            "bytes after the certificate",
            changed(own, |key| key.certificate.push(0)),
            Code::InvalidArgument,
        ),
        (
            "a certificate that is altered",
            changed(own, |key| *key.certificate.last_mut().expect("byte") ^= 1),
            Code::PermissionDenied,
        ),
        (
            "a storage key as the attestation key",
            changed(own, |key| {
                key.attestation_key.clone_from(&key.endorsement_key)
            }),
            Code::InvalidArgument,
        ),
        (
            "an attestation key as the endorsement key",
            changed(own, |key| {
                key.endorsement_key.clone_from(&key.attestation_key)
            }),
            Code::InvalidArgument,
        ),
        ("nothing", Brought::default(), Code::InvalidArgument),
    ] {
        assert_eq!(
            challenge(caller, &key).await.expect_err(what).code(),
            code,
            "{what}"
        );
    }
}

/// A registrar cannot say what only a TPM can show.
async fn a_registrar_cannot_claim_it(operator: &Caller, tpm: &Tpm) {
    let claimed = json!({ "key": tpm.registered()["key"], "parent": tpm.registered()["parent"], "endorsement": { "certificate": "" } });
    let request = AddTrustRequest {
        kind: "tpm2_ak".to_owned(),
        name: "x".to_owned(),
        content: claimed.to_string().into_bytes(),
    };
    assert_eq!(
        operator
            .registry()
            .add_trust(request)
            .await
            .expect_err("claimed")
            .code(),
        Code::InvalidArgument
    );
}

/// AC-0A: a maker that is trusted no more takes along what rests on it.
async fn a_maker_is_trusted_no_more(operator: &Caller, caller: &Caller, tpm: &Tpm, begun: &Begun) {
    let presenter = caller.thumbprint();
    assert!(
        caller
            .active(&begun.token, &presenter)
            .await
            .expect("answer")
    );
    let request = RemoveTrustRequest {
        kind: "tpm2_ek_root".to_owned(),
        name: "swtpm".to_owned(),
        reason: "its signing key leaked".to_owned(),
    };
    operator
        .registry()
        .remove_trust(request)
        .await
        .expect("removed");
    assert!(
        !caller
            .active(&begun.token, &presenter)
            .await
            .expect("answer"),
        "its task is dead"
    );
    begin(caller, tpm).await.expect_err("no new task on it");
    until("the record", || async {
        operator.last_refusal().await.contains("no valid path")
    })
    .await;
}

/// A registration of /agent that names this TPM, and one of /anyone that names none.
pub(crate) async fn register(world: &World, broker: &Broker, tpm: &Tpm) {
    let named = json!({ "evidence": wanted(json!({ "ek": [ek(tpm)] })) });
    world.register(broker, "/agent", named).await;
    let unnamed = json!({ "evidence": wanted(json!({})) });
    world.register(broker, "/anyone", unnamed).await;
}

/// The key of this TPM is activated, once and again, and is on the record.
async fn activated(
    broker: &Broker,
    caller: &Caller,
    tpm: &Tpm,
    own: &Brought,
) -> (ChallengeTpmKeyResponse, Vec<u8>, Begun) {
    let made = challenge(caller, own).await.expect("credential");
    let opened = open(tpm, &made).expect("its own TPM opens it");
    let done = answer(caller, own, opened.clone(), made.expires_at_ms)
        .await
        .expect("activated");
    assert_eq!((done.ek, done.action.as_str()), (ek(tpm), "created"));
    let again = answer(caller, own, opened.clone(), made.expires_at_ms)
        .await
        .expect("again");
    assert_eq!(again.action, "unchanged");
    let begun = begin(caller, tpm).await.expect("a task on it");
    let record = broker
        .journal()
        .into_iter()
        .find(|record| record.event == "tpm_key_activated")
        .expect("record");
    assert_eq!(
        (record.field("ek"), record.field("key")),
        (Some(ek(tpm).as_str()), Some(done.key.as_str()))
    );
    (made, opened, begun)
}

/// P1, P2: the TPM's maker says which TPM it is, the TPM which key is in it, and the registration
/// whether that is enough.
#[tokio::test]
async fn a_key_is_trusted_when_the_tpm_of_a_known_maker_opens_the_credential_for_it_and_counts_where_it_is_named()
 {
    let world = World::embedded();
    let broker = world.broker().await;
    let operator = world.operator(&broker);
    let (maker, stranger) = (Maker::new(), Maker::new());
    let (tpm, other, foreign) = (
        Tpm::made_by(&maker),
        Tpm::made_by(&maker),
        Tpm::made_by(&stranger),
    );
    // Some registration lets the callers exist; nothing is trusted yet.
    operator
        .trust("tpm2_ek_root", "swtpm", &maker.certificates())
        .await;
    register(&world, &broker, &tpm).await;
    let (caller, anyone) = (
        world.caller(&broker, "/agent"),
        world.caller(&broker, "/anyone"),
    );
    begin(&caller, &tpm)
        .await
        .expect_err("the key is not known yet");

    let own = brought(&tpm);
    let (made, opened, begun) = activated(&broker, &caller, &tpm, &own).await;
    let second = only_the_named_tpm_counts(&operator, &caller, &anyone, &tpm, &other).await;
    a_key_elsewhere_is_refused(&caller, [&tpm, &other], [&own, &second], &made, opened).await;
    no_credential_is_made(&caller, &own, &second, &foreign).await;
    a_registrar_cannot_claim_it(&operator, &tpm).await;
    a_maker_is_trusted_no_more(&operator, &caller, &tpm, &begun).await;
}
