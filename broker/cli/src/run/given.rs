//! What a command is given: variables, files and descriptors with the task's token and secrets.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create, statfs};
use sundew_sdk::{Secret, Task};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::control::MOST_DESCRIPTORS;
use super::env_file::{self, Part};
use crate::args::{Run, TokenWay};

/// The longest text `NAME=VALUE` that the kernel takes, with the byte that ends it (execve(2)).
const LONGEST_VARIABLE: usize = 128 * 1024;
/// The variables of this program that say nothing of who it is and how that is proven.
const HANDED_ON: [&str; 3] = ["SUNDEW_BROKER", "SUNDEW_BROKER_ID", "SUNDEW_LOG"];
/// Those that do, beside all others of this program: where identities come from, and where GitHub
/// Actions gives tokens that are evidence.
const KEPT_BACK: [&str; 3] = [
    "SPIFFE_ENDPOINT_SOCKET",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "ACTIONS_ID_TOKEN_REQUEST_URL",
];
/// The numbers of file systems in memory (statfs(2)).
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Everything that a command finds.
pub(super) struct Given {
    task: String,
    socket: PathBuf,
    variables: Vec<(String, Zeroizing<Vec<u8>>)>,
    opened: Vec<(Form, String, File)>,
    folder: Option<TempDir>,
}

/// How a variable names a descriptor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    /// By its number.
    Number,
    /// As a path to open.
    Path,
}

impl Form {
    /// Reads a line that tells the launcher of a descriptor.
    pub(super) fn of_line(line: &str) -> Option<(Self, &str)> {
        let (form, variable) = line.split_once(' ')?;
        match form {
            "number" => Some((Self::Number, variable)),
            "path" => Some((Self::Path, variable)),
            _ => None,
        }
    }

    /// Returns the value of the variable that names this descriptor.
    pub(super) fn name(self, descriptor: &impl std::os::fd::AsRawFd) -> String {
        let number = descriptor.as_raw_fd();
        match self {
            Self::Number => number.to_string(),
            Self::Path => format!("/proc/self/fd/{number}"),
        }
    }
}

impl Given {
    /// Reads the secrets that the command line names, each once, and puts them in their places.
    pub(super) async fn collect(task: &Task, run: &Run, socket: PathBuf) -> Result<Self> {
        let mut given = Self {
            task: task.id().to_owned(),
            socket,
            variables: Vec::new(),
            opened: Vec::new(),
            folder: None,
        };
        let mut secrets = Secrets::of(task);
        for file in &run.env_files {
            let name = || file.display().to_string();
            let text = std::fs::read_to_string(file).with_context(name)?;
            for variable in env_file::parse(&text).with_context(name)? {
                let mut value = Vec::new();
                let mut named = Vec::new();
                for part in &variable.value {
                    match part {
                        Part::Secret(secret) => {
                            value.extend(secrets.read(secret).await?.expose());
                            named.push(secret.as_str());
                        }
                        Part::Text(text) => value.extend(text.as_bytes()),
                    }
                }
                given.set(&variable.name, value, &named.join(", "))?;
            }
        }
        for (variable, secret) in &run.secrets {
            let value = secrets.read(secret).await?.expose().to_vec();
            given.set(variable, value, secret)?;
        }
        for (variable, secret) in &run.secret_files {
            given.write(variable, secrets.read(secret).await?.expose())?;
        }
        for (variable, secret) in &run.secret_fds {
            let file = sealed(secrets.read(secret).await?.expose())?;
            given.open(Form::Number, variable, file)?;
        }
        match run.token {
            TokenWay::None => {}
            TokenWay::Env => given.set("SUNDEW_TOKEN", task.token().expose().into(), "token")?,
            TokenWay::Fd => {
                let file = sealed(task.token().expose().as_bytes())?;
                given.open(Form::Number, "SUNDEW_TOKEN_FD", file)?;
            }
        }
        Ok(given)
    }

    /// Returns the folder with the files.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(TempDir::path)
    }

    /// Returns the descriptors, in the order of [`Given::lines`].
    pub(super) fn descriptors(&self) -> impl Iterator<Item = &File> {
        self.opened.iter().map(|(_, _, file)| file)
    }

    /// Returns what the launcher needs to know of each descriptor, one line for each.
    pub(super) fn lines(&self) -> String {
        let lines = self.opened.iter().map(|(form, variable, _)| match form {
            Form::Number => format!("number {variable}\n"),
            Form::Path => format!("path {variable}\n"),
        });
        lines.collect()
    }

    /// Sets the variables of a command.
    pub(super) fn apply(&self, command: &mut Command) {
        for name in supervisors_own() {
            command.env_remove(name);
        }
        command.env("SUNDEW_TASK_ID", &self.task);
        command.env("SUNDEW_TASK_SOCKET", &self.socket);
        for (name, value) in &self.variables {
            command.env(name, OsStr::from_bytes(value));
        }
    }

    /// Says which of the secrets in the environment is the largest, for an environment that the
    /// kernel does not take.
    pub(super) fn largest(&self) -> Option<String> {
        let largest = self.variables.iter().max_by_key(|(_, value)| value.len());
        largest.map(|(name, value)| format!("{name} has {} bytes", value.len()))
    }

    fn set(&mut self, variable: &str, value: Vec<u8>, secret: &str) -> Result<()> {
        // P9: wiped also if it is refused.
        let value = Zeroizing::new(value);
        let way_out = "give it by --secret-file or --secret-fd";
        if value.contains(&0) {
            bail!("{secret} cannot go into {variable}: it has a zero byte; {way_out}");
        }
        let length = variable.len().saturating_add(value.len()).saturating_add(2);
        if length > LONGEST_VARIABLE {
            let bytes = value.len();
            bail!(
                "{secret} cannot go into {variable}: it has {bytes} bytes, more than the kernel \
                 takes; {way_out}"
            );
        }
        self.variables.push((variable.to_owned(), value));
        Ok(())
    }

    /// Puts a secret into a file in memory. Where there is no file system in memory, a descriptor
    /// serves as the file.
    fn write(&mut self, variable: &str, secret: &[u8]) -> Result<()> {
        if self.folder.is_none() {
            self.folder = private_folder();
        }
        let Some(folder) = &self.folder else {
            return self.open(Form::Path, variable, sealed(secret)?);
        };
        let path = folder.path().join(variable);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o400);
        let file = options
            .open(&path)
            .and_then(|mut file| file.write_all(secret));
        file.with_context(|| format!("--secret-file {variable}"))?;
        self.variables.push((
            variable.to_owned(),
            Zeroizing::new(path.into_os_string().into_vec()),
        ));
        Ok(())
    }

    fn open(&mut self, form: Form, variable: &str, file: File) -> Result<()> {
        // One more goes with them: the command's standard input.
        if self.opened.len().saturating_add(1) >= MOST_DESCRIPTORS {
            bail!(
                "more than {} descriptors for one command",
                MOST_DESCRIPTORS - 1
            );
        }
        self.opened.push((form, variable.to_owned(), file));
        Ok(())
    }
}

/// The secrets that were read.
struct Secrets<'a> {
    task: &'a Task,
    read: BTreeMap<String, Secret>,
}

impl<'a> Secrets<'a> {
    fn of(task: &'a Task) -> Self {
        let read = BTreeMap::new();
        Self { task, read }
    }

    async fn read(&mut self, name: &str) -> Result<&Secret> {
        if !self.read.contains_key(name) {
            let secret = self.task.secret(name).await;
            let secret = secret.with_context(|| format!("secret {name}"))?;
            self.read.insert(name.to_owned(), secret);
        }
        self.read.get(name).context("a secret was read and is gone")
    }
}

/// Returns a file in memory that nobody can change, without a name, opened for reading.
fn sealed(content: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("sundew", flags)?);
    file.write_all(content)?;
    file.set_permissions(Permissions::from_mode(0o400))?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Returns the variables that the command does not get: those by which it could be who the supervisor
/// is.
#[expect(
    clippy::disallowed_methods,
    reason = "names are taken out of what the command inherits, and no setting is read"
)]
fn supervisors_own() -> impl Iterator<Item = OsString> {
    std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let is = |known: &&str| name == *known;
        KEPT_BACK.iter().any(is)
            || (name.as_bytes().starts_with(b"SUNDEW_") && !HANDED_ON.iter().any(is))
    })
}

/// Makes a folder for this user alone on a file system in memory, if there is one.
#[expect(
    clippy::disallowed_methods,
    reason = "the variable says where this machine keeps such folders, and is no setting"
)]
pub(super) fn private_folder() -> Option<TempDir> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let user = format!("/run/user/{}", rustix::process::geteuid().as_raw());
    let places = own.into_iter().chain([user.into(), "/dev/shm".into()]);
    places
        .filter(|place| is_in_memory(place))
        .find_map(|place| {
            let mut builder = tempfile::Builder::new();
            builder
                .prefix("sundew-run-")
                .permissions(Permissions::from_mode(0o700));
            builder.tempdir_in(place).ok()
        })
}

fn is_in_memory(place: &Path) -> bool {
    statfs(place)
        .is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| IN_MEMORY.contains(&kind)))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn empty() -> Given {
        Given {
            task: "task-1".to_owned(),
            socket: PathBuf::new(),
            variables: Vec::new(),
            opened: Vec::new(),
            folder: None,
        }
    }

    #[test]
    fn c5_a_secret_that_no_variable_can_hold_is_named_with_a_way_out() {
        for secret in [&b"a\0b"[..], &[b'x'; 128 * 1024]] {
            let error = empty().set("KEY", secret.to_vec(), "app/blob").unwrap_err();
            let error = error.to_string();
            assert!(
                error.starts_with("app/blob cannot go into KEY")
                    && error.contains("--secret-file")
                    && !error.contains("xxx"),
                "{error}"
            );
        }
        empty()
            .set("KEY", vec![b'x'; 128 * 1024 - 5], "app/blob")
            .unwrap();
    }

    #[test]
    fn c5_a_file_with_a_secret_is_for_its_owner_to_read_and_goes() {
        let mut given = empty();
        given.write("KEY", b"a\0b").unwrap();
        let folder = given.folder().expect("a file system in memory").to_owned();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("KEY"))), (0o700, 0o400));
        assert_eq!(std::fs::read(folder.join("KEY")).unwrap(), b"a\0b");
        drop(given);
        assert!(!folder.exists());
    }

    #[test]
    fn what_is_sealed_can_be_read_again_and_not_be_written() {
        let mut file = sealed(b"s3cr3t").unwrap();
        for _ in 0..2 {
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "s3cr3t");
            file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        }
        let mut options = OpenOptions::new();
        let written = options
            .write(true)
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .and_then(|mut file| file.write_all(b"x"));
        assert!(written.is_err());
    }

    #[test]
    fn a_descriptor_is_named_by_its_number_or_as_a_path() {
        let mut given = empty();
        given
            .open(Form::Number, "A", sealed(b"a").unwrap())
            .unwrap();
        given.open(Form::Path, "B", sealed(b"b").unwrap()).unwrap();
        let lines = given.lines();
        let read: Vec<_> = lines
            .lines()
            .map(|line| Form::of_line(line).unwrap())
            .collect();
        assert_eq!(read, [(Form::Number, "A"), (Form::Path, "B")]);
        let file = given.descriptors().next().unwrap();
        assert_eq!(Form::Number.name(file), file.as_raw_fd().to_string());
        assert!(File::open(Form::Path.name(file)).is_ok());
    }
}
