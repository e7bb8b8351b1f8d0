#![no_main]
//! SPIFFE IDs: what parses is what was written, with no second spelling.
use libfuzzer_sys::fuzz_target;
use sundew_attestation::spiffe::SpiffeId;

fuzz_target!(|text: &str| {
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.as_str(), text);
        let (domain, path) = text["spiffe://".len()..].split_once('/').unwrap();
        assert_eq!(id.trust_domain().as_str(), domain);
        assert!(!path.is_empty() && path.split('/').all(|s| !matches!(s, "" | "." | "..")));
        assert!(text.is_ascii() && text.len() <= 2048);
    }
});
