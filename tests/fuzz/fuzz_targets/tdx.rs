#![no_main]
//! TDX quotes and collateral: what is taken says what the genuine one says.
use libfuzzer_sys::fuzz_target;
use sundew_attestation::kinds::tdx::{Collateral, verify};

const GENUINE: &[u8] = include_bytes!("../../vectors/tdx/tdx_quote");
const COLLATERAL: &[u8] = include_bytes!("../../vectors/tdx/tdx_quote_collateral.json");

fn check(quote: &[u8], collateral: &[u8]) -> Option<String> {
    let collateral = Collateral::parse(collateral).ok()?;
    // The report data stands at the end of the body, 48 bytes of header before it.
    let bound: [u8; 64] = GENUINE[48 + 520..48 + 584].try_into().unwrap();
    verify(quote, [&collateral], &bound, 1_751_000_000_000)
        .ok()
        .map(|claims| format!("{:?}", claims.values))
}

fuzz_target!(|data: (bool, Vec<u8>)| {
    let (bend_collateral, bytes) = data;
    let found = if bend_collateral {
        check(GENUINE, &bytes)
    } else {
        check(&bytes, COLLATERAL)
    };
    if found.is_some() {
        assert_eq!(found, check(GENUINE, COLLATERAL));
    }
});
