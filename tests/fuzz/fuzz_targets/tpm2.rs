#![no_main]
//! TPM structures: no panic; what is taken under the registered key says what the genuine quote
//! says, and nothing is taken for another challenge.
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sundew_attestation::Roots;
use sundew_attestation::kinds::tpm2::{AttestationKey, Public, verify};

const KEY: &[u8] = include_bytes!("../../vectors/tpm2/key.json");
const QUOTE: &[u8] = include_bytes!("../../vectors/tpm2/quote.json");

static OWN: LazyLock<AttestationKey> = LazyLock::new(|| AttestationKey::parse(KEY).expect("taken"));
static GENUINE: LazyLock<String> = LazyLock::new(|| said(QUOTE, [9; 32]).expect("taken"));

fn said(evidence: &[u8], binding: [u8; 32]) -> Option<String> {
    let own = |name: &str| (name == OWN.name()).then_some(&*OWN);
    let claims = verify(evidence, own, &Roots::default(), &binding, 0).ok()?;
    Some(format!("{:?}", claims.values))
}

fuzz_target!(|data: &[u8]| {
    let _ = Public::parse(data);
    if let Ok(key) = AttestationKey::parse(data) {
        assert!(!key.name().is_empty());
    }
    let (first, second) = data.split_at(data.len() / 2);
    if let Ok((key, _, document)) = AttestationKey::endorsed(first, second, second, &[]) {
        assert_eq!(AttestationKey::parse(&document).unwrap().name(), key.name());
    }
    if let Some(said) = said(data, [9; 32]) {
        assert_eq!(said, *GENUINE);
    }
    assert_eq!(said(data, [0; 32]), None);
});
