//! Attestation keys that are trusted because a maker vouches for their TPM: credential activation
//! with a real TPM emulator and its own tools' CA.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use sundew_proto::v1::{
    ActivateTpmKeyRequest, ActivateTpmKeyResponse, AddTrustRequest, ChallengeTpmKeyRequest,
    ChallengeTpmKeyResponse, CreateJoinTokenRequest, RemoveTrustRequest, TpmKey as Brought,
};
use sundew_sdk::TpmKey;
use sundew_tests::broker::World;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::tpm::{Maker, Tpm};
use sundew_tests::{sundew, until};
use tonic::{Code, Status};

use crate::cli::text;
use crate::enrollment::{own_root, with_own_ca};

const KEY: u32 = 0x8101_0002;
const ENDORSEMENT_KEY: u32 = 0x8101_0001;

fn ek(tpm: &Tpm) -> String {
    sundew_attestation::hex(
        ring::digest::digest(&ring::digest::SHA256, &tpm.endorsement_key()).as_ref(),
    )
}

fn wanted(more: Value) -> Value {
    let mut claims = json!({ "pcr.sha256.7": ["0".repeat(64)] });
    claims
        .as_object_mut()
        .expect("object")
        .extend(more.as_object().expect("object").clone());
    json!([{ "kind": "tpm2", "claims": claims }])
}

fn brought(tpm: &Tpm) -> Brought {
    let keys = TpmKey::read(&tpm.device(), KEY, ENDORSEMENT_KEY).expect("keys");
    Brought {
        attestation_key: keys.attestation_key,
        endorsement_key: keys.endorsement_key,
        certificate: keys.certificate.unwrap_or_default(),
        intermediates: Vec::new(),
    }
}

async fn challenge(caller: &Caller, key: &Brought) -> Result<ChallengeTpmKeyResponse, Status> {
    Ok(caller
        .enrollment()
        .challenge_tpm_key(ChallengeTpmKeyRequest {
            key: Some(key.clone()),
        })
        .await?
        .into_inner())
}

async fn answer(
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

fn open(tpm: &Tpm, made: &ChallengeTpmKeyResponse) -> Result<Vec<u8>, String> {
    TpmKey::open(
        &tpm.device(),
        KEY,
        ENDORSEMENT_KEY,
        &made.credential,
        &made.secret,
    )
}

async fn begin(caller: &Caller, tpm: &Tpm) -> Result<Begun, Status> {
    let nonce = caller.nonce().await?;
    let payload = tpm
        .evidence("4+7", *caller.bound(&nonce).as_bytes())
        .await
        .expect("evidence");
    caller.begin_on(nonce, vec![("tpm2", payload)]).await
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
    world
        .register(
            &broker,
            "/agent",
            json!({ "evidence": wanted(json!({ "ek": [ek(&tpm)] })) }),
        )
        .await;
    world
        .register(&broker, "/anyone", json!({ "evidence": wanted(json!({})) }))
        .await;
    let (caller, anyone) = (
        world.caller(&broker, "/agent"),
        world.caller(&broker, "/anyone"),
    );
    begin(&caller, &tpm)
        .await
        .expect_err("the key is not known yet");

    let own = brought(&tpm);
    let made = challenge(&caller, &own).await.expect("credential");
    let opened = open(&tpm, &made).expect("its own TPM opens it");
    let done = answer(&caller, &own, opened.clone(), made.expires_at_ms)
        .await
        .expect("activated");
    assert_eq!((done.ek, done.action.as_str()), (ek(&tpm), "created"));
    let again = answer(&caller, &own, opened.clone(), made.expires_at_ms)
        .await
        .expect("again");
    assert_eq!(again.action, "unchanged");
    let begun = begin(&caller, &tpm).await.expect("a task on it");
    let record = broker
        .journal()
        .into_iter()
        .find(|record| record.event == "tpm_key_activated")
        .expect("record");
    assert_eq!(
        (record.field("ek"), record.field("key")),
        (Some(ek(&tpm).as_str()), Some(done.key.as_str()))
    );

    // A genuine TPM is not enough: the registration has to name it.
    begin(&anyone, &tpm)
        .await
        .expect_err("a registration that names no TPM");
    until("the record", || async {
        operator.last_refusal().await.contains("claim `ek`")
    })
    .await;
    let second = brought(&other);
    let made_for_other = challenge(&caller, &second).await.expect("credential");
    answer(
        &caller,
        &second,
        open(&other, &made_for_other).expect("opened"),
        made_for_other.expires_at_ms,
    )
    .await
    .expect("activated");
    begin(&caller, &other)
        .await
        .expect_err("another TPM of the same maker");

    // A key that is elsewhere: no TPM opens the credential for it.
    let mixed = Brought {
        attestation_key: second.attestation_key.clone(),
        ..own.clone()
    };
    let made_for_mixed = challenge(&caller, &mixed).await.expect("credential");
    open(&tpm, &made_for_mixed).expect_err("the key is not in this TPM");
    open(&other, &made_for_mixed).expect_err("the seed is not for this TPM");
    let changed = |change: fn(&mut Brought)| {
        let mut key = own.clone();
        change(&mut key);
        key
    };
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
            changed(|key| key.intermediates.push(key.certificate.clone())),
            opened,
            made.expires_at_ms,
        ),
    ] {
        let refused = answer(&caller, &key, opened, expires_at_ms)
            .await
            .expect_err(what);
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::PermissionDenied, "not permitted"),
            "{what}"
        );
    }
    for (what, key, code) in [
        (
            "an unknown maker",
            brought(&foreign),
            Code::PermissionDenied,
        ),
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
            changed(|key| key.certificate.clear()),
            Code::InvalidArgument,
        ),
        (
            "bytes after the certificate",
            changed(|key| key.certificate.push(0)),
            Code::InvalidArgument,
        ),
        (
            "a certificate that is altered",
            changed(|key| *key.certificate.last_mut().expect("byte") ^= 1),
            Code::PermissionDenied,
        ),
        (
            "a storage key as the attestation key",
            changed(|key| key.attestation_key.clone_from(&key.endorsement_key)),
            Code::InvalidArgument,
        ),
        (
            "an attestation key as the endorsement key",
            changed(|key| key.endorsement_key.clone_from(&key.attestation_key)),
            Code::InvalidArgument,
        ),
        ("nothing", Brought::default(), Code::InvalidArgument),
    ] {
        assert_eq!(
            challenge(&caller, &key).await.expect_err(what).code(),
            code,
            "{what}"
        );
    }

    // A registrar cannot say what only a TPM can show.
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

    // AC-0A: a maker that is trusted no more takes along what rests on it.
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
    begin(&caller, &tpm).await.expect_err("no new task on it");
    until("the record", || async {
        operator.last_refusal().await.contains("no valid path")
    })
    .await;
}

/// The way of a new host: no SVID, no registered key, only a maker that the platform team knows and
/// the TPM that it ordered.
#[tokio::test]
async fn a_new_host_gets_its_first_svid_by_what_the_maker_of_its_tpm_says() {
    let (world, broker, port) = with_own_ca().await;
    let operator = world.operator(&broker);
    let maker = Maker::new();
    let tpm = Tpm::made_by(&maker);
    operator
        .trust("tpm2_ek_root", "swtpm", &maker.certificates())
        .await;
    let mut document = World::registration(
        "/host",
        json!({ "enrollment": wanted(json!({ "ek": [ek(&tpm)] })) }),
    );
    document["spiffe_id"] = json!("spiffe://own.example/host");
    operator.apply(&[document]).await.expect("registered");
    let token = operator
        .registry()
        .create_join_token(CreateJoinTokenRequest {
            spiffe_id: "spiffe://own.example/host".to_owned(),
            ttl_ms: 0,
        })
        .await;
    let root = own_root(&token.expect("token").into_inner().join_token, port).await;
    let bundle = world.folder().join("own-root.pem");
    std::fs::write(&bundle, sundew_tests::pki::pem("CERTIFICATE", &root)).expect("bundle");
    let host = |arguments: &[&str], more: &[&Path]| -> Output {
        let mut command = Command::new(sundew());
        command.args(arguments).args(more).args([
            "--enrollment",
            &format!("127.0.0.1:{port}"),
            "--trust-domain",
            "own.example",
            "--bundle",
        ]);
        command
            .arg(&bundle)
            .env("SUNDEW_TPM2", tpm.settings("4+7").tpm2.expect("TPM"))
            .stdin(Stdio::null())
            .output()
            .expect("run")
    };
    let out = world.folder().join("host");
    let enroll = || {
        host(
            &[
                "svid",
                "enroll",
                "--spiffe-id",
                "spiffe://own.example/host",
                "--evidence",
                "tpm2",
                "--out",
            ],
            &[&out],
        )
    };
    assert!(!enroll().status.success(), "the key is not known yet");
    let activated = host(&["--json", "attest", "activate", "--tpm"], &[&tpm.device()]);
    assert!(activated.status.success(), "{}", text(&activated));
    let said: Value = serde_json::from_slice(&activated.stdout).expect("JSON");
    assert_eq!(
        (said["ek"].as_str(), said["action"].as_str()),
        (Some(ek(&tpm).as_str()), Some("created"))
    );
    let enrolled = enroll();
    assert!(
        enrolled.status.success() && out.join("svid.pem").exists(),
        "{}",
        text(&enrolled)
    );
    let explained = broker.journal().into_iter().any(|record| {
        record.event == "svid_issued" && record.field("grounds").is_some_and(|g| g.contains("tpm2"))
    });
    assert!(explained);

    // What a user may get wrong.
    let wrong = host(
        &["attest", "activate", "--key", "0x81010009", "--tpm"],
        &[&tpm.device()],
    );
    assert!(
        !wrong.status.success() && text(&wrong).contains("no key at handle 0x81010009"),
        "{}",
        text(&wrong)
    );
    let nowhere = host(&["attest", "activate", "--tpm"], &[Path::new("/nowhere")]);
    assert!(
        !nowhere.status.success() && text(&nowhere).contains("/nowhere"),
        "{}",
        text(&nowhere)
    );
}

/// Endorsement keys on P-256 whose certificate is kept elsewhere, by another maker with an
/// intermediate that the host brings.
#[tokio::test]
async fn a_key_on_p256_is_activated_with_a_certificate_from_a_file() {
    let world = World::embedded();
    let broker = world.broker().await;
    let operator = world.operator(&broker);
    let tpm = Tpm::on_p256();
    let authority = |name: &str| {
        let mut params = rcgen::CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        (params, rcgen::KeyPair::generate().expect("key"))
    };
    let ((root_params, root_key), (middle_params, middle_key)) =
        (authority("maker"), authority("line"));
    let root = root_params.self_signed(&root_key).expect("root");
    let root_issuer = rcgen::Issuer::from_params(&root_params, &root_key);
    let middle = middle_params
        .signed_by(&middle_key, &root_issuer)
        .expect("intermediate");
    let mut leaf = rcgen::CertificateParams::default();
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Other(vec![
        2, 23, 133, 8, 1,
    ])];
    let subject = rcgen::SubjectPublicKeyInfo::from_der(&tpm.endorsement_key()).expect("key");
    let issuer = rcgen::Issuer::from_params(&middle_params, &middle_key);
    let good = leaf.signed_by(&subject, &issuer).expect("certificate");
    // The same key, certified for something else.
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let client = leaf.signed_by(&subject, &issuer).expect("certificate");
    operator.trust("tpm2_ek_root", "maker", &root.pem()).await;
    world
        .register(
            &broker,
            "/agent",
            json!({ "evidence": wanted(json!({ "ek": [ek(&tpm)] })) }),
        )
        .await;
    let svid = world.folder().join("agent");
    world
        .ca
        .svid("/agent")
        .write(&svid, std::slice::from_ref(&world.ca.certificate));
    let file = |name: &str, content: String| {
        let path = world.folder().join(name);
        std::fs::write(&path, content).expect("file");
        path
    };
    let (good, client, middle) = (
        file("good.pem", good.pem()),
        file("client.pem", client.pem()),
        file("middle.pem", middle.pem()),
    );
    let activate = |files: &[&Path]| {
        let mut command = Command::new(sundew());
        command
            .args(["attest", "activate", "--tpm"])
            .arg(tpm.device())
            .env("SUNDEW_BROKER", broker.address())
            .env("SUNDEW_SVID_DIR", &svid);
        for (flag, file) in ["--certificate", "--intermediates"].iter().zip(files) {
            command.arg(flag).arg(file);
        }
        command.stdin(Stdio::null()).output().expect("run")
    };
    let without = activate(&[]);
    assert!(
        !without.status.success() && text(&without).contains("--certificate"),
        "{}",
        text(&without)
    );
    for (what, files) in [
        ("no intermediate", vec![good.as_path()]),
        ("another purpose", vec![client.as_path(), middle.as_path()]),
    ] {
        let refused = activate(&files);
        assert!(
            !refused.status.success() && text(&refused).contains("not permitted"),
            "{what}: {}",
            text(&refused)
        );
    }
    let activated = activate(&[&good, &middle]);
    assert!(
        activated.status.success() && text(&activated).contains(&ek(&tpm)),
        "{}",
        text(&activated)
    );
    begin(&world.caller(&broker, "/agent"), &tpm)
        .await
        .expect("a task on it");
}
