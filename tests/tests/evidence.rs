//! Evidence under keys of the tests' own, for what no recording shows: AC-05, T27, T28, T30, T32,
//! and composition.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ciborium::Value as Cbor;
use rcgen::{IsCa, KeyPair, KeyUsagePurpose, SigningKey as _};
use serde_json::{Value, json};
use sundew_attestation::kinds::{aws_iid, cosign, nitro, sev_snp};
use sundew_attestation::spiffe::BundleSet;
use sundew_attestation::{
    AppraisalPolicy, Assurance, Binding, Circumstances, CrossCheck, Finding, Presented, Rule,
    TrustItem, TrustKind, TrustMaterial, appraise,
};
use sundew_tests::hardware::{Authority, Chip, Enclave, NOW_MS, Region, Signer, named};
use sundew_tests::pki::pem;

/// T30: what a genuine hypervisor says of an enclave that nobody should trust, and what none says.
#[test]
fn ac_05_t30_nitro_documents_of_debug_enclaves_or_of_another_form_are_refused() {
    let enclave = Enclave::new();
    assert_eq!(
        enclave
            .verify(&enclave.document(enclave.content()))
            .expect("made")
            .values["pcr2"],
        ["03".repeat(48)]
    );
    let registers = |values: &[(i64, Vec<u8>)]| {
        Cbor::Map(
            values
                .iter()
                .map(|(index, value)| (Cbor::from(*index), Cbor::Bytes(value.clone())))
                .collect(),
        )
    };
    let refused: Vec<(&str, &'static str, Option<Cbor>)> = vec![
        (
            "debug: all PCRs are zero",
            "pcrs",
            Some(registers(&[(0, vec![0; 48])])),
        ),
        ("no PCR 0", "pcrs", Some(registers(&[(1, vec![1; 48])]))),
        ("no PCRs", "pcrs", None),
        (
            "a PCR that is cut",
            "pcrs",
            Some(registers(&[(0, vec![1; 32])])),
        ),
        (
            "a PCR twice",
            "pcrs",
            Some(registers(&[(0, vec![1; 48]), (0, vec![2; 48])])),
        ),
        (
            "an index out of range",
            "pcrs",
            Some(registers(&[(0, vec![1; 48]), (32, vec![1; 48])])),
        ),
        ("no nonce", "nonce", None),
        ("a null nonce", "nonce", Some(Cbor::Null)),
        ("the nonce as text", "nonce", Some(Cbor::from("9"))),
        (
            "the nonce and more",
            "nonce",
            Some(Cbor::Bytes(vec![9; 33])),
        ),
        ("another digest", "digest", Some(Cbor::from("SHA256"))),
        ("no time", "timestamp", None),
        ("a time before all time", "timestamp", Some(Cbor::from(-1))),
        (
            "too old",
            "timestamp",
            Some(Cbor::from(NOW_MS - 5 * 60_000)),
        ),
        ("no certificate", "certificate", None),
        ("no bundle", "cabundle", None),
        (
            "the root as the leaf",
            "certificate",
            Some(Cbor::Bytes(enclave.root.certificate())),
        ),
    ];
    for (what, name, value) in refused {
        assert!(
            enclave.verify(&enclave.with(name, value)).is_err(),
            "{what} was taken"
        );
    }
    let mut twice = enclave.content();
    twice.push(("nonce", Cbor::Bytes(vec![9; 32])));
    assert!(
        enclave.verify(&enclave.document(twice)).is_err(),
        "a member twice"
    );
    // T09: a mesh of intermediates costs no more than a chain.
    let mesh: Vec<_> = (0..3)
        .map(|_| {
            Cbor::Bytes(enclave.root.sign(
                &Authority::new("mesh").params,
                &KeyPair::generate().expect("made"),
            ))
        })
        .collect();
    let mesh = [vec![Cbor::Bytes(enclave.root.certificate())], mesh].concat();
    let refused = enclave.verify(&enclave.with("cabundle", Some(Cbor::Array(mesh))));
    assert!(matches!(
        refused,
        Err(nitro::NitroError::Chain(
            sundew_attestation::ChainError::Ambiguous
        ))
    ));
    let long: Vec<_> = (0..10)
        .map(|index| Cbor::Bytes(Authority::new(&format!("link {index}")).certificate()))
        .collect();
    let refused = enclave.verify(&enclave.with("cabundle", Some(Cbor::Array(long))));
    assert!(matches!(
        refused,
        Err(nitro::NitroError::Chain(
            sundew_attestation::ChainError::TooLong
        ))
    ));
    // T28: a chain of the attacker's own in the bundle, and a real one beside another signer.
    let evil = Enclave::new();
    assert!(matches!(
        enclave.verify(&evil.document(evil.content())),
        Err(nitro::NitroError::Chain(_))
    ));
    let mut mixed = evil.content();
    for entry in &mut mixed {
        if entry.0 == "certificate" {
            entry.1 = enclave
                .content()
                .into_iter()
                .find(|(name, _)| *name == "certificate")
                .expect("made")
                .1;
        }
    }
    assert!(matches!(
        enclave.verify(&evil.document(mixed)),
        Err(nitro::NitroError::Signature)
    ));
}

/// T32: what a genuine chip says of a guest that nobody should trust.
#[test]
fn ac_05_t32_snp_reports_of_guests_that_can_be_read_or_of_another_chip_are_refused() {
    let chip = Chip::new();
    let own = chip.certificate(5, [3, 0, 8, 200]);
    let claims = chip.verify(&chip.report(|_| {}), &own).expect("made");
    assert_eq!(
        (claims.values["tcb.microcode"][0].as_str(), claims.assurance),
        ("200", Assurance::Hardware)
    );
    type Change = fn(&mut [u8]);
    let refused: [(&str, Change); 9] = [
        ("debugging allowed", |r| r[0x0A] |= 1 << 3),
        ("a migration agent allowed", |r| r[0x0A] |= 1 << 2),
        ("requested from VMPL 1", |r| r[0x30] = 1),
        ("signed by a VLEK", |r| r[0x48] = 1 << 2),
        ("signed by no key", |r| r[0x48] = 7 << 2),
        ("other report data", |r| r[0x8F] = 8),
        ("another signature algorithm", |r| r[0x34] = 2),
        ("a version before 2", |r| r[0] = 1),
        ("a chip that hides its id", |r| r[0x1A0..0x1E0].fill(0)),
    ];
    for (what, change) in refused {
        assert!(
            chip.verify(&chip.report(change), &own).is_err(),
            "{what}: taken"
        );
    }
    // Another chip's certificate, and this one's at another TCB, each component.
    assert!(matches!(
        chip.verify(&chip.report(|_| {}), &chip.certificate(6, [3, 0, 8, 200])),
        Err(sev_snp::SnpError::Chip("chip id"))
    ));
    for other in [
        [2, 0, 8, 200],
        [3, 1, 8, 200],
        [3, 0, 7, 200],
        [3, 0, 8, 199],
    ] {
        assert!(matches!(
            chip.verify(&chip.report(|_| {}), &chip.certificate(5, other)),
            Err(sev_snp::SnpError::Chip("TCB"))
        ));
    }
    assert!(
        chip.verify(&chip.report(|_| {}), &named_leaf(&chip))
            .is_err(),
        "a certificate without AMD's extensions"
    );
}

fn named_leaf(chip: &Chip) -> Vec<u8> {
    chip.signer.sign(&named("SEV-VCEK"), &chip.key)
}

#[test]
fn ac_05_t27_t28_identity_documents_count_under_the_pinned_certificate_of_their_region_only() {
    let document = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/aws-iid/document.json"
    ))
    .expect("made");
    let (region, evil, short) = (
        Region::new("2048"),
        Region::new("2048"),
        Region::new("1024"),
    );
    let (der, now_ms) = (
        region.der(),
        i64::try_from(
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .expect("made")
                .as_millis(),
        )
        .expect("made"),
    );
    let verify = |signed: &[u8], at| {
        aws_iid::verify(
            signed,
            |name| (name == "eu-west-2").then_some(der.as_slice()),
            at,
        )
    };
    // With signed attributes and without, as AWS has had both.
    for flags in [
        &["-nodetach", "-md", "sha256"][..],
        &["-nodetach", "-md", "sha256", "-noattr"],
    ] {
        let claims = verify(&region.sign(&document, flags), now_ms).expect("made");
        assert_eq!(
            (
                claims.values["instanceId"][0].as_str(),
                claims.values["accountId"][0].as_str()
            ),
            ("i-09fb86d76201dce1c", "123456789012")
        );
        assert!(!claims.fresh && claims.single_use.is_some());
    }
    let good = ["-nodetach", "-md", "sha256"];
    let text = String::from_utf8(document.clone()).expect("made");
    let refused = [
        (
            "another signer, whose certificate is enclosed",
            evil.sign(&document, &good),
        ),
        (
            "a region without a certificate",
            region.sign(
                text.replace("\"eu-west-2\"", "\"us-gov-west-1\"")
                    .as_bytes(),
                &good,
            ),
        ),
        (
            "SHA-1",
            region.sign(&document, &["-nodetach", "-md", "sha1"]),
        ),
        ("detached", region.sign(&document, &["-md", "sha256"])),
        (
            "no instance",
            region.sign(text.replace("instanceId", "other").as_bytes(), &good),
        ),
        (
            "a member twice",
            region.sign(text.replace("\"version\"", "\"region\"").as_bytes(), &good),
        ),
        ("two signers", {
            let twice = region.sign(&document, &good);
            std::fs::write(region.folder.path().join("once"), &twice).expect("made");
            region.openssl(&[
                "cms",
                "-resign",
                "-nocerts",
                "-inform",
                "DER",
                "-in",
                "once",
                "-signer",
                "region.pem",
                "-inkey",
                "key.pem",
                "-outform",
                "DER",
                "-out",
                "twice",
            ]);
            std::fs::read(region.folder.path().join("twice")).expect("made")
        }),
        ("the plain document", document.clone()),
    ];
    for (what, signed) in refused {
        assert!(verify(&signed, now_ms).is_err(), "{what}: taken");
    }
    // T27: the enclosed document changed under the signature.
    for flags in [&good[..], &["-nodetach", "-md", "sha256", "-noattr"]] {
        let mut signed = region.sign(&document, flags);
        let at = signed
            .windows(12)
            .position(|window| window == b"123456789012")
            .expect("made");
        signed[at] = b'9';
        assert!(matches!(
            verify(&signed, now_ms),
            Err(aws_iid::IidError::Signature)
        ));
    }
    // Outside the certificate's validity.
    assert!(verify(&region.sign(&document, &good), now_ms - 86_400_000).is_err());
    assert!(verify(&region.sign(&document, &good), now_ms + 3651 * 86_400_000).is_err());
    // T34: no bit may change what it says.
    let signed = region.sign(&document, &good);
    let genuine = verify(&signed, now_ms).expect("made");
    for at in 0..signed.len() {
        let mut variant = signed.clone();
        variant[at] ^= 1 << (at % 8);
        if let Ok(claims) = verify(&variant, now_ms) {
            assert_eq!(
                (&claims.values, &claims.single_use),
                (&genuine.values, &genuine.single_use),
                "byte {at}"
            );
        }
        assert!(verify(&signed[..at], now_ms).is_err(), "cut at {at}");
    }
    // A short key is not taken as a region's.
    assert!(TrustItem::parse(TrustKind::AwsIid, "eu-west-2", &short.pem()).is_err());
    assert!(TrustItem::parse(TrustKind::AwsIid, "eu-west-2", &region.pem()).is_ok());
}

/// What a test appraises: a cosign signature, compared with what a Nitro enclave says that it runs.
struct Case {
    enclave: Enclave,
    signer: Signer,
}

impl Case {
    fn appraise(
        &self,
        rules: Value,
        checks: &[CrossCheck],
        presented: &[(&str, Vec<u8>)],
        trust: &TrustMaterial,
    ) -> (Result<Assurance, String>, Vec<Finding>) {
        let rules: Vec<Rule> = serde_json::from_value(rules).expect("made");
        let policy = AppraisalPolicy {
            rules: &rules,
            cross_checks: checks,
        };
        let presented: Vec<_> = presented
            .iter()
            .map(|(kind, payload)| Presented { kind, payload })
            .collect();
        let binding = Binding::from_bytes([9; 32]);
        let circumstances = Circumstances {
            public_key: &[],
            binding: &binding,
            trust,
            bundles: &BundleSet::default(),
            now_ms: NOW_MS,
        };
        let mut findings = Vec::new();
        let appraised =
            appraise(policy, &presented, circumstances, &mut findings).map_err(|e| e.to_string());
        let attested = appraised.and_then(|appraised| {
            appraised
                .confirm(
                    &Default::default(),
                    &Default::default(),
                    &Default::default(),
                )
                .map_err(|e| e.to_string())
        });
        (attested.map(|attested| attested.assurance()), findings)
    }

    fn trust(&self, more: &[(TrustKind, &str)]) -> TrustMaterial {
        let root = pem("CERTIFICATE", &self.enclave.root.certificate());
        let mut items =
            vec![TrustItem::parse(TrustKind::Nitro, "aws", root.as_bytes()).expect("made")];
        items.extend(
            more.iter()
                .map(|(kind, name)| TrustItem::parse(*kind, name, b"").expect("made")),
        );
        let mut trust = TrustMaterial::default();
        trust.replace_items(items.into_iter().map(Arc::new));
        trust
    }
}

#[test]
fn ac_05_cosign_counts_under_a_registered_key_and_for_what_was_signed_only() {
    let (signer, evil) = (Signer::new(), Signer::new());
    let keys = [
        sundew_attestation::dsse::VerifyingKey::from_pem(&signer.0.public_key_pem()).expect("made"),
    ];
    let verify = |evidence: &Value| cosign::verify(evidence.to_string().as_bytes(), &keys);
    let digest = "ab".repeat(32);
    assert_eq!(
        verify(&signer.image(&digest)).expect("made").values["digest"],
        [digest.as_str()]
    );
    let two = [digest.as_str(), &"cd".repeat(32)];
    assert_eq!(
        verify(&signer.statement(&two)).expect("made").values["digest"],
        two
    );
    let bundled = |statement: &Value| sundew_tests::hardware::bundle(statement);
    assert_eq!(
        verify(&bundled(&signer.statement(&two)))
            .expect("made")
            .values["digest"],
        two
    );
    let mut other_form = bundled(&signer.statement(&two));
    other_form["mediaType"] = json!("application/json");
    let mut of_bytes = bundled(&signer.statement(&two));
    of_bytes["messageSignature"] = of_bytes["dsseEnvelope"].take();
    let mut swapped = signer.image(&digest);
    swapped["payload"] = signer.image(&"cd".repeat(32))["payload"].clone();
    let mut other_type = signer.statement(&two);
    other_type["envelope"]["payloadType"] = json!("text/plain");
    let mut both = signer.image(&digest);
    both["envelope"] = signer.statement(&two)["envelope"].clone();
    for (what, evidence) in [
        ("another key", evil.image(&digest)),
        ("another key's statement", evil.statement(&two)),
        ("another key's bundle", bundled(&evil.statement(&two))),
        ("a bundle of another form", other_form),
        ("a bundle without an envelope", of_bytes),
        ("payload swapped under the signature", swapped),
        ("payload type swapped", other_type),
        ("both forms at once", both),
        ("a digest that is none", signer.image("AB")),
        ("a statement about nothing", signer.statement(&[])),
        ("nothing", json!({})),
    ] {
        assert!(verify(&evidence).is_err(), "{what}: taken");
    }
}

#[test]
fn a_signed_digest_counts_only_if_it_is_the_one_that_another_kind_saw_running() {
    let case = Case {
        enclave: Enclave::new(),
        signer: Signer::new(),
    };
    let chip = Chip::new();
    let amd = format!(
        "{}{}",
        pem("CERTIFICATE", &chip.root.certificate()),
        pem("CERTIFICATE", &chip.roots().intermediates[0])
    );
    let mut trust = TrustMaterial::default();
    trust.replace_items([Arc::new(
        TrustItem::parse(TrustKind::SevSnp, "milan", amd.as_bytes()).expect("made"),
    )]);
    let checks = [CrossCheck {
        claim: "sev_snp.host_data".to_owned(),
        among: "cosign.digest".to_owned(),
    }];
    let rules = json!([
        { "kind": "sev_snp", "claims": { "measurement": ["ab".repeat(48)], "tcb.snp": { "at_least": "8" } } },
        { "kind": "cosign", "keys": [case.signer.0.public_key_pem()] },
    ]);
    let running = |digest: u8| {
        let report = chip.report(|report| {
            report[0x50..0x90].copy_from_slice(&Binding::from_bytes([9; 32]).wide());
            report[0xC0..0xE0].fill(digest);
        });
        json!({ "report": STANDARD.encode(report), "certificate": STANDARD.encode(chip.certificate(5, [3, 0, 8, 200])) }).to_string().into_bytes()
    };
    let signed = case
        .signer
        .statement(&[&"cd".repeat(32), &"ab".repeat(32)])
        .to_string()
        .into_bytes();
    let presented = |digest: u8| [("sev_snp", running(digest)), ("cosign", signed.clone())];
    assert_eq!(
        case.appraise(rules.clone(), &checks, &presented(0xab), &trust)
            .0,
        Ok(Assurance::Vouched),
        "the weakest link"
    );
    let (refused, findings) = case.appraise(rules.clone(), &checks, &presented(0xee), &trust);
    assert_eq!(
        refused,
        Err("`sev_snp.host_data` is not among `cosign.digest`".to_owned())
    );
    // Each piece is good by itself, and an operator sees that.
    assert!(
        findings
            .iter()
            .all(|finding| finding.problem.is_none() && finding.claims.is_some())
    );
    // A check of a claim that the evidence does not have never holds.
    let absent = [CrossCheck {
        claim: "sev_snp.nothing".to_owned(),
        among: "cosign.digest".to_owned(),
    }];
    assert!(
        case.appraise(rules.clone(), &absent, &presented(0xab), &trust)
            .0
            .is_err()
    );
    // A registration without a check, or with one that compares the signature with itself, is
    // refused.
    let parsed: Vec<Rule> = serde_json::from_value(rules).expect("made");
    let problems = |checks: &[CrossCheck]| {
        AppraisalPolicy {
            rules: &parsed,
            cross_checks: checks,
        }
        .problems(&trust)
    };
    assert!(problems(&checks).is_empty());
    let itself = [CrossCheck {
        claim: "cosign.digest".to_owned(),
        among: "cosign.digest".to_owned(),
    }];
    for checks in [&[][..], &itself] {
        assert!(
            problems(checks)
                .iter()
                .any(|problem| problem.contains("cross_checks"))
        );
    }
}

#[test]
fn evidence_composes_and_what_no_rule_mentions_never_grants() {
    let case = Case {
        enclave: Enclave::new(),
        signer: Signer::new(),
    };
    let pcr = |byte: u8| json!([format!("{byte:02x}").repeat(48)]);
    let nitro = case.enclave.document(case.enclave.content());
    let cosign = case.signer.image(&"ab".repeat(32)).to_string().into_bytes();
    let trust = case.trust(&[(TrustKind::Reference, &format!("images/{}", "01".repeat(48)))]);
    let wants_nitro = |claims: Value| json!({ "kind": "nitro", "claims": claims });
    let wants_cosign = json!({ "kind": "cosign", "keys": [case.signer.0.public_key_pem()] });
    let verdict = |rules: Value, presented: &[(&str, Vec<u8>)]| {
        case.appraise(rules, &[], presented, &trust).0
    };
    let only_nitro = [("nitro", nitro.clone())];
    let both = [("cosign", cosign.clone()), ("nitro", nitro.clone())];

    assert!(
        verdict(
            json!([wants_nitro(json!({ "pcr0": pcr(1), "pcr1": pcr(2) }))]),
            &only_nitro
        )
        .is_ok()
    );
    assert!(verdict(json!([{ "any_of": [wants_nitro(json!({ "pcr0": pcr(7) })), wants_nitro(json!({ "pcr0": pcr(1) }))] }]), &only_nitro).is_ok());
    assert!(verdict(json!([{ "any_of": [wants_cosign, { "all_of": [wants_nitro(json!({ "pcr0": pcr(1) })), wants_cosign] }] }]), &both).is_ok());
    assert!(
        verdict(
            json!([wants_nitro(json!({ "pcr0": { "reference": "images" } }))]),
            &only_nitro
        )
        .is_ok()
    );
    for (what, rules, presented) in [
        ("no rule at all", json!([]), &only_nitro[..]),
        (
            "an alternative without rules",
            json!([{ "any_of": [] }]),
            &only_nitro,
        ),
        (
            "a value that is not registered",
            json!([wants_nitro(json!({ "pcr0": pcr(7) }))]),
            &only_nitro,
        ),
        (
            "a claim that the evidence does not have",
            json!([wants_nitro(json!({ "pcr0": pcr(1), "pcr9": pcr(1) }))]),
            &only_nitro,
        ),
        (
            "one piece of two",
            json!([wants_nitro(json!({ "pcr0": pcr(1) })), wants_cosign]),
            &only_nitro,
        ),
        (
            "a piece more than wanted",
            json!([wants_nitro(json!({ "pcr0": pcr(1) }))]),
            &both,
        ),
        (
            "a piece more than the alternative wants",
            json!([{ "any_of": [wants_nitro(json!({ "pcr0": pcr(1) })), wants_cosign] }]),
            &both,
        ),
        (
            "the same piece twice",
            json!([wants_nitro(json!({ "pcr0": pcr(1) }))]),
            &[only_nitro[0].clone(), only_nitro[0].clone()],
        ),
        (
            "a value that is not approved",
            json!([wants_nitro(json!({ "pcr1": { "reference": "images" } }))]),
            &only_nitro,
        ),
        (
            "a value that another set approves",
            json!([wants_nitro(json!({ "pcr0": { "reference": "others" } }))]),
            &only_nitro,
        ),
    ] {
        assert!(verdict(rules, presented).is_err(), "{what}: taken");
    }
}

#[test]
fn versions_are_compared_as_numbers() {
    use sundew_attestation::{AtLeast, Constraint};
    let takes = |least: &str, value: &str| {
        Constraint::AtLeast(AtLeast {
            at_least: least.to_owned(),
        })
        .takes(&[value.to_owned()], &TrustMaterial::default())
    };
    for (least, value) in [
        ("3", "3"),
        ("3", "10"),
        ("1.2.3", "1.10"),
        ("1.0", "1"),
        ("1", "1.0"),
        ("0", "0"),
    ] {
        assert!(takes(least, value), "{value} is at least {least}");
    }
    for (least, value) in [
        ("3", "2"),
        ("10", "9"),
        ("1.10", "1.9.9"),
        ("1", ""),
        ("1", "2-rc1"),
        ("1", "+2"),
        ("1", "2."),
        ("1", " 2"),
        ("1", "٣"),
        ("1", "99999999999999999999"),
    ] {
        assert!(!takes(least, value), "{value} is not at least {least}");
    }
}

#[test]
fn registrations_that_could_take_anything_are_refused() {
    let case = Case {
        enclave: Enclave::new(),
        signer: Signer::new(),
    };
    let trust = case.trust(&[]);
    let problems = |rules: Value| {
        let rules: Vec<Rule> = serde_json::from_value(rules).expect("made");
        AppraisalPolicy {
            rules: &rules,
            cross_checks: &[],
        }
        .problems(&trust)
    };
    let pcr = json!(["01".repeat(48)]);
    assert!(problems(json!([{ "kind": "nitro", "claims": { "pcr0": pcr } }])).is_empty());
    for (what, rules, said) in [
        ("nothing", json!([]), "at least one kind"),
        (
            "T30: no expected PCR",
            json!([{ "kind": "nitro", "claims": { "module_id": ["x"] } }]),
            "must pin `pcr0`",
        ),
        (
            "a constraint that takes nothing",
            json!([{ "kind": "nitro", "claims": { "pcr0": [] } }]),
            "takes no value",
        ),
        (
            "a set without a name",
            json!([{ "kind": "nitro", "claims": { "pcr0": { "reference": "" } } }]),
            "must name a set",
        ),
        (
            "the same kind twice",
            json!([{ "kind": "nitro", "claims": { "pcr0": pcr } }, { "kind": "nitro", "claims": { "pcr0": pcr } }]),
            "once in a set",
        ),
        (
            "nothing trusted",
            json!([{ "kind": "tdx", "claims": { "mrtd": ["00"] } }]),
            "nothing is trusted",
        ),
        (
            "too deep",
            json!([{ "any_of": [{ "all_of": [{ "any_of": [{ "all_of": [{ "kind": "nitro", "claims": { "pcr0": pcr } }] }] }] }] }]),
            "combinations",
        ),
    ] {
        let problems = problems(rules);
        assert!(
            problems.iter().any(|problem| problem.contains(said)),
            "{what}: {problems:?}"
        );
    }
}

/// A trust domain with nodes.
struct Domain {
    authority: Authority,
}

impl Domain {
    fn svid(&self, id: &str, key: &KeyPair) -> Vec<u8> {
        let mut params = named("node");
        params.subject_alt_names =
            vec![rcgen::SanType::URI(id.to_owned().try_into().expect("made"))];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        self.authority.sign(&params, key)
    }

    fn bundles(&self) -> BundleSet {
        use sundew_attestation::spiffe::{TrustBundle, TrustDomain};
        let mut bundles = BundleSet::default();
        bundles.insert(
            TrustBundle::from_der(
                TrustDomain::parse("example.org").expect("made"),
                [self.authority.certificate().as_slice()],
            )
            .expect("made"),
        );
        bundles
    }
}

#[test]
fn ac_05_a_nodes_statement_counts_if_a_registered_node_signed_it_for_this_challenge() {
    use sundew_attestation::kinds::process::{ProcessError, Statement, signed_bytes, verify};
    use sundew_attestation::spiffe::SpiffeId;
    let domain = Domain {
        authority: Authority::new("example.org"),
    };
    let (key, other) = (
        KeyPair::generate().expect("made"),
        KeyPair::generate().expect("made"),
    );
    let now_ms = i64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("made")
            .as_millis(),
    )
    .expect("made");
    let nodes = [SpiffeId::parse("spiffe://example.org/node").expect("made")];
    let statement = Statement {
        binding: "09".repeat(32),
        task: "task-x".to_owned(),
        exe: "/bin/a".to_owned(),
        exe_sha256: "ab".repeat(32),
        ..Statement::default()
    };
    let statement = serde_json::to_string(&statement).expect("made");
    let evidence = |text: &str, id: &str, signer: &KeyPair, holder: &KeyPair, domain: &Domain| {
        let signature = STANDARD.encode(signer.sign(&signed_bytes(text)).expect("made"));
        json!({ "statement": text, "signature": signature, "chain": [STANDARD.encode(domain.svid(id, holder))] })
    };
    let node = "spiffe://example.org/node";
    let check = |evidence: &Value, binding: &[u8], at| {
        verify(
            evidence.to_string().as_bytes(),
            &nodes,
            &domain.bundles(),
            binding,
            at,
        )
    };
    let good = evidence(&statement, node, &key, &key, &domain);
    let claims = check(&good, &[9; 32], now_ms).expect("made");
    assert_eq!(
        (
            claims.values["node"][0].as_str(),
            claims.values["exe"][0].as_str(),
            claims.assurance
        ),
        (node, "/bin/a", Assurance::Vouched)
    );
    assert!(claims.fresh && claims.not_after_ms.is_some());
    // Its word counts only while the broker finds the node's task alive.
    assert_eq!(
        claims.voucher.map(|voucher| voucher.task),
        Some("task-x".to_owned())
    );

    let evil = Domain {
        authority: Authority::new("example.org"),
    };
    let mut changed = good.clone();
    changed["statement"] = json!(statement.replace("/bin/a", "/bin/b"));
    let mut more = good.clone();
    more["note"] = json!("x");
    let twice = statement.replacen('{', "{\"exe\":\"/bin/b\",", 1);
    for (what, evidence, binding) in [
        ("bound to another challenge", good.clone(), [8; 32]),
        (
            "a node that is not registered",
            evidence(
                &statement,
                "spiffe://example.org/node2",
                &key,
                &key,
                &domain,
            ),
            [9; 32],
        ),
        (
            "a workload below the node",
            evidence(
                &statement,
                "spiffe://example.org/node/x",
                &key,
                &key,
                &domain,
            ),
            [9; 32],
        ),
        (
            "signed by another key than the SVID's",
            evidence(&statement, node, &other, &key, &domain),
            [9; 32],
        ),
        (
            "another root of the same name",
            evidence(&statement, node, &key, &key, &evil),
            [9; 32],
        ),
        ("changed under the signature", changed, [9; 32]),
        ("a member that nobody knows", more, [9; 32]),
        (
            "a member twice",
            evidence(&twice, node, &key, &key, &domain),
            [9; 32],
        ),
        (
            "no SVID",
            json!({ "statement": statement, "signature": "", "chain": [] }),
            [9; 32],
        ),
    ] {
        assert!(check(&evidence, &binding, now_ms).is_err(), "{what}: taken");
    }
    assert!(matches!(
        check(&good, &[9; 31], now_ms),
        Err(ProcessError::Binding)
    ));
    assert!(
        matches!(
            check(&good, &[9; 32], now_ms + 3_000_000 * 86_400_000),
            Err(ProcessError::Svid(_))
        ),
        "expired"
    );
}
