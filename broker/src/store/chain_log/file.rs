//! The file of a log, and writing at its end.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;

use super::disk_space::DiskSpace;
use super::format::{MAGIC, frame};
use super::scan::scan;
use super::{ChainHash, ChainLogError, io_error};

/// The most memory that is kept for the next group, in bytes.
const KEPT_BYTES: usize = 1 << 20;
/// The extension of a file that is being written and is not a part of the log yet.
pub(crate) const UNPUBLISHED: &str = "new";
/// Room is allocated in multiples of so many bytes.
const PAGE: u64 = 4096;

/// A file that this process has locked, open at its end.
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    file: File,
    /// The hash that the file's chain goes on from.
    follows: ChainHash,
    /// The hash of the last record.
    hash: ChainHash,
    /// The length of the file, in bytes.
    end: u64,
    /// The room that was free on the disk at the last look, less what was used since, in bytes.
    free: u64,
    /// The room that is allocated to the file after its end, in bytes.
    ahead: u64,
    /// Whether room is allocated ahead, as far as the file system can.
    pub(super) allocates: bool,
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
        let metadata = file.metadata().map_err(|e| fail(&e))?;
        // Cutting a file gives back what is allocated after its end, so only a torn tail is cut.
        if metadata.len() != scan.end {
            file.set_len(scan.end).map_err(|e| fail(&e))?;
        }
        file.sync_all()
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .map_err(|e| fail(&e))?;
        Ok(Self {
            path: path.to_owned(),
            ahead: allocated_after(&file, scan.end),
            free: 0,
            file,
            follows: scan.follows,
            hash: scan.hash,
            end: scan.end,
            allocates: false,
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
        let file = Self::begin(path, follows, records)?;
        file.publish()?;
        Ok(file)
    }

    /// Writes a file with these records under another name than its own; a file appears whole or not
    /// at all.
    fn begin(path: &Path, follows: ChainHash, records: &[Vec<u8>]) -> Result<Self, ChainLogError> {
        let fail = |e: &io::Error| io_error(path, e);
        let mut bytes = Vec::from(MAGIC.as_slice());
        bytes.extend_from_slice(&follows);
        let mut hash = follows;
        for payload in records {
            frame(&mut hash, payload, &mut bytes);
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(unpublished(path)).map_err(|e| fail(&e))?;
        lock(&file).map_err(|e| fail(&e))?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .map_err(|e| fail(&e))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            follows,
            hash,
            end: u64::try_from(bytes.len()).unwrap_or_default(),
            ahead: 0,
            free: 0,
            allocates: false,
            poisoned: false,
            bytes: Vec::new(),
        })
    }

    /// Gives a file that was begun its name.
    fn publish(&self) -> Result<(), ChainLogError> {
        std::fs::rename(unpublished(&self.path), &self.path)
            .and_then(|()| sync_folder_of(&self.path))
            .map_err(|e| io_error(&self.path, &e))
    }

    /// Begins the next file of the chain, and goes on there. A1: the next file has what is allocated
    /// ahead before this one gives it back, and half of the reserve stays free meanwhile; where there
    /// is no room for that, and on every other error, this file goes on.
    pub(super) fn roll(
        &mut self,
        path: &Path,
        space: Option<&DiskSpace>,
    ) -> Result<(), ChainLogError> {
        let fail = |e: &io::Error| io_error(path, e);
        if self.poisoned {
            return Err(ChainLogError::Poisoned);
        }
        if let Some(space) = space
            && space.is_only_reserve(self.free_room().map_err(|e| fail(&e))?)
        {
            return Err(ChainLogError::OnlyReserve);
        }
        if path.try_exists().map_err(|e| fail(&e))? {
            return Err(fail(&io::ErrorKind::AlreadyExists.into()));
        }
        // Another file may go on only from what is on the disk, also where nobody waited for it.
        if let Err(e) = self.file.sync_data() {
            self.poisoned = true;
            return Err(io_error(&self.path, &e));
        }
        let next = match self.begin_next(path, space) {
            Ok(next) => next,
            Err(error) => {
                let _ = std::fs::remove_file(unpublished(path));
                return Err(error);
            }
        };
        if let Err(error) = next.publish() {
            // If it is there after all, this file must not go on: the next one follows what this one
            // ends with now.
            self.poisoned = path.try_exists().unwrap_or(true);
            return Err(error);
        }
        let before = std::mem::replace(self, next);
        if let Err(error) = before.file.set_len(before.end) {
            tracing::warn!(%error, "what was allocated ahead could not be given back");
        }
        Ok(())
    }

    /// Writes the next file of the chain, with what is allocated ahead, and without its name.
    fn begin_next(&self, path: &Path, space: Option<&DiskSpace>) -> Result<Self, ChainLogError> {
        let mut next = Self::begin(path, self.hash, &[])?;
        next.allocates = self.allocates;
        if let Some(space) = space
            && next.allocates
        {
            next.allocate(space.wanted_ahead())
                .map_err(|e| io_error(path, &e))?;
        }
        Ok(next)
    }

    /// The hash that the file's chain goes on from.
    pub(super) fn follows(&self) -> ChainHash {
        self.follows
    }

    /// The length of the file, in bytes.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Writes records at the end. Records that nobody waits for, without `durable`, become durable
    /// with the next ones that somebody waits for.
    pub(super) fn write<'a>(
        &mut self,
        payloads: impl Iterator<Item = &'a [u8]>,
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
        let size = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        // A write that fails half way is cut off, and that would give back what is allocated ahead:
        // so the room is there before anything is written, or nothing is.
        if self.allocates && size > self.ahead {
            let missing = size.saturating_sub(self.ahead);
            self.allocate(missing)
                .map_err(|e| io_error(&self.path, &e))?;
        }
        if let Err(e) = self.file.write_all(&self.bytes) {
            self.ahead = 0;
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
        self.end = self.end.saturating_add(size);
        self.free = self.free.saturating_sub(size.saturating_sub(self.ahead));
        self.ahead = self.ahead.saturating_sub(size);
        // A group that was once large does not hold its memory for ever.
        self.bytes.shrink_to(KEPT_BYTES);
        Ok(())
    }
}

impl LogFile {
    /// The room that is left for the log, in bytes.
    pub(super) fn left(&self) -> u64 {
        self.free.saturating_add(self.ahead)
    }

    /// Looks at the disk: allocates what is wanted ahead of the end, as far as there is room, and
    /// tells how much is left.
    pub(super) fn look(&mut self, space: &DiskSpace) {
        let wanted = space.wanted_ahead();
        let mut seen = self.free_room();
        if self.allocates && self.ahead < wanted {
            // A little more than what is wanted, so that this is not done for each record.
            let missing = wanted.saturating_add(wanted / 8).saturating_sub(self.ahead);
            let room = seen.as_ref().map_or(0, |free| *free);
            // The rest stays free for others who have to write something down when something ends.
            if let Err(error) = self.allocate(missing.min(room / 2)) {
                tracing::debug!(%error, "nothing could be allocated ahead");
            }
            seen = self.free_room();
        }
        self.free = seen.as_ref().map_or(0, |free| *free);
        let left = if self.poisoned {
            Err(ChainLogError::Poisoned)
        } else {
            seen.map(|_| self.left())
                .map_err(|e| io_error(&self.path, &e))
        };
        space.saw(left, self.end);
    }

    /// The room that is free on the disk, in bytes.
    fn free_room(&self) -> io::Result<u64> {
        let disk = fstatvfs(&self.file)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Allocates room after what is allocated already.
    fn allocate(&mut self, bytes: u64) -> io::Result<()> {
        let from = self.end.saturating_add(self.ahead).next_multiple_of(PAGE);
        let length = bytes.next_multiple_of(PAGE);
        if bytes == 0 {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, from, length) {
            Ok(()) => {
                self.ahead = from.saturating_add(length).saturating_sub(self.end);
                self.free = self.free.saturating_sub(length);
                Ok(())
            }
            // Such a file system has nothing but its free room.
            Err(Errno::OPNOTSUPP) => {
                self.allocates = false;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What is allocated to a file after its end, in bytes: at least so much.
fn allocated_after(file: &File, end: u64) -> u64 {
    /// What a file system may count as a file's beside its content, in bytes.
    const OWN_BLOCKS: u64 = 64 << 10;
    let blocks = file.metadata().map_or(0, |metadata| {
        std::os::unix::fs::MetadataExt::blocks(&metadata)
    });
    blocks
        .saturating_mul(512)
        .saturating_sub(end)
        .saturating_sub(OWN_BLOCKS)
}

/// Gives back what is allocated after the end of a file that is not written any more.
pub(crate) fn release_ahead(path: &Path) -> Result<(), ChainLogError> {
    let fail = |e: &io::Error| io_error(path, e);
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|e| fail(&e))?;
    let length = file.metadata().map_err(|e| fail(&e))?.len();
    file.set_len(length).map_err(|e| fail(&e))
}

/// The name of a file that is being written and is not a part of the log yet.
fn unpublished(path: &Path) -> PathBuf {
    path.with_extension(UNPUBLISHED)
}

/// Makes the names in the folder of a file durable.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        // A name alone is in the folder of this process.
        Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Opens or creates a file that nothing is written to, and locks it for this process.
pub(crate) fn open_lock(path: &Path) -> Result<File, ChainLogError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).map_err(|e| io_error(path, &e))?;
    lock(&file).map_err(|e| io_error(path, &e))?;
    Ok(file)
}

/// Locks a file for this process, or returns an error if another one has it.
fn lock(file: &File) -> io::Result<()> {
    rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|e| io::Error::new(io::Error::from(e).kind(), "in use by another process"))
}
