//! The file of a log, and writing at its end.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::format::{MAGIC, frame};
use super::scan::scan;
use super::{ChainHash, ChainLogError, io_error};

/// The most memory that is kept for the next group, in bytes.
const KEPT_BYTES: usize = 1 << 20;

/// A file that this process has locked, open at its end.
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    file: File,
    /// The hash of the last record.
    hash: ChainHash,
    /// The length of the file, in bytes.
    end: u64,
    /// Whether a write failed in such a way that what is on disk is not known.
    poisoned: bool,
    /// The records that are written next; kept from one group to the next for its memory.
    bytes: Vec<u8>,
}

impl LogFile {
    /// Opens or creates a file and locks it. Each record is handed to `record`; a torn tail is cut.
    pub(super) fn open(
        path: &Path,
        follows: ChainHash,
        record: &mut dyn FnMut(&[u8]),
    ) -> Result<Self, ChainLogError> {
        let fail = |e: &io::Error| io_error(path, e);
        if !path.try_exists().map_err(|e| fail(&e))? {
            // A file appears whole or not at all.
            return Self::create(path, follows, &[]);
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| fail(&e))?;
        lock(&file).map_err(|e| fail(&e))?;
        let scan = scan(path, &file, record)?;
        file.set_len(scan.end)
            .and_then(|()| file.sync_all())
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .map_err(|e| fail(&e))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            hash: scan.hash,
            end: scan.end,
            poisoned: false,
            bytes: Vec::new(),
        })
    }

    /// Replaces or creates a file with these records.
    pub(super) fn create(
        path: &Path,
        follows: ChainHash,
        records: &[Vec<u8>],
    ) -> Result<Self, ChainLogError> {
        let fail = |e: &io::Error| io_error(path, e);
        let fresh = path.with_extension("new");
        let mut bytes = Vec::from(MAGIC.as_slice());
        bytes.extend_from_slice(&follows);
        let mut hash = follows;
        for payload in records {
            frame(&mut hash, payload, &mut bytes);
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&fresh).map_err(|e| fail(&e))?;
        lock(&file).map_err(|e| fail(&e))?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .map_err(|e| fail(&e))?;
        std::fs::rename(&fresh, path).map_err(|e| fail(&e))?;
        if let Some(folder) = path.parent() {
            File::open(folder)
                .and_then(|d| d.sync_all())
                .map_err(|e| fail(&e))?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            hash,
            end: u64::try_from(bytes.len()).unwrap_or_default(),
            poisoned: false,
            bytes: Vec::new(),
        })
    }

    /// Writes records at the end. Records that nobody waits for, without `durable`, become durable
    /// with the next ones that somebody waits for.
    pub(super) fn write(
        &mut self,
        payloads: &[Vec<u8>],
        durable: bool,
    ) -> Result<(), ChainLogError> {
        if self.poisoned {
            return Err(ChainLogError::Poisoned);
        }
        self.bytes.clear();
        let mut hash = self.hash;
        for payload in payloads {
            frame(&mut hash, payload, &mut self.bytes);
        }
        if let Err(e) = self.file.write_all(&self.bytes) {
            // Nothing of it is acknowledged; cut it off, so that the next write follows the last
            // good record.
            let cut = self
                .file
                .set_len(self.end)
                .and_then(|()| self.file.seek(SeekFrom::Start(self.end)));
            self.poisoned = cut.is_err();
            return Err(io_error(&self.path, &e));
        }
        if durable && let Err(e) = self.file.sync_data() {
            self.poisoned = true;
            return Err(io_error(&self.path, &e));
        }
        self.hash = hash;
        self.end = self
            .end
            .saturating_add(u64::try_from(self.bytes.len()).unwrap_or_default());
        // A group that was once large does not hold its memory for ever.
        self.bytes.shrink_to(KEPT_BYTES);
        Ok(())
    }
}

/// Locks a file for this process, or returns an error if another one has it.
fn lock(file: &File) -> io::Result<()> {
    rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|e| io::Error::new(io::Error::from(e).kind(), "in use by another process"))
}
