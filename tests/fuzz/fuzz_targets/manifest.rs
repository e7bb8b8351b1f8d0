#![no_main]
//! Manifest evidence: without a registered key nothing is taken, whatever it says.
use libfuzzer_sys::fuzz_target;
use sundew_attestation::kinds::manifest::verify;
use sundew_attestation::{Binding, BindingPurpose};

fuzz_target!(|data: (&[u8], &[u8])| {
    let binding = Binding::new(BindingPurpose::BeginTask, &[0; 32], data.1, &[0; 32]);
    assert!(verify(data.0, &[], 1, &binding, data.1, 0).is_err());
});
