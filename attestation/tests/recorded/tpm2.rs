//! Recorded event logs of measured boots.

use std::collections::BTreeMap;

use sundew_attestation::kinds::tpm2::{Hash, replay_event_log};

use crate::vector;

fn pcrs(values: &[(usize, &str)]) -> BTreeMap<usize, Vec<u8>> {
    values
        .iter()
        .map(|(index, value)| (*index, hex::decode(value).unwrap()))
        .collect()
}

/// `tpm2_eventlog` of tpm2-tools 5.4 has computed the values.
#[test]
fn recorded_logs_replay_to_what_a_second_decoder_computes() {
    let cloud = vector("tpm-eventlogs/coreos_36_shielded_vm_no_secure_boot_eventlog");
    let of_256 = pcrs(&[
        (
            0,
            "0f35c214608d93c7a6e68ae7359b4a8be5a0e99eea9107ece427c4dea4e439cf",
        ),
        (
            4,
            "b465254355b722692d82ff3d46500d73f05cd56fb0d643d32cd9df100c78abb3",
        ),
        (
            7,
            "9340551428472c4820d41f51368427f5d1620b3e7d2081cf8859e7e220554bcd",
        ),
        (
            9,
            "f8bd4e934ac53e6d6fb4e16b6cd9a505dc0e639c4d0af06817b989f828376668",
        ),
        (
            14,
            "d7c4cc7ff7933022f013e03bdee875b91720b5b86cf1753cad830f95e791926f",
        ),
    ]);
    let of_384 = pcrs(&[(
        7,
        "01c71e7c43af16384ee8e5eb407ff521146643fc93a6ce4bd6b6dea15c92107aa298428d6bddc11541058e81da192860",
    )]);
    assert!(replay_event_log(&cloud, Hash::Sha256, &of_256).is_ok());
    assert!(replay_event_log(&cloud, Hash::Sha384, &of_384).is_ok());
    let computer = vector("tpm-eventlogs/crypto_agile_eventlog");
    let of_256 = pcrs(&[
        (
            0,
            "1536de221b2187a421602cd81f43aa04496b0bd5a424d3b25b637a942080d0fa",
        ),
        (
            5,
            "3f2855fc9db5201707a42708e00f9f54ebf78e250152decbf5086cab1690add8",
        ),
        (
            7,
            "3d6207f9a2c3fa1db729f06e71b09d2e7ca7c0c198f6c1410c2186bbe2cc1826",
        ),
    ]);
    assert!(replay_event_log(&computer, Hash::Sha256, &of_256).is_ok());
    // It has no digests of that bank.
    assert!(replay_event_log(&computer, Hash::Sha384, &of_384).is_err());
    // The older format is refused, and one that is cut.
    let short = vector("tpm-eventlogs/short_no_action_eventlog");
    assert!(replay_event_log(&short, Hash::Sha256, &of_256).is_err());
}
