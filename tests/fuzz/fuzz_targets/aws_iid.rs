#![no_main]
//! Identity documents in BER under the region's key: what is taken says what the genuine one says.
mod material;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sundew_attestation::kinds::aws_iid::verify;

/// The time of the evidence, in milliseconds since the epoch.
const NOW_MS: i64 = 1_800_000_000_000;

static REGION: LazyLock<Vec<u8>> = LazyLock::new(|| material::read("aws_iid.region"));
static GENUINE: LazyLock<String> =
    LazyLock::new(|| said(&material::read("aws_iid.document")).expect("taken"));

fn said(document: &[u8]) -> Option<String> {
    let claims = verify(document, |_| Some(&REGION[..]), NOW_MS).ok()?;
    Some(format!("{:?}", claims.values))
}

fuzz_target!(|document: &[u8]| {
    if let Some(said) = said(document) {
        assert_eq!(said, *GENUINE);
    }
});
