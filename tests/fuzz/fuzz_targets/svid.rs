#![no_main]
//! Chains of certificates: no panic, and nothing is trusted without roots.
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use sundew_attestation::spiffe::{BundleSet, validate_chain};

fuzz_target!(|chain: Vec<Vec<u8>>| {
    let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
    assert!(validate_chain(&chain, &BundleSet::default(), 1_700_000_000).is_err());
});
