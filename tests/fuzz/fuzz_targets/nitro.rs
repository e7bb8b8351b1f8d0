#![no_main]
//! Nitro documents: what is taken under the root says what the genuine one says; cut and bent ones
//! are refused.
mod material;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sundew_attestation::Roots;
use sundew_attestation::kinds::nitro::verify;

/// The time of the evidence, in milliseconds since the epoch.
const NOW_MS: i64 = 1_800_000_000_000;

static ROOTS: LazyLock<Roots> = LazyLock::new(|| Roots {
    anchors: vec![material::read("nitro.root")],
    ..Roots::default()
});
static GENUINE: LazyLock<String> =
    LazyLock::new(|| said(&material::read("nitro.document")).expect("taken"));

fn said(document: &[u8]) -> Option<String> {
    let claims = verify(document, &ROOTS, &[9; 32], NOW_MS).ok()?;
    Some(format!("{:?}", claims.values))
}

fuzz_target!(|document: &[u8]| {
    if let Some(said) = said(document) {
        assert_eq!(said, *GENUINE);
    }
});
