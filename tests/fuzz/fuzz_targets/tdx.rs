#![no_main]
//! TDX quotes and collateral: what is taken says what the genuine ones say. The first byte chooses
//! whether the rest is a quote or collateral.
mod material;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sundew_attestation::kinds::tdx::{Collateral, verify_under};

/// The time of the evidence, in milliseconds since the epoch.
const NOW_MS: i64 = 1_800_000_000_000;

static ROOT: LazyLock<Vec<u8>> = LazyLock::new(|| material::read("tdx.root"));
static QUOTE: LazyLock<Vec<u8>> = LazyLock::new(|| material::read("tdx.quote"));
static COLLATERAL: LazyLock<Collateral> =
    LazyLock::new(|| Collateral::parse(&material::read("tdx.collateral")).expect("taken"));
static GENUINE: LazyLock<String> = LazyLock::new(|| said(&QUOTE, &COLLATERAL).expect("taken"));

fn said(quote: &[u8], collateral: &Collateral) -> Option<String> {
    let claims = verify_under(&ROOT, quote, [collateral], &[7; 64], NOW_MS).ok()?;
    Some(format!("{:?}", claims.values))
}

fuzz_target!(|data: &[u8]| {
    let said = match data {
        [0, quote @ ..] => said(quote, &COLLATERAL),
        [_, document @ ..] => Collateral::parse(document)
            .ok()
            .and_then(|collateral| said(&QUOTE, &collateral)),
        [] => None,
    };
    if let Some(said) = said {
        assert_eq!(said, *GENUINE);
    }
});
