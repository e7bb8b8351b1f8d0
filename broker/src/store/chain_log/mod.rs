//! A durable, hash-chained, append-only file with group commit. The journal and the embedded store
//! are written with it.
//!
//! P10: a record is acknowledged only after `fdatasync`. A file is a 44-byte header (magic, format,
//! the hash that the chain goes on from) and records `len: u32 LE ‖ payload ‖ SHA-256(previous hash
//! ‖ len ‖ payload)`. What `fdatasync` failed on is never trusted again by this process; a write
//! that failed is cut off. A torn tail was never acknowledged and is cut at open; anything else
//! that does not verify is an error.

mod disk_space;
mod file;
mod format;
mod scan;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

use tokio::sync::oneshot;

pub(crate) use disk_space::{DiskShare, DiskSpace, DiskState};
use file::LogFile;
pub(crate) use file::{UNPUBLISHED, open_lock, release_ahead, sync_folder_of};
pub(crate) use scan::{lacks_header, read};
use writer::{Append, Command, Done, write_groups};

/// The largest record, in bytes.
const MAX_RECORD: usize = 4 << 20;
/// The most records that wait to be written.
const QUEUE: usize = 1 << 16;

/// A SHA-256 in the chain.
pub(crate) type ChainHash = [u8; 32];

/// Why a log cannot be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChainLogError {
    /// A record does not verify.
    #[error("{path}: record at byte {offset} was altered or does not follow the one before it")]
    Altered {
        /// The file.
        path: PathBuf,
        /// The offset of the record, in bytes.
        offset: u64,
    },
    /// Too many records are waiting.
    #[error("too many records are waiting to be written")]
    Busy,
    /// The file system returned an error.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the file system.
        reason: String,
    },
    /// The record may not use the reserve, and the disk has nothing else left.
    #[error(
        "the disk has only its reserve left: endings and operators' records are written, and nothing is issued"
    )]
    OnlyReserve,
    /// A write failed before, so that it is not known what is on disk. The process must be
    /// restarted.
    #[error("an earlier write failed; the log cannot be trusted until restart")]
    Poisoned,
    /// The record has more than 4 MiB.
    #[error("record is too large")]
    TooLarge,
}

/// The writing end of a log. The file is written by a thread of its own.
pub(crate) struct ChainLog {
    /// The hash that the chain of the file that was opened goes on from.
    follows: ChainHash,
    commands: Option<SyncSender<Command>>,
    writer: Option<thread::JoinHandle<()>>,
}

impl Drop for ChainLog {
    /// Waits until everything that was submitted is written and the file is closed.
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
        record: impl FnMut(&[u8]),
    ) -> Result<Self, ChainLogError> {
        Self::open_within(path, follows, None, record)
    }

    /// Does what [`open`](Self::open) does for a log whose disk has a reserve.
    pub(crate) fn open_within(
        path: &Path,
        follows: ChainHash,
        space: Option<Arc<DiskSpace>>,
        mut record: impl FnMut(&[u8]),
    ) -> Result<Self, ChainLogError> {
        let mut file = LogFile::open(path, follows, &mut record)?;
        if let Some(space) = &space {
            file.allocates = true;
            file.look(space);
        }
        let follows = file.follows();
        let (commands, receiver) = sync_channel(QUEUE);
        let writer = thread::Builder::new()
            .name("sundew-log".to_owned())
            .spawn(move || write_groups(file, &receiver, space.as_deref()));
        Ok(Self {
            follows,
            commands: Some(commands),
            writer: Some(writer.map_err(|e| io_error(path, &e))?),
        })
    }

    /// The hash that the chain of the file that was opened goes on from.
    pub(crate) fn follows(&self) -> ChainHash {
        self.follows
    }

    /// Begins the next file of the chain: what is submitted later goes there. On an error, everything
    /// goes on in the file that there is.
    pub(crate) async fn roll(&self, path: PathBuf) -> Result<(), ChainLogError> {
        let (done, rolled) = oneshot::channel();
        self.command(Command::Roll(path, done))?;
        rolled.await.unwrap_or(Err(ChainLogError::Poisoned))
    }

    /// Hands over a record. The receiver that is returned resolves, to the record's memory, when
    /// the record is durable.
    pub(crate) fn submit(
        &self,
        payload: Vec<u8>,
    ) -> Result<oneshot::Receiver<Result<Vec<u8>, ChainLogError>>, ChainLogError> {
        self.submit_to(DiskShare::WithReserve, payload)
    }

    /// Does what [`submit`](Self::submit) does for a record that may use this share of the disk.
    pub(crate) fn submit_to(
        &self,
        share: DiskShare,
        payload: Vec<u8>,
    ) -> Result<oneshot::Receiver<Result<Vec<u8>, ChainLogError>>, ChainLogError> {
        let (done, durable) = oneshot::channel();
        self.send(share, payload, Some(done))?;
        Ok(durable)
    }

    /// Hands over a record that nobody waits for. It becomes durable with the next record that
    /// somebody waits for.
    pub(crate) fn submit_unwatched(&self, payload: Vec<u8>) -> Result<(), ChainLogError> {
        self.submit_unwatched_to(DiskShare::WithReserve, payload)
    }

    /// Does what [`submit_unwatched`](Self::submit_unwatched) does for a record that may use this
    /// share of the disk.
    pub(crate) fn submit_unwatched_to(
        &self,
        share: DiskShare,
        payload: Vec<u8>,
    ) -> Result<(), ChainLogError> {
        self.send(share, payload, None)
    }

    fn send(
        &self,
        share: DiskShare,
        payload: Vec<u8>,
        done: Option<Done>,
    ) -> Result<(), ChainLogError> {
        if payload.len() > MAX_RECORD {
            return Err(ChainLogError::TooLarge);
        }
        self.command(Command::Append(Append {
            payload,
            share,
            done,
        }))
    }

    fn command(&self, command: Command) -> Result<(), ChainLogError> {
        let commands = self.commands.as_ref().ok_or(ChainLogError::Poisoned)?;
        commands.try_send(command).map_err(|e| match e {
            TrySendError::Full(_) => ChainLogError::Busy,
            TrySendError::Disconnected(_) => ChainLogError::Poisoned,
        })
    }

    /// Replaces everything that was submitted before by these records. What is submitted later goes
    /// after them.
    pub(crate) fn replace(&self, records: Vec<Vec<u8>>) -> Result<(), ChainLogError> {
        self.command(Command::Replace(records))
    }

    /// Appends a record and waits until it is durable.
    #[cfg(test)]
    pub(crate) async fn append(&self, payload: Vec<u8>) -> Result<(), ChainLogError> {
        self.submit(payload)?
            .await
            .unwrap_or(Err(ChainLogError::Poisoned))
            .map(drop)
    }
}

fn io_error(path: &Path, error: &io::Error) -> ChainLogError {
    ChainLogError::Io {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
