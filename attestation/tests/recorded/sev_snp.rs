//! Recorded attestation reports of SEV-SNP guests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sundew_attestation::kinds::sev_snp::{self, Endorsement, SnpError};
use sundew_attestation::{Claims, Roots};

use crate::{mutate, pem, vector};

/// A time within the certificates' validity, 2025-01-01.
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

/// Verifies a report with the certificate of this vector.
fn verify(
    report: &[u8],
    certificate: &str,
    roots: &Roots,
    endorsement: Endorsement,
    bound: &[u8; 64],
    at_ms: i64,
) -> Result<Claims, SnpError> {
    let evidence = snp_evidence(report, certificate);
    sev_snp::verify(&evidence, roots, endorsement, bound, at_ms)
}

fn milan() -> Roots {
    snp_roots(&[
        "sev-snp/amd-roots/milan/ark.pem",
        "sev-snp/amd-roots/milan/ask.pem",
    ])
}

#[test]
fn ac_05_genuine_snp_reports_are_taken_under_their_own_chips_key_only() {
    let report = vector("sev-snp/test-report.bin");
    let (milan, bound, vcek) = (milan(), report_data(&report), Endorsement::Vcek);
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
    // An ASK in place of the chip's key: a trusted certificate, but no endorsement key of a chip.
    let ask = STANDARD.encode(&pem("sev-snp/amd-roots/milan/ask.pem")[0]);
    let evidence =
        serde_json::json!({ "report": STANDARD.encode(&report), "certificate": ask }).to_string();
    sev_snp::verify(evidence.as_bytes(), &milan, vcek, &bound, SNP_MS).unwrap_err();
}

#[test]
fn ac_05_a_genuine_snp_report_is_refused_for_another_binding_key_root_or_time() {
    let report = vector("sev-snp/test-report.bin");
    let (milan, bound) = (milan(), report_data(&report));
    let (vcek, vlek) = (Endorsement::Vcek, Endorsement::Vlek);
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
        SnpError::Binding
    ));
    assert!(matches!(
        refused(&bound, vlek, &milan, SNP_MS),
        SnpError::Endorsement
    ));
    let none = Roots::default();
    let genoa = snp_roots(&[
        "sev-snp/amd-roots/genoa/ark.pem",
        "sev-snp/amd-roots/genoa/ask.pem",
    ]);
    assert!(matches!(
        refused(&bound, vcek, &genoa, SNP_MS),
        SnpError::Chain(_)
    ));
    assert!(matches!(
        refused(&bound, vcek, &none, SNP_MS),
        SnpError::Chain(_)
    ));
    // The certificate's own end, 2030-01-24.
    assert!(matches!(
        refused(&bound, vcek, &milan, 1_895_508_000_000),
        SnpError::Chain(_)
    ));
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
    // The report is genuine, but software at VMPL 1 requested it and not the guest's firmware.
    assert!(matches!(
        verify(Endorsement::Vlek).unwrap_err(),
        SnpError::Vmpl(1)
    ));
    assert!(matches!(
        verify(Endorsement::Vcek).unwrap_err(),
        SnpError::Endorsement
    ));
}

#[test]
fn t34_no_bit_of_an_snp_report_can_change_what_it_says() {
    let report = vector("sev-snp/test-report.bin");
    let roots = milan();
    let (bound, vcek) = (report_data(&report), Endorsement::Vcek);
    let free = mutate(&report, |report| {
        sev_snp::verify(
            &snp_evidence(report, "sev-snp/test-vcek.der"),
            &roots,
            vcek,
            &bound,
            SNP_MS,
        )
    });
    // The bytes after the two numbers of the signature are reserved.
    assert!(free.iter().all(|at| *at >= 0x2A0 + 144), "{free:?}");
    // AMD's signature covers every bit of the certificate.
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
