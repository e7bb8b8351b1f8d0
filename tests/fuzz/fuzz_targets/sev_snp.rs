#![no_main]
//! SEV-SNP reports and certificates: what is taken says what the genuine ones say. The first byte
//! chooses whether the rest is a report or a certificate.
mod material;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use sundew_attestation::Roots;
use sundew_attestation::kinds::sev_snp::{Endorsement, verify};

/// The time of the evidence, in milliseconds since the epoch.
const NOW_MS: i64 = 1_800_000_000_000;

static ROOTS: LazyLock<Roots> = LazyLock::new(|| Roots {
    anchors: vec![material::read("sev_snp.ark")],
    intermediates: vec![material::read("sev_snp.ask")],
    ..Roots::default()
});
static REPORT: LazyLock<Vec<u8>> = LazyLock::new(|| material::read("sev_snp.report"));
static VCEK: LazyLock<Vec<u8>> = LazyLock::new(|| material::read("sev_snp.vcek"));
static GENUINE: LazyLock<String> = LazyLock::new(|| said(&REPORT, &VCEK).expect("taken"));

fn said(report: &[u8], certificate: &[u8]) -> Option<String> {
    let (report, certificate) = (STANDARD.encode(report), STANDARD.encode(certificate));
    let payload = serde_json::json!({ "report": report, "certificate": certificate }).to_string();
    let endorsement = Endorsement::Vcek;
    let claims = verify(payload.as_bytes(), &ROOTS, endorsement, &[7; 64], NOW_MS).ok()?;
    Some(format!("{:?}", claims.values))
}

fuzz_target!(|data: &[u8]| {
    let said = match data {
        [0, report @ ..] => said(report, &VCEK),
        [_, certificate @ ..] => said(&REPORT, certificate),
        [] => None,
    };
    if let Some(said) = said {
        assert_eq!(said, *GENUINE);
    }
});
