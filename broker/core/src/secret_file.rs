//! Files with secrets: keys, passwords and root keys. Broker, node, command line and SDK read each
//! of them here.
//!
//! The file may be readable by its owner and by groups that this process is in, and by nobody else
//! (P9). Kubernetes gives secrets as mode 0440 with the group `fsGroup`, which the processes of the
//! pod are in; systemd gives a unit's credentials by an access control list that names the unit's
//! user. A token of the platform that is good for one audience and for minutes is no such file:
//! Kubernetes makes projected tokens readable for everybody in a pod.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fgetxattr};
use rustix::io::Errno;
use zeroize::Zeroizing;

/// The extended attribute with the access control list of a file (acl(5)).
const ACL: &str = "system.posix_acl_access";
/// The bytes of a list with 62 entries: a header of 4, and 8 for each entry.
const LONGEST_ACL: usize = 500;

/// Why a file with a secret was not taken. Every text begins with the path of the file.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// Every user may do something with the file.
    #[error(
        "{path}: others may read it (mode {mode:o}); run `chmod 600 {path}`, or in Kubernetes set \
         `defaultMode: 0440` beside `fsGroup`",
        path = .path.display()
    )]
    Everybody {
        /// The file.
        path: PathBuf,
        /// The permission bits of the file.
        mode: u32,
    },
    /// A group that this process is not in may do something with the file.
    #[error(
        "{path}: the group {group} may read it (mode {mode:o}), and this process is not in that \
         group; run `chmod 600 {path}`, or give the file to a group of this process",
        path = .path.display()
    )]
    Group {
        /// The file.
        path: PathBuf,
        /// The number of the group.
        group: u32,
        /// The permission bits of the file.
        mode: u32,
    },
    /// There is no file there but something else, such as a pipe, which would be waited for.
    #[error("{}: is no regular file", .0.display())]
    NotRegular(
        /// The path.
        PathBuf,
    ),
    /// The file cannot be read.
    #[error("{}: {cause}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason why the file cannot be read.
        cause: io::Error,
    },
    /// The access control list of the file names another user.
    #[error(
        "{path}: the user {user} may read it by an access control list; run `setfacl -b {path}`",
        path = .path.display()
    )]
    User {
        /// The file.
        path: PathBuf,
        /// The number of the user.
        user: u32,
    },
}

/// Returns the bytes of a file with a secret.
///
/// # Errors
///
/// [`SecretFileError`] if the file cannot be read, or if somebody may read it who is neither its
/// owner, nor in a group of this process.
pub fn read_secret_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let unreadable = |cause| SecretFileError::Unreadable {
        path: path.to_owned(),
        cause,
    };
    // What is judged is what is read, whatever happens to the path meanwhile.
    let mut file = open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(SecretFileError::NotRegular(path.to_owned()));
    }
    let list = access_control_list(&file).map_err(unreadable)?;
    let own = Process::own().map_err(unreadable)?;
    judge(path, &Readers::of(&metadata, &list), &own)?;
    // Room for everything, so that no copy of the secret is left behind by a growing buffer.
    let length = usize::try_from(metadata.len()).unwrap_or_default();
    let mut content = Zeroizing::new(Vec::with_capacity(length.saturating_add(1)));
    file.read_to_end(&mut content).map_err(unreadable)?;
    Ok(content)
}

/// Opens a file for reading, without waiting for a writer if it is a pipe.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Refuses a file that somebody may read who is not this process.
fn judge(path: &Path, readers: &Readers, own: &Process) -> Result<(), SecretFileError> {
    let (path, mode) = (path.to_owned(), readers.mode);
    if mode & 0o007 != 0 {
        return Err(SecretFileError::Everybody { path, mode });
    }
    // The superuser reads everything anyway.
    let strange = |user: &&u32| **user != 0 && **user != own.user;
    if let Some(user) = readers.users.iter().find(strange) {
        return Err(SecretFileError::User { path, user: *user });
    }
    let strange = |group: &&u32| !own.groups.contains(group);
    match readers.groups.iter().find(strange) {
        Some(group) => Err(SecretFileError::Group {
            path,
            group: *group,
            mode,
        }),
        None => Ok(()),
    }
}

/// Who this process is.
struct Process {
    user: u32,
    groups: Vec<u32>,
}

impl Process {
    fn own() -> io::Result<Self> {
        let mut groups: Vec<u32> = rustix::process::getgroups()?
            .into_iter()
            .map(rustix::process::Gid::as_raw)
            .collect();
        groups.push(rustix::process::getegid().as_raw());
        Ok(Self {
            user: rustix::process::geteuid().as_raw(),
            groups,
        })
    }
}

/// Who may do something with a file, beside its owner.
#[derive(Debug, PartialEq, Eq)]
struct Readers {
    mode: u32,
    groups: Vec<u32>,
    users: Vec<u32>,
}

impl Readers {
    fn of(metadata: &Metadata, list: &[Entry]) -> Self {
        Self::from_parts(metadata.mode() & 0o777, metadata.gid(), list)
    }

    /// In a file with a list, the permission bits of the group are the most that the list gives to
    /// anybody, and the list has what the file's group may do (acl(5)).
    fn from_parts(mode: u32, group: u32, list: &[Entry]) -> Self {
        let (mut groups, mut users) = (Vec::new(), Vec::new());
        if list.is_empty() && mode & 0o070 != 0 {
            groups.push(group);
        }
        for entry in list {
            if u32::from(entry.permissions) & (mode >> 3) & 0o7 == 0 {
                continue;
            }
            match entry.tag {
                Entry::USER => users.push(entry.id),
                Entry::OWNING_GROUP => groups.push(group),
                Entry::GROUP => groups.push(entry.id),
                // The owner, the most that may be given, and others: all of that is in the mode.
                _ => {}
            }
        }
        Self {
            mode,
            groups,
            users,
        }
    }
}

/// An entry of an access control list, as Linux has it in the extended attribute.
#[derive(Debug, Clone, Copy)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

impl Entry {
    const USER: u16 = 0x02;
    const OWNING_GROUP: u16 = 0x04;
    const GROUP: u16 = 0x08;
}

/// Returns the access control list of a file; empty if the file has none.
fn access_control_list(file: &File) -> io::Result<Vec<Entry>> {
    let mut list = [0; LONGEST_ACL];
    match fgetxattr(file, ACL, &mut list[..]) {
        Ok(length) => parse(list.get(..length).unwrap_or_default()),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Reads a list: the version 2 in 4 bytes, then 8 bytes for each entry, all in little endian.
fn parse(list: &[u8]) -> io::Result<Vec<Entry>> {
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "unknown access control list");
    let entries = list.strip_prefix(&[2, 0, 0, 0]).ok_or_else(unknown)?;
    let (entries, rest) = entries.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(unknown());
    }
    let entry = |&[a, b, c, d, e, f, g, h]: &[u8; 8]| Entry {
        tag: u16::from_le_bytes([a, b]),
        permissions: u16::from_le_bytes([c, d]),
        id: u32::from_le_bytes([e, f, g, h]),
    };
    Ok(entries.iter().map(entry).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::{Entry, Process, Readers, judge, parse, read_secret_file};

    const POD: u32 = 65532;

    /// Whether a process of this user and group takes a file of this mode and group.
    fn taken(mode: u32, group: u32, list: &[Entry]) -> Result<(), String> {
        let own = Process {
            user: POD,
            groups: vec![POD],
        };
        let readers = Readers::from_parts(mode, group, list);
        judge(Path::new("/etc/sundew/key"), &readers, &own).map_err(|error| error.to_string())
    }

    fn entry(tag: u16, permissions: u16, id: u32) -> Entry {
        Entry {
            tag,
            permissions,
            id,
        }
    }

    #[test]
    fn d2_a_secret_of_a_group_of_this_process_is_taken() {
        for mode in [0o400, 0o600, 0o440, 0o640, 0o660] {
            assert_eq!(taken(mode, POD, &[]), Ok(()), "{mode:o}");
        }
        assert_eq!(taken(0o400, 7, &[]), Ok(()), "nobody of the group reads it");
    }

    #[test]
    fn d2_a_secret_that_others_may_read_is_refused_and_the_text_says_what_to_do() {
        let of_everybody = taken(0o444, POD, &[]).unwrap_err();
        assert!(
            of_everybody.contains("mode 444") && of_everybody.contains("`defaultMode: 0440`"),
            "{of_everybody}"
        );
        for mode in [0o604, 0o602, 0o601, 0o644] {
            assert!(taken(mode, POD, &[]).is_err(), "{mode:o}");
        }
        let of_strangers = taken(0o440, 7, &[]).unwrap_err();
        assert!(
            of_strangers.contains("the group 7") && of_strangers.contains("chmod 600"),
            "{of_strangers}"
        );
    }

    /// systemd's LoadCredential= on a file system with access control lists.
    #[test]
    fn d4_a_credential_of_the_unit_is_taken() {
        let list = [
            entry(0x01, 4, u32::MAX),
            entry(Entry::USER, 4, POD),
            entry(Entry::OWNING_GROUP, 0, u32::MAX),
            entry(0x10, 4, u32::MAX),
            entry(0x20, 0, u32::MAX),
        ];
        assert_eq!(taken(0o440, 0, &list), Ok(()));
    }

    #[test]
    fn d2_a_list_that_lets_in_others_is_refused() {
        let user = taken(0o440, 0, &[entry(Entry::USER, 4, 1000)]).unwrap_err();
        assert!(user.contains("the user 1000"), "{user}");
        assert!(taken(0o440, 0, &[entry(Entry::GROUP, 4, 100)]).is_err());
        assert!(taken(0o440, 7, &[entry(Entry::OWNING_GROUP, 4, 0)]).is_err());
        // What the mask takes away, nobody has.
        assert_eq!(taken(0o400, 0, &[entry(Entry::USER, 4, 1000)]), Ok(()));
    }

    #[test]
    fn a_list_of_another_form_is_refused() {
        assert!(parse(&[2, 0, 0, 0]).unwrap().is_empty());
        for bad in [&[][..], &[1, 0, 0, 0], &[2, 0, 0, 0, 1]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_is_read_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "secret\n").unwrap();
        let mode = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o640);
        assert_eq!(*read_secret_file(&path).unwrap(), b"secret\n");
        mode(0o644);
        let error = read_secret_file(&path).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        let missing = folder.path().join("missing");
        assert!(read_secret_file(&missing).is_err());
    }

    /// Nobody writes into the pipe: whoever waits for it waits for ever.
    #[test]
    fn c6_a_pipe_or_a_folder_is_no_file_with_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
        for path in [pipe.as_path(), folder.path()] {
            let error = read_secret_file(path).unwrap_err();
            assert!(
                matches!(error, super::SecretFileError::NotRegular(_)),
                "{error}"
            );
        }
    }
}
