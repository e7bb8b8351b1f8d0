#![no_main]
//! Tokens: without the issuer's key nothing verifies, and no input panics. Key sets likewise.
use libfuzzer_sys::fuzz_target;
use sundew_attestation::jws::{KeySet, verify};

const JWKS: &[u8] = br#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k1","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

fuzz_target!(|data: &[u8]| {
    let keys = KeySet::parse(JWKS).unwrap();
    assert!(verify(data, &keys).is_err());
    let _ = KeySet::parse(data);
});
