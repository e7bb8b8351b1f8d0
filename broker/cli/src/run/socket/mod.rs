//! The task's socket: what the command asks for fresh tokens and for secrets of its task, by
//! HTTP/1.1 as `task-socket.openapi.json` says.
//!
//! P8: processes of the task are answered and nobody else, and no token is bound to the supervisor's
//! SVID. P12: connections, sizes, calls and rates have limits.

mod challenges;
mod connection;
mod members;
mod message;
mod pace;
mod service;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustix::net::sockopt::set_socket_passcred;
use sundew_sdk::{Ended, Task};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::given::private_folder;
use connection::Incoming;
pub(super) use members::Members;
use service::Service;

/// The name of the socket in its folder.
const NAME: &str = "task.sock";

/// A socket that is there, and that nobody answers yet.
pub(super) struct TaskSocket {
    folder: TempDir,
    listener: UnixListener,
}

/// A socket that is answered. It goes when this is dropped.
pub(super) struct Served {
    folder: TempDir,
    state: watch::Sender<State>,
    serving: JoinHandle<()>,
}

/// Whether the task is over, as its supervisor knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Open,
    /// How it ended, once that is known.
    Over(Option<Ended>),
}

impl TaskSocket {
    /// Makes the socket, in a folder for this user alone.
    ///
    /// # Errors
    /// If there is no place for it.
    pub(super) fn make() -> Result<Self> {
        let folder = private_folder().map_or_else(any_folder, Ok);
        let folder = folder.context("no folder for the task's socket")?;
        let listener = UnixListener::bind(folder.path().join(NAME))?;
        // Each connection has this from its first byte on.
        set_socket_passcred(&listener, true)?;
        Ok(Self { folder, listener })
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join(NAME)
    }

    /// Answers the processes of a task.
    pub(super) fn serve(self, task: &Task, members: Arc<Members>) -> Served {
        let (state, news) = watch::channel(State::Open);
        let service = Arc::new(Service::new(task, news));
        let incoming = Incoming::new(self.listener, members);
        Served {
            folder: self.folder,
            state,
            serving: tokio::spawn(service::serve(service, incoming)),
        }
    }
}

impl Served {
    /// Answers from now on that the task is over.
    pub(super) fn end(&self, ended: Option<Ended>) {
        self.state.send_replace(State::Over(ended));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Before the folder goes: nobody may find a socket that nobody answers.
        let _ = std::fs::remove_file(self.folder.path().join(NAME));
        self.serving.abort();
    }
}

/// Makes a folder for this user alone where temporary files are: a socket keeps nothing there.
fn any_folder() -> std::io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix("sundew-run-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
}
