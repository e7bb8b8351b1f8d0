//! Who speaks on a local connection (I2).
//!
//! The kernel says who connected. That process may have handed the socket to another one and become a
//! trusted program since, by exec(2), or it may do so once it has asked. So the kernel is asked two more
//! things: who sent each piece (`SCM_CREDENTIALS`, unix(7)), and which program runs before and after.
//!
//! The executable is looked at first; then everything is read that was sent until then; and only then
//! does the server say its first word, which every client of HTTP/2 answers (RFC 9113, section 6.5.3).
//! What comes after that was sent by whoever runs since that look. A process is believed once such a
//! piece came from it, for as long as it runs the same executable.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt,
};
use tokio::sync::Notify;

use super::program::{Version, program_of};

/// How long a process is waited for that has not answered yet.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// What is known of the sender of a connection.
#[derive(Default)]
pub(super) struct Sender {
    /// The program at the first look; `None` in it if there was none to be seen.
    program: OnceLock<Option<Version>>,
    has_answered: AtomicBool,
    answered: Notify,
}

/// Lets a socket tell who sends.
pub(super) fn tell_senders(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::PassCred, &true)?)
}

/// Reads from a socket; answers how much, and which process has sent it, if the kernel says so.
pub(super) fn receive(socket: &impl AsFd, space: &mut [u8]) -> io::Result<(usize, Option<i32>)> {
    let mut control = nix::cmsg_space!(UnixCredentials);
    let mut space = [IoSliceMut::new(space)];
    let fd = socket.as_fd().as_raw_fd();
    let got = recvmsg::<()>(fd, &mut space, Some(&mut control), MsgFlags::empty())?;
    let mut sender = None;
    for message in got.cmsgs()? {
        if let ControlMessageOwned::ScmCredentials(credentials) = message {
            sender = Some(credentials.pid()).filter(|pid| *pid != 0);
        }
    }
    Ok((got.bytes, sender))
}

impl Sender {
    /// Notes the program of the first look.
    pub(super) fn looked(&self, program: Option<Version>) {
        let _ = self.program.set(program);
    }

    /// Notes a piece that was sent after the first look by the process that has connected.
    pub(super) fn answer(&self) {
        if !self.has_answered.swap(true, Ordering::Release) {
            self.answered.notify_waiters();
        }
    }

    /// Whether the first look is over.
    pub(super) fn was_looked_at(&self) -> bool {
        self.program.get().is_some()
    }

    /// Waits until the process has answered; answers whether it did in time.
    pub(super) async fn has_answered(&self) -> bool {
        let answered = self.answered.notified();
        self.has_answered.load(Ordering::Acquire)
            || tokio::time::timeout(ANSWERS_WITHIN, answered).await.is_ok()
    }

    /// The program of the first look.
    pub(super) fn program(&self) -> Option<Version> {
        self.program.get().copied().flatten()
    }

    /// Whether a process runs the program still that it ran at the first look.
    pub(super) fn runs_the_same(&self, pid: u32) -> bool {
        let (first, now) = (self.program(), program_of(pid));
        first.is_some_and(|first| now.is_some_and(|now| first.is_of_same_file(now)))
    }
}
