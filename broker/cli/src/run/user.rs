//! What the supervisor hears of the user, by way of the front.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::process::{Pid, Signal};
use tokio::sync::mpsc;

use super::control;
use super::signals::asks_to_end;

/// The way to the front.
pub(super) struct User {
    connection: Arc<OwnedFd>,
    /// The user's job, if the command is to be in it.
    pub(super) group: Option<Pid>,
    news: mpsc::UnboundedReceiver<News>,
}

/// A signal of the user's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct News {
    pub(super) signal: Signal,
    /// Whether the whole job of the user has got the signal.
    pub(super) has_reached_job: bool,
}

impl User {
    /// Takes the connection to the front from standard input, and puts the user's own there.
    pub(super) fn connect() -> io::Result<Self> {
        let connection = Arc::new(control::given()?);
        let (message, descriptors) = control::receive(&connection)?;
        let gone = || io::Error::other("the process that the user has started is gone");
        let stdin = descriptors.first().ok_or_else(gone)?;
        rustix::stdio::dup2_stdin(stdin)?;
        let group = std::str::from_utf8(&message).unwrap_or_default().parse();
        let group = group.ok().and_then(Pid::from_raw);
        let (tell, news) = mpsc::unbounded_channel();
        let heard = Arc::clone(&connection);
        std::thread::Builder::new()
            .name("sundew-user".to_owned())
            .spawn(move || {
                while let Some(signal) = next(&heard) {
                    if tell.send(signal).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            connection,
            group,
            news,
        })
    }

    /// Waits for the next signal; nothing means that the front was killed.
    pub(super) async fn next(&mut self) -> Option<News> {
        self.news.recv().await
    }

    /// Waits until the user wants an end; nothing means that the front was killed.
    pub(super) async fn wants_an_end(&mut self) -> Option<Signal> {
        loop {
            let signal = self.next().await?.signal;
            if asks_to_end(signal) {
                return Some(signal);
            }
        }
    }

    /// Tells the front something.
    pub(super) fn tell(&self, message: &str) {
        let _ = control::send(&self.connection, message.as_bytes(), &[]);
    }
}

fn next(connection: &OwnedFd) -> Option<News> {
    loop {
        let (message, _) = control::receive(connection).ok()?;
        let (number, reached) = (message.first()?, message.get(1)?);
        if let Some(signal) = Signal::from_named_raw(i32::from(*number)) {
            return Some(News {
                signal,
                has_reached_job: *reached != 0,
            });
        }
    }
}
