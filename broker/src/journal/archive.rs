//! Where segments go that are not kept in the journal's folder.
//!
//! A segment leaves the folder only when all of it is somewhere else, under its own name, on disk.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::store::chain_log::{UNPUBLISHED, sync_folder_of};

/// The longest time that a command may take for a segment.
const COMMAND_WITHIN: Duration = Duration::from_secs(600);

/// Where segments go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Archive {
    /// A program with its arguments, run with the path of the segment as one more argument. The
    /// segment is removed once the program has exited with 0.
    Command(Vec<String>),
    /// A folder, which must be there, of this journal alone. It may be on another file system.
    Folder(PathBuf),
}

impl fmt::Display for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(words) => f.write_str(words.first().map_or("", String::as_str)),
            Self::Folder(folder) => folder.display().fmt(f),
        }
    }
}

/// Why a segment was not archived.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    /// The file system returned an error.
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    /// The command did not exit with 0.
    #[error("archive_command: {0}")]
    Command(String),
    /// There is another file of this name.
    #[error("{0}: is there already, and is another segment")]
    Other(PathBuf),
}

impl Archive {
    /// Brings a segment to its place, and returns when all of it is there. The segment itself stays.
    pub(super) async fn take(&self, segment: &Path) -> Result<(), ArchiveError> {
        match self {
            Self::Command(words) => run(words, segment).await,
            Self::Folder(folder) => {
                let (folder, segment) = (folder.clone(), segment.to_owned());
                let stored = tokio::task::spawn_blocking(move || store(&folder, &segment));
                stored
                    .await
                    .unwrap_or_else(|e| Err(ArchiveError::Command(e.to_string())))
            }
        }
    }
}

async fn run(words: &[String], segment: &Path) -> Result<(), ArchiveError> {
    let fail = |cause: String| ArchiveError::Command(cause);
    let (program, arguments) = words
        .split_first()
        .ok_or_else(|| fail("is empty".to_owned()))?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .arg(segment)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| fail(e.to_string()))?;
    match tokio::time::timeout(COMMAND_WITHIN, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(fail(status.to_string())),
        Ok(Err(e)) => Err(fail(e.to_string())),
        Err(_) => Err(fail(format!(
            "took over {} seconds",
            COMMAND_WITHIN.as_secs()
        ))),
    }
}

/// Gives a segment a second name in a folder, or copies it there from another file system. A copy
/// appears whole or not at all, and nothing that is there is replaced.
fn store(folder: &Path, segment: &Path) -> Result<(), ArchiveError> {
    let target = folder.join(segment.file_name().unwrap_or_default());
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| ArchiveError::Io { path, error }
    };
    match std::fs::hard_link(segment, &target) {
        Ok(()) => {}
        // From before a crash, perhaps.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(_) => copy(segment, &target).map_err(at(&target))?,
    }
    sync_folder_of(&target).map_err(at(&target))?;
    if is_same(segment, &target).map_err(at(&target))? {
        Ok(())
    } else {
        Err(ArchiveError::Other(target))
    }
}

/// Copies a segment to another file system.
fn copy(segment: &Path, target: &Path) -> io::Result<()> {
    let fresh = target.with_extension(UNPUBLISHED);
    let mut options = std::fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&fresh)?;
    io::copy(&mut File::open(segment)?, &mut file)?;
    file.sync_all()?;
    match std::fs::hard_link(&fresh, target) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Ok(()) => {}
        // A file system without hard links.
        Err(_) => return std::fs::rename(&fresh, target),
    }
    std::fs::remove_file(&fresh)
}

/// Whether two files have the same bytes.
fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    let (here, there) = (one.metadata()?, other.metadata()?);
    if (here.dev(), here.ino()) == (there.dev(), there.ino()) {
        return Ok(true);
    }
    if here.len() != there.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    let (mut left, mut right) = ([0; 1 << 13], [0; 1 << 13]);
    loop {
        let count = one.read(&mut left)?;
        let (Some(left), Some(right)) = (left.get(..count), right.get_mut(..count)) else {
            return Ok(false);
        };
        if count == 0 {
            return Ok(true);
        }
        other.read_exact(right)?;
        if left != right {
            return Ok(false);
        }
    }
}

/// Removes a segment from the journal's folder.
pub(super) fn remove(segment: &Path) -> Result<(), ArchiveError> {
    std::fs::remove_file(segment)
        .and_then(|()| sync_folder_of(segment))
        .map_err(|error| ArchiveError::Io {
            path: segment.to_owned(),
            error,
        })
}
