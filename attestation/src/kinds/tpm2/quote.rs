//! Quotes: TPMS_ATTEST of type `TPM_ST_ATTEST_QUOTE` (TCG "Trusted Platform Module Library", part
//! 2, section 10.12).

use super::TpmError;
use super::hash::Hash;
use super::reader::Reader;

/// The largest number of PCRs in a bank.
const MAX_PCR: usize = 24;
/// `TPM_GENERATED_VALUE`. An unrestricted key signs no bytes that begin with it, and a restricted
/// key signs nothing else.
const MAGIC: u32 = 0xff54_4347;
/// `TPM_ST_ATTEST_QUOTE`.
const ATTEST_QUOTE: u16 = 0x8018;

/// The content of a quote.
#[derive(Debug)]
pub(super) struct Quote<'a> {
    /// The qualified name of the signing key.
    pub(super) signer: &'a [u8],
    /// The qualifying data that the caller of the TPM gave.
    pub(super) extra_data: &'a [u8],
    /// The TPM's clock, in milliseconds of operation since it was cleared.
    pub(super) clock_ms: u64,
    pub(super) reset_count: u32,
    pub(super) restart_count: u32,
    /// True if the TPM has never reported a higher value of its clock than the present one.
    pub(super) safe: bool,
    pub(super) firmware_version: u64,
    pub(super) bank: Hash,
    /// The indexes of the quoted PCRs, ascending.
    pub(super) selection: Vec<usize>,
    /// The digest over the values of the selected PCRs.
    pub(super) pcr_digest: &'a [u8],
}

impl<'a> Quote<'a> {
    /// Reads a TPMS_ATTEST; fails unless it is a quote over PCRs of one bank.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, TpmError> {
        let mut reader = Reader(bytes);
        if reader.u32()? != MAGIC || reader.u16()? != ATTEST_QUOTE {
            return Err(TpmError::Malformed("not a quote"));
        }
        let (signer, extra_data) = (reader.buffer()?, reader.buffer()?);
        let (clock_ms, reset_count, restart_count) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let safe = match reader.array::<1>()? {
            [0] => false,
            [1] => true,
            _ => return Err(TpmError::Malformed("clock")),
        };
        let firmware_version = reader.u64()?;
        // The PCR digest is over the values alone. With several banks, the values of one bank could
        // pass for those of another.
        if reader.u32()? != 1 {
            return Err(TpmError::Selection);
        }
        let bank = Hash::from_id(reader.u16()?).ok_or(TpmError::Selection)?;
        let [length] = reader.array::<1>()?;
        let bits = reader.take(usize::from(length))?;
        let chosen = |index: &usize| {
            bits.get(index / 8)
                .is_some_and(|byte| byte & (1 << (index % 8)) != 0)
        };
        let selection: Vec<usize> = (0..bits.len().saturating_mul(8)).filter(chosen).collect();
        if selection.is_empty() || selection.iter().any(|index| *index >= MAX_PCR) {
            return Err(TpmError::Selection);
        }
        let pcr_digest = reader.buffer()?;
        reader.end()?;
        Ok(Self {
            signer,
            extra_data,
            clock_ms,
            reset_count,
            restart_count,
            safe,
            firmware_version,
            bank,
            selection,
            pcr_digest,
        })
    }
}
