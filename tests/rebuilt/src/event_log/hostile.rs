//! Hostile edits of event logs.
//!
//! The generator has the powers of a host's root after the boot. The events of the boot are in the
//! TPM and stay there; anything may be extended after them; and every byte of the log is free.

use std::collections::BTreeMap;

use super::firmware::{GLOBAL, X509, authority, certificate, signatures};
use super::{
    ACTION, APPLICATION, AUTHORITY, Bank, DRIVER_CONFIG, NO_ACTION, SEPARATOR, VARIABLE_BOOT,
};
use crate::dice::Dice;

/// An event as a log writes it, with the digest of one bank.
#[derive(Clone, Debug)]
pub struct Event {
    /// The PCR.
    pub pcr: u32,
    /// The type.
    pub kind: u32,
    /// The digest, which need not be that of the content.
    pub digest: Vec<u8>,
    /// The content.
    pub content: Vec<u8>,
}

impl Event {
    /// Makes an event whose digest is that of its content.
    pub fn measured(pcr: u32, kind: u32, content: &[u8]) -> Self {
        Self {
            pcr,
            kind,
            digest: Bank::Sha256.digest(content),
            content: content.to_vec(),
        }
    }
}

/// Returns the UEFI_VARIABLE_DATA of a global variable.
pub fn variable(name: &str, data: &[u8]) -> Vec<u8> {
    super::firmware::variable(GLOBAL, name, data)
}

/// A TPM with the log that is told of it.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    extended: Vec<(u32, Vec<u8>)>,
    /// The log, which may say anything.
    pub log: Vec<Event>,
}

impl Machine {
    /// Makes a machine that has booted: variables, separators, an authority, and what ran after.
    pub fn booted(secure_boot: bool) -> Self {
        let zeros = [0; 4];
        let mut log = vec![
            Event::measured(0, 8, b"firmware"),
            Event::measured(
                7,
                DRIVER_CONFIG,
                &variable("SecureBoot", &[u8::from(secure_boot)]),
            ),
        ];
        for (index, name) in ["PK", "KEK", "db"].into_iter().enumerate() {
            let keys = signatures(X509, &[certificate(index)]);
            log.push(Event::measured(7, DRIVER_CONFIG, &variable(name, &keys)));
        }
        log.push(Event::measured(1, VARIABLE_BOOT, b"BootOrder"));
        log.extend((0..8).map(|pcr| Event::measured(pcr, SEPARATOR, &zeros)));
        log.push(Event::measured(7, AUTHORITY, &authority().content));
        log.push(Event::measured(4, APPLICATION, b"loader"));
        let mut machine = Self::default();
        for event in log {
            machine.extend(event);
        }
        machine
    }

    /// Extends a PCR and writes the event at the end of the log.
    pub fn extend(&mut self, event: Event) {
        self.extended.push((event.pcr, event.digest.clone()));
        self.log.push(event);
    }

    /// Returns the values of PCRs 0, 4 and 7, which are quoted.
    pub fn quoted(&self) -> BTreeMap<usize, Vec<u8>> {
        let mut registers: BTreeMap<usize, Vec<u8>> = [0, 4, 7]
            .into_iter()
            .map(|pcr| (pcr, vec![0; 32]))
            .collect();
        for (pcr, digest) in &self.extended {
            let register = usize::try_from(*pcr)
                .ok()
                .and_then(|pcr| registers.get_mut(&pcr));
            if let Some(register) = register {
                *register = Bank::Sha256.digest(&[&register[..], digest].concat());
            }
        }
        registers
    }

    /// Returns the log in the crypto-agile format.
    pub fn bytes(&self) -> Vec<u8> {
        let mut header = b"Spec ID Event03\0".to_vec();
        header.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0b, 0, 32, 0, 0]);
        let mut out = [&0_u32.to_le_bytes()[..], &NO_ACTION.to_le_bytes(), &[0; 20]].concat();
        let sized = |out: &mut Vec<u8>, content: &[u8]| {
            out.extend(
                u32::try_from(content.len())
                    .unwrap_or(u32::MAX)
                    .to_le_bytes(),
            );
            out.extend(content);
        };
        sized(&mut out, &header);
        for event in &self.log {
            for number in [event.pcr, event.kind, 1] {
                out.extend(number.to_le_bytes());
            }
            out.extend(0x000b_u16.to_le_bytes());
            out.extend(&event.digest);
            sized(&mut out, &event.content);
        }
        out
    }
}

/// Contents that a forger would like to be believed.
fn forged_content(dice: &mut Dice) -> Vec<u8> {
    match dice.roll(9) {
        0..=2 => variable("SecureBoot", &[1]),
        3 => variable("SecureBoot", &[0]),
        4 => variable("SecureBoot", &[1, 0]),
        5 => variable("db", b"other"),
        6 => vec![0; 4],
        7 => vec![0xff; 4],
        _ => b"UEFI Debug Mode".to_vec(),
    }
}

fn forged_kind(dice: &mut Dice) -> u32 {
    let kinds = [DRIVER_CONFIG, SEPARATOR, ACTION, AUTHORITY, NO_ACTION, 5];
    kinds.get(dice.roll(kinds.len())).copied().unwrap_or(ACTION)
}

/// Makes one edit of a machine that has booted.
pub fn edit(machine: &mut Machine, dice: &mut Dice) {
    let at = dice.roll(machine.log.len().max(1));
    match dice.roll(9) {
        0 | 1 => {
            let content = forged_content(dice);
            if let Some(event) = machine.log.get_mut(at) {
                event.content = content;
            }
        }
        2 => {
            let kind = forged_kind(dice);
            if let Some(event) = machine.log.get_mut(at) {
                event.kind = kind;
            }
        }
        3 | 4 => {
            let (content, kind) = (forged_content(dice), forged_kind(dice));
            machine.extend(Event::measured(7, kind, &content));
        }
        5 => {
            // An event that extends nothing, at any place.
            let mut event = Event::measured(7, NO_ACTION, &forged_content(dice));
            event.kind = NO_ACTION;
            machine.log.insert(at, event);
        }
        6 => {
            let other = dice.roll(machine.log.len().max(1));
            if at < machine.log.len() && other < machine.log.len() {
                machine.log.swap(at, other);
            }
        }
        7 => {
            if at < machine.log.len() {
                let event = machine.log.remove(at);
                let to = dice.roll(machine.log.len().saturating_add(1));
                machine.log.insert(to, event);
            }
        }
        _ => {
            let content = forged_content(dice);
            if let Some(event) = machine.log.get_mut(at) {
                *event = Event::measured(event.pcr, event.kind, &content);
            }
        }
    }
}
