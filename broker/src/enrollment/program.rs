//! The program that a local process runs, as far as the process does not choose it.
//!
//! The path at which the kernel shows a program is the subject's choice: whoever may make a mount
//! namespace (every user, by user_namespaces(7)) puts a file of his own at any path in it, and a
//! process outside of it can run that file too, by `/proc/<pid>/root`. So a path is believed only if
//! the same file is at that path for this process itself.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, statx};

/// What tells one content of a file from another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Version {
    device: (u32, u32),
    inode: u64,
    /// Seconds and nanoseconds of the last change; nobody but the kernel sets it.
    changed: (i64, u32),
    /// In bytes.
    pub(super) size: u64,
}

impl Version {
    /// The version of an open file.
    pub(super) fn of(file: &File) -> Option<Self> {
        Self::at(file, "", AtFlags::EMPTY_PATH)
    }

    /// Whether two versions are of one file.
    pub(super) fn is_of_same_file(self, other: Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    fn at(folder: impl AsFd, path: &str, flags: AtFlags) -> Option<Self> {
        // A file system that a user serves (FUSE) is not asked, and so cannot let us wait.
        let flags = flags | AtFlags::STATX_DONT_SYNC;
        let found: Statx = statx(folder, path, flags, StatxFlags::BASIC_STATS).ok()?;
        Some(Self {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
            size: found.stx_size,
        })
    }
}

/// The file that a process runs now.
pub(super) fn program_of(pid: u32) -> Option<Version> {
    Version::at(CWD, &format!("/proc/{pid}/exe"), AtFlags::empty())
}

/// The path of the file that a process runs now; nothing if another file is there, or none, for us.
/// Blocking: somebody else's file system may be on the way.
pub(super) fn path_of(pid: u32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let path = path.to_str()?;
    let ours = Version::at(CWD, path, AtFlags::empty())?;
    let stands = Path::new(path).is_absolute() && ours.is_of_same_file(program_of(pid)?);
    stands.then(|| path.to_owned())
}
