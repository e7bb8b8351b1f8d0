//! The events of a crypto-agile log, read one after the other.

use super::super::TpmError;
use super::super::hash::Hash;
use super::super::reader::Reader;

/// The largest number of hash algorithms in one log.
const MAX_ALGORITHMS: usize = 8;

/// `EV_NO_ACTION`, the type of events that are not measured.
pub(super) const NO_ACTION: u32 = 3;
/// The signature of the crypto-agile format.
const SIGNATURE: &[u8] = b"Spec ID Event03\0";

/// An event with its digest of one bank. Nothing in it is proven before the replay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    pub(super) pcr: usize,
    pub(super) kind: u32,
    pub(super) digest: &'a [u8],
    pub(super) content: &'a [u8],
}

/// The events of a log that are still to be read.
pub(super) struct Events<'a> {
    reader: Reader<'a>,
    bank: Hash,
    /// The id and the digest length, in bytes, of each algorithm of the log.
    sizes: Vec<(u16, usize)>,
}

impl<'a> Events<'a> {
    /// Reads the header; fails unless the log has digests of this bank.
    pub(super) fn new(mut reader: Reader<'a>, bank: Hash) -> Result<Self, TpmError> {
        let sizes = header(&mut reader)?;
        let length = bank.algorithm().output_len();
        let has_bank = sizes
            .iter()
            .any(|(id, size)| Hash::from_id(*id) == Some(bank) && *size == length);
        if !has_bank {
            return Err(TpmError::EventLog("has no digests of the quoted bank"));
        }
        Ok(Self {
            reader,
            bank,
            sizes,
        })
    }

    /// Reads the next event; `None` at the end of the log.
    pub(super) fn next_event(&mut self) -> Result<Option<Event<'a>>, TpmError> {
        if self.reader.0.is_empty() {
            return Ok(None);
        }
        let (pcr, kind) = (little(&mut self.reader)?, little(&mut self.reader)?);
        let pcr = usize::try_from(pcr).map_err(|_| TpmError::EventLog("PCR"))?;
        let digest = self.digest()?;
        let size = little(&mut self.reader)?;
        let size = usize::try_from(size).map_err(|_| TpmError::EventLog("event size"))?;
        Ok(Some(Event {
            pcr,
            kind,
            digest,
            content: self.reader.take(size)?,
        }))
    }

    /// Reads the digests of an event; returns that of the bank.
    fn digest(&mut self) -> Result<&'a [u8], TpmError> {
        let count = little(&mut self.reader)?;
        if usize::try_from(count).ok() != Some(self.sizes.len()) {
            return Err(TpmError::EventLog("number of digests"));
        }
        let mut own = None;
        for _ in 0..count {
            let id = u16::from_le_bytes(self.reader.array()?);
            let (_, size) = self
                .sizes
                .iter()
                .find(|(known, _)| *known == id)
                .ok_or(TpmError::EventLog("algorithm"))?;
            let digest = self.reader.take(*size)?;
            if Hash::from_id(id) == Some(self.bank) && own.replace(digest).is_some() {
                return Err(TpmError::EventLog("digest twice"));
            }
        }
        own.ok_or(TpmError::EventLog("digest missing"))
    }
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
