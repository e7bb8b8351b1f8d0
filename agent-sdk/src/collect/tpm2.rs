//! `tpm2`: a quote of this machine's TPM, asked for over its character device or a socket of a TPM emulator.
//!
//! Speaks the TPM's own commands (TCG "Trusted Platform Module Library", part 3), so that no tools are needed where the agent runs.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sundew_core::client::tpm2::Evidence;

use super::{Collected, Collector, Context, hex};

const READ_PUBLIC: u32 = 0x0000_0173;
const PCR_READ: u32 = 0x0000_017e;
const QUOTE: u32 = 0x0000_0158;
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
const SHA256: u16 = 0x000b;
const NULL: u16 = 0x0010;
/// Password session, empty password.
const PASSWORD: [u8; 9] = [0x40, 0, 0, 9, 0, 0, 0, 0, 0];
/// Longest answer of a TPM, in bytes.
const MAX_ANSWER: usize = 4096;
const WITHIN: Duration = Duration::from_secs(10);
/// Response codes that ask for the same command again.
const RETRY: u32 = 0x922;
const YIELDED: u32 = 0x908;
const TESTING: u32 = 0x90a;
/// Keys that are protected against guessing cannot be used for a while.
const LOCKOUT: u32 = 0x921;
/// A handle that nothing is at.
const NO_HANDLE: u32 = 0x18b;
const BUSY_ATTEMPTS: usize = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Where the firmware's log is on Linux.
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
    /// The TPM at `device`, such as `/dev/tpmrm0`, with the attestation key at a persistent handle, such as `0x81010002`.
    #[must_use]
    pub fn new(device: &Path, key: u32, pcrs: &[u8]) -> Self {
        Self { device: device.to_owned(), key, pcrs: pcrs.to_vec(), event_log: None }
    }

    /// With the event log in this file; without, the one of the firmware is sent if it can be read.
    #[must_use]
    pub fn event_log(mut self, path: &Path) -> Self {
        self.event_log = Some(path.to_owned());
        self
    }

    /// Reads `DEVICE,HANDLE,PCR+PCR…`, such as `/dev/tpmrm0,0x81010002,0+4+7`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let form = || "must be DEVICE,HANDLE,PCR+PCR…, such as /dev/tpmrm0,0x81010002,0+4+7".to_owned();
        let mut parts = text.split(',');
        let (Some(device), Some(handle), Some(pcrs), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else { return Err(form()) };
        let key = handle.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok()).ok_or_else(form)?;
        let pcrs = pcrs.split('+').map(|pcr| pcr.parse().ok().filter(|pcr| *pcr < 24)).collect::<Option<Vec<u8>>>().ok_or_else(form)?;
        Ok(Self::new(Path::new(device), key, &pcrs))
    }

    fn quote(&self, binding: &[u8]) -> Result<Evidence, String> {
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
            if u32::from_be_bytes(array(&mut answer)?) != u32::try_from(read.len()).unwrap_or(0) || read.is_empty() {
                return Err(format!("the TPM has no SHA-256 bank with PCRs {left:?}"));
            }
            for pcr in read {
                pcrs.insert(usize::from(pcr), hex(&buffer(&mut answer)?));
                left.retain(|other| *other != pcr);
            }
        }
        let mut command = self.key.to_be_bytes().to_vec();
        command.extend(9_u32.to_be_bytes());
        command.extend(PASSWORD);
        command.extend(u16::try_from(binding.len()).map_err(|e| e.to_string())?.to_be_bytes());
        command.extend(binding);
        command.extend(NULL.to_be_bytes());
        command.extend(selection(&self.pcrs));
        let mut answer = tpm.run(SESSIONS, QUOTE, &command)?;
        let length = usize::try_from(u32::from_be_bytes(array(&mut answer)?)).map_err(|e| e.to_string())?;
        let mut parameters = take(&mut answer, length)?;
        let quote = buffer(&mut parameters)?;
        let log = match &self.event_log {
            Some(path) => Some(std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?),
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
            let quote = tokio::task::spawn_blocking(move || this.quote(&binding)).await.map_err(|e| e.to_string())??;
            serde_json::to_vec(&quote).map_err(|e| e.to_string())
        })
    }
}

trait Channel: Read + Write {}
impl<T: Read + Write> Channel for T {}

/// The way to it, and the key that is worked with.
struct Tpm(Box<dyn Channel>, u32);

impl Tpm {
    fn open(path: &Path, key: u32) -> Result<Self, String> {
        let fail = |e: std::io::Error| format!("{}: {e}", path.display());
        if std::fs::metadata(path).map_err(fail)?.file_type().is_socket() {
            let stream = UnixStream::connect(path).map_err(fail)?;
            stream.set_read_timeout(Some(WITHIN)).and_then(|()| stream.set_write_timeout(Some(WITHIN))).map_err(fail)?;
            return Ok(Self(Box::new(stream), key));
        }
        Ok(Self(Box::new(std::fs::File::options().read(true).write(true).open(path).map_err(fail)?), key))
    }

    /// Sends a command and reads the answer, without its header.
    fn run(&mut self, tag: u16, code: u32, body: &[u8]) -> Result<Vec<u8>, String> {
        for _ in 0..BUSY_ATTEMPTS {
            match self.run_once(tag, code, body)? {
                (0, answer) => return Ok(answer),
                // It tests itself, or had something else to do: the command was not begun.
                (RETRY | YIELDED | TESTING, _) => std::thread::sleep(BUSY_PAUSE),
                (LOCKOUT, _) => {
                    return Err("the TPM is locked out, after failures or because it was switched off hard: `tpm2_dictionarylockout -c` ends that".to_owned());
                }
                (NO_HANDLE, _) => return Err(format!("the TPM has no key at handle {:#x}", self.1)),
                (code, _) => return Err(format!("the TPM refused (response code {code:#x})")),
            }
        }
        Err("the TPM is busy".to_owned())
    }

    fn run_once(&mut self, tag: u16, code: u32, body: &[u8]) -> Result<(u32, Vec<u8>), String> {
        let fail = |e: std::io::Error| format!("TPM: {e}");
        let length = u32::try_from(body.len().saturating_add(10)).map_err(|e| e.to_string())?;
        let mut command = tag.to_be_bytes().to_vec();
        command.extend(length.to_be_bytes());
        command.extend(code.to_be_bytes());
        command.extend(body);
        self.0.write_all(&command).map_err(fail)?;
        let mut answer = vec![0; MAX_ANSWER];
        let mut have = 0;
        let length = loop {
            // A device gives the whole answer at once, a socket may give a part.
            let read = self.0.read(answer.get_mut(have..).unwrap_or_default()).map_err(fail)?;
            have = have.saturating_add(read);
            let length = answer.get(2..6).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
            let length = length.and_then(|length| usize::try_from(length).ok()).filter(|_| have >= 10).unwrap_or(usize::MAX);
            if have >= length {
                break length;
            }
            if read == 0 {
                return Err("the TPM's answer was cut short".to_owned());
            }
        };
        match answer.get(6..10).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes) {
            Some(code) => Ok((code, answer.get(10..length).unwrap_or_default().to_vec())),
            None => Err("the TPM's answer was cut short".to_owned()),
        }
    }
}

/// A TPML_PCR_SELECTION of these PCRs of the SHA-256 bank.
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

/// Reads one.
fn selected(answer: &mut Vec<u8>) -> Result<Vec<u8>, String> {
    if u32::from_be_bytes(array(answer)?) != 1 || u16::from_be_bytes(array(answer)?) != SHA256 {
        return Err("the TPM has no SHA-256 bank".to_owned());
    }
    let [length] = array::<1>(answer)?;
    let bits = take(answer, usize::from(length))?;
    Ok((0_u8..24).filter(|pcr| bits.get(usize::from(pcr / 8)).is_some_and(|byte| byte & (1 << (pcr % 8)) != 0)).collect())
}

fn take(from: &mut Vec<u8>, length: usize) -> Result<Vec<u8>, String> {
    if from.len() < length {
        return Err("the TPM's answer was cut short".to_owned());
    }
    let rest = from.split_off(length);
    Ok(std::mem::replace(from, rest))
}

fn array<const N: usize>(from: &mut Vec<u8>) -> Result<[u8; N], String> {
    take(from, N)?.try_into().map_err(|_| "the TPM's answer was cut short".to_owned())
}

fn buffer(from: &mut Vec<u8>) -> Result<Vec<u8>, String> {
    let length = usize::from(u16::from_be_bytes(array(from)?));
    take(from, length)
}
