//! Local processes that the kernel vouches for, at the other end of a Unix socket.
//!
//! What is sent is believed of the process that connected only (`sender.rs`). Facts of /proc are
//! read by the pidfd that the kernel gave with the connection, and believed only if that process
//! still lives afterwards, so that a reused pid proves nothing. Where the kernel has no such pidfd
//! (before Linux 6.5), nothing is read.
//!
//! I3: what a process chooses itself is no fact. The path of its program is one where we see the same
//! file there (`program.rs`), and of its control group only what root has written.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sundew_attestation::kinds::process::control_group::{self, ControlGroup};
use sundew_core::LocalSelector;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::server::Connected;

use super::executable::Executable;
use super::grpc_c_authority::AuthorityFilter;
use super::local_places::LocalPlace;
pub use super::local_places::{LocalLimits, accept, accept_within};
use super::program::{path_of, program_of};
use super::sender::{Sender, receive, tell_senders};
use crate::peer::speaking::FirstByte;

/// The process at the other end of a socket, as the kernel names it.
pub struct LocalProcess {
    uid: u32,
    gid: u32,
    /// The process ID that the kernel gave with the connection.
    pid: Option<i32>,
    pidfd: Option<OwnedFd>,
    executable: Executable,
    sender: Sender,
}

/// The most bytes that a process may send before it is answered.
const MOST_EARLY: usize = 64 << 10;

/// A local connection.
pub struct LocalConnection {
    stream: UnixStream,
    /// The bytes that the process sent, on their way to the HTTP/2 library.
    sent: AuthorityFilter,
    process: Arc<LocalProcess>,
    first_byte: FirstByte,
    place: Option<LocalPlace>,
}

impl LocalConnection {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pidfd = getsockopt(&stream.as_fd(), sockopt::PeerPidfd).ok();
        tell_senders(&stream)?;
        Ok(Self {
            process: Arc::new(LocalProcess {
                uid: credentials.uid(),
                gid: credentials.gid(),
                pid: credentials.pid(),
                pidfd,
                executable: Executable::default(),
                sender: Sender::default(),
            }),
            stream,
            sent: AuthorityFilter::new(),
            first_byte: FirstByte::awaited(),
            place: None,
        })
    }
}

impl LocalConnection {
    /// The process at the other end.
    pub(super) fn process(&self) -> &LocalProcess {
        &self.process
    }

    /// Reads a piece into an empty buffer. A piece that another process has sent ends the connection:
    /// whatever the one that connected may have, it is not this one's.
    fn poll_receive(&self, cx: &mut Context<'_>, chunk: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let space = chunk.initialize_unfilled();
            let read = || self.receive(space);
            match self.stream.try_io(Interest::READABLE, read) {
                Ok(count) => {
                    chunk.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn receive(&self, space: &mut [u8]) -> io::Result<usize> {
        let (count, sender) = receive(&self.stream, space)?;
        let process = &self.process;
        match (sender, process.pid) {
            (Some(sender), Some(pid)) if sender != pid => {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            (Some(_), Some(_)) if count > 0 && process.sender.was_looked_at() => {
                process.sender.answer();
            }
            _ => {}
        }
        Ok(count)
    }

    /// Looks at the program before anything is answered, and reads what was sent until then.
    fn look(&mut self) -> io::Result<()> {
        if self.process.sender.was_looked_at() {
            return Ok(());
        }
        let pid = self.process.pid();
        let (mut space, mut early) = ([0; 4096], 0_usize);
        let mut pieces = Vec::new();
        let looked = pid.and_then(program_of);
        while early < MOST_EARLY {
            match self.receive(&mut space) {
                Ok(0) => break,
                Ok(count) => {
                    early = early.saturating_add(count);
                    pieces.extend(space.iter().take(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if early >= MOST_EARLY {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if !pieces.is_empty() {
            self.first_byte.heard();
            self.sent.put(&pieces);
        }
        self.process.sender.looked(looked);
        Ok(())
    }

    /// Holds a place for as long as the connection is open.
    pub(super) fn hold(&mut self, place: LocalPlace) {
        self.process.executable.reads_at(place.reading());
        self.place = Some(place);
    }
}

impl Drop for LocalConnection {
    fn drop(&mut self) {
        self.process.executable.close();
    }
}

impl Connected for LocalConnection {
    type ConnectInfo = Arc<LocalProcess>;
    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.process)
    }
}

impl AsyncRead for LocalConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let out = self.sent.take(buf.remaining());
            if !out.is_empty() {
                buf.put_slice(&out);
                return Poll::Ready(Ok(()));
            }
            let mut space = [0; 4096];
            let mut chunk = ReadBuf::new(&mut space);
            let read = self.poll_receive(cx, &mut chunk);
            ready!(self.first_byte.watch(read, cx, &chunk))?;
            self.sent.put(chunk.filled());
            if chunk.filled().is_empty() {
                buf.put_slice(&self.sent.take(buf.remaining()));
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for LocalConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.look()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Makes the socket. Anybody may connect to it; the kernel says who did.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    Ok(listener)
}

/// What /proc says of a process; nothing if it cannot be held on to.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The process ID, in the namespace of this process.
    pub pid: Option<u32>,
    /// The path of the executable, if the same file is there for this process too.
    pub exe: Option<String>,
    /// The SHA-256 digest of the executable, in lower-case hexadecimal.
    pub exe_sha256: Option<String>,
    /// The path of the control group; users name what lies below their own groups.
    pub cgroup: Option<String>,
    /// The path of the parent's executable. This is a hint: the parent may be another process by
    /// now.
    pub parent_exe: Option<String>,
}

impl Facts {
    /// What root has written in the path of the control group.
    #[must_use]
    pub fn control_group(&self) -> ControlGroup<'_> {
        let group = self.cgroup.as_deref().map(ControlGroup::of);
        group.unwrap_or_default()
    }
}

#[cfg(test)]
impl LocalProcess {
    /// This process, as a server sees it.
    pub(crate) fn own() -> Arc<Self> {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        LocalConnection::new(ours).unwrap().connect_info()
    }
}

impl LocalProcess {
    /// The effective user ID.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The effective group ID.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// What /proc says of the process; its executable is read if the digest is wanted.
    pub async fn facts(self: Arc<Self>, want_digest: bool) -> Facts {
        if !self.sender.has_answered().await {
            return Facts::default();
        }
        // A8: taken before a thread is, so that a user who waits for himself, or for a file system
        // of his own, holds no more than one.
        let place = self.executable.place().await;
        let read = tokio::task::spawn_blocking(move || {
            let _place = place;
            self.read_facts(want_digest)
        });
        read.await.ok().flatten().unwrap_or_default()
    }

    fn pid(&self) -> Option<u32> {
        let number = std::os::fd::AsRawFd::as_raw_fd(self.pidfd.as_ref()?);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        info.lines()
            .find_map(|line| line.strip_prefix("Pid:"))?
            .trim()
            .parse()
            .ok()
    }

    /// The process ID and the start time, which together name a process as long as the machine
    /// runs.
    pub(crate) fn name(&self) -> Option<(u32, String)> {
        let pid = self.pid()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; what counts comes after it (proc(5): starttime
        // is field 22).
        let started = stat
            .rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(19)?
            .to_owned();
        self.lives().then_some((pid, started))
    }

    fn read_facts(&self, want_digest: bool) -> Option<Facts> {
        let pid = self.pid()?;
        // Neither before nor after the facts are read may it have become another program.
        if !self.sender.runs_the_same(pid) {
            return None;
        }
        let exe_sha256 = if want_digest {
            let file = std::fs::File::open(format!("/proc/{pid}/exe")).ok()?;
            Some(self.executable.digest(&file, self.sender.program()?)?)
        } else {
            None
        };
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        let exe = path_of(pid);
        // Only now is it certain that /proc/<pid> was this process all the time.
        (self.lives() && self.sender.runs_the_same(pid)).then_some(Facts {
            pid: Some(pid),
            exe,
            exe_sha256,
            cgroup: groups
                .as_deref()
                .and_then(control_group::path_of)
                .map(str::to_owned),
            parent_exe: parent.and_then(path_of),
        })
    }

    /// Says whether the process still runs.
    #[must_use]
    pub fn lives(&self) -> bool {
        let Some(pidfd) = &self.pidfd else {
            return true;
        };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        matches!(
            poll(
                &mut fds,
                Some(&Timespec {
                    tv_sec: 0,
                    tv_nsec: 0
                })
            ),
            Ok(0)
        )
    }

    /// Says whether a selector means this process. I2: one that was written when an executable was
    /// enough means none.
    #[must_use]
    pub fn matches(&self, selector: &LocalSelector, facts: &Facts) -> bool {
        let holds = |wanted: &Option<String>, found: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == found
        };
        let group = facts.control_group();
        selector.problem().is_none()
            && selector.uid.is_none_or(|uid| uid == self.uid)
            && selector.gid.is_none_or(|gid| gid == self.gid)
            && holds(&selector.container_id, group.container_id)
            && holds(&selector.systemd_unit, group.systemd_unit)
            && holds(&selector.exe, facts.exe.as_deref())
            && holds(&selector.exe_sha256, facts.exe_sha256.as_deref())
    }
}
