//! The decisions of attending a task. Nothing here runs, waits or sends: an [`Attendance`] takes
//! one [`Input`] at a time, with the time at which it came, and says what to do.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sundew_proto::v1::ProofWanted;
use sundew_proto::v1::attend_response::Event;
use tonic::Code;

use crate::ended::Ended;
use crate::identity::Identity;

/// The pause before a broken stream is opened again for the first time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Something that happened to an open stream.
#[derive(Debug)]
pub(super) enum Input {
    /// The stream was closed: by the broker without a status, or with this code.
    Closed(Option<Code>),
    /// The broker sent a message with this event.
    Heard(Option<Event>),
    /// The task was moved to the connection of the new SVID.
    Moved,
    /// A ping could not be handed to the stream.
    PingFailed,
    /// Nothing else happened until [`Attendance::ping_at`].
    Silence,
    /// The agent's SVID, once after a stream was opened and at each change.
    Svid(Arc<Identity>),
}

/// Something to do while a stream stays open.
#[derive(Debug, PartialEq)]
pub(super) enum Output {
    /// Keep the broker's receipt for evidence, for the start of the next stream.
    KeepProof(Vec<u8>),
    /// Move the task to the connection of the new SVID, and report [`Input::Moved`] if that worked.
    Move,
    /// Send a ping, and report [`Input::PingFailed`] if that did not work.
    Ping,
    /// Collect fresh evidence and send it, without keeping the stream waiting.
    Prove(ProofWanted),
    /// Tell the broker that the task will move to the certificate with this SHA-256.
    Rotate([u8; 32]),
}

/// How a stream came to its end.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum StreamEnd {
    /// The stream could not be opened, or broke.
    Disconnected,
    /// The task was moved to a new SVID, whose connection has no stream yet.
    Rotated,
    /// The task has ended.
    TaskEnded(Ended),
}

impl StreamEnd {
    /// Tells what it means that a stream could not be opened because of this code.
    pub(super) fn of_refusal(code: Code) -> Self {
        if matches!(code, Code::PermissionDenied | Code::Unauthenticated) {
            Self::TaskEnded(Ended::Lost)
        } else {
            Self::Disconnected
        }
    }
}

/// The way to go on after a stream has ended.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// Stop attending: the task has ended.
    Finish(Ended),
    /// Open a stream at once.
    Open,
    /// Open a stream after this pause.
    OpenAfter(Duration),
}

/// The state of attending one task over all its streams.
pub(super) struct Attendance {
    grace: Duration,
    /// When the broker last sent a message, on whichever stream.
    heard: Instant,
    /// How long to wait before the next broken stream is opened again.
    pause: Duration,
    /// The SVID of the stream's connection.
    bound: Arc<Identity>,
    /// Whether the broker was told, on this stream, to which SVID the task will move.
    rotating: bool,
    ping_at: Instant,
}

impl Attendance {
    /// Begins to attend a task that the broker ends when it is not attended for `grace`.
    pub(super) fn new(grace: Duration, bound: Arc<Identity>, now: Instant) -> Self {
        Self {
            grace,
            heard: now,
            pause: FIRST_PAUSE,
            bound,
            rotating: false,
            ping_at: now + grace / 3,
        }
    }

    /// Forgets what belonged to the last stream; the next one is opened with the SVID `bound`.
    pub(super) fn open(&mut self, bound: Arc<Identity>) {
        self.bound = bound;
        self.rotating = false;
    }

    /// Returns when a ping is due if nothing happens before: a third of the grace after the last
    /// input.
    pub(super) fn ping_at(&self) -> Instant {
        self.ping_at
    }

    /// Takes one input, and returns the end of the stream or what to do next, if anything.
    pub(super) fn step(
        &mut self,
        input: Input,
        now: Instant,
    ) -> ControlFlow<StreamEnd, Option<Output>> {
        self.ping_at = now + self.grace / 3;
        match input {
            Input::Closed(Some(Code::PermissionDenied)) => {
                ControlFlow::Break(StreamEnd::TaskEnded(Ended::Lost))
            }
            Input::Closed(_) | Input::PingFailed => ControlFlow::Break(StreamEnd::Disconnected),
            Input::Heard(event) => {
                self.heard = now;
                Self::on_event(event)
            }
            Input::Moved => ControlFlow::Break(StreamEnd::Rotated),
            Input::Silence => ControlFlow::Continue(Some(Output::Ping)),
            Input::Svid(current) => ControlFlow::Continue(self.on_svid(&current)),
        }
    }

    /// Decides how to go on after a stream has ended.
    pub(super) fn after(&mut self, end: StreamEnd, now: Instant) -> Next {
        match end {
            // Beyond this the broker has ended the task, whether the agent hears of it or not.
            StreamEnd::Disconnected
                if now.saturating_duration_since(self.heard) > self.grace.saturating_mul(3) =>
            {
                Next::Finish(Ended::Lost)
            }
            StreamEnd::Disconnected => {
                let pause = self.pause;
                self.pause = pause.saturating_mul(2).min(self.grace / 4);
                Next::OpenAfter(pause)
            }
            StreamEnd::Rotated => {
                self.pause = FIRST_PAUSE;
                Next::Open
            }
            StreamEnd::TaskEnded(ended) => Next::Finish(ended),
        }
    }

    fn on_event(event: Option<Event>) -> ControlFlow<StreamEnd, Option<Output>> {
        ControlFlow::Continue(match event {
            Some(Event::Ended(ended)) => {
                return ControlFlow::Break(StreamEnd::TaskEnded(Ended::of(ended.outcome())));
            }
            Some(Event::ProofWanted(wanted)) => Some(Output::Prove(wanted)),
            Some(Event::Proven(proven)) => Some(Output::KeepProof(proven.proof)),
            Some(Event::Rotated(_)) => Some(Output::Move),
            Some(Event::Accepted(_) | Event::Suspended(_)) | None => None,
        })
    }

    /// Announces another SVID than the stream's own, once a stream: on the connection of the old
    /// SVID and before the new one is used.
    fn on_svid(&mut self, current: &Identity) -> Option<Output> {
        if self.rotating || current.chain() == self.bound.chain() {
            return None;
        }
        self.rotating = true;
        Some(Output::Rotate(current.thumbprint()))
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
