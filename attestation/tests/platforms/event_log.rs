//! Event logs as go-attestation reads them, under edits by a host's root (E1).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sundew_rebuilt::dice::Dice;
use sundew_rebuilt::edits::variants;
use sundew_rebuilt::event_log::hostile::{Machine, edit};
use sundew_rebuilt::event_log::{Bank, Log};

use crate::tpm2::Tpm;

/// A log with the PCRs of its machine.
type Case = (Vec<u8>, BTreeMap<usize, Vec<u8>>);

/// What a reader believes: the digests of each PCR, and whether secure boot was on.
type Verdict = Option<(BTreeMap<usize, Vec<String>>, Option<bool>)>;

/// Returns what go-attestation says of each log.
fn go_attestation(cases: &[Case]) -> Vec<Verdict> {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/toolchains/bin/eventlog");
    let mut child = Command::new(&tool)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}; tests/toolchains builds it", tool.display()));
    let lines: Vec<String> = cases
        .iter()
        .map(|(log, pcrs)| {
            let pcrs: BTreeMap<_, _> = pcrs
                .iter()
                .map(|(pcr, value)| (pcr, STANDARD.encode(value)))
                .collect();
            json!({ "log": STANDARD.encode(log), "pcrs": pcrs }).to_string()
        })
        .collect();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(lines.join("\n").as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| {
            let said: Value = serde_json::from_str(line).unwrap();
            let digests = said["digests"].as_object()?;
            let digests = digests.iter().map(|(pcr, all)| {
                let all = all.as_array().unwrap().iter();
                let all =
                    all.map(|text| hex::encode(STANDARD.decode(text.as_str().unwrap()).unwrap()));
                (pcr.parse().unwrap(), all.collect())
            });
            Some((digests.collect(), said["secure_boot"].as_bool()))
        })
        .collect()
}

/// Returns what we say of each log, beside a quote of the PCRs.
fn own(cases: &[Case]) -> Vec<Verdict> {
    let tpm = Tpm::new();
    let (key, _) = tpm.endorsed(|_| {}).unwrap();
    let each = cases.iter().map(|(log, pcrs)| {
        let claims = tpm.verify(&key, &tpm.evidence(pcrs, Some(log))).ok()?;
        let digests = pcrs.keys().filter_map(|pcr| {
            let digests = claims.values.get(&format!("event.sha256.{pcr}"))?;
            Some((*pcr, digests.to_vec()))
        });
        let state = claims.values.get("secure_boot");
        Some((digests.collect(), state.map(|state| state[0] == "true")))
    });
    each.collect()
}

#[test]
fn e1_go_attestation_reads_genuine_logs_as_we_do() {
    let mut cases = Vec::new();
    for secure_boot in [false, true] {
        for log in [Log::of_cloud(secure_boot), Log::of_computer(secure_boot)] {
            cases.push((log.bytes(), log.registers(Bank::Sha256)));
        }
        let machine = Machine::booted(secure_boot);
        cases.push((machine.bytes(), machine.quoted()));
    }
    let (ours, theirs) = (own(&cases), go_attestation(&cases));
    assert_eq!(ours.len(), theirs.len());
    for (index, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        println!(
            "{index} {:?} {:?}",
            ours.as_ref().map(|o| o.1),
            theirs.as_ref().map(|o| o.1)
        );
        assert_eq!(ours, theirs, "log {index}");
    }
}

#[test]
fn e1_go_attestation_proves_nothing_else_of_any_edited_log() {
    let mut dice = Dice::new(0x5eed_0000_0000_00e3);
    let cases: Vec<Case> = (0..variants())
        .map(|round| {
            let mut machine = Machine::booted(round % 2 == 0);
            for _ in 0..=dice.roll(4) {
                edit(&mut machine, &mut dice);
            }
            (machine.bytes(), machine.quoted())
        })
        .collect();
    let (ours, theirs) = (own(&cases), go_attestation(&cases));
    let mut proven = 0;
    for (round, pair) in ours.iter().zip(&theirs).enumerate() {
        let (ours, theirs) = match pair {
            (None, None) => continue,
            (Some(ours), Some(theirs)) => (ours, theirs),
            _ => panic!("round {round}: one of two refuses {:?}", cases[round]),
        };
        assert_eq!(ours.0, theirs.0, "round {round}");
        // Without a word of the state they doubt what was measured after the boot, too.
        assert!(theirs.1.is_none() || theirs.1 == ours.1, "round {round}");
        proven += usize::from(theirs.1.is_some());
    }
    // Refusing everything would pass, too.
    assert_eq!(ours.len(), theirs.len());
    assert!(proven > variants() / 10, "{proven} with a claim");
}
