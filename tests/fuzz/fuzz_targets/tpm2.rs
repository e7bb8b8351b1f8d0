#![no_main]
//! TPM structures and event logs: no panic; evidence that no registered key signed is refused, and
//! a log that is taken replays to the PCRs.
use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use sundew_attestation::Roots;
use sundew_attestation::kinds::tpm2::{AttestationKey, Hash, Public, replay_event_log, verify};

const KEY: &[u8] = include_bytes!("../../vectors/tpm2/key.json");

fuzz_target!(|data: (&[u8], [u8; 32], &[u8])| {
    let (log, pcr, evidence) = data;
    let _ = Public::parse(evidence);
    if let Ok((key, _, document)) = AttestationKey::endorsed(evidence, log, log, &[]) {
        assert_eq!(AttestationKey::parse(&document).unwrap().name(), key.name());
    }
    let key = AttestationKey::parse(KEY).unwrap();
    // Bound to what no quote was made for.
    assert!(verify(evidence, |_| Some(&key), &Roots::default(), &pcr, 0).is_err());
    for index in [0, 7] {
        let quoted = BTreeMap::from([(index, pcr.to_vec())]);
        if let Ok(measured) = replay_event_log(log, Hash::Sha256, &quoted) {
            let digests = measured.get(&index).map(Vec::as_slice).unwrap_or_default();
            assert!(digests.iter().all(|digest| digest.len() == 32));
        }
    }
});
