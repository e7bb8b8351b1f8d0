#![no_main]
//! Tokens as presented: what parses is written back the same.
use libfuzzer_sys::fuzz_target;
use sundew_core::{Credential, TaskId, TokenId, Ttl};

fuzz_target!(|text: &str| {
    if let Some(credential) = Credential::parse(text) {
        assert_eq!(credential.expose().as_str(), text);
    }
    if let Ok(id) = TaskId::parse(text) {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = TokenId::parse(text) {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(ttl) = Ttl::parse(text) {
        assert_eq!(Ttl::parse(&ttl.to_string()), Ok(ttl));
    }
});
