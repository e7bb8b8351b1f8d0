//! Replay of the measured-boot event log (TCG "PC Client Platform Firmware Profile", section 10,
//! crypto-agile format) against the quoted PCRs.
//!
//! The replay proves the digests of events by PCR and their order within a PCR, and nothing else:
//! types, contents, and which PCR was extended first are the claimant's word.

mod events;
mod secure_boot;

use std::collections::BTreeMap;

use super::TpmError;
use super::hash::Hash;
use super::reader::Reader;
use events::{Event, Events, NO_ACTION};

/// The largest log, in bytes.
pub(super) const MAX_LOG: usize = 128 << 10;
/// The largest number of events.
const MAX_EVENTS: usize = 4096;

/// The PCR of the secure-boot policy.
const POLICY_PCR: usize = 7;
/// The signature of the event that names the locality of `TPM2_Startup`.
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";

/// The measurements that a log proves for the quoted PCRs.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Every digest by PCR, in the order of the log.
    pub(super) digests: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Whether secure boot was on, if the measurements of PCR 7 prove one or the other.
    pub(super) secure_boot: Option<bool>,
}

/// Replays a log and compares the result with the values of the quoted PCRs that the log mentions.
///
/// Of the others the log says nothing, so nothing is claimed of their events: the firmware does not
/// write what the operating system measures, and some PCRs do not begin with zeros. The values of
/// all quoted PCRs are claims by the quote alone.
pub(super) fn replay(
    log: &[u8],
    bank: Hash,
    quoted: &BTreeMap<usize, Vec<u8>>,
) -> Result<Measured, TpmError> {
    if log.len() > MAX_LOG {
        return Err(TpmError::EventLog("longer than 128 KiB"));
    }
    let mut events = Events::new(Reader(log), bank)?;
    let zeros = vec![0; bank.algorithm().output_len()];
    let mut registers: BTreeMap<usize, Vec<u8>> =
        quoted.keys().map(|pcr| (*pcr, zeros.clone())).collect();
    let mut measured = Measured::default();
    let mut policy: Vec<Event<'_>> = Vec::new();
    for _ in 0..MAX_EVENTS {
        let Some(event) = events.next_event()? else {
            let replays = |pcr: &usize| registers.get(pcr) == quoted.get(pcr);
            if !measured.digests.keys().all(replays) {
                return Err(TpmError::EventLog("does not replay to the quoted PCRs"));
            }
            measured.secure_boot = secure_boot::state(bank, &policy);
            return Ok(measured);
        };
        let Some(register) = registers.get_mut(&event.pcr) else {
            continue;
        };
        if event.kind == NO_ACTION {
            // Such an event extends no PCR. The start-up locality is the initial value of PCR 0, so
            // it counts only while PCR 0 has its initial value.
            if let (0, true, Some([locality]), Some(last)) = (
                event.pcr,
                *register == zeros,
                event.content.strip_prefix(STARTUP_LOCALITY),
                register.last_mut(),
            ) {
                *last = *locality;
            }
            continue;
        }
        *register = bank.digest(&[register, event.digest]);
        let digests = measured.digests.entry(event.pcr).or_default();
        digests.push(event.digest.to_vec());
        if event.pcr == POLICY_PCR {
            policy.push(event);
        }
    }
    Err(TpmError::EventLog("more than 4096 events"))
}

#[cfg(test)]
mod tests;
