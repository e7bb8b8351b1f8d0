//! Replay of the measured-boot event log (TCG "PC Client Platform Firmware Profile", section 10,
//! crypto-agile format) against the quoted PCRs.
//!
//! The replay proves the digests of events, neither their types nor their contents. A claim about
//! an event's content is therefore made only if the event's digest is that of the content
//! (go-attestation GHSA-9r4w-jg96-92mv).

use std::collections::BTreeMap;

use super::TpmError;
use super::hash::Hash;
use super::reader::Reader;

/// The largest log, in bytes.
pub(super) const MAX_LOG: usize = 128 << 10;
/// The largest number of events.
const MAX_EVENTS: usize = 4096;
/// The largest number of hash algorithms in one log.
const MAX_ALGORITHMS: usize = 8;

/// `EV_NO_ACTION`, the type of events that are not measured.
const NO_ACTION: u32 = 3;
/// The signature of the crypto-agile format.
const SIGNATURE: &[u8] = b"Spec ID Event03\0";
/// The signature of the event that names the locality of `TPM2_Startup`.
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";
/// `EFI_GLOBAL_VARIABLE` (UEFI specification, section 3.3), in the byte order of memory.
const GLOBAL_VARIABLE: [u8; 16] = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c,
];

/// The measurements that a log proves for the quoted PCRs.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Every digest by PCR, in the order of the log.
    pub(super) digests: BTreeMap<usize, Vec<Vec<u8>>>,
    /// The value of the SecureBoot variable, if it was measured into PCR 7 exactly once.
    pub(super) secure_boot: Option<bool>,
}

/// Replays a log and compares the result with the values of the quoted PCRs.
pub(super) fn replay(
    log: &[u8],
    bank: Hash,
    quoted: &BTreeMap<usize, Vec<u8>>,
) -> Result<Measured, TpmError> {
    if log.len() > MAX_LOG {
        return Err(TpmError::EventLog("longer than 128 KiB"));
    }
    let mut reader = Reader(log);
    let sizes = header(&mut reader)?;
    let length = bank.algorithm().output_len();
    if !sizes
        .iter()
        .any(|(id, size)| Hash::from_id(*id) == Some(bank) && *size == length)
    {
        return Err(TpmError::EventLog("has no digests of the quoted bank"));
    }
    let mut registers: BTreeMap<usize, Vec<u8>> =
        quoted.keys().map(|pcr| (*pcr, vec![0; length])).collect();
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
            let size = sizes
                .iter()
                .find(|(known, _)| *known == id)
                .map(|(_, size)| *size)
                .ok_or(TpmError::EventLog("algorithm"))?;
            let digest = reader.take(size)?;
            if Hash::from_id(id) == Some(bank) && own.replace(digest).is_some() {
                return Err(TpmError::EventLog("digest twice"));
            }
        }
        let own = own.ok_or(TpmError::EventLog("digest missing"))?;
        let size =
            usize::try_from(little(&mut reader)?).map_err(|_| TpmError::EventLog("event size"))?;
        let content = reader.take(size)?;
        let Some(register) = registers.get_mut(&pcr) else {
            continue;
        };
        if kind == NO_ACTION {
            // Such an event extends no PCR. The start-up locality is the initial value of PCR 0.
            if let (0, Some([locality]), Some(last)) = (
                pcr,
                content.strip_prefix(STARTUP_LOCALITY),
                register.last_mut(),
            ) {
                *last = *locality;
            }
            continue;
        }
        *register = bank.digest(&[register, own]);
        measured.digests.entry(pcr).or_default().push(own.to_vec());
        // The log is the claimant's word; the content counts only if its digest was measured.
        if pcr == 7 && own == bank.digest(&[content]) {
            states.extend(secure_boot(content));
        }
    }
    Err(TpmError::EventLog("more than 4096 events"))
}

/// Reads the first event, which is in the older format; returns the id and digest length, in bytes,
/// of each algorithm of the log.
fn header(reader: &mut Reader<'_>) -> Result<Vec<(u16, usize)>, TpmError> {
    let (_, kind) = (little(reader)?, little(reader)?);
    reader.take(20)?;
    let size = usize::try_from(little(reader)?).map_err(|_| TpmError::EventLog("event size"))?;
    let content = reader.take(size)?;
    let content = content
        .strip_prefix(SIGNATURE)
        .filter(|_| kind == NO_ACTION)
        .ok_or(TpmError::EventLog("not crypto-agile"))?;
    let mut content = Reader(content);
    content.take(8)?;
    let count = usize::try_from(little(&mut content)?)
        .ok()
        .filter(|count| *count <= MAX_ALGORITHMS)
        .ok_or(TpmError::EventLog("algorithms"))?;
    let mut sizes: Vec<(u16, usize)> = Vec::with_capacity(count);
    for _ in 0..count {
        let (id, size) = (
            u16::from_le_bytes(content.array()?),
            u16::from_le_bytes(content.array()?),
        );
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

/// Returns the value of the SecureBoot variable if the content is its `UEFI_VARIABLE_DATA`.
fn secure_boot(content: &[u8]) -> Option<bool> {
    let rest = content.strip_prefix(&GLOBAL_VARIABLE)?;
    let (names, rest) = rest.split_first_chunk::<8>()?;
    let (data, rest) = rest.split_first_chunk::<8>()?;
    let name: Vec<u8> = "SecureBoot"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    if u64::from_le_bytes(*names) != 10 || u64::from_le_bytes(*data) != 1 {
        return None;
    }
    match rest.strip_prefix(name.as_slice())? {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COREOS: &[u8] = include_bytes!(
        "../../../../tests/vectors/tpm-eventlogs/coreos_36_shielded_vm_no_secure_boot_eventlog"
    );
    const AGILE: &[u8] =
        include_bytes!("../../../../tests/vectors/tpm-eventlogs/crypto_agile_eventlog");

    fn pcrs(values: &[(usize, &str)]) -> BTreeMap<usize, Vec<u8>> {
        values
            .iter()
            .map(|(index, value)| (*index, hex::decode(value).unwrap_or_default()))
            .collect()
    }

    /// As a second decoder has them: `tpm2_eventlog` of tpm2-tools 5.4.
    fn coreos() -> BTreeMap<usize, Vec<u8>> {
        pcrs(&[
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
        ])
    }

    #[test]
    fn logs_replay_to_what_a_second_decoder_computes() {
        let measured = replay(COREOS, Hash::Sha256, &coreos()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(measured.secure_boot, Some(false));
        let of_384 = pcrs(&[(
            7,
            "01c71e7c43af16384ee8e5eb407ff521146643fc93a6ce4bd6b6dea15c92107aa298428d6bddc11541058e81da192860",
        )]);
        assert!(replay(COREOS, Hash::Sha384, &of_384).is_ok());
        let agile = pcrs(&[
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
        assert!(replay(AGILE, Hash::Sha256, &agile).is_ok());
        // It has no digests of that bank.
        assert!(replay(AGILE, Hash::Sha384, &of_384).is_err());
    }

    #[test]
    fn t29_a_log_with_an_entry_more_or_less_or_changed_is_refused_and_none_panics() {
        let quoted = coreos();
        let genuine = replay(COREOS, Hash::Sha256, &quoted)
            .map(|measured| measured.digests)
            .unwrap_or_default();
        for length in 0..COREOS.len() {
            // Events of PCRs that are not quoted may stand at the end, and may be left out.
            if let Ok(measured) = replay(
                COREOS.get(..length).unwrap_or_default(),
                Hash::Sha256,
                &quoted,
            ) {
                assert_eq!(measured.digests, genuine, "cut at {length}");
            }
        }
        let mut variant = COREOS.to_vec();
        for at in 0..variant.len() {
            for bit in [0, 3, 7] {
                if let Some(byte) = variant.get_mut(at) {
                    *byte ^= 1 << bit;
                }
                // What is not covered: content and types of events, the other banks, events of PCRs
                // that are not quoted. Digests are.
                if let Ok(measured) = replay(&variant, Hash::Sha256, &quoted) {
                    assert_eq!(measured.digests, genuine, "byte {at}, bit {bit}");
                    assert_ne!(measured.secure_boot, Some(true), "byte {at}, bit {bit}");
                }
                if let Some(byte) = variant.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
        }
        let mut twice = COREOS.to_vec();
        twice.extend_from_within(COREOS.len().saturating_sub(200)..);
        assert!(replay(&twice, Hash::Sha256, &quoted).is_err());
    }
}
