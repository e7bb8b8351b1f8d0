#![no_main]
//! Trust bundles in PEM and JSON: no panic, and what was taken is taken again from its own DER.
use libfuzzer_sys::fuzz_target;
use sundew_attestation::spiffe::{TrustBundle, TrustDomain};

fuzz_target!(|document: &[u8]| {
    let domain = TrustDomain::parse("example.org").unwrap();
    if let Ok(bundle) = TrustBundle::parse(domain.clone(), document) {
        let ders: Vec<Vec<u8>> = bundle.certificates().map(|c| c.to_vec()).collect();
        assert!(TrustBundle::from_der(domain, ders.iter().map(Vec::as_slice)).is_ok());
    }
});
