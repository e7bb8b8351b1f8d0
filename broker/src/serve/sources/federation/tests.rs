//! Documents of bundle endpoints that come in another order, or not at all.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};

use super::*;

const LIMIT: Duration = Duration::from_secs(3600);

fn domain() -> TrustDomain {
    TrustDomain::parse("partner.example").unwrap()
}

fn root() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    STANDARD.encode(root.der())
}

fn document(roots: &[&str], more: Value) -> Vec<u8> {
    let keys = roots.iter();
    let keys: Vec<_> = keys
        .map(|root| json!({ "kty": "EC", "use": "x509-svid", "x5c": [root] }))
        .collect();
    let mut document = more;
    document["keys"] = json!(keys);
    document.to_string().into_bytes()
}

fn partner() -> Partner {
    let config = FederationConfig {
        trust_domain: domain(),
        url: "https://partner.example/bundle".to_owned(),
        profile: Profile::HttpsWeb { ca_file: None },
    };
    let federation = Arc::new(Federation::new(Arc::default()));
    Partner::new(config, federation, LIMIT)
}

fn no_answer() -> FederationError {
    FederationError::File(FileError::Unreadable {
        path: "bundle".into(),
        cause: io::Error::other("no answer"),
    })
}

/// How many roots the partner has, if it is known.
fn roots(partner: &Partner) -> Option<usize> {
    let current = partner.federation.trust.current();
    Some(current.bundles.of(&domain())?.certificates().count())
}

#[test]
fn i5_a_document_that_is_older_than_the_one_that_counts_is_not_taken() {
    let (old, new) = (root(), root());
    let mut partner = partner();
    partner.take(Ok(document(&[&old, &new], json!({ "spiffe_sequence": 8 }))));
    assert_eq!(roots(&partner), Some(2));
    partner.take(Ok(document(&[&old], json!({ "spiffe_sequence": 7 }))));
    assert_eq!(roots(&partner), Some(2));
    assert_eq!(
        partner.federation.trust.problems(),
        ["federation with partner.example: sequence 7 is older than 8"]
    );
    // A removed root goes with the next document; one without a number counts as the newest.
    for more in [json!({ "spiffe_sequence": 9 }), json!({})] {
        partner.take(Ok(document(&[&new], more)));
        assert_eq!(roots(&partner), Some(1));
        assert!(partner.federation.trust.problems().is_empty());
    }
}

#[test]
fn ac_09_the_bundle_of_an_endpoint_that_fails_is_used_until_its_limit() {
    let _stopped = clock::testing::stop();
    let mut partner = partner();
    partner.take(Ok(document(&[&root()], json!({ "spiffe_sequence": 8 }))));
    clock::testing::advance(LIMIT);
    partner.take(Err(no_answer()));
    partner.take(Ok(b"<html>".to_vec()));
    assert_eq!(roots(&partner), Some(1));
    clock::testing::advance(Duration::from_millis(1));
    partner.take(Err(no_answer()));
    assert_eq!(roots(&partner), Some(0));
    // Whoever was away for so long may begin anew.
    partner.take(Ok(document(&[&root()], json!({ "spiffe_sequence": 1 }))));
    assert_eq!(roots(&partner), Some(1));
}

#[test]
fn a_bundle_is_fetched_as_often_as_it_says_within_bounds() {
    let mut partner = partner();
    assert_eq!(partner.interval(), FETCH_INTERVAL);
    let longest = LIMIT.as_secs() / 3;
    for (hint, seconds) in [(60, 60), (0, 30), (u64::MAX, longest), (86_400, longest)] {
        partner.take(Ok(document(&[], json!({ "spiffe_refresh_hint": hint }))));
        assert_eq!(partner.interval(), Duration::from_secs(seconds));
    }
}
