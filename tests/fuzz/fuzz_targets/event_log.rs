#![no_main]
//! Event logs: a log that replays to the quoted PCRs has the digests of the genuine one for each
//! PCR of which it says anything.
mod material;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sundew_attestation::kinds::tpm2::{Hash, replay_event_log};

type Digests = BTreeMap<usize, Vec<Vec<u8>>>;

/// The quoted PCRs, and the digests that were measured.
static MACHINE: LazyLock<(BTreeMap<usize, Vec<u8>>, Digests)> = LazyLock::new(|| {
    let registers: BTreeMap<usize, String> =
        serde_json::from_slice(&material::read("event_log.registers")).expect("JSON");
    let quoted = registers
        .into_iter()
        .map(|(pcr, value)| (pcr, hex::decode(value).expect("hexadecimal")))
        .collect();
    let log = material::read("event_log.cloud");
    let measured = replay_event_log(&log, Hash::Sha256, &quoted).expect("replays");
    (quoted, measured)
});

fuzz_target!(|log: &[u8]| {
    let (quoted, genuine) = &*MACHINE;
    if let Ok(measured) = replay_event_log(log, Hash::Sha256, quoted) {
        for (pcr, digests) in measured {
            assert_eq!(Some(&digests), genuine.get(&pcr), "PCR {pcr}");
        }
    }
    let _ = replay_event_log(log, Hash::Sha384, quoted);
});
