//! New hosts that become known by what the maker of their TPM says, from the command line.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use sundew_tests::sundew;
use sundew_tests::tpm::{Maker, Tpm};
use sundew_tests::world::World;

use crate::activation::{begin, ek, wanted};
use crate::cli::text;
use crate::enrollment::{own_root, with_own_ca};

/// Runs `sundew` on a new host that has this TPM and knows the root of the broker's own CA.
fn host(tpm: &Tpm, port: u16, bundle: &Path, arguments: &[&str], more: &[&Path]) -> Output {
    let mut command = Command::new(sundew());
    command.args(arguments).args(more).args([
        "--enrollment",
        &format!("127.0.0.1:{port}"),
        "--trust-domain",
        "own.example",
        "--bundle",
    ]);
    command
        .arg(bundle)
        .env("SUNDEW_TPM2", tpm.settings("4+7").tpm2.expect("TPM"))
        .stdin(Stdio::null())
        .output()
        .expect("run")
}

/// Users are told what they got wrong.
fn wrong_ways_are_named(tpm: &Tpm, host: impl Fn(&[&str], &[&Path]) -> Output) {
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
    let token = operator.join_token("spiffe://own.example/host").await;
    let root = own_root(&token, port).await;
    let bundle = world.folder().join("own-root.pem");
    std::fs::write(&bundle, sundew_tests::pki::pem("CERTIFICATE", &root)).expect("bundle");
    let host = |arguments: &[&str], more: &[&Path]| host(&tpm, port, &bundle, arguments, more);
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

    wrong_ways_are_named(&tpm, host);
}

/// An authority of a maker: its certificate's parameters and key.
fn authority(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    (params, KeyPair::generate().expect("key"))
}

/// Certificates of a maker, in PEM: its root, its intermediate, one for this TPM's endorsement key,
/// and one for the same key that certifies it for something else.
fn certified(tpm: &Tpm) -> [String; 4] {
    let ((root_params, root_key), (middle_params, middle_key)) =
        (authority("maker"), authority("line"));
    let root = root_params.self_signed(&root_key).expect("root");
    let root_issuer = rcgen::Issuer::from_params(&root_params, &root_key);
    let middle = middle_params
        .signed_by(&middle_key, &root_issuer)
        .expect("intermediate");
    let mut leaf = CertificateParams::default();
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Other(vec![
        2, 23, 133, 8, 1,
    ])];
    let subject = rcgen::SubjectPublicKeyInfo::from_der(&tpm.endorsement_key()).expect("key");
    let issuer = rcgen::Issuer::from_params(&middle_params, &middle_key);
    let good = leaf.signed_by(&subject, &issuer).expect("certificate");
    // The same key, certified for something else.
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let client = leaf.signed_by(&subject, &issuer).expect("certificate");
    [root.pem(), middle.pem(), good.pem(), client.pem()]
}

/// Endorsement keys on P-256 whose certificate is kept elsewhere, by another maker with an
/// intermediate that the host brings.
#[tokio::test]
async fn a_key_on_p256_is_activated_with_a_certificate_from_a_file() {
    let world = World::embedded();
    let broker = world.broker().await;
    let operator = world.operator(&broker);
    let tpm = Tpm::on_p256();
    let [root, middle, good, client] = certified(&tpm);
    operator.trust("tpm2_ek_root", "maker", &root).await;
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
        file("good.pem", good),
        file("client.pem", client),
        file("middle.pem", middle),
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
