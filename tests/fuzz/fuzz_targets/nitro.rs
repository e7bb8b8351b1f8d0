#![no_main]
//! Nitro documents: what is taken under AWS's root says what the genuine one says; cut and bent
//! ones are refused.
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sundew_attestation::Roots;
use sundew_attestation::kinds::nitro::verify;

const ROOT: &[u8] = include_bytes!("../../vectors/nitro/aws_nitro_root_cert.pem");
const GENUINE: &[u8] = include_bytes!("../../vectors/nitro/aws_nitro_document.cbor");
const NONCE: [u8; 32] = [
    198, 120, 200, 97, 53, 222, 83, 157, 24, 58, 207, 245, 136, 134, 217, 141, 251, 152, 35, 4, 26,
    249, 249, 52, 191, 144, 154, 192, 248, 217, 98, 69,
];

fuzz_target!(|data: &[u8]| {
    let roots = Roots {
        anchors: vec![CertificateDer::from_pem_slice(ROOT).unwrap().to_vec()],
        ..Roots::default()
    };
    if let Ok(claims) = verify(data, &roots, &NONCE, 1_668_034_320_696) {
        assert_eq!(
            claims.values,
            verify(GENUINE, &roots, &NONCE, 1_668_034_320_696)
                .unwrap()
                .values
        );
    }
});
