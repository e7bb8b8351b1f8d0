//! A durable, hash-chained, append-only file with group commit. The journal and the embedded store
//! are written with it.
//!
//! P10: a record is acknowledged only after `fdatasync`. A file is a 44-byte header (magic, format,
//! the hash that the chain goes on from) and records `len: u32 LE ‖ payload ‖ SHA-256(previous hash
//! ‖ len ‖ payload)`. What `fdatasync` failed on is never trusted again by this process; a write
//! that failed is cut off. A torn tail was never acknowledged and is cut at open; anything else
//! that does not verify is an error.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use ring::digest;
use tokio::sync::oneshot;

const MAGIC: &[u8; 12] = b"SUNDEW-LOG\x00\x01";
const HEADER: usize = 44;
/// Largest record, in bytes.
const MAX_RECORD: usize = 4 << 20;
/// Most records waiting to be written.
const QUEUE: usize = 1 << 16;
/// A group of so many shows that many callers write at once; then the next one is waited for a
/// little.
const BUSY_GROUP: usize = 6;
const GATHER: std::time::Duration = std::time::Duration::from_micros(1500);
/// Most memory kept for the next group, in bytes.
const KEPT_BYTES: usize = 1 << 20;
/// Most bytes in one group.
const GROUP_BYTES: usize = 4 << 20;

/// A SHA-256 in the chain.
pub(crate) type ChainHash = [u8; 32];

/// Why a log cannot be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChainLogError {
    /// A record that does not verify, at this offset.
    #[error("{path}: record at byte {offset} was altered or does not follow the one before it")]
    Altered {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// Too many records are waiting.
    #[error("too many records are waiting to be written")]
    Busy,
    /// The file system said no.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// A write failed before; what is on disk is not known. Needs a restart.
    #[error("an earlier write failed; the log cannot be trusted until restart")]
    Poisoned,
    /// Over 4 MiB.
    #[error("record is too large")]
    TooLarge,
}

/// Whoever waits gets its buffer back, so that it goes where it came from: memory that another
/// thread frees costs both of them.
type Done = oneshot::Sender<Result<Vec<u8>, ChainLogError>>;

enum Command {
    Append(Vec<u8>, Option<Done>),
    /// Replaces the whole file by these records, at once.
    Replace(Vec<Vec<u8>>),
}

/// The writing end. Cheap to share; the file is written by a thread of its own.
pub(crate) struct ChainLog {
    commands: Option<SyncSender<Command>>,
    writer: Option<thread::JoinHandle<()>>,
}

impl Drop for ChainLog {
    /// What was submitted is written, and the file is let go of.
    fn drop(&mut self) {
        self.commands = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl ChainLog {
    /// Opens or creates the file, hands each record in it to `record`, and starts the writer.
    /// `follows` is the hash that a new file's chain goes on from; an existing file has its own.
    pub(crate) fn open(
        path: &Path,
        follows: ChainHash,
        mut record: impl FnMut(&[u8]),
    ) -> Result<Self, ChainLogError> {
        let file = Tail::open(path, follows, &mut record)?;
        let (commands, receiver) = sync_channel(QUEUE);
        let writer = thread::Builder::new()
            .name("sundew-log".to_owned())
            .spawn(move || write_groups(file, &receiver));
        Ok(Self {
            commands: Some(commands),
            writer: Some(writer.map_err(|e| io_error(path, &e))?),
        })
    }

    /// Hands over a record; the receiver hears when it is durable.
    pub(crate) fn submit(
        &self,
        payload: Vec<u8>,
    ) -> Result<oneshot::Receiver<Result<Vec<u8>, ChainLogError>>, ChainLogError> {
        let (done, durable) = oneshot::channel();
        self.send(payload, Some(done))?;
        Ok(durable)
    }

    /// Hands over a record that nobody waits for.
    pub(crate) fn submit_unwatched(&self, payload: Vec<u8>) -> Result<(), ChainLogError> {
        self.send(payload, None)
    }

    fn send(&self, payload: Vec<u8>, done: Option<Done>) -> Result<(), ChainLogError> {
        if payload.len() > MAX_RECORD {
            return Err(ChainLogError::TooLarge);
        }
        self.command(Command::Append(payload, done))
    }

    fn command(&self, command: Command) -> Result<(), ChainLogError> {
        let commands = self.commands.as_ref().ok_or(ChainLogError::Poisoned)?;
        commands.try_send(command).map_err(|e| match e {
            TrySendError::Full(_) => ChainLogError::Busy,
            TrySendError::Disconnected(_) => ChainLogError::Poisoned,
        })
    }

    /// Replaces everything before by these records; what is submitted after goes after them.
    pub(crate) fn replace(&self, records: Vec<Vec<u8>>) -> Result<(), ChainLogError> {
        self.command(Command::Replace(records))
    }

    /// Appends and waits until durable.
    #[cfg(test)]
    pub(crate) async fn append(&self, payload: Vec<u8>) -> Result<(), ChainLogError> {
        self.submit(payload)?
            .await
            .unwrap_or(Err(ChainLogError::Poisoned))
            .map(drop)
    }
}

/// Reads a file that may be in use, record by record, verifying the chain. Answers its start and
/// end hash; a torn tail is ignored.
pub(crate) fn read(
    path: &Path,
    mut record: impl FnMut(&[u8]),
) -> Result<(ChainHash, ChainHash), ChainLogError> {
    let file = File::open(path).map_err(|e| io_error(path, &e))?;
    let scan = scan(path, &file, &mut record)?;
    Ok((scan.follows, scan.hash))
}

struct Scan {
    follows: ChainHash,
    hash: ChainHash,
    end: u64,
}

fn scan(path: &Path, file: &File, record: &mut dyn FnMut(&[u8])) -> Result<Scan, ChainLogError> {
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
        let whole = u64::try_from(size).unwrap_or(u64::MAX).saturating_add(36);
        if size == 0 || size > MAX_RECORD {
            return if only_zeros(&mut reader) && size == 0 {
                Ok(scan)
            } else {
                Err(altered(scan.end))
            };
        }
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

/// A tail of zeros is what a file system may leave of a write that was never acknowledged.
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

fn chain(previous: &ChainHash, payload: &[u8]) -> ChainHash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(previous);
    context.update(
        &u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    context.update(payload);
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn io_error(path: &Path, error: &io::Error) -> ChainLogError {
    ChainLogError::Io {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

struct Tail {
    path: PathBuf,
    file: File,
    hash: ChainHash,
    end: u64,
    poisoned: bool,
    /// What is written next, kept for its memory.
    bytes: Vec<u8>,
}

impl Tail {
    fn open(
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

    fn create(path: &Path, follows: ChainHash, records: &[Vec<u8>]) -> Result<Self, ChainLogError> {
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

    /// Records that nobody waits for are written and become durable with the next ones that
    /// somebody waits for.
    fn write(&mut self, payloads: &[Vec<u8>], durable: bool) -> Result<(), ChainLogError> {
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

/// One process at a time.
fn lock(file: &File) -> io::Result<()> {
    rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|e| io::Error::new(io::Error::from(e).kind(), "in use by another process"))
}

fn frame(hash: &mut ChainHash, payload: &[u8], out: &mut Vec<u8>) {
    *hash = chain(hash, payload);
    out.extend_from_slice(
        &u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    out.extend_from_slice(payload);
    out.extend_from_slice(hash);
}

fn write_groups(mut tail: Tail, commands: &Receiver<Command>) {
    let mut next = commands.recv().ok();
    let mut last_group = 1;
    while let Some(command) = next.take() {
        match command {
            Command::Append(payload, done) => {
                if last_group >= BUSY_GROUP {
                    // Those who were just answered are about to come back; one sync for all of them
                    // costs as much as for one.
                    thread::sleep(GATHER);
                }
                let mut size = payload.len();
                let (mut payloads, mut waiting) = (vec![payload], vec![done]);
                while size < GROUP_BYTES {
                    match commands.try_recv() {
                        Ok(Command::Append(payload, done)) => {
                            size = size.saturating_add(payload.len());
                            payloads.push(payload);
                            waiting.push(done);
                        }
                        Ok(replace @ Command::Replace(_)) => {
                            next = Some(replace);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                last_group = payloads.len();
                let result = tail.write(&payloads, waiting.iter().any(Option::is_some));
                if let Err(e) = &result {
                    tracing::error!(error = %e, records = payloads.len(), "log write failed");
                }
                for (payload, done) in payloads.into_iter().zip(waiting) {
                    if let Some(done) = done {
                        let _ = done.send(result.clone().map(|()| payload));
                    }
                }
            }
            Command::Replace(records) => match Tail::create(&tail.path, [0; 32], &records) {
                Ok(fresh) => tail = fresh,
                Err(e) => {
                    tracing::error!(error = %e, "log could not be compacted; going on with the long one")
                }
            },
        }
        if next.is_none() {
            next = commands.recv().ok();
        }
    }
}

#[cfg(test)]
#[path = "chain_log_tests.rs"]
mod tests;
