//! Reading a log from its beginning.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::format::{HEADER, MAGIC, chain};
use super::{ChainHash, ChainLogError, MAX_RECORD, io_error};

/// Reads a file that may be in use, and hands each record to `record` after verifying the chain up
/// to it. Returns the hashes that the chain goes on from and ends at; a torn tail is ignored.
pub(crate) fn read(
    path: &Path,
    mut record: impl FnMut(&[u8]),
) -> Result<(ChainHash, ChainHash), ChainLogError> {
    let file = File::open(path).map_err(|e| io_error(path, &e))?;
    let scan = scan(path, &file, &mut record)?;
    Ok((scan.follows, scan.hash))
}

/// Whether a file ends before its header does, so that there never was a record in it.
pub(crate) fn lacks_header(path: &Path) -> Result<bool, ChainLogError> {
    let length = std::fs::metadata(path)
        .map_err(|e| io_error(path, &e))?
        .len();
    Ok(usize::try_from(length).is_ok_and(|length| length < HEADER))
}

/// The result of a scan of a file.
pub(super) struct Scan {
    /// The hash that the file's chain goes on from.
    pub(super) follows: ChainHash,
    /// The hash of the last good record.
    pub(super) hash: ChainHash,
    /// The offset after the last good record, in bytes.
    pub(super) end: u64,
}

/// Verifies a file from its beginning and hands each record to `record`.
pub(super) fn scan(
    path: &Path,
    file: &File,
    record: &mut dyn FnMut(&[u8]),
) -> Result<Scan, ChainLogError> {
    let length = file.metadata().map_err(|e| io_error(path, &e))?.len();
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let altered = |offset| ChainLogError::Altered {
        path: path.to_owned(),
        offset,
    };
    let mut header = [0; HEADER];
    reader.read_exact(&mut header).map_err(|_| altered(0))?;
    let (magic, follows) = header.split_first_chunk::<12>().ok_or_else(|| altered(0))?;
    let follows: ChainHash = follows.try_into().map_err(|_| altered(0))?;
    if magic != MAGIC {
        return Err(altered(0));
    }
    let mut scan = Scan {
        follows,
        hash: follows,
        end: u64::try_from(HEADER).unwrap_or_default(),
    };
    let mut buffer = Vec::new();
    loop {
        let left = length.saturating_sub(scan.end);
        let mut prefix = [0; 4];
        if left < 4 || reader.read_exact(&mut prefix).is_err() {
            return Ok(scan);
        }
        let size = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
        // The length before the payload has 4 bytes, and the hash after it 32.
        let whole = u64::try_from(size).unwrap_or(u64::MAX).saturating_add(36);
        if size == 0 || size > MAX_RECORD {
            return if only_zeros(&mut reader) && size == 0 {
                Ok(scan)
            } else {
                Err(altered(scan.end))
            };
        }
        // A record that goes on after the end of the file was torn, and never acknowledged.
        if whole > left {
            return Ok(scan);
        }
        buffer.resize(size + 32, 0);
        reader
            .read_exact(&mut buffer)
            .map_err(|e| io_error(path, &e))?;
        let (payload, hash) = buffer
            .split_at_checked(size)
            .ok_or_else(|| altered(scan.end))?;
        let expected = chain(&scan.hash, payload);
        if hash != expected {
            return Err(altered(scan.end));
        }
        record(payload);
        scan.hash = expected;
        scan.end = scan.end.saturating_add(whole);
    }
}

/// Returns whether only zeros are left: a file system may leave them of a write that was never
/// acknowledged.
fn only_zeros(reader: &mut impl Read) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return true,
            Ok(count) if buffer.iter().take(count).all(|byte| *byte == 0) => {}
            Ok(_) | Err(_) => return false,
        }
    }
}
