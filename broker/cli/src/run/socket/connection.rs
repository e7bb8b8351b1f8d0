//! Connections, of which the kernel says for each piece who has sent it (`SCM_CREDENTIALS`, unix(7)).
//!
//! A connection is for processes that were of the task when it was made and are when they speak. A
//! process that comes later makes its own: so an id that is used again is not taken for its former
//! owner's, and a socket that was handed to an outsider says nothing for him.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use super::members::Members;
use super::message::Refused;
use crate::run::descendants::Process;

/// The most connections of a task, and of one process of it.
const MOST: usize = 64;
const MOST_OF_ONE: usize = 16;
/// The most connections of those who are refused, and how long each of them lasts.
const MOST_REFUSED: usize = 8;
const REFUSED_FOR: Duration = Duration::from_secs(2);
/// How long a connection may be silent: longer than any answer takes.
const SILENT_FOR: Duration = Duration::from_secs(90);
/// The pause after a connection could not be taken.
const PAUSE: Duration = Duration::from_millis(50);
/// Times of processes are in these parts of a second, on every architecture that is supported
/// (proc(5), `USER_HZ`).
const TICKS: i64 = 100;

/// The connections of a socket.
pub(super) struct Incoming {
    listener: UnixListener,
    members: Arc<Members>,
    places: Arc<Semaphore>,
    refused: Arc<Semaphore>,
}

impl Incoming {
    pub(super) fn new(listener: UnixListener, members: Arc<Members>) -> Self {
        Self {
            listener,
            members,
            places: Arc::new(Semaphore::new(MOST)),
            refused: Arc::new(Semaphore::new(MOST_REFUSED)),
        }
    }

    /// Takes a connection of a process of the task. Others are taken too, to hear why they are refused:
    /// a few at a time, each for a moment, so that they leave room for those of the task.
    fn admit(&self, stream: UnixStream, place: OwnedSemaphorePermit) -> Option<Connection> {
        let since = ticks();
        let found = self.members.find(stream.peer_cred().ok()?.pid()?);
        let (maker, last) = match found {
            Some(process) if self.members.take_place(process, MOST_OF_ONE) => {
                (Some(process), Ok(process))
            }
            Some(_) => (None, Err(Refused::TooMany)),
            None => (None, Err(Refused::NotOfTask)),
        };
        let (place, lasts) = if maker.is_some() {
            (place, None)
        } else {
            let place = Arc::clone(&self.refused).try_acquire_owned().ok()?;
            (place, Some(REFUSED_FOR))
        };
        let speakers = Arc::new(Speakers {
            members: Arc::clone(&self.members),
            maker,
            since,
            last: Mutex::new(last),
        });
        Some(Connection {
            stream,
            speakers,
            silence: Box::pin(sleep(lasts.unwrap_or(SILENT_FOR))),
            is_refused: lasts.is_some(),
            _place: place,
        })
    }
}

impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = Arc<Speakers>;

    async fn accept(&mut self) -> (Connection, Arc<Speakers>) {
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                std::future::pending().await
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if let Some(connection) = self.admit(stream, place) {
                        let speakers = Arc::clone(&connection.speakers);
                        return (connection, speakers);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "task's socket");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Arc<Speakers>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Who speaks on a connection.
pub(super) struct Speakers {
    members: Arc<Members>,
    /// Who has made the connection, if it has a place among those of the task.
    maker: Option<Process>,
    /// When the connection was taken, in ticks since the machine started.
    since: i64,
    /// Who has sent the last piece. Once a piece came from somebody who is not let in, everything on the
    /// connection is refused: nobody knows to which message a piece belongs.
    last: Mutex<Result<Process, Refused>>,
}

impl Speakers {
    /// Returns who has sent the last piece.
    ///
    /// # Errors
    /// Why everything on this connection is refused.
    pub(super) fn last(&self) -> Result<Process, Refused> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }

    fn heard(&self, sender: Option<i32>) {
        let found = sender.and_then(|pid| self.members.find(pid));
        let found = found.filter(|process| process.started_by(self.since));
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_ok() {
            *last = found.ok_or(Refused::NotOfTask);
        }
    }
}

impl fmt::Debug for Speakers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Speakers").finish_non_exhaustive()
    }
}

impl Drop for Speakers {
    fn drop(&mut self) {
        if let Some(maker) = self.maker {
            self.members.give_place(maker);
        }
    }
}

/// A connection to the socket.
pub(super) struct Connection {
    stream: UnixStream,
    speakers: Arc<Speakers>,
    silence: Pin<Box<Sleep>>,
    is_refused: bool,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.silence.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            ready!(self.stream.poll_read_ready(cx))?;
            let space = buf.initialize_unfilled();
            let read = || receive(&self.stream, space);
            match self.stream.try_io(Interest::READABLE, read) {
                Ok((0, _)) => return Poll::Ready(Ok(())),
                Ok((count, sender)) => {
                    self.speakers.heard(sender);
                    buf.advance(count);
                    if !self.is_refused {
                        self.silence.set(sleep(SILENT_FOR));
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Reads a piece, and who has sent it. One read has pieces of one sender only, and there is no room
/// for descriptors, which the kernel drops then.
fn receive(stream: &UnixStream, space: &mut [u8]) -> io::Result<(usize, Option<i32>)> {
    let mut control = nix::cmsg_space!(UnixCredentials);
    let mut space = [IoSliceMut::new(space)];
    let fd = stream.as_fd().as_raw_fd();
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let got = recvmsg::<()>(fd, &mut space, Some(&mut control), flags)?;
    let mut sender = None;
    // A piece that came with descriptors has nothing that can be read here, and so no sender.
    for message in got.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmCredentials(credentials) = message {
            sender = Some(credentials.pid()).filter(|pid| *pid > 0);
        }
    }
    Ok((got.bytes, sender))
}

/// Returns the time since the machine started, in ticks; a part of one counts as a whole one.
fn ticks() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    let part = now.tv_nsec.saturating_mul(TICKS).div_euclid(1_000_000_000);
    now.tv_sec
        .saturating_mul(TICKS)
        .saturating_add(part)
        .saturating_add(1)
}
