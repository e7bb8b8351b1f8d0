//! The measured-boot event log (TCG "PC Client Platform Firmware Profile", crypto-agile format): replayed against the PCRs that were quoted.
//!
//! Only digests are proven by the replay, not the types of events. So what a claim says of an event's content is taken only where the digest is
//! that of the content (go-attestation GHSA-9r4w-jg96-92mv).

use std::collections::BTreeMap;

use super::TpmError;
use super::structures::{Hash, Reader};

/// Largest log, in bytes.
pub(super) const MAX_LOG: usize = 128 << 10;
/// Most events.
const MAX_EVENTS: usize = 4096;
/// Most algorithms of a log.
const MAX_ALGORITHMS: usize = 8;

const NO_ACTION: u32 = 3;
const SIGNATURE: &[u8] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";
/// EFI_GLOBAL_VARIABLE_GUID, as it lies in memory.
const GLOBAL_VARIABLE: [u8; 16] = [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];

/// What a log says was measured into the quoted PCRs.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Every digest by PCR, in order.
    pub(super) digests: BTreeMap<usize, Vec<Vec<u8>>>,
    /// The SecureBoot variable, if it was measured into PCR 7, once.
    pub(super) secure_boot: Option<bool>,
}

/// Replays a log and compares each quoted PCR.
pub(super) fn replay(log: &[u8], bank: Hash, quoted: &BTreeMap<usize, Vec<u8>>) -> Result<Measured, TpmError> {
    if log.len() > MAX_LOG {
        return Err(TpmError::EventLog("longer than 128 KiB"));
    }
    let mut reader = Reader(log);
    let sizes = header(&mut reader)?;
    let length = bank.algorithm().output_len();
    if !sizes.iter().any(|(id, size)| Hash::of(*id) == Some(bank) && *size == length) {
        return Err(TpmError::EventLog("has no digests of the quoted bank"));
    }
    let mut registers: BTreeMap<usize, Vec<u8>> = quoted.keys().map(|pcr| (*pcr, vec![0; length])).collect();
    let mut measured = Measured::default();
    let mut states = Vec::new();
    for _ in 0..MAX_EVENTS {
        if reader.0.is_empty() {
            if registers != *quoted {
                return Err(TpmError::EventLog("does not replay to the quoted PCRs"));
            }
            if let [only] = states.as_slice() {
                measured.secure_boot = Some(*only);
            }
            return Ok(measured);
        }
        let (pcr, kind) = (little(&mut reader)?, little(&mut reader)?);
        let pcr = usize::try_from(pcr).map_err(|_| TpmError::EventLog("PCR"))?;
        let mut own = None;
        let count = little(&mut reader)?;
        if usize::try_from(count).ok() != Some(sizes.len()) {
            return Err(TpmError::EventLog("number of digests"));
        }
        for _ in 0..count {
            let id = u16::from_le_bytes(reader.array()?);
            let size = sizes.iter().find(|(known, _)| *known == id).map(|(_, size)| *size).ok_or(TpmError::EventLog("algorithm"))?;
            let digest = reader.take(size)?;
            if Hash::of(id) == Some(bank) && own.replace(digest).is_some() {
                return Err(TpmError::EventLog("digest twice"));
            }
        }
        let own = own.ok_or(TpmError::EventLog("digest missing"))?;
        let size = usize::try_from(little(&mut reader)?).map_err(|_| TpmError::EventLog("event size"))?;
        let content = reader.take(size)?;
        let Some(register) = registers.get_mut(&pcr) else { continue };
        if kind == NO_ACTION {
            // Not measured; but PCR 0 begins with the locality that started the TPM.
            if let (0, Some([locality]), Some(last)) = (pcr, content.strip_prefix(STARTUP_LOCALITY), register.last_mut()) {
                *last = *locality;
            }
            continue;
        }
        *register = bank.digest(&[register, own]);
        measured.digests.entry(pcr).or_default().push(own.to_vec());
        if pcr == 7 && own == bank.digest(&[content]) {
            states.extend(secure_boot(content));
        }
    }
    Err(TpmError::EventLog("more than 4096 events"))
}

/// The first event, in the old format, says which digests the others have.
fn header(reader: &mut Reader<'_>) -> Result<Vec<(u16, usize)>, TpmError> {
    let (_, kind) = (little(reader)?, little(reader)?);
    reader.take(20)?;
    let size = usize::try_from(little(reader)?).map_err(|_| TpmError::EventLog("event size"))?;
    let content = reader.take(size)?;
    let content = content.strip_prefix(SIGNATURE).filter(|_| kind == NO_ACTION).ok_or(TpmError::EventLog("not crypto-agile"))?;
    let mut content = Reader(content);
    content.take(8)?;
    let count = usize::try_from(little(&mut content)?).ok().filter(|count| *count <= MAX_ALGORITHMS).ok_or(TpmError::EventLog("algorithms"))?;
    let mut sizes: Vec<(u16, usize)> = Vec::with_capacity(count);
    for _ in 0..count {
        let (id, size) = (u16::from_le_bytes(content.array()?), u16::from_le_bytes(content.array()?));
        if size > 64 || sizes.iter().any(|(known, _)| *known == id) {
            return Err(TpmError::EventLog("algorithms"));
        }
        sizes.push((id, usize::from(size)));
    }
    Ok(sizes)
}

fn little(reader: &mut Reader<'_>) -> Result<u32, TpmError> {
    reader.array().map(u32::from_le_bytes)
}

/// UEFI_VARIABLE_DATA of the SecureBoot variable.
fn secure_boot(content: &[u8]) -> Option<bool> {
    let rest = content.strip_prefix(&GLOBAL_VARIABLE)?;
    let (names, rest) = rest.split_first_chunk::<8>()?;
    let (data, rest) = rest.split_first_chunk::<8>()?;
    let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
    if u64::from_le_bytes(*names) != 10 || u64::from_le_bytes(*data) != 1 {
        return None;
    }
    match rest.strip_prefix(name.as_slice())? {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}
