//! The witness: a process in the user's job that does nothing but say which signals the job got.
//!
//! In a job with a terminal, the command gets what is sent to the whole job: by the terminal, by
//! `kill %1`, by `timeout`. What is sent to the front alone has to be passed on. The front gets
//! both, and cannot tell one from the other. The witness gets only what the whole job gets.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::signals::{self, Received};
use super::{control, part};

/// How long a signal to a whole job may take from its first process to its last one.
const SPREADS_WITHIN: Duration = Duration::from_millis(10);
/// For how long what the witness saw is kept until the front has received it itself.
const KEPT_FOR: Duration = Duration::from_millis(200);

/// Plays the witness's part: answers each message with the signals since the last one.
pub(super) fn witness() -> ExitCode {
    let ready = super::close_to_others().and_then(|()| signals::receive());
    let Ok((signals, front)) = ready.and_then(|signals| Ok((signals, control::given()?))) else {
        return ExitCode::FAILURE;
    };
    let mut answer = b"ready".to_vec();
    while control::send(&front, &answer, &[]).is_ok() {
        match control::receive(&front) {
            Ok((question, _)) if !question.is_empty() => {}
            Ok(_) | Err(_) => break,
        }
        answer = b"seen".to_vec();
        for received in signals::pending(&signals) {
            answer.extend(received.signal.as_raw().to_ne_bytes());
            answer.extend(received.sender.to_ne_bytes());
        }
    }
    ExitCode::SUCCESS
}

/// The front's way to the witness.
pub(super) struct Witness {
    connection: OwnedFd,
    /// Signals with their senders, and when it was asked.
    seen: Vec<((Signal, u32), Instant)>,
}

impl Witness {
    /// Starts a witness in the process group of this process.
    pub(super) fn start() -> io::Result<Self> {
        let (connection, theirs) = control::pair()?;
        part(super::WITNESS)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Until it says that it is ready, a signal would end it.
        control::receive(&connection)?;
        Ok(Self {
            connection,
            seen: Vec::new(),
        })
    }

    /// Tells whether the whole job got this signal, which the front has just received.
    pub(super) fn saw(&mut self, received: Received, now: Instant) -> bool {
        // A terminal sends to the whole job. One that hangs up may tell the leader of the session
        // only.
        if received.is_of_kernel && received.signal != Signal::HUP {
            return true;
        }
        let is_new = |at: &Instant| now.saturating_duration_since(*at) < KEPT_FOR;
        self.seen.retain(|(_, at)| is_new(at));
        if !self.has_seen(received) {
            std::thread::sleep(SPREADS_WITHIN);
            self.ask(now);
        }
        self.has_seen(received)
    }

    /// A signal that was sent twice within a moment, as `timeout` does, may be seen once.
    fn has_seen(&self, received: Received) -> bool {
        let wanted = (received.signal, received.sender);
        self.seen.iter().any(|(seen, _)| *seen == wanted)
    }

    fn ask(&mut self, now: Instant) {
        let asked = control::send(&self.connection, b"?", &[]);
        let Ok((answer, _)) = asked.and_then(|()| control::receive(&self.connection)) else {
            return;
        };
        let numbers = answer.strip_prefix(b"seen").unwrap_or_default();
        for pair in numbers.chunks_exact(8) {
            let (signal, sender) = pair.split_at(4);
            let signal = signal.try_into().map(i32::from_ne_bytes);
            let sender = sender.try_into().map(u32::from_ne_bytes);
            let (Ok(signal), Ok(sender)) = (signal, sender) else {
                continue;
            };
            if let Some(signal) = Signal::from_named_raw(signal) {
                self.seen.push(((signal, sender), now));
            }
        }
    }
}
