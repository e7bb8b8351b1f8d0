//! A reader of TPM structures (TCG "Trusted Platform Module Library", part 2): big-endian, bounded,
//! with nothing left over.

use super::TpmError;

/// The longest TPM2B that is read, in bytes.
const MAX_BUFFER: usize = 1024;

/// The rest of a structure that is read from its front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], TpmError> {
        let (front, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(TpmError::Malformed("cut short"))?;
        self.0 = rest;
        Ok(*front)
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], TpmError> {
        let (front, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(TpmError::Malformed("cut short"))?;
        self.0 = rest;
        Ok(front)
    }

    pub(super) fn u16(&mut self) -> Result<u16, TpmError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, TpmError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, TpmError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Reads a TPM2B: a length in 2 bytes, and as many bytes.
    pub(super) fn buffer(&mut self) -> Result<&'a [u8], TpmError> {
        let length = usize::from(self.u16()?);
        if length > MAX_BUFFER {
            return Err(TpmError::Malformed("buffer too long"));
        }
        self.take(length)
    }

    /// Checks that nothing is left over.
    pub(super) fn end(&self) -> Result<(), TpmError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(TpmError::Malformed("trailing bytes"))
        }
    }
}

/// Returns a big-endian number at exactly `size` bytes.
pub(super) fn padded(number: &[u8], size: usize) -> Result<Vec<u8>, TpmError> {
    let zeros = size
        .checked_sub(number.len())
        .ok_or(TpmError::Malformed("number too long"))?;
    let mut out = vec![0; zeros];
    out.extend_from_slice(number);
    Ok(out)
}
