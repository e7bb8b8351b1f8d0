//! What the measurements of PCR 7 prove of secure boot (TCG "PC Client Platform Firmware Profile",
//! section 3.3.4.8).
//!
//! Only proven digests decide which events count: the firmware's separator is known by its digest,
//! and types are not looked at. After the separator, everybody with access to the TPM may measure
//! what looks like an event of the firmware (go-attestation, GHSA-9r4w-jg96-92mv).

use super::super::hash::Hash;
use super::events::Event;

/// The contents of the separator between the firmware and what it starts: `EV_SEPARATOR` without an
/// error.
const SEPARATORS: [[u8; 4]; 2] = [[0; 4], [0xff; 4]];
/// The action that says that the platform can be debugged.
const DEBUG_MODE: &[u8] = b"UEFI Debug Mode";
/// `EFI_GLOBAL_VARIABLE` (UEFI specification, section 3.3), in the byte order of memory.
pub(super) const GLOBAL_VARIABLE: [u8; 16] = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c,
];

/// Returns whether secure boot was on, by the measured events of PCR 7; `None` if they do not prove
/// it.
///
/// Before the first separator, every digest must be that of the event's content, as it is for all
/// types that the firmware measures there (variables, authorities, actions). The SecureBoot variable
/// must be among these events exactly once, and debug mode must not.
pub(super) fn state(bank: Hash, events: &[Event<'_>]) -> Option<bool> {
    let separators = SEPARATORS.map(|content| bank.digest(&[&content]));
    let is_separator = |event: &Event<'_>| separators.iter().any(|known| known == event.digest);
    let before = events.get(..events.iter().position(is_separator)?)?;
    let mut states = Vec::new();
    for event in before {
        if bank.digest(&[event.content]) != event.digest || event.content == DEBUG_MODE {
            return None;
        }
        states.extend(secure_boot(event.content));
    }
    match states.as_slice() {
        [only] => *only,
        _ => None,
    }
}

/// Returns the value of the SecureBoot variable if the content is its `UEFI_VARIABLE_DATA`; the
/// inner `None` is a value that is neither 0 nor 1.
fn secure_boot(content: &[u8]) -> Option<Option<bool>> {
    let rest = content.strip_prefix(&GLOBAL_VARIABLE)?;
    let (names, rest) = rest.split_first_chunk::<8>()?;
    let (data, rest) = rest.split_first_chunk::<8>()?;
    let name: Vec<u8> = "SecureBoot"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    if u64::from_le_bytes(*names) != 10 {
        return None;
    }
    let value = rest.strip_prefix(name.as_slice())?;
    Some(match (u64::from_le_bytes(*data), value) {
        (1, [0]) => Some(false),
        (1, [1]) => Some(true),
        _ => None,
    })
}
