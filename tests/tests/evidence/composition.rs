//! How pieces of evidence count together, and what a registration must not say.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sundew_attestation::kinds::cosign;
use sundew_attestation::spiffe::BundleSet;
use sundew_attestation::{
    AppraisalPolicy, Assurance, Binding, Circumstances, CrossCheck, Finding, Presented, Rule,
    TrustItem, TrustKind, TrustMaterial, appraise,
};
use sundew_rebuilt::NOW_MS;
use sundew_rebuilt::nitro::Enclave;
use sundew_rebuilt::sev_snp::{Chip, Product};
use sundew_tests::hardware::Signer;
use sundew_tests::pki::pem;

/// A cosign signature, and the Nitro enclave whose evidence is appraised beside it.
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
        let root = pem("CERTIFICATE", &self.enclave.root());
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

/// A registration without a check, or with one that compares the signature with itself, is refused.
fn a_check_must_compare_two_kinds(rules: Value, checks: &[CrossCheck], trust: &TrustMaterial) {
    let parsed: Vec<Rule> = serde_json::from_value(rules).expect("made");
    let problems = |checks: &[CrossCheck]| {
        AppraisalPolicy {
            rules: &parsed,
            cross_checks: checks,
        }
        .problems(trust)
    };
    assert!(problems(checks).is_empty());
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

/// Returns evidence of a chip that runs this image.
fn running(chip: &Chip, digest: u8) -> Vec<u8> {
    let report = chip.report(3, |report| {
        report[0x50..0x90].copy_from_slice(&Binding::from_bytes([9; 32]).wide());
        report[0xC0..0xE0].fill(digest);
    });
    json!({ "report": STANDARD.encode(report), "certificate": STANDARD.encode(chip.own_vcek()) })
        .to_string()
        .into_bytes()
}

/// Trust in the maker of a chip.
fn trusting(chip: &Chip) -> TrustMaterial {
    let amd = format!(
        "{}{}",
        pem("CERTIFICATE", &chip.ark()),
        pem("CERTIFICATE", &chip.intermediate(false))
    );
    let mut trust = TrustMaterial::default();
    trust.replace_items([Arc::new(
        TrustItem::parse(TrustKind::SevSnp, "milan", amd.as_bytes()).expect("made"),
    )]);
    trust
}

#[test]
fn a_signed_digest_counts_only_if_it_is_the_one_that_another_kind_saw_running() {
    let case = Case {
        enclave: Enclave::new(),
        signer: Signer::new(),
    };
    let chip = Chip::new(Product::Milan);
    let trust = trusting(&chip);
    let checks = [CrossCheck {
        claim: "sev_snp.host_data".to_owned(),
        among: "cosign.digest".to_owned(),
    }];
    let rules = json!([
        { "kind": "sev_snp", "claims": { "measurement": ["ab".repeat(48)], "tcb.snp": { "at_least": "8" } } },
        {
            "kind": "cosign", "keys": [case.signer.0.public_key_pem()],
            "claims": { "predicate_type": ["https://slsa.dev/provenance/v1"] },
        },
    ]);

    let signed = case
        .signer
        .statement(&[&"cd".repeat(32), &"ab".repeat(32)])
        .to_string()
        .into_bytes();
    let presented = |digest: u8| {
        [
            ("sev_snp", running(&chip, digest)),
            ("cosign", signed.clone()),
        ]
    };
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
    a_check_must_compare_two_kinds(rules, &checks, &trust);
}

/// Rules and pieces of evidence that must not grant anything together.
type Row<'a> = (&'static str, Value, &'a [(&'a str, Vec<u8>)]);

fn wants_nitro(claims: Value) -> Value {
    json!({ "kind": "nitro", "claims": claims })
}

/// A register that holds nothing but this byte.
fn pcr(byte: u8) -> Value {
    json!([format!("{byte:02x}").repeat(48)])
}

#[test]
fn evidence_composes_and_what_no_rule_mentions_never_grants() {
    let case = Case {
        enclave: Enclave::new(),
        signer: Signer::new(),
    };

    let nitro = case.enclave.genuine();
    let cosign = case.signer.image(&"ab".repeat(32)).to_string().into_bytes();
    let trust = case.trust(&[(TrustKind::Reference, &format!("images/{}", "01".repeat(48)))]);

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
    let mentioned = json!([wants_nitro(json!({ "pcr0": pcr(1) }))]);
    let same_twice = [only_nitro[0].clone(), only_nitro[0].clone()];
    let rows: [Row<'_>; 6] = [
        ("no rule at all", json!([]), &only_nitro),
        (
            "an alternative without rules",
            json!([{ "any_of": [] }]),
            &only_nitro,
        ),
        (
            "one piece of two",
            json!([wants_nitro(json!({ "pcr0": pcr(1) })), wants_cosign]),
            &only_nitro,
        ),
        ("a piece more than wanted", mentioned.clone(), &both),
        (
            "a piece more than the alternative wants",
            json!([{ "any_of": [wants_nitro(json!({ "pcr0": pcr(1) })), wants_cosign] }]),
            &both,
        ),
        ("the same piece twice", mentioned, &same_twice),
    ];
    for (what, rules, presented) in rows {
        assert!(verdict(rules, presented).is_err(), "{what}: taken");
    }
    for (what, claims) in [
        ("a value that is not registered", json!({ "pcr0": pcr(7) })),
        (
            "a claim that the evidence does not have",
            json!({ "pcr0": pcr(1), "pcr9": pcr(1) }),
        ),
        (
            "a value that is not approved",
            json!({ "pcr1": { "reference": "images" } }),
        ),
        (
            "a value that another set approves",
            json!({ "pcr0": { "reference": "others" } }),
        ),
    ] {
        let rules = json!([wants_nitro(claims)]);
        assert!(verdict(rules, &only_nitro).is_err(), "{what}: taken");
    }
}

#[test]
fn versions_are_compared_as_numbers() {
    use sundew_attestation::{AtLeast, Constraint};
    let takes = |least: &str, value: &str| {
        Constraint::AtLeast(AtLeast {
            at_least: least.to_owned(),
        })
        .accepts(&[value.to_owned()], &TrustMaterial::default())
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
