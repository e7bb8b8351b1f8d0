//! `tpm2`: a quote of this machine's TPM, asked for over its character device or a socket of a TPM
//! emulator.
//!
//! Speaks the TPM's own commands (TCG "Trusted Platform Module Library", part 3), so that no tools
//! are needed where the agent runs.

mod activation;
mod device;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sundew_core::client::tpm2::Evidence;

use super::{Collected, Collector, Context, TpmError, hex};
pub use activation::TpmKey;
use device::{
    NO_SESSIONS, NULL, PASSWORD, READ_PUBLIC, SESSIONS, SHA256, Tpm, array, authorized, buffer,
    sized, take,
};

const PCR_READ: u32 = 0x0000_017e;
const QUOTE: u32 = 0x0000_0158;

/// The firmware's event log on Linux.
const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// A TPM, its attestation key, and which PCRs of its SHA-256 bank are quoted.
#[derive(Clone, Debug)]
pub struct Tpm2Collector {
    device: PathBuf,
    key: u32,
    pcrs: Vec<u8>,
    event_log: Option<PathBuf>,
}

impl Tpm2Collector {
    /// The TPM at `device`, such as `/dev/tpmrm0`, with the attestation key at a persistent handle,
    /// such as `0x81010002`.
    #[must_use]
    pub fn new(device: &Path, key: u32, pcrs: &[u8]) -> Self {
        Self {
            device: device.to_owned(),
            key,
            pcrs: pcrs.to_vec(),
            event_log: None,
        }
    }

    /// Sends the event log in this file. Without this, the firmware's own log is sent if it can be
    /// read.
    #[must_use]
    pub fn event_log(mut self, path: &Path) -> Self {
        self.event_log = Some(path.to_owned());
        self
    }

    /// Reads `DEVICE,HANDLE,PCR+PCR…`, such as `/dev/tpmrm0,0x81010002,0+4+7`.
    pub(super) fn parse(text: &str) -> Result<Self, TpmError> {
        let mut parts = text.split(',');
        let (Some(device), Some(handle), Some(pcrs), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TpmError::Setting);
        };
        let key = handle
            .strip_prefix("0x")
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or(TpmError::Setting)?;
        let pcrs = pcrs
            .split('+')
            .map(|pcr| pcr.parse().ok().filter(|pcr| *pcr < 24))
            .collect::<Option<Vec<u8>>>()
            .ok_or(TpmError::Setting)?;
        Ok(Self::new(Path::new(device), key, &pcrs))
    }

    fn quote(&self, binding: &[u8]) -> Result<Evidence, TpmError> {
        let mut tpm = Tpm::open(&self.device, self.key)?;
        let mut answer = tpm.run(NO_SESSIONS, READ_PUBLIC, &self.key.to_be_bytes())?;
        buffer(&mut answer)?;
        let name = buffer(&mut answer)?;
        let mut pcrs = BTreeMap::new();
        let mut left = self.pcrs.clone();
        while !left.is_empty() {
            // A TPM answers at most eight at a time, and says which.
            let mut answer = tpm.run(NO_SESSIONS, PCR_READ, &selection(&left))?;
            take(&mut answer, 4)?;
            let read = selected(&mut answer)?;
            if u32::from_be_bytes(array(&mut answer)?) != u32::try_from(read.len()).unwrap_or(0)
                || read.is_empty()
            {
                return Err(TpmError::NoPcrs(left));
            }
            for pcr in read {
                pcrs.insert(usize::from(pcr), hex(&buffer(&mut answer)?));
                left.retain(|other| *other != pcr);
            }
        }
        let mut command = self.key.to_be_bytes().to_vec();
        command.extend(authorized(&[&PASSWORD])?);
        command.extend(sized(binding));
        command.extend(NULL.to_be_bytes());
        command.extend(selection(&self.pcrs));
        let mut answer = tpm.run(SESSIONS, QUOTE, &command)?;
        let length = usize::try_from(u32::from_be_bytes(array(&mut answer)?))?;
        let mut parameters = take(&mut answer, length)?;
        let quote = buffer(&mut parameters)?;
        let log = match &self.event_log {
            Some(path) => Some(std::fs::read(path).map_err(TpmError::file(path))?),
            // Only root reads it on most machines; the PCRs say enough without it.
            None => std::fs::read(EVENT_LOG).ok(),
        };
        Ok(Evidence {
            key: hex(&name),
            quote: STANDARD.encode(quote),
            signature: STANDARD.encode(parameters),
            pcrs,
            event_log: log.map(|log| STANDARD.encode(log)),
        })
    }
}

impl Collector for Tpm2Collector {
    fn kind(&self) -> &str {
        "tpm2"
    }

    fn collect<'a>(&'a self, context: &'a Context<'a>) -> Collected<'a> {
        let (this, binding) = (self.clone(), *context.binding.as_bytes());
        Box::pin(async move {
            let quote = tokio::task::spawn_blocking(move || this.quote(&binding)).await??;
            Ok(serde_json::to_vec(&quote)?)
        })
    }
}

/// Returns the TPML_PCR_SELECTION of these PCRs of the SHA-256 bank.
fn selection(pcrs: &[u8]) -> Vec<u8> {
    let mut bits = [0_u8; 3];
    for pcr in pcrs {
        if let Some(byte) = bits.get_mut(usize::from(*pcr / 8)) {
            *byte |= 1 << (pcr % 8);
        }
    }
    let mut out = 1_u32.to_be_bytes().to_vec();
    out.extend(SHA256.to_be_bytes());
    out.push(3);
    out.extend(bits);
    out
}

/// Reads a TPML_PCR_SELECTION off the front of `answer`, and returns the PCRs that it selects.
fn selected(answer: &mut Vec<u8>) -> Result<Vec<u8>, TpmError> {
    if u32::from_be_bytes(array(answer)?) != 1 || u16::from_be_bytes(array(answer)?) != SHA256 {
        return Err(TpmError::NoBank);
    }
    let [length] = array::<1>(answer)?;
    let bits = take(answer, usize::from(length))?;
    Ok((0_u8..24)
        .filter(|pcr| {
            bits.get(usize::from(pcr / 8))
                .is_some_and(|byte| byte & (1 << (pcr % 8)) != 0)
        })
        .collect())
}
