//! The thread that writes a log, in groups of records with one sync each.

use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::ChainLogError;
use super::file::LogFile;

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
    /// Appends a record; nobody waits for it if there is no sender.
    Append(Vec<u8>, Option<Done>),
    /// Replaces the whole file by these records, at once.
    Replace(Vec<Vec<u8>>),
}

/// Records that are written with one sync.
struct Group {
    payloads: Vec<Vec<u8>>,
    /// The sender of each record, in the order of the records.
    waiting: Vec<Option<Done>>,
}

/// Executes commands until no caller can send one any more.
pub(super) fn write_groups(mut file: LogFile, commands: &Receiver<Command>) {
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
                let group;
                (group, next) = gather(payload, done, commands);
                last_group = group.payloads.len();
                write_group(&mut file, group);
            }
            Command::Replace(records) => match LogFile::create(&file.path, [0; 32], &records) {
                Ok(fresh) => file = fresh,
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

/// Collects the records that are there already into a group. A command that ends the group, because
/// it is not an append, is returned beside it.
fn gather(
    payload: Vec<u8>,
    done: Option<Done>,
    commands: &Receiver<Command>,
) -> (Group, Option<Command>) {
    let mut size = payload.len();
    let mut group = Group {
        payloads: vec![payload],
        waiting: vec![done],
    };
    while size < GROUP_BYTES {
        match commands.try_recv() {
            Ok(Command::Append(payload, done)) => {
                size = size.saturating_add(payload.len());
                group.payloads.push(payload);
                group.waiting.push(done);
            }
            Ok(replace @ Command::Replace(_)) => return (group, Some(replace)),
            Err(_) => break,
        }
    }
    (group, None)
}

/// Writes a group and answers everybody who waits for a record of it.
fn write_group(file: &mut LogFile, group: Group) {
    let durable = group.waiting.iter().any(Option::is_some);
    let result = file.write(&group.payloads, durable);
    if let Err(e) = &result {
        tracing::error!(error = %e, records = group.payloads.len(), "log write failed");
    }
    for (payload, done) in group.payloads.into_iter().zip(group.waiting) {
        if let Some(done) = done {
            let _ = done.send(result.clone().map(|()| payload));
        }
    }
}
