//! Documents of Nitro enclaves whose certificates end soon, as AWS makes them (E12).

use ciborium::Value;
use coset::CborSerializable as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use sundew_attestation::kinds::nitro::{self, NitroError};
use sundew_attestation::{Claims, Roots};
use time::OffsetDateTime;

const NOW_S: i64 = 1_800_000_000;

struct Enclave {
    root: (CertificateParams, KeyPair),
    key: KeyPair,
}

impl Enclave {
    fn new() -> Self {
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self {
            root: (params, key()),
            key: key(),
        }
    }

    fn root_certificate(&self) -> Vec<u8> {
        let (params, key) = &self.root;
        params.self_signed(key).unwrap().der().to_vec()
    }

    /// Returns a document of now with a certificate that ends then.
    fn document(&self, end_s: i64) -> Vec<u8> {
        let mut leaf = CertificateParams::default();
        leaf.not_after = OffsetDateTime::from_unix_timestamp(end_s).unwrap();
        let issuer = Issuer::from_params(&self.root.0, &self.root.1);
        let leaf = leaf.signed_by(&self.key, &issuer).unwrap();
        let bundle = Value::Array(vec![Value::Bytes(self.root_certificate())]);
        let register = (Value::from(0), Value::Bytes(vec![1; 48]));
        let members = [
            ("module_id", Value::from("i-1-enc2")),
            ("digest", Value::from("SHA384")),
            ("timestamp", Value::from(NOW_S * 1000)),
            ("pcrs", Value::Map(vec![register])),
            ("certificate", Value::Bytes(leaf.der().to_vec())),
            ("cabundle", bundle),
            ("nonce", Value::Bytes(vec![9; 32])),
        ];
        let members = members.map(|(name, value)| (Value::from(name), value));
        let mut payload = Vec::new();
        ciborium::into_writer(&Value::Map(members.into()), &mut payload).unwrap();
        let header = coset::HeaderBuilder::new()
            .algorithm(coset::iana::Algorithm::ES384)
            .build();
        coset::CoseSign1Builder::new()
            .protected(header)
            .payload(payload)
            .create_signature(b"", |message| self.sign(message))
            .build()
            .to_vec()
            .unwrap()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let der = self.key.serialize_der();
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &der, &random).unwrap();
        key.sign(&random, message).unwrap().as_ref().to_vec()
    }

    fn verify(&self, document: &[u8], at_s: i64) -> Result<Claims, NitroError> {
        let roots = Roots {
            anchors: vec![self.root_certificate()],
            ..Roots::default()
        };
        nitro::verify(document, &roots, &[9; 32], at_s * 1000)
    }
}

#[test]
fn e12_evidence_ends_with_the_certificate_of_its_enclave() {
    let enclave = Enclave::new();
    let document = enclave.document(NOW_S + 60);
    let claims = enclave.verify(&document, NOW_S + 59).unwrap();
    assert_eq!(claims.not_after_ms, Some((NOW_S + 60) * 1000));
    // The certificate was valid when the document was made, and is not any more.
    let refused = enclave.verify(&document, NOW_S + 60);
    assert!(matches!(refused, Err(NitroError::Age)), "{refused:?}");
    let refused = enclave.verify(&enclave.document(NOW_S - 1), NOW_S);
    assert!(matches!(refused, Err(NitroError::Chain(_))), "{refused:?}");
}
