//! Bundles of which a part cannot be used.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::json;

use super::*;

/// A root with a key on P-521, made with openssl.
const P521: &str = "MIICJjCCAYegAwIBAgIUQ8bb2U9zoGMVR7zkR8plksQNFBcwCgYIKoZIzj0EAwIwETEPMA0GA1UECgwGU1BJRkZFMC\
    AXDTI2MTEyNzA0MDIxOFoYDzIxMjYxMTAzMDQwMjE4WjARMQ8wDQYDVQQKDAZTUElGRkUwgZswEAYHKoZIzj0CAQYF\
    K4EEACMDgYYABAEBoFZBcScMC6TaB8Ve7FKYCBMlQo5iOHPsy78ECSY0Lltr2GHOf66XpQVmVouuw5uyXUGVKMwkI8\
    1ccMcUm82AhAG+TPey2iSiJNbQXdcbBwzEqO8fSe1HX4xeNEZZoy+saxcFiN2p22QOcJAmxfGvfa8ysi88J1pB1pbh\
    66qPxpcAM6N4MHYwHQYDVR0OBBYEFDH3WwXlH3272Ytu0zLwAkm0MIoVMB8GA1UdIwQYMBaAFDH3WwXlH3272Ytu0z\
    LwAkm0MIoVMA8GA1UdEwEB/wQFMAMBAf8wIwYDVR0RBBwwGoYYc3BpZmZlOi8vcGFydG5lci5leGFtcGxlMAoGCCqG\
    SM49BAMCA4GMADCBiAJCANnNbU0rcbPPNjeP+xWzQ+u1V9YALwI9159MNmkuq+2tk0LBMD7GPDCyMJlSCt3CuqwkAn\
    G5600cBiIs7rq9vbZfAkIBJUNPGHEkRMW5O1DQU3R8fxnVRbNEDbLO8u5SQllqBUZUlRSAGOUH94WuDzXOFBbCGmw+\
    KDDEWE8Z9xt4v1ut5ec=";

fn p521() -> Vec<u8> {
    STANDARD.decode(P521).unwrap()
}

fn domain() -> TrustDomain {
    TrustDomain::parse("partner.example").unwrap()
}

fn root_with(ca: IsCa) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.is_ca = ca;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&KeyPair::generate().unwrap());
    root.unwrap().der().to_vec()
}

fn good() -> Vec<u8> {
    root_with(IsCa::Ca(BasicConstraints::Unconstrained))
}

fn ders(bundle: &TrustBundle) -> Vec<Vec<u8>> {
    bundle.certificates().map(|root| root.to_vec()).collect()
}

fn pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

#[test]
fn i5_a_root_that_cannot_be_used_costs_no_other_and_is_told() {
    let (first, last) = (good(), good());
    let roots = [
        first.clone(),
        p521(),
        root_with(IsCa::NoCa),
        b"\x30\x03\x02\x01\x00".to_vec(),
        last.clone(),
    ];
    let told = "3 left out: root 1: key is too weak or of an unknown kind; \
                root 2: not a CA certificate; root 3: not an X.509 certificate";
    let apart = TrustBundle::from_der(domain(), roots.iter().map(Vec::as_slice));
    let together = TrustBundle::from_concatenated_der(domain(), &roots.concat());
    let text: String = roots.iter().map(|der| pem(der)).collect();
    let of_pem = TrustBundle::parse(domain(), text.as_bytes()).unwrap();
    let keys: Vec<_> = roots
        .iter()
        .map(|der| json!({ "kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(der)] }))
        .collect();
    let json = json!({ "keys": keys }).to_string();
    let of_json = TrustBundle::parse(domain(), json.as_bytes()).unwrap();
    for bundle in [apart, together, of_pem, of_json] {
        assert_eq!(ders(&bundle), [first.clone(), last.clone()]);
        assert_eq!(bundle.left_out().to_string(), told);
    }
}

/// Trust Domain and Bundle, sections 4.1.3, 4.2.1 and 4.2.2.
#[test]
fn i5_keys_of_unknown_kinds_and_uses_are_ignored() {
    let root = good();
    let document = json!({ "spiffe_sequence": 7, "keys": [
        { "kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(&root)] },
        { "kty": "EC", "use": "x509-svid", "x5c": ["!"] },
        { "kty": "EC", "use": "x509-svid" },
        { "kty": "AKP", "use": "jwt-svid", "kid": "pq", "alg": "ML-DSA-44", "pub": "AA" },
        { "kty": "EC", "use": "wit-svid", "kid": "other" },
        { "kty": "EC" },
    ]});
    let bundle = TrustBundle::parse(domain(), document.to_string().as_bytes()).unwrap();
    assert_eq!(ders(&bundle), [root]);
    assert_eq!(
        (bundle.sequence(), bundle.refresh_hint_s()),
        (Some(7), None)
    );
    assert_eq!(
        bundle.left_out().to_string(),
        "3 left out: key `pq`: key is of an unknown kind; root 1: x5c is not base64; \
         root 2: must have exactly one x5c value"
    );
    assert!(bundle.jwt().is_some_and(|jwt| jwt.is_empty()));
}

#[test]
fn i5_many_roots_are_taken_and_only_what_is_beyond_the_bound_is_left_out() {
    let root = good();
    for (number, left_out) in [(65, 0), (256, 0), (300, 44)] {
        let bundle = TrustBundle::from_concatenated_der(domain(), &root.repeat(number));
        assert_eq!(ders(&bundle).len(), number - left_out);
        assert_eq!(bundle.left_out().count(), left_out);
    }
    let told = TrustBundle::from_concatenated_der(domain(), &root.repeat(300));
    let told = told.left_out().to_string();
    assert!(told.ends_with("; and 36 more"), "{told}");
}

/// A file that is written at this moment says nothing about what was removed.
#[test]
fn a_document_that_ends_in_the_middle_is_no_bundle() {
    let text = pem(&good());
    for cut in [&text[..40], &text[..text.len() - 4]] {
        assert!(TrustBundle::parse(domain(), cut.as_bytes()).is_err());
    }
    assert!(TrustBundle::parse(domain(), b"{\"keys\": [").is_err());
    assert!(TrustBundle::parse(domain(), b"{}").is_err());
    let broken = text.replacen("MII", "!!!", 1);
    let bundle = TrustBundle::parse(domain(), (text + &broken).as_bytes()).unwrap();
    assert_eq!(bundle.left_out().to_string(), "1 left out: root 1: not PEM");
    assert!(TrustBundle::parse(domain(), broken.as_bytes()).is_err());
}

/// AC-09: such a document keeps the last good one for a while. One of certificates says more.
#[test]
fn a_document_of_what_is_no_certificate_is_no_bundle_and_one_of_unusable_ones_is_empty() {
    let garbage = pem(b"\0\0\0");
    assert!(TrustBundle::parse(domain(), garbage.as_bytes()).is_err());
    let keys = json!({ "keys": [{ "use": "x509-svid", "x5c": ["AAAA"] }] }).to_string();
    assert!(TrustBundle::parse(domain(), keys.as_bytes()).is_err());
    for document in [
        pem(&p521()),
        garbage + &pem(&p521()),
        r#"{"keys":[]}"#.to_owned(),
    ] {
        let bundle = TrustBundle::parse(domain(), document.as_bytes()).unwrap();
        assert!(bundle.is_empty());
    }
}

#[test]
fn a_bundle_is_read_as_it_was_written_with_each_kind_of_key() {
    let keys = [
        KeyPair::generate().unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
    ];
    let roots = keys.map(|key| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&key).unwrap().der().to_vec()
    });
    let x = URL_SAFE_NO_PAD.encode([7; 32]);
    let jwt = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x });
    let bundle = TrustBundle::from_der(domain(), roots.iter().map(Vec::as_slice))
        .with_jwt(Some(JwtBundle::new(vec![jwt]).unwrap()));
    let document = bundle.to_json(9, 60);
    let read = TrustBundle::parse_json(domain(), &document).unwrap();
    assert_eq!(ders(&read), roots);
    assert_eq!(
        (read.sequence(), read.refresh_hint_s()),
        (Some(9), Some(60))
    );
    assert_eq!(read.left_out().count(), 0);
    assert!(read.jwt().is_some_and(|jwt| !jwt.is_empty()));
    let document: Value = serde_json::from_slice(&document).unwrap();
    let kinds = document["keys"].as_array().unwrap().iter().map(|key| {
        let text = |name: &str| key[name].as_str().unwrap().to_owned();
        (text("kty"), text("crv"), text("use"))
    });
    let expected = [
        ("EC", "P-256", "x509-svid"),
        ("EC", "P-384", "x509-svid"),
        ("OKP", "Ed25519", "x509-svid"),
        ("OKP", "Ed25519", "jwt-svid"),
    ];
    let expected =
        expected.map(|(kty, crv, used)| (kty.to_owned(), crv.to_owned(), used.to_owned()));
    assert!(kinds.eq(expected));
}

#[test]
fn bytes_after_the_last_certificate_are_told() {
    let root = good();
    let bundle = TrustBundle::from_concatenated_der(domain(), &[&root[..], &root[..9]].concat());
    assert_eq!(ders(&bundle), [root]);
    assert_eq!(bundle.left_out().to_string(), "1 left out: root 1: not DER");
}
