#![no_main]
//! Scopes: what parses is what was written; a wildcard covers what it prefixes, and covering is
//! antisymmetric.
use libfuzzer_sys::fuzz_target;
use sundew_core::Scope;

fuzz_target!(|texts: (&str, &str)| {
    let (Ok(a), Ok(b)) = (Scope::parse(texts.0), Scope::parse(texts.1)) else {
        return;
    };
    assert_eq!(a.as_str(), texts.0);
    assert!(a.covers(&a));
    assert!(!(a.covers(&b) && b.covers(&a)) || a == b);
    if a.covers(&b) && a != b {
        assert!(a.is_wildcard() && texts.1.starts_with(texts.0.trim_end_matches('*')));
    }
});
