//! Hardware and clouds: Nitro enclaves, SEV-SNP chips and identity documents of EC2 (T27, T28, T30,
//! T32).

use ciborium::Value as Cbor;
use sundew_attestation::kinds::{aws_iid, nitro, sev_snp};
use sundew_attestation::{Assurance, Claims, TrustItem, TrustKind};
use sundew_tests::hardware::{Authority, Chip, Enclave, NOW_MS, Region, named};

/// A member of a Nitro document, and what stands there instead; with nothing it is missing.
type Other = (&'static str, &'static str, Option<Cbor>);

/// Documents of debug enclaves, and documents of another form.
fn bent_documents(enclave: &Enclave) -> Vec<Other> {
    let registers = |values: &[(i64, Vec<u8>)]| {
        Cbor::Map(
            values
                .iter()
                .map(|(index, value)| (Cbor::from(*index), Cbor::Bytes(value.clone())))
                .collect(),
        )
    };
    vec![
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
    ]
}

/// T09: a mesh of intermediates costs no more than a chain, and a long chain costs nothing.
fn long_chains_are_refused(enclave: &Enclave) {
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
}

/// T28: a chain of the attacker's own in the bundle, and a real one beside another signer.
fn other_signers_are_refused(enclave: &Enclave) {
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
    for (what, name, value) in bent_documents(&enclave) {
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
    long_chains_are_refused(&enclave);
    other_signers_are_refused(&enclave);
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

const GOOD: [&str; 3] = ["-nodetach", "-md", "sha256"];

const WITHOUT_ATTRIBUTES: [&str; 4] = ["-nodetach", "-md", "sha256", "-noattr"];

/// A document that is signed twice by its region.
fn signed_twice(region: &Region, document: &[u8]) -> Vec<u8> {
    let twice = region.sign(document, &GOOD);
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
}

/// Documents that are signed in another way, or say something else.
fn bent_identity_documents(region: &Region, document: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let text = String::from_utf8(document.to_vec()).expect("made");
    let evil = Region::new("2048");
    vec![
        (
            "another signer, whose certificate is enclosed",
            evil.sign(document, &GOOD),
        ),
        (
            "a region without a certificate",
            region.sign(
                text.replace("\"eu-west-2\"", "\"us-gov-west-1\"")
                    .as_bytes(),
                &GOOD,
            ),
        ),
        (
            "SHA-1",
            region.sign(document, &["-nodetach", "-md", "sha1"]),
        ),
        ("detached", region.sign(document, &["-md", "sha256"])),
        (
            "no instance",
            region.sign(text.replace("instanceId", "other").as_bytes(), &GOOD),
        ),
        (
            "a member twice",
            region.sign(text.replace("\"version\"", "\"region\"").as_bytes(), &GOOD),
        ),
        ("two signers", signed_twice(region, document)),
        ("the plain document", document.to_vec()),
    ]
}

/// T34: no bit may change what a signed document says.
fn no_bit_changes_what_it_says<E: std::fmt::Debug>(
    signed: &[u8],
    verify: impl Fn(&[u8]) -> Result<Claims, E>,
) {
    let genuine = verify(signed).expect("made");
    for at in 0..signed.len() {
        let mut variant = signed.to_vec();
        variant[at] ^= 1 << (at % 8);
        if let Ok(claims) = verify(&variant) {
            assert_eq!(
                (&claims.values, &claims.single_use),
                (&genuine.values, &genuine.single_use),
                "byte {at}"
            );
        }
        assert!(verify(&signed[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn ac_05_t27_t28_identity_documents_count_under_the_pinned_certificate_of_their_region_only() {
    let document = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/aws-iid/document.json"
    ))
    .expect("made");
    let (region, short) = (Region::new("2048"), Region::new("1024"));
    let (der, now_ms) = (region.der(), sundew_tests::now_ms());
    let verify = |signed: &[u8], at| {
        aws_iid::verify(
            signed,
            |name| (name == "eu-west-2").then_some(der.as_slice()),
            at,
        )
    };
    // With signed attributes and without, as AWS has had both.
    for flags in [&GOOD[..], &WITHOUT_ATTRIBUTES] {
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
    for (what, signed) in bent_identity_documents(&region, &document) {
        assert!(verify(&signed, now_ms).is_err(), "{what}: taken");
    }
    // T27: the enclosed document changed under the signature.
    for flags in [&GOOD[..], &WITHOUT_ATTRIBUTES] {
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
    assert!(verify(&region.sign(&document, &GOOD), now_ms - 86_400_000).is_err());
    assert!(verify(&region.sign(&document, &GOOD), now_ms + 3651 * 86_400_000).is_err());
    no_bit_changes_what_it_says(&region.sign(&document, &GOOD), |signed| {
        verify(signed, now_ms)
    });
    // A short key is not taken as a region's.
    assert!(TrustItem::parse(TrustKind::AwsIid, "eu-west-2", &short.pem()).is_err());
    assert!(TrustItem::parse(TrustKind::AwsIid, "eu-west-2", &region.pem()).is_ok());
}
