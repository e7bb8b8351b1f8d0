//! A generator of hostile edits of event logs, for tests.
//!
//! The generator has the powers of a host's root after the boot. The events of the boot are in the
//! TPM and stay there; anything may be extended after them; and every byte of the log is free.

use super::super::hash::Hash;
use super::events::NO_ACTION;
use super::secure_boot::GLOBAL_VARIABLE;
use std::collections::BTreeMap;

/// `EV_SEPARATOR`.
pub(super) const SEPARATOR: u32 = 4;
/// `EV_EFI_VARIABLE_DRIVER_CONFIG`.
pub(super) const DRIVER_CONFIG: u32 = 0x8000_0001;
/// `EV_EFI_ACTION`.
pub(super) const ACTION: u32 = 0x8000_0007;
/// `EV_EFI_VARIABLE_AUTHORITY`.
pub(super) const AUTHORITY: u32 = 0x8000_00e0;

/// An event as a log writes it, with the digest of one bank.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) pcr: u32,
    pub(super) kind: u32,
    pub(super) digest: Vec<u8>,
    pub(super) content: Vec<u8>,
}

impl Event {
    /// Makes an event whose digest is that of its content.
    pub(super) fn measured(pcr: u32, kind: u32, content: &[u8]) -> Self {
        Self {
            pcr,
            kind,
            digest: Hash::Sha256.digest(&[content]),
            content: content.to_vec(),
        }
    }
}

/// Returns the UEFI_VARIABLE_DATA of a global variable.
pub(super) fn variable(name: &str, data: &[u8]) -> Vec<u8> {
    let units: Vec<u16> = name.encode_utf16().collect();
    let mut out = GLOBAL_VARIABLE.to_vec();
    for length in [units.len(), data.len()] {
        out.extend(u64::try_from(length).unwrap_or(u64::MAX).to_le_bytes());
    }
    out.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    out.extend(data);
    out
}

/// A TPM with the log that is told of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    extended: Vec<(u32, Vec<u8>)>,
    pub(super) log: Vec<Event>,
}

impl Machine {
    /// Makes a machine that has booted: variables, separators, an authority, and what ran after.
    pub(super) fn booted(secure_boot: bool) -> Self {
        let zeros = [0; 4];
        let mut log = vec![
            Event::measured(0, 8, b"firmware"),
            Event::measured(
                7,
                DRIVER_CONFIG,
                &variable("SecureBoot", &[u8::from(secure_boot)]),
            ),
            Event::measured(7, DRIVER_CONFIG, &variable("PK", b"owner")),
            Event::measured(7, DRIVER_CONFIG, &variable("KEK", b"exchange")),
            Event::measured(1, 0x8000_0002, b"BootOrder"),
        ];
        log.extend((0..8).map(|pcr| Event::measured(pcr, SEPARATOR, &zeros)));
        log.push(Event::measured(
            7,
            AUTHORITY,
            &variable("db", b"certificate"),
        ));
        log.push(Event::measured(4, 0x8000_0003, b"loader"));
        let mut machine = Self::default();
        for event in log {
            machine.extend(event);
        }
        machine
    }

    /// Extends a PCR and writes the event at the end of the log.
    pub(super) fn extend(&mut self, event: Event) {
        self.extended.push((event.pcr, event.digest.clone()));
        self.log.push(event);
    }

    /// Returns the values of PCRs 0, 4 and 7, which are quoted.
    pub(super) fn quoted(&self) -> BTreeMap<usize, Vec<u8>> {
        let mut registers: BTreeMap<usize, Vec<u8>> = [0, 4, 7]
            .into_iter()
            .map(|pcr| (pcr, vec![0; 32]))
            .collect();
        for (pcr, digest) in &self.extended {
            let register = usize::try_from(*pcr)
                .ok()
                .and_then(|pcr| registers.get_mut(&pcr));
            if let Some(register) = register {
                *register = Hash::Sha256.digest(&[register, digest]);
            }
        }
        registers
    }

    /// Returns the log in the crypto-agile format.
    pub(super) fn bytes(&self) -> Vec<u8> {
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

/// A source of pseudorandom numbers (xorshift64), the same in each run.
#[derive(Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// Returns a number below `sides`, which is above 0.
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let sides = u64::try_from(sides).unwrap_or(1);
        usize::try_from(self.0 % sides).unwrap_or_default()
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
pub(super) fn edit(machine: &mut Machine, dice: &mut Dice) {
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
