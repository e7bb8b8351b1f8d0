//! The way to a TPM: commands and answers (TCG "Trusted Platform Module Library", part 1, section
//! 18).

use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::TpmError;

pub(super) const READ_PUBLIC: u32 = 0x0000_0173;
pub(super) const NO_SESSIONS: u16 = 0x8001;
pub(super) const SESSIONS: u16 = 0x8002;
pub(super) const SHA256: u16 = 0x000b;
pub(super) const NULL: u16 = 0x0010;
/// Password session, empty password.
pub(super) const PASSWORD: [u8; 9] = [0x40, 0, 0, 9, 0, 0, 0, 0, 0];
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

trait Channel: Read + Write {}
impl<T: Read + Write> Channel for T {}

/// An open TPM, and the handle of the key that is worked with, for texts.
pub(super) struct Tpm(Box<dyn Channel>, u32);

impl Tpm {
    pub(super) fn open(path: &Path, key: u32) -> Result<Self, TpmError> {
        let fail = TpmError::file(path);
        if std::fs::metadata(path)
            .map_err(fail)?
            .file_type()
            .is_socket()
        {
            let stream = UnixStream::connect(path).map_err(fail)?;
            stream
                .set_read_timeout(Some(WITHIN))
                .and_then(|()| stream.set_write_timeout(Some(WITHIN)))
                .map_err(fail)?;
            return Ok(Self(Box::new(stream), key));
        }
        Ok(Self(
            Box::new(
                std::fs::File::options()
                    .read(true)
                    .write(true)
                    .open(path)
                    .map_err(fail)?,
            ),
            key,
        ))
    }

    /// Sends a command and reads the answer, without its header.
    pub(super) fn run(&mut self, tag: u16, code: u32, body: &[u8]) -> Result<Vec<u8>, TpmError> {
        for _ in 0..BUSY_ATTEMPTS {
            match self.run_once(tag, code, body)? {
                (0, answer) => return Ok(answer),
                // The TPM tests itself, or had something else to do: the command was not begun.
                (RETRY | YIELDED | TESTING, _) => std::thread::sleep(BUSY_PAUSE),
                (LOCKOUT, _) => return Err(TpmError::LockedOut),
                (NO_HANDLE, _) => return Err(TpmError::NoKey(self.1)),
                (code, _) => return Err(TpmError::Refused(code)),
            }
        }
        Err(TpmError::Busy)
    }

    fn run_once(&mut self, tag: u16, code: u32, body: &[u8]) -> Result<(u32, Vec<u8>), TpmError> {
        let length = u32::try_from(body.len().saturating_add(10))?;
        let mut command = tag.to_be_bytes().to_vec();
        command.extend(length.to_be_bytes());
        command.extend(code.to_be_bytes());
        command.extend(body);
        self.0.write_all(&command).map_err(TpmError::Connection)?;
        let mut answer = vec![0; MAX_ANSWER];
        let mut have = 0;
        let length = loop {
            // A device gives the whole answer at once, a socket may give a part.
            let read = self
                .0
                .read(answer.get_mut(have..).unwrap_or_default())
                .map_err(TpmError::Connection)?;
            have = have.saturating_add(read);
            let length = answer
                .get(2..6)
                .and_then(|bytes| bytes.try_into().ok())
                .map(u32::from_be_bytes);
            let length = length
                .and_then(|length| usize::try_from(length).ok())
                .filter(|_| have >= 10)
                .unwrap_or(usize::MAX);
            if have >= length {
                break length;
            }
            if read == 0 {
                return Err(TpmError::CutShort);
            }
        };
        match answer
            .get(6..10)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_be_bytes)
        {
            Some(code) => Ok((code, answer.get(10..length).unwrap_or_default().to_vec())),
            None => Err(TpmError::CutShort),
        }
    }
}

/// Takes `length` bytes off the front of an answer.
pub(super) fn take(from: &mut Vec<u8>, length: usize) -> Result<Vec<u8>, TpmError> {
    if from.len() < length {
        return Err(TpmError::CutShort);
    }
    let rest = from.split_off(length);
    Ok(std::mem::replace(from, rest))
}

/// Takes `N` bytes off the front of an answer.
pub(super) fn array<const N: usize>(from: &mut Vec<u8>) -> Result<[u8; N], TpmError> {
    take(from, N)?.try_into().map_err(|_| TpmError::CutShort)
}

/// Takes a TPM2B off the front of an answer, and returns its content.
pub(super) fn buffer(from: &mut Vec<u8>) -> Result<Vec<u8>, TpmError> {
    let length = usize::from(u16::from_be_bytes(array(from)?));
    take(from, length)
}

/// Returns the authorization area of these sessions.
pub(super) fn authorized(sessions: &[&[u8]]) -> Result<Vec<u8>, TpmError> {
    let area = sessions.concat();
    let length = u32::try_from(area.len())?;
    Ok([&length.to_be_bytes()[..], &area].concat())
}

/// Returns `content` as a TPM2B: its length in two bytes, and then the bytes.
pub(super) fn sized(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], content].concat()
}
