//! Keys of an issuer that removes some, or that does not answer.

use std::io;

use serde_json::{Value, json};

use super::*;

const URL: &str = "https://issuer.example";
const LIMIT: Duration = Duration::from_secs(3600);

fn key(kid: &str) -> Value {
    json!({ "kid": kid, "kty": "OKP", "crv": "Ed25519", "x": "A".repeat(43) })
}

fn document(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

fn no_answer() -> KeysError {
    KeysError::File(FileError::Unreadable {
        path: "jwks.json".into(),
        cause: io::Error::other("no answer"),
    })
}

fn issuer() -> (IssuerKeys, Arc<Material>, Arc<Trust>) {
    let config: IssuerConfig =
        serde_json::from_value(json!({ "url": URL, "audience": "sundew" })).unwrap();
    let material = Arc::new(Material::new(without_keys(&[config])));
    let trust = Arc::new(Trust::default());
    let keys = IssuerKeys::new(URL, Arc::clone(&material), Arc::clone(&trust), LIMIT);
    (keys, material, trust)
}

fn has_keys(material: &Material) -> bool {
    !material.snapshot().issuers[URL].keys.is_empty()
}

#[test]
fn i6_keys_of_an_issuer_that_does_not_answer_are_used_until_their_limit() {
    let _stopped = clock::testing::stop();
    let (mut keys, material, trust) = issuer();
    assert!(keys.take(Ok(document(&[key("a")]))));
    clock::testing::advance(LIMIT);
    assert!(!keys.take(Err(no_answer())));
    assert!(has_keys(&material));
    clock::testing::advance(Duration::from_millis(1));
    assert!(!keys.take(Err(no_answer())));
    assert!(!has_keys(&material));
    assert_eq!(
        trust.problems(),
        ["keys of https://issuer.example: jwks.json: no answer"]
    );
    // The document is the one of before, and counts again.
    assert!(keys.take(Ok(document(&[key("a")]))));
    assert!(has_keys(&material) && trust.problems().is_empty());
}

#[test]
fn i6_a_document_that_is_no_key_set_is_no_answer() {
    let _stopped = clock::testing::stop();
    let (mut keys, material, _) = issuer();
    assert!(keys.take(Ok(document(&[key("a")]))));
    assert!(!keys.take(Ok(b"<html>".to_vec())));
    assert!(has_keys(&material));
    clock::testing::advance(LIMIT + Duration::from_millis(1));
    assert!(!keys.take(Ok(b"<html>".to_vec())));
    assert!(!has_keys(&material));
}

#[test]
fn i6_a_set_that_has_no_key_any_more_takes_the_keys_away_at_once() {
    let (mut keys, material, trust) = issuer();
    for empty in [vec![], vec![json!({ "kid": "b", "kty": "AKP" })]] {
        assert!(keys.take(Ok(document(&[key("a")]))));
        assert!(!keys.take(Ok(document(&empty))));
        assert!(!has_keys(&material));
        let problems = trust.problems();
        assert_eq!(problems[0], "keys of https://issuer.example: no usable key");
    }
}

#[test]
fn i6_keys_that_are_left_out_are_told_with_whose_they_are() {
    let (mut keys, material, trust) = issuer();
    let set = document(&[key("a"), json!({ "kid": "b", "kty": "AKP" }), key("a")]);
    assert!(keys.take(Ok(set)));
    assert!(has_keys(&material));
    assert_eq!(
        trust.problems(),
        ["keys of https://issuer.example: 1 left out: key `b`: key is of an unknown kind"]
    );
    assert!(keys.take(Ok(document(&[key("a")]))));
    assert!(trust.problems().is_empty());
}
