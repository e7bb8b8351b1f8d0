//! Recorded quotes of TDX trust domains.

use sundew_attestation::Crl;
use sundew_attestation::kinds::tdx;

use crate::{mutate, vector};

/// A time within the collateral's window, 2025-06-19 to 2025-07-19.
const TDX_MS: i64 = 1_751_000_000_000;

fn td_report_data(quote: &[u8]) -> [u8; 64] {
    let quote = dcap_qvl::quote::Quote::parse(quote).unwrap();
    quote.report.as_td10().unwrap().report_data
}

#[test]
fn ac_05_a_genuine_tdx_quote_is_taken_within_its_collaterals_window_only() {
    let quote = vector("tdx/tdx_quote");
    let collateral = tdx::Collateral::parse(&vector("tdx/tdx_quote_collateral.json")).unwrap();
    let bound = td_report_data(&quote);
    let claims = tdx::verify(&quote, [&collateral], &bound, TDX_MS).unwrap();
    assert_eq!(claims.values["tcb_status"], ["UpToDate"]);
    assert_eq!(claims.values["mrtd"][0].len(), 96);
    let refused = |quote: &[u8], collateral: &[&tdx::Collateral], bound, at| {
        tdx::verify(quote, collateral.iter().copied(), bound, at).unwrap_err()
    };
    assert!(matches!(
        refused(&quote, &[&collateral], &[0; 64], TDX_MS),
        tdx::TdxError::Binding
    ));
    assert!(matches!(
        refused(&quote, &[], &bound, TDX_MS),
        tdx::TdxError::Collateral(_)
    ));
    // T31: at present time its collateral is too old, and before it was issued it is not valid
    // either.
    assert!(matches!(
        refused(&quote, &[&collateral], &bound, 1_795_000_000_000),
        tdx::TdxError::Unverified(_)
    ));
    assert!(matches!(
        refused(&quote, &[&collateral], &bound, 1_700_000_000_000),
        tdx::TdxError::Unverified(_)
    ));
    // Collateral of another model of platform.
    let other = tdx::Collateral::parse(&vector("tdx/tdx_quote_outdated_collateral.json")).unwrap();
    assert!(matches!(
        refused(&quote, &[&other], &bound, TDX_MS),
        tdx::TdxError::Collateral(_)
    ));
    // An SGX enclave is not a trust domain; its collateral is not for one.
    assert!(tdx::Collateral::parse(&vector("tdx/sgx_quote_collateral.json")).is_err());
    assert!(tdx::verify(&vector("tdx/sgx_quote"), [&collateral], &bound, TDX_MS).is_err());
}

#[test]
fn e12_evidence_ends_with_whatever_its_verdict_rests_on_ends_first() {
    let quote = vector("tdx/tdx_quote");
    let document = vector("tdx/tdx_quote_collateral.json");
    let collateral = tdx::Collateral::parse(&document).unwrap();
    let claims = tdx::verify(&quote, [&collateral], &td_report_data(&quote), TDX_MS).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    let next_updates = ["root_ca_crl", "pck_crl"].map(|name| {
        let list = hex::decode(document[name].as_str().unwrap()).unwrap();
        Crl::parse(&list).unwrap().next_update_ms()
    });
    let earliest = next_updates.into_iter().min().unwrap();
    assert!(
        claims.not_after_ms.unwrap() <= earliest.min(collateral.next_update_ms()),
        "{claims:?}"
    );
}

#[test]
fn t31_a_platform_below_every_tcb_level_is_refused() {
    let quote = vector("tdx/tdx_quote_outdated");
    let collateral =
        tdx::Collateral::parse(&vector("tdx/tdx_quote_outdated_collateral.json")).unwrap();
    let at = collateral.next_update_ms() - 86_400_000;
    let error = tdx::verify(&quote, [&collateral], &td_report_data(&quote), at).unwrap_err();
    assert!(
        error.to_string().contains("No matching TCB level"),
        "{error}"
    );
}

#[test]
fn t34_no_bit_of_a_tdx_quote_or_its_collateral_can_change_what_it_says() {
    let quote = vector("tdx/tdx_quote");
    let document = vector("tdx/tdx_quote_collateral.json");
    let collateral = tdx::Collateral::parse(&document).unwrap();
    let bound = td_report_data(&quote);
    let free = mutate(&quote, |quote| {
        tdx::verify(quote, [&collateral], &bound, TDX_MS)
    });
    // Free are: lengths and types of containers (632, 764 to 769, and just before the PEM), the PEM
    // of the chain where a blank may be another blank, and its last certificate, which is not
    // looked at because Intel's root is pinned. Header, body, both signatures, the attestation key
    // and the QE's report are not: nothing that a claim rests on.
    let chain = quote
        .windows(10)
        .position(|window| window == b"-----BEGIN")
        .unwrap();
    let bound_by_a_signature =
        |at: usize| at < 632 || (636..764).contains(&at) || (770..chain - 4).contains(&at);
    assert_eq!(free.iter().find(|at| bound_by_a_signature(**at)), None);
    // Collateral: signed by Intel, so a change is refused or was no change.
    let verify = |document: &[u8]| {
        tdx::Collateral::parse(document)
            .and_then(|collateral| tdx::verify(&quote, [&collateral], &bound, TDX_MS))
    };
    let mut variant = document.clone();
    for at in (0..document.len()).step_by(3) {
        variant[at] ^= 1 << (at % 8);
        if let Ok(claims) = verify(&variant) {
            assert_eq!(claims.values["tcb_status"], ["UpToDate"], "byte {at}");
        }
        variant[at] = document[at];
    }
}
