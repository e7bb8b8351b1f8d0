//! Recorded identity documents of EC2 instances.
//!
//! `aws-iid/REGION.pkcs7.b64` is what `/latest/dynamic/instance-identity/rsa2048` answered, and
//! `aws-iid/REGION.pem` the certificate that AWS publishes for the region. Where there is none, the
//! test says that it was not run.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sundew_attestation::kinds::aws_iid::{self, IidError};

/// A time within the certificates' validity, 2026-01-01.
const AT_MS: i64 = 1_767_225_600_000;

#[test]
fn e2_genuine_identity_documents_are_taken_under_their_regions_certificate_only() {
    let folder = crate::folder().join("aws-iid");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(region) = name.strip_suffix(".pkcs7.b64") else {
            continue;
        };
        let text = std::fs::read_to_string(&path).unwrap();
        let document = STANDARD
            .decode(text.split_whitespace().collect::<String>())
            .unwrap();
        let certificate =
            CertificateDer::from_pem_file(folder.join(format!("{region}.pem"))).unwrap();
        let verify = |document: &[u8]| {
            let certificate_of = |name: &str| (name == region).then_some(certificate.as_ref());
            aws_iid::verify(document, certificate_of, AT_MS)
        };
        let claims = verify(&document).unwrap();
        assert_eq!(claims.values["region"], [region]);
        let at = document
            .windows(9)
            .position(|window| window == b"accountId")
            .unwrap();
        let mut bent = document.clone();
        bent[at + 15] ^= 1;
        assert!(matches!(verify(&bent), Err(IidError::Signature)), "{name}");
        seen += 1;
    }
    if seen == 0 {
        println!("NOT RUN  answers of EC2's metadata service: no aws-iid/*.pkcs7.b64");
    }
}
