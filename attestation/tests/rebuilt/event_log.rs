//! Event logs of measured boots, which a second decoder reads, too.

use std::collections::BTreeMap;
use std::process::Command;

use sundew_attestation::kinds::tpm2::{Hash, replay_event_log};
use sundew_rebuilt::event_log::{Bank, Log};

/// Returns what `tpm2_eventlog` of tpm2-tools computes for each bank.
fn second_decoder(log: &[u8]) -> BTreeMap<String, BTreeMap<usize, Vec<u8>>> {
    let path = std::env::temp_dir().join(format!("sundew-event-log-{}", std::process::id()));
    std::fs::write(&path, log).unwrap();
    let output = Command::new("tpm2_eventlog").arg(&path).output();
    std::fs::remove_file(&path).unwrap();
    let output = output.expect("tpm2-tools are installed by tests/run");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, values) = text.split_once("\npcrs:\n").expect("values of PCRs");
    let (mut banks, mut bank) = (BTreeMap::<String, BTreeMap<_, _>>::new(), String::new());
    for line in values.lines() {
        let Some((name, value)) = line.trim().split_once(':') else {
            continue;
        };
        match value.trim().strip_prefix("0x") {
            None => bank = name.to_owned(),
            Some(digits) => {
                let value = hex::decode(digits).unwrap();
                let values = banks.entry(bank.clone()).or_default();
                values.insert(name.trim().parse().unwrap(), value);
            }
        }
    }
    banks
}

#[test]
fn rebuilt_logs_replay_to_what_a_second_decoder_computes() {
    for secure_boot in [false, true] {
        for log in [Log::of_cloud(secure_boot), Log::of_computer(secure_boot)] {
            let bytes = log.bytes();
            let computed = second_decoder(&bytes);
            assert_eq!(computed.len(), log.banks.len());
            for bank in &log.banks {
                let (name, hash) = match bank {
                    Bank::Sha1 => ("sha1", None),
                    Bank::Sha256 => ("sha256", Some(Hash::Sha256)),
                    Bank::Sha384 => ("sha384", Some(Hash::Sha384)),
                };
                let values = &computed[name];
                assert_eq!(values, &log.registers(*bank), "{name}");
                if let Some(hash) = hash {
                    let measured = replay_event_log(&bytes, hash, values).unwrap();
                    assert_eq!(measured.keys().max(), values.keys().max(), "{name}");
                }
            }
        }
    }
}

#[test]
fn t29_a_rebuilt_log_does_not_replay_to_other_values_or_in_a_bank_that_it_lacks() {
    let log = Log::of_computer(true);
    let values = log.registers(Bank::Sha256);
    for pcr in values.keys() {
        let mut other = values.clone();
        other.get_mut(pcr).unwrap()[0] ^= 1;
        assert!(
            replay_event_log(&log.bytes(), Hash::Sha256, &other).is_err(),
            "PCR {pcr}"
        );
    }
    let wide = Log::of_cloud(true).registers(Bank::Sha384);
    assert!(replay_event_log(&log.bytes(), Hash::Sha384, &wide).is_err());
}
