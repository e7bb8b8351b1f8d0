//! AC-05 from outside, for kinds whose hardware is not here: evidence under roots of the tests'
//! own, made for the broker's own challenge.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ciborium::Value as Cbor;
use serde_json::{Value, json};
use sundew_attestation::Binding;
use sundew_proto::v1::AddTrustRequest;
use sundew_rebuilt::nitro::Enclave;
use sundew_rebuilt::sev_snp::{Chip, INTERMEDIATE, Product, Tcb};
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::hardware::{Region, Signer};
use sundew_tests::pki::pem;
use sundew_tests::world::World;
use sundew_tests::{now_ms, until};
use tonic::{Code, Status};

type Shown = Vec<(&'static str, Vec<u8>)>;

/// AC-05, one case each: a good one, then missing, another kind, the nonce again, bound to another
/// nonce, bound to another caller's key, and what `bent` makes of it. Each refusal says nothing and
/// is one record, and an operator sees the reason. Records follow answers: nothing that is
/// refused may come before without being waited for.
async fn ac_05(
    world: &World,
    broker: &Broker,
    make: impl Fn(&Binding) -> Shown,
    bent: Vec<(&str, Shown, &str)>,
) {
    let (caller, other) = (
        world.caller(broker, "/agent"),
        world.caller(broker, "/other"),
    );
    let nonce = caller.nonce().await.expect("nonce");
    let good = make(&caller.bound(&nonce));
    caller
        .begin_on(nonce.clone(), good.clone())
        .await
        .expect("a good one");
    let refused = async |what: &str, nonce: Vec<u8>, shown: Shown, reason: &str| {
        let before = broker.refusals("BeginTask").len();
        let status = caller.begin_on(nonce, shown).await.expect_err(what);
        assert_eq!(
            (status.code(), status.message()),
            (Code::PermissionDenied, "not permitted"),
            "{what}"
        );
        until("exactly one record", || async {
            broker.refusals("BeginTask").len() == before + 1
        })
        .await;
        let said = world.operator(broker).last_refusal().await;
        assert!(said.contains(reason), "{what}: {said}");
    };
    let fresh = async || caller.nonce().await.expect("nonce");
    refused("the nonce again", nonce, good.clone(), "").await;
    refused("evidence of another challenge", fresh().await, good, "").await;
    refused("missing", fresh().await, Vec::new(), "missing").await;
    refused(
        "another kind",
        fresh().await,
        vec![("oidc", world.issuer.token("/agent"))],
        "does not ask for",
    )
    .await;
    let nonce = fresh().await;
    let foreign = make(&other.bound(&nonce));
    refused("bound to another key", nonce, foreign, "").await;
    for (what, shown, reason) in bent {
        refused(what, fresh().await, shown, reason).await;
    }
}

#[tokio::test]
async fn ac_05_nitro_documents_from_outside() {
    let world = World::embedded();
    let broker = world.broker().await;
    let now_s = now_ms() / 1000;
    let (enclave, evil) = (Enclave::at(now_s), Enclave::at(now_s));
    world
        .operator(&broker)
        .trust("nitro", "aws", &pem("CERTIFICATE", &enclave.root()))
        .await;
    let claims = |pcr0: &str| json!({ "evidence": [{ "kind": "nitro", "claims": { "pcr0": [pcr0.repeat(48)] } }], "require_fresh_evidence": true });
    world.register(&broker, "/agent", claims("01")).await;
    world.register(&broker, "/other", claims("07")).await;
    let document = |enclave: &Enclave, nonce: &[u8], age_ms: i64| {
        let mut content = enclave.content();
        for (name, value) in &mut content {
            match *name {
                "nonce" => *value = Cbor::Bytes(nonce.to_vec()),
                "timestamp" => *value = Cbor::from(now_ms() - age_ms),
                _ => {}
            }
        }
        vec![("nitro", enclave.document(content))]
    };
    let bent = vec![
        ("unbound", document(&enclave, &[0; 32], 0), "not bound"),
        (
            "too old",
            document(&enclave, &[0; 32], 600_000),
            "not of now",
        ),
    ];
    ac_05(
        &world,
        &broker,
        |binding| document(&enclave, binding.as_bytes(), 0),
        bent,
    )
    .await;
    // A measurement that is not registered.
    let other = world.caller(&broker, "/other");
    let nonce = other.nonce().await.expect("nonce");
    let shown = document(&enclave, other.bound(&nonce).as_bytes(), 0);
    assert_eq!(
        other
            .begin_on(nonce, shown)
            .await
            .expect_err("not registered")
            .code(),
        Code::PermissionDenied
    );
    let caller = world.caller(&broker, "/agent");
    let nonce = caller.nonce().await.expect("nonce");
    let shown = document(&evil, caller.bound(&nonce).as_bytes(), 0);
    assert_eq!(
        caller
            .begin_on(nonce, shown)
            .await
            .expect_err("another root")
            .code(),
        Code::PermissionDenied
    );
}

/// A report of this chip, with a certificate of the chip at the same TCB.
fn report(chip: &Chip, data: &[u8; 64], digest: u8, tcb: u8) -> Vec<u8> {
    let report = chip.report(3, |report| {
        report[0x50..0x90].copy_from_slice(data);
        report[0xC0..0xE0].fill(digest);
        report[0x187] = tcb;
    });
    let microcode = tcb;
    let certificate = chip.vcek_for(
        &chip.id,
        Tcb {
            microcode,
            ..Tcb::OWN
        },
    );
    json!({ "report": STANDARD.encode(report), "certificate": STANDARD.encode(certificate) })
        .to_string()
        .into_bytes()
}

/// AMD takes the intermediate of a chip back, after which no report of the chip is good.
async fn an_intermediate_is_taken_back(
    world: &World,
    broker: &Broker,
    chip: &Chip,
    genuine: impl AsyncFn() -> Result<(), Status>,
) {
    genuine().await.expect("a good one");
    let bad = AddTrustRequest {
        kind: "crl".to_owned(),
        name: "amd".to_owned(),
        content: b"no list".to_vec(),
    };
    assert_eq!(
        world
            .operator(broker)
            .registry()
            .add_trust(bad)
            .await
            .expect_err("no list")
            .code(),
        Code::InvalidArgument
    );
    world
        .operator(broker)
        .trust("crl", "amd", &pem("X509 CRL", &chip.revocation_list(&[])))
        .await;
    genuine().await.expect("nothing was taken back");
    world
        .operator(broker)
        .trust(
            "crl",
            "amd",
            &pem("X509 CRL", &chip.revocation_list(&[INTERMEDIATE.to_vec()])),
        )
        .await;
    assert_eq!(
        genuine().await.expect_err("taken back").code(),
        Code::PermissionDenied
    );
    until("the record", async || {
        world
            .operator(broker)
            .last_refusal()
            .await
            .contains("CertRevoked")
    })
    .await;
}

#[tokio::test]
async fn ac_05_snp_reports_and_signed_digests_from_outside() {
    let world = World::embedded();
    let broker = world.broker().await;
    let now_s = now_ms() / 1000;
    let chip = Chip::at(Product::Milan, now_s);
    let (evil, signer) = (Chip::at(Product::Genoa, now_s), Signer::new());
    let amd = format!(
        "{}{}",
        pem("CERTIFICATE", &chip.ark()),
        pem("CERTIFICATE", &chip.intermediate(false))
    );
    world
        .operator(&broker)
        .trust("sev_snp", "milan", &amd)
        .await;
    let registration = json!({
        "evidence": [
            { "kind": "sev_snp", "claims": { "measurement": ["ab".repeat(48)], "tcb.microcode": { "at_least": "200" } } },
            { "kind": "cosign", "keys": [signer.0.public_key_pem()] },
        ],
        "cross_checks": [{ "claim": "sev_snp.host_data", "among": "cosign.digest" }],
        "require_fresh_evidence": true,
    });
    for path in ["/agent", "/other"] {
        world.register(&broker, path, registration.clone()).await;
    }

    let signed: Vec<u8> = signer.image(&"cd".repeat(32)).to_string().into_bytes();
    let shown = |report: Vec<u8>| vec![("sev_snp", report), ("cosign", signed.clone())];
    let bent = vec![
        (
            "unbound",
            shown(report(&chip, &[0; 64], 0xcd, 200)),
            "not bound",
        ),
        ("one of two", vec![("cosign", signed.clone())], "missing"),
    ];
    ac_05(
        &world,
        &broker,
        |binding| shown(report(&chip, &binding.wide(), 0xcd, 200)),
        bent,
    )
    .await;
    let caller = world.caller(&broker, "/agent");
    for (what, chip, digest, tcb) in [
        ("another root", &evil, 0xcd, 200),
        ("a digest that nobody signed", &chip, 0xee, 200),
        ("a lower TCB", &chip, 0xcd, 199),
    ] {
        let nonce = caller.nonce().await.expect("nonce");
        let shown = shown(report(chip, &caller.bound(&nonce).wide(), digest, tcb));
        assert_eq!(
            caller.begin_on(nonce, shown).await.expect_err(what).code(),
            Code::PermissionDenied,
            "{what}"
        );
    }

    let genuine = async || {
        let nonce = caller.nonce().await.expect("nonce");
        let shown = shown(report(&chip, &caller.bound(&nonce).wide(), 0xcd, 200));
        caller.begin_on(nonce, shown).await.map(drop)
    };
    an_intermediate_is_taken_back(&world, &broker, &chip, genuine).await;
}

/// Registers two accounts, and sees that their evidence cannot be wanted fresh.
async fn register_accounts(world: &World, broker: &Broker) {
    let wanted =
        |account: &str| json!([{ "kind": "aws_iid", "claims": { "accountId": [account] } }]);
    world
        .register(
            broker,
            "/agent",
            json!({ "evidence": wanted("123456789012") }),
        )
        .await;
    world
        .register(
            broker,
            "/other",
            json!({ "evidence": wanted("999999999999") }),
        )
        .await;
    world
        .register(
            broker,
            "/beside",
            json!({ "evidence": wanted("123456789012") }),
        )
        .await;
    let by_document = World::registration(
        "/first",
        json!({ "evidence": wanted("123456789012"), "enrollment": wanted("123456789012") }),
    );
    let refused = world.operator(broker).apply(&[by_document]).await;
    assert!(
        refused
            .expect_err("whoever has seen the document")
            .message()
            .contains("identifies the claimant")
    );
    let needs_fresh = World::registration(
        "/fresh",
        json!({ "evidence": wanted("123456789012"), "require_fresh_evidence": true }),
    );
    assert!(
        world
            .operator(broker)
            .apply(&[needs_fresh])
            .await
            .expect_err("never fresh")
            .message()
            .contains("none of the required kinds")
    );
}

/// An identity document is good once per instance and window, and says that it is not fresh.
#[tokio::test]
async fn ac_05_identity_documents_from_outside_are_good_once_in_their_window() {
    let world = World::embedded();
    let broker = world.broker().await;
    let region = Region::new("2048");
    world
        .operator(&broker)
        .trust(
            "aws_iid",
            "eu-west-2",
            &String::from_utf8(region.pem()).expect("PEM"),
        )
        .await;
    register_accounts(&world, &broker).await;
    let document = |instance: &str| {
        let document: Value = json!({ "accountId": "123456789012", "region": "eu-west-2", "instanceId": instance, "imageId": "ami-1", "version": "2017-09-30" });
        vec![(
            "aws_iid",
            region.sign(
                document.to_string().as_bytes(),
                &["-nodetach", "-md", "sha256"],
            ),
        )]
    };
    let (caller, other) = (
        world.caller(&broker, "/agent"),
        world.caller(&broker, "/other"),
    );
    let attempt = async |caller: &Caller, shown: Shown| {
        caller
            .begin_on(caller.nonce().await.expect("nonce"), shown)
            .await
            .map(drop)
    };
    assert!(
        attempt(&other, document("i-1")).await.is_err(),
        "another account"
    );
    attempt(&caller, document("i-1")).await.expect("a good one");
    assert!(
        attempt(&caller, document("i-1")).await.is_err(),
        "the instance again, with another signature"
    );
    attempt(&caller, document("i-2"))
        .await
        .expect("another instance");
    // E8: another workload of the instance has read the same document.
    let beside = world.caller(&broker, "/beside");
    attempt(&beside, document("i-1")).await.expect("for itself");
    assert!(attempt(&beside, document("i-1")).await.is_err(), "once");
    let begun = broker
        .journal()
        .into_iter()
        .find(|record| record.event == "task_begun")
        .expect("record");
    assert_eq!(
        (begun.field("assurance"), begun.field("fresh.aws_iid")),
        (Some("vouched"), Some("false"))
    );
}
