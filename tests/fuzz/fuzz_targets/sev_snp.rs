#![no_main]
//! SEV-SNP reports under the genuine chip's key: what is taken says what the genuine one says.
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sundew_attestation::Roots;
use sundew_attestation::kinds::sev_snp::{Endorsement, verify};

const ARK: &[u8] = include_bytes!("../../vectors/sev-snp/amd-roots/milan/ark.pem");
const ASK: &[u8] = include_bytes!("../../vectors/sev-snp/amd-roots/milan/ask.pem");
const VCEK: &[u8] = include_bytes!("../../vectors/sev-snp/test-vcek.der");
const GENUINE: &[u8] = include_bytes!("../../vectors/sev-snp/test-report.bin");

fn check(report: &[u8], certificate: &[u8]) -> Option<String> {
    let der = |pem| CertificateDer::from_pem_slice(pem).unwrap().to_vec();
    let roots = Roots {
        anchors: vec![der(ARK)],
        intermediates: vec![der(ASK)],
        ..Roots::default()
    };
    let encode =
        |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    let payload =
        serde_json::json!({ "report": encode(report), "certificate": encode(certificate) })
            .to_string();
    let bound: [u8; 64] = GENUINE[0x50..0x90].try_into().unwrap();
    verify(
        payload.as_bytes(),
        &roots,
        Endorsement::Vcek,
        &bound,
        1_735_689_600_000,
    )
    .ok()
    .map(|claims| format!("{:?}", claims.values))
}

fuzz_target!(|data: (bool, Vec<u8>)| {
    let (bend_certificate, bytes) = data;
    let found = if bend_certificate {
        check(GENUINE, &bytes)
    } else {
        check(&bytes, VCEK)
    };
    if found.is_some() {
        assert_eq!(found, check(GENUINE, VCEK));
    }
});
