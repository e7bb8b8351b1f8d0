#![no_main]
//! Evidence that is another's word (aws_iid, cosign, process): without a key of its own nothing is
//! taken, whatever it says.
use libfuzzer_sys::fuzz_target;
use sundew_attestation::kinds::{aws_iid, cosign, process};
use sundew_attestation::spiffe::BundleSet;

fuzz_target!(|data: (&[u8], Option<&[u8]>)| {
    let (payload, certificate) = data;
    assert!(aws_iid::verify(payload, |_| certificate, 1_800_000_000_000).is_err());
    assert!(cosign::verify(payload, &[]).is_err());
    assert!(
        process::verify(
            payload,
            &[],
            &BundleSet::default(),
            &[0; 32],
            1_800_000_000_000
        )
        .is_err()
    );
});
