//! Evidence that real hardware produced (`tests/vectors`), and hostile variants of it: AC-05, T28,
//! T30 to T32, T34.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use sundew_attestation::kinds::{nitro, sev_snp, tdx, tpm2};
use sundew_attestation::{Claims, Roots};

fn vector(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/vectors")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn pem(name: &str) -> Vec<Vec<u8>> {
    rustls_pki_types::CertificateDer::pem_slice_iter(&vector(name))
        .map(|c| c.unwrap().to_vec())
        .collect()
}

/// Cuts the document at every length, and flips bits of it: one of each byte, or with
/// `SUNDEW_ALL_BITS` all of them. Each variant must be refused, or give the very same claims (but
/// for the digest of the evidence). Answers which bytes could be changed.
fn mutate<E: std::fmt::Debug>(
    document: &[u8],
    verify: impl Fn(&[u8]) -> Result<Claims, E>,
) -> Vec<usize> {
    let genuine = verify(document).unwrap();
    let same = |claims: &Claims| {
        let all = |claims: &Claims| {
            format!(
                "{:?} {:?} {} {:?}",
                claims.values, claims.not_after_ms, claims.fresh, claims.assurance
            )
        };
        all(claims) == all(&genuine)
    };
    for length in 0..document.len() {
        // Only what means nothing may be left out.
        if let Ok(claims) = verify(&document[..length]) {
            assert!(
                same(&claims) && document[length..].iter().all(|byte| *byte == 0),
                "cut at {length} was taken"
            );
        }
    }
    let all = std::env::var_os("SUNDEW_ALL_BITS").is_some();
    let mut free = Vec::new();
    let mut variant = document.to_vec();
    for at in 0..document.len() {
        for bit in 0..8 {
            if all || bit == at % 8 {
                variant[at] ^= 1 << bit;
                if let Ok(claims) = verify(&variant) {
                    assert!(same(&claims), "byte {at}, bit {bit} changes the claims");
                    free.push(at);
                }
                variant[at] = document[at];
            }
        }
    }
    free.dedup();
    free
}

fn anchored(name: &str) -> Roots {
    Roots {
        anchors: pem(name),
        ..Roots::default()
    }
}

/// 2022-11-09, when the document was made.
const NITRO_MS: i64 = 1_668_034_320_696;
const NITRO_NONCE: [u8; 32] = [
    198, 120, 200, 97, 53, 222, 83, 157, 24, 58, 207, 245, 136, 134, 217, 141, 251, 152, 35, 4, 26,
    249, 249, 52, 191, 144, 154, 192, 248, 217, 98, 69,
];

#[test]
fn ac_05_a_genuine_nitro_document_is_taken_at_its_time_for_its_nonce_under_its_root_only() {
    let (document, roots) = (
        vector("nitro/aws_nitro_document.cbor"),
        anchored("nitro/aws_nitro_root_cert.pem"),
    );
    let claims = nitro::verify(&document, &roots, &NITRO_NONCE, NITRO_MS + 1000).unwrap();
    assert_eq!(claims.values["instance_id"], ["i-04fd167167daacf3b"]);
    assert!(claims.values["pcr0"][0].starts_with("22f9e1c949208da5"));
    assert!(claims.fresh);
    let refused = |document: &[u8], roots: &Roots, nonce: &[u8], at| {
        nitro::verify(document, roots, nonce, at).unwrap_err()
    };
    assert!(matches!(
        refused(&document, &roots, &NITRO_NONCE, NITRO_MS + 5 * 60_000 + 1),
        nitro::NitroError::Age
    ));
    assert!(matches!(
        refused(&document, &roots, &NITRO_NONCE, NITRO_MS - 30_001),
        nitro::NitroError::Age
    ));
    assert!(matches!(
        refused(&document, &roots, &NITRO_NONCE[..31], NITRO_MS),
        nitro::NitroError::Binding
    ));
    assert!(matches!(
        refused(&document, &roots, &[0; 32], NITRO_MS),
        nitro::NitroError::Binding
    ));
    assert!(matches!(
        refused(&document, &Roots::default(), &NITRO_NONCE, NITRO_MS),
        nitro::NitroError::Chain(_)
    ));
    assert!(matches!(
        refused(
            &document,
            &anchored("sev-snp/amd-roots/milan/ark.pem"),
            &NITRO_NONCE,
            NITRO_MS
        ),
        nitro::NitroError::Chain(_)
    ));
    assert!(matches!(
        refused(
            &vector("nitro/aws_nitro_document_bad_sig.cbor"),
            &roots,
            &NITRO_NONCE,
            NITRO_MS
        ),
        nitro::NitroError::Signature
    ));
}

#[test]
fn t34_no_bit_of_a_nitro_document_can_change_what_it_says() {
    let (document, roots) = (
        vector("nitro/aws_nitro_document.cbor"),
        anchored("nitro/aws_nitro_root_cert.pem"),
    );
    let free = mutate(&document, |document| {
        nitro::verify(document, &roots, &NITRO_NONCE, NITRO_MS)
    });
    assert_eq!(free, Vec::<usize>::new(), "bytes that nothing covers");
}

/// 2025-01-01: within the certificates' validity.
const SNP_MS: i64 = 1_735_689_600_000;

fn snp_evidence(report: &[u8], certificate: &str) -> Vec<u8> {
    let evidence = sev_snp::Evidence {
        report: STANDARD.encode(report),
        certificate: STANDARD.encode(vector(certificate)),
    };
    serde_json::to_vec(&evidence).unwrap()
}

fn snp_roots(names: &[&str]) -> Roots {
    let mut roots = Roots::default();
    for der in names.iter().flat_map(|name| pem(name)) {
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        if certificate.subject() == certificate.issuer() {
            roots.anchors.push(der)
        } else {
            roots.intermediates.push(der)
        }
    }
    roots
}

fn report_data(report: &[u8]) -> [u8; 64] {
    report[0x50..0x90].try_into().unwrap()
}

#[test]
fn ac_05_genuine_snp_reports_are_taken_under_their_own_chips_key_only() {
    let report = vector("sev-snp/test-report.bin");
    let milan = snp_roots(&[
        "sev-snp/amd-roots/milan/ark.pem",
        "sev-snp/amd-roots/milan/ask.pem",
    ]);
    let verify =
        |report: &[u8], certificate: &str, roots: &Roots, endorsement, bound: &[u8; 64], at| {
            sev_snp::verify(
                &snp_evidence(report, certificate),
                roots,
                endorsement,
                bound,
                at,
            )
        };
    let bound = report_data(&report);
    let (vcek, vlek) = (sev_snp::Endorsement::Vcek, sev_snp::Endorsement::Vlek);
    let claims = verify(
        &report,
        "sev-snp/test-vcek.der",
        &milan,
        vcek,
        &bound,
        SNP_MS,
    )
    .unwrap();
    assert_eq!(
        (
            claims.values["tcb.boot_loader"][0].as_str(),
            claims.values["tcb.microcode"][0].as_str()
        ),
        ("3", "115")
    );
    assert_eq!(claims.values["measurement"][0].len(), 96);

    // T32: another chip's key, or this chip's at another TCB.
    for other in [
        "sev-snp/test-vcek-invalid-legacy.der",
        "sev-snp/test-vcek-invalid-new.der",
    ] {
        verify(&report, other, &milan, vcek, &bound, SNP_MS).unwrap_err();
    }
    let refused = |bound: &[u8; 64], endorsement, roots, at| {
        verify(
            &report,
            "sev-snp/test-vcek.der",
            roots,
            endorsement,
            bound,
            at,
        )
        .unwrap_err()
    };
    assert!(matches!(
        refused(&[0; 64], vcek, &milan, SNP_MS),
        sev_snp::SnpError::Binding
    ));
    assert!(matches!(
        refused(&bound, vlek, &milan, SNP_MS),
        sev_snp::SnpError::Endorsement
    ));
    let none = Roots::default();
    let genoa = snp_roots(&[
        "sev-snp/amd-roots/genoa/ark.pem",
        "sev-snp/amd-roots/genoa/ask.pem",
    ]);
    assert!(matches!(
        refused(&bound, vcek, &genoa, SNP_MS),
        sev_snp::SnpError::Chain(_)
    ));
    assert!(matches!(
        refused(&bound, vcek, &none, SNP_MS),
        sev_snp::SnpError::Chain(_)
    ));
    // The certificate's own end, 2030-01-24.
    assert!(matches!(
        refused(&bound, vcek, &milan, 1_895_508_000_000),
        sev_snp::SnpError::Chain(_)
    ));
    // An ASK in place of the chip's key: a trusted certificate, but no endorsement key of a chip.
    let ask = STANDARD.encode(&pem("sev-snp/amd-roots/milan/ask.pem")[0]);
    let evidence =
        serde_json::json!({ "report": STANDARD.encode(&report), "certificate": ask }).to_string();
    sev_snp::verify(evidence.as_bytes(), &milan, vcek, &bound, SNP_MS).unwrap_err();
}

#[test]
fn ac_05_a_genuine_vlek_report_is_taken_where_the_registration_wants_a_vlek() {
    let report = vector("sev-snp/test-vlek-report.bin");
    let evidence = snp_evidence(&report, "sev-snp/test-vlek.der");
    let roots = snp_roots(&["sev-snp/amd-roots/ask_ark_milan_vlek.pem"]);
    let verify = |endorsement| {
        sev_snp::verify(
            &evidence,
            &roots,
            endorsement,
            &report_data(&report),
            SNP_MS,
        )
    };
    // It was requested from VMPL 1: genuine, and still not the guest's firmware.
    assert!(matches!(
        verify(sev_snp::Endorsement::Vlek).unwrap_err(),
        sev_snp::SnpError::Vmpl(1)
    ));
    assert!(matches!(
        verify(sev_snp::Endorsement::Vcek).unwrap_err(),
        sev_snp::SnpError::Endorsement
    ));
}

#[test]
fn t34_no_bit_of_an_snp_report_can_change_what_it_says() {
    let report = vector("sev-snp/test-report.bin");
    let roots = snp_roots(&[
        "sev-snp/amd-roots/milan/ark.pem",
        "sev-snp/amd-roots/milan/ask.pem",
    ]);
    let (bound, vcek) = (report_data(&report), sev_snp::Endorsement::Vcek);
    let free = mutate(&report, |report| {
        sev_snp::verify(
            &snp_evidence(report, "sev-snp/test-vcek.der"),
            &roots,
            vcek,
            &bound,
            SNP_MS,
        )
    });
    // What follows the two numbers of the signature is reserved.
    assert!(free.iter().all(|at| *at >= 0x2A0 + 144), "{free:?}");
    // The certificate, whose bits AMD's signature covers.
    let certificate = vector("sev-snp/test-vcek.der");
    let free = mutate(&certificate, |certificate| {
        let evidence = sev_snp::Evidence {
            report: STANDARD.encode(&report),
            certificate: STANDARD.encode(certificate),
        };
        sev_snp::verify(
            &serde_json::to_vec(&evidence).unwrap(),
            &roots,
            vcek,
            &bound,
            SNP_MS,
        )
    });
    assert_eq!(free, Vec::<usize>::new());
}

/// Within the collateral's window, 2025-06-19 to 2025-07-19.
const TDX_MS: i64 = 1_751_000_000_000;

fn td_report_data(quote: &[u8]) -> [u8; 64] {
    let quote = dcap_qvl::quote::Quote::parse(quote).unwrap();
    quote.report.as_td10().unwrap().report_data
}

#[test]
fn ac_05_a_genuine_tdx_quote_is_taken_within_its_collaterals_window_only() {
    let quote = vector("tdx/tdx_quote");
    let collateral = tdx::Collateral::parse(&vector("tdx/tdx_quote_collateral.json")).unwrap();
    let bound = td_report_data(&quote);
    let claims = tdx::verify(&quote, [&collateral], &bound, TDX_MS).unwrap();
    assert_eq!(claims.values["tcb_status"], ["UpToDate"]);
    assert_eq!(claims.values["mrtd"][0].len(), 96);
    let refused = |quote: &[u8], collateral: &[&tdx::Collateral], bound, at| {
        tdx::verify(quote, collateral.iter().copied(), bound, at).unwrap_err()
    };
    assert!(matches!(
        refused(&quote, &[&collateral], &[0; 64], TDX_MS),
        tdx::TdxError::Binding
    ));
    assert!(matches!(
        refused(&quote, &[], &bound, TDX_MS),
        tdx::TdxError::Collateral(_)
    ));
    // T31: at present time its collateral is too old, and before it was issued it is not valid
    // either.
    assert!(matches!(
        refused(&quote, &[&collateral], &bound, 1_795_000_000_000),
        tdx::TdxError::Unverified(_)
    ));
    assert!(matches!(
        refused(&quote, &[&collateral], &bound, 1_700_000_000_000),
        tdx::TdxError::Unverified(_)
    ));
    // Collateral of another model of platform.
    let other = tdx::Collateral::parse(&vector("tdx/tdx_quote_outdated_collateral.json")).unwrap();
    assert!(matches!(
        refused(&quote, &[&other], &bound, TDX_MS),
        tdx::TdxError::Collateral(_)
    ));
    // An SGX enclave is not a trust domain; its collateral is not for one.
    assert!(tdx::Collateral::parse(&vector("tdx/sgx_quote_collateral.json")).is_err());
    assert!(tdx::verify(&vector("tdx/sgx_quote"), [&collateral], &bound, TDX_MS).is_err());
}

#[test]
fn t31_a_platform_below_every_tcb_level_is_refused() {
    let quote = vector("tdx/tdx_quote_outdated");
    let collateral =
        tdx::Collateral::parse(&vector("tdx/tdx_quote_outdated_collateral.json")).unwrap();
    let at = collateral.next_update_ms() - 86_400_000;
    let error = tdx::verify(&quote, [&collateral], &td_report_data(&quote), at).unwrap_err();
    assert!(
        error.to_string().contains("No matching TCB level"),
        "{error}"
    );
}

#[test]
fn t34_no_bit_of_a_tdx_quote_or_its_collateral_can_change_what_it_says() {
    let quote = vector("tdx/tdx_quote");
    let document = vector("tdx/tdx_quote_collateral.json");
    let collateral = tdx::Collateral::parse(&document).unwrap();
    let bound = td_report_data(&quote);
    let free = mutate(&quote, |quote| {
        tdx::verify(quote, [&collateral], &bound, TDX_MS)
    });
    // Free are: lengths and types of containers (632, 764 to 769, and just before the PEM), the PEM
    // of the chain where a blank may be another blank, and its last certificate, which is not
    // looked at because Intel's root is pinned. Header, body, both signatures, the attestation key
    // and the QE's report are not: nothing that a claim rests on.
    let chain = quote
        .windows(10)
        .position(|window| window == b"-----BEGIN")
        .unwrap();
    let bound_by_a_signature =
        |at: usize| at < 632 || (636..764).contains(&at) || (770..chain - 4).contains(&at);
    assert_eq!(free.iter().find(|at| bound_by_a_signature(**at)), None);
    // Collateral: signed by Intel, so a change is refused or was no change.
    let verify = |document: &[u8]| {
        tdx::Collateral::parse(document)
            .and_then(|collateral| tdx::verify(&quote, [&collateral], &bound, TDX_MS))
    };
    let mut variant = document.clone();
    for at in (0..document.len()).step_by(3) {
        variant[at] ^= 1 << (at % 8);
        if let Ok(claims) = verify(&variant) {
            assert_eq!(claims.values["tcb_status"], ["UpToDate"], "byte {at}");
        }
        variant[at] = document[at];
    }
}

#[test]
fn t34_no_bit_of_a_tpm_quote_can_change_what_it_says() {
    let evidence: tpm2::Evidence = serde_json::from_slice(&vector("tpm2/quote.json")).unwrap();
    let key = tpm2::AttestationKey::parse(&vector("tpm2/key.json")).unwrap();
    let verify = |evidence: &tpm2::Evidence| {
        let payload = serde_json::to_vec(evidence).unwrap();
        tpm2::verify(
            &payload,
            |name| (name == key.name()).then_some(&key),
            &Roots::default(),
            &[9; 32],
            0,
        )
    };
    let genuine = verify(&evidence).unwrap();
    assert_eq!(genuine.values["pcr.sha256.7"], ["0".repeat(64)]);
    // The quote and its signature, each bit; the values of PCRs, each digit.
    let quote = STANDARD.decode(&evidence.quote).unwrap();
    let free = mutate(&quote, |quote| {
        verify(&tpm2::Evidence {
            quote: STANDARD.encode(quote),
            ..evidence.clone()
        })
    });
    assert_eq!(free, Vec::<usize>::new());
    let signature = STANDARD.decode(&evidence.signature).unwrap();
    let free = mutate(&signature, |signature| {
        verify(&tpm2::Evidence {
            signature: STANDARD.encode(signature),
            ..evidence.clone()
        })
    });
    assert_eq!(free, Vec::<usize>::new());
    for index in [0, 4, 7] {
        let mut other = evidence.clone();
        other.pcrs.insert(index, format!("{}1", "0".repeat(63)));
        assert!(verify(&other).is_err(), "PCR {index}");
        other.pcrs.remove(&index);
        assert!(verify(&other).is_err(), "without PCR {index}");
    }
    // The public area of the key: a bit more or less is another key, with another name.
    let document: serde_json::Value = serde_json::from_slice(&vector("tpm2/key.json")).unwrap();
    for member in ["key", "parent"] {
        let area = STANDARD.decode(document[member].as_str().unwrap()).unwrap();
        for at in 0..area.len() {
            let mut bent = area.clone();
            bent[at] ^= 1 << (at % 8);
            let mut document = document.clone();
            document[member] = STANDARD.encode(&bent).into();
            if let Ok(other) = tpm2::AttestationKey::parse(document.to_string().as_bytes()) {
                let payload = serde_json::to_vec(&evidence).unwrap();
                assert!(
                    tpm2::verify(&payload, |_| Some(&other), &Roots::default(), &[9; 32], 0)
                        .is_err(),
                    "{member}, byte {at}"
                );
            }
            assert!(
                tpm2::Public::parse(&area[..at]).is_err(),
                "{member} cut at {at}"
            );
        }
    }
}
