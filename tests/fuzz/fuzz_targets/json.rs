#![no_main]
//! Strict JSON: it takes nothing that the lenient parser refuses, and means the same.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|document: &[u8]| {
    if let Ok(strict) = sundew_attestation::json::parse(document, 1 << 16) {
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(document).ok(),
            Some(strict)
        );
    }
});
