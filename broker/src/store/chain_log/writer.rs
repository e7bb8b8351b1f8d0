//! The thread that writes a log, in groups of records with one sync each.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::ChainLogError;
use super::disk_space::{DiskShare, DiskSpace, LOOK_INTERVAL};
use super::file::LogFile;
use crate::clock;

/// A group of so many records shows that many callers write at once; then the next group is waited
/// for a little.
const BUSY_GROUP: usize = 6;
/// How long the next group is waited for after a group of at least [`BUSY_GROUP`].
const GATHER: Duration = Duration::from_micros(1500);
/// The most bytes in one group.
const GROUP_BYTES: usize = 4 << 20;

/// Tells a caller that its record is durable, and gives the record's memory back, so that the
/// memory goes where it came from: memory that another thread frees costs both threads.
pub(super) type Done = oneshot::Sender<Result<Vec<u8>, ChainLogError>>;

/// A job for the thread.
pub(super) enum Command {
    /// Appends a record.
    Append(Append),
    /// Replaces the whole file by these records, at once.
    Replace(Vec<Vec<u8>>),
    /// Begins the next file of the chain, and goes on there.
    Roll(PathBuf, oneshot::Sender<Result<(), ChainLogError>>),
}

/// A record that is to be appended.
pub(super) struct Append {
    pub(super) payload: Vec<u8>,
    /// The part of the disk that the record may use.
    pub(super) share: DiskShare,
    /// Nobody waits for the record if there is none.
    pub(super) done: Option<Done>,
}

impl Append {
    /// What the record takes in the file, in bytes: its length and its hash are beside the payload.
    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.payload.len())
            .unwrap_or(u64::MAX)
            .saturating_add(36)
    }
}

/// Executes commands until no caller can send one any more. Looks at the disk each second, and after
/// many bytes.
pub(super) fn write_groups(
    mut file: LogFile,
    commands: &Receiver<Command>,
    space: Option<&DiskSpace>,
) {
    let mut looked = (clock::monotonic(), file.end());
    let mut last_group = 1;
    let mut next = None;
    loop {
        if let Some(space) = space
            && is_look_due(looked, file.end(), space)
        {
            file.look(space);
            looked = (clock::monotonic(), file.end());
        }
        let command = match next.take() {
            Some(command) => command,
            None => match receive(commands, space.is_some()) {
                Ok(command) => command,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            },
        };
        match command {
            Command::Append(first) => {
                if last_group >= BUSY_GROUP {
                    // Those who were just answered are about to come back; one sync for all of them
                    // costs as much as for one.
                    thread::sleep(GATHER);
                }
                let group;
                (group, next) = gather(first, commands);
                last_group = group.len();
                write_group(&mut file, group, space);
            }
            Command::Replace(records) => match LogFile::create(&file.path, [0; 32], &records) {
                Ok(fresh) => file = fresh,
                Err(e) => {
                    tracing::error!(error = %e, "log could not be compacted; going on with the long one")
                }
            },
            Command::Roll(path, done) => {
                let rolled = file.roll(&path, space);
                if let Some(space) = space {
                    file.look(space);
                    looked = (clock::monotonic(), file.end());
                }
                let _ = done.send(rolled);
            }
        }
    }
}

/// Waits for a command, not longer than until the next look at the disk if there are any.
fn receive(commands: &Receiver<Command>, looks: bool) -> Result<Command, RecvTimeoutError> {
    if looks {
        commands.recv_timeout(LOOK_INTERVAL)
    } else {
        commands.recv().map_err(|_| RecvTimeoutError::Disconnected)
    }
}

/// Whether the disk is to be looked at again; `looked` is when that was done, and the length of the
/// file then.
fn is_look_due(looked: (Instant, u64), end: u64, space: &DiskSpace) -> bool {
    clock::since(looked.0) >= LOOK_INTERVAL || end.saturating_sub(looked.1) > space.look_after()
}

/// Collects the records that are there already into a group. A command that ends the group, because
/// it is not an append, is returned beside it.
fn gather(first: Append, commands: &Receiver<Command>) -> (Vec<Append>, Option<Command>) {
    let mut size = first.payload.len();
    let mut group = vec![first];
    while size < GROUP_BYTES {
        match commands.try_recv() {
            Ok(Command::Append(next)) => {
                size = size.saturating_add(next.payload.len());
                group.push(next);
            }
            Ok(other @ (Command::Replace(_) | Command::Roll(..))) => return (group, Some(other)),
            Err(_) => break,
        }
    }
    (group, None)
}

/// Writes a group and answers everybody who waits for a record of it.
fn write_group(file: &mut LogFile, group: Vec<Append>, space: Option<&DiskSpace>) {
    let group = match space {
        Some(space) => within_reserve(file, group, space),
        None => group,
    };
    let Err((error, group)) = try_group(file, group) else {
        return;
    };
    tracing::error!(%error, records = group.len(), "log write failed");
    if let Some(space) = space {
        space.failed(&error);
    }
    // A1: what may use the reserve is not refused for what may not.
    let (reserved, others) = by_share(group);
    if others.is_empty() {
        return refuse(reserved, &error);
    }
    refuse(others, &error);
    if let Err((error, reserved)) = try_group(file, reserved) {
        refuse(reserved, &error);
    }
}

/// Refuses what may not use the reserve, if the group would be written into it. The disk is looked at
/// first: there may be room again.
fn within_reserve(file: &mut LogFile, group: Vec<Append>, space: &DiskSpace) -> Vec<Append> {
    let bytes = group.iter().map(Append::bytes).fold(0, u64::saturating_add);
    let is_over = |file: &LogFile| space.is_only_reserve(file.left().saturating_sub(bytes));
    if is_over(file) {
        file.look(space);
    }
    if !is_over(file) {
        return group;
    }
    let (reserved, others) = by_share(group);
    refuse(others, &ChainLogError::OnlyReserve);
    reserved
}

/// What may use the reserve, and what may not.
fn by_share(group: Vec<Append>) -> (Vec<Append>, Vec<Append>) {
    group
        .into_iter()
        .partition(|record| record.share == DiskShare::WithReserve)
}

/// Writes a group and answers those who wait; gives the group back if it could not be written.
fn try_group(file: &mut LogFile, group: Vec<Append>) -> Result<(), (ChainLogError, Vec<Append>)> {
    if group.is_empty() {
        return Ok(());
    }
    let durable = group.iter().any(|record| record.done.is_some());
    let payloads = group.iter().map(|record| record.payload.as_slice());
    if let Err(error) = file.write(payloads, durable) {
        return Err((error, group));
    }
    for record in group {
        if let Some(done) = record.done {
            let _ = done.send(Ok(record.payload));
        }
    }
    Ok(())
}

/// Answers those who wait that their records are not written.
fn refuse(group: Vec<Append>, error: &ChainLogError) {
    for done in group.into_iter().filter_map(|record| record.done) {
        let _ = done.send(Err(error.clone()));
    }
}
