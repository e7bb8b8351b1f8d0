//! The decisions of attending a task. Nothing here runs, waits or sends: an [`Attendance`] takes
//! one [`Input`] at a time, with the time at which it came, and says what to do.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sundew_proto::v1::ProofWanted;
use sundew_proto::v1::attend_response::Event;
use tonic::{Code, Status};

use crate::call::is_of_the_way;
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
    /// No connection could be made with the new SVID.
    NotMoved,
    /// A ping could not be handed to the stream.
    PingFailed,
    /// Nothing else happened until [`Attendance::ping_at`].
    Silence,
    /// No other broker has taken the task.
    Stayed,
    /// The agent's SVID, once after a stream was opened and at each change.
    Svid(Arc<Identity>),
    /// Evidence was asked for, and cannot be bound to the stream's connection: it is not known
    /// whether the stream was opened before or after the connection broke.
    Unbound,
}

/// Something to do while a stream stays open.
#[derive(Debug, PartialEq)]
pub(super) enum Output {
    /// Keep the broker's receipt for evidence, for the start of the next stream.
    KeepProof(Vec<u8>),
    /// Move the task to the connection of the SVID with this SHA-256, without keeping the stream
    /// waiting, and report [`Input::Moved`] or [`Input::NotMoved`]. If the agent has yet another
    /// SVID by now, report that instead.
    Move([u8; 32]),
    /// Send a ping, and report [`Input::PingFailed`] if that did not work.
    Ping,
    /// Collect fresh evidence and send it, without keeping the stream waiting.
    Prove(ProofWanted),
    /// Tell the broker that the task will move to the certificate with this SHA-256.
    Rotate([u8; 32]),
    /// Tell the program that the task is suspended.
    Suspend,
    /// Attend the task over another connection, without keeping the stream waiting, and report
    /// [`Input::Moved`] or [`Input::Stayed`].
    TryElsewhere,
}

/// How a stream came to its end.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum StreamEnd {
    /// A broker answered that it cannot serve the stream at this moment.
    Declined,
    /// The stream could not be opened, or broke.
    Disconnected,
    /// The task was moved to another connection, which has no stream yet.
    Moved,
    /// The task has ended.
    TaskEnded(Ended),
}

impl StreamEnd {
    /// Tells what it means that a stream could not be opened because of this status.
    pub(super) fn of_refusal(status: &Status) -> Self {
        if matches!(
            status.code(),
            Code::PermissionDenied | Code::Unauthenticated
        ) {
            return Self::TaskEnded(Ended::Lost);
        }
        if is_of_the_way(status) {
            Self::Disconnected
        } else {
            Self::Declined
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
    deadline: Instant,
    /// When the first of the streams broke that have broken since a broker was last reached. An
    /// open stream counts as reached however long it is silent: HTTP/2 looks after its connection.
    broken: Option<Instant>,
    /// When the broker accepted the stream.
    accepted: Option<Instant>,
    /// How long to wait before the next broken stream is opened again.
    pause: Duration,
    /// The SVID of the stream's connection.
    bound: Arc<Identity>,
    /// The agent's SVID, as far as the stream has heard.
    latest: Arc<Identity>,
    /// The SHA-256 of the certificate that was announced on this stream, until the broker answers.
    announced: Option<[u8; 32]>,
    ping_at: Instant,
    /// Whether it is being tried to attend the task elsewhere.
    trying_elsewhere: bool,
}

impl Attendance {
    /// Begins to attend a task that the broker ends when it is not attended for `grace`, and in
    /// any case at `deadline`.
    pub(super) fn new(
        grace: Duration,
        deadline: Instant,
        bound: Arc<Identity>,
        now: Instant,
    ) -> Self {
        Self {
            grace,
            deadline,
            broken: None,
            accepted: None,
            pause: FIRST_PAUSE,
            latest: Arc::clone(&bound),
            bound,
            announced: None,
            ping_at: now + grace / 3,
            trying_elsewhere: false,
        }
    }

    /// Forgets what belonged to the last stream; the next one is opened with the SVID `bound`.
    pub(super) fn open(&mut self, bound: Arc<Identity>, now: Instant) {
        self.latest = Arc::clone(&bound);
        self.bound = bound;
        self.announced = None;
        self.accepted = None;
        self.trying_elsewhere = false;
        self.ping_at = now + self.grace / 3;
    }

    /// Returns when a ping is due: a third of the grace after the last one, or after the stream's
    /// start. The broker wants to hear from the agent; what the agent hears does not count.
    pub(super) fn ping_at(&self) -> Instant {
        self.ping_at
    }

    /// Takes one input, and returns the end of the stream or what to do next, if anything.
    pub(super) fn step(
        &mut self,
        input: Input,
        now: Instant,
    ) -> ControlFlow<StreamEnd, Option<Output>> {
        match input {
            Input::Closed(Some(Code::PermissionDenied)) => {
                ControlFlow::Break(StreamEnd::TaskEnded(Ended::Lost))
            }
            // The next stream has the old SVID still, and announces the new one again.
            Input::Closed(_) | Input::NotMoved | Input::PingFailed | Input::Unbound => {
                ControlFlow::Break(StreamEnd::Disconnected)
            }
            Input::Heard(event) => {
                self.broken = None;
                self.accepted.get_or_insert(now);
                self.on_event(event)
            }
            Input::Moved => ControlFlow::Break(StreamEnd::Moved),
            Input::Stayed => {
                self.trying_elsewhere = false;
                ControlFlow::Continue(None)
            }
            Input::Silence => {
                self.ping_at = now + self.grace / 3;
                ControlFlow::Continue(Some(Output::Ping))
            }
            Input::Svid(current) => {
                self.latest = current;
                ControlFlow::Continue(self.announce())
            }
        }
    }

    /// Decides how to go on after a stream has ended.
    pub(super) fn after(&mut self, end: StreamEnd, now: Instant) -> Next {
        // A stream that held was no failed attempt.
        let held = |accepted| now.saturating_duration_since(accepted) >= self.longest_pause();
        if self.accepted.is_some_and(held) {
            self.pause = FIRST_PAUSE;
        }
        match end {
            StreamEnd::Declined => self.broken = Some(now),
            StreamEnd::Disconnected => {
                let broken = *self.broken.get_or_insert(now);
                // Beyond this the broker has ended the task, whether the agent hears of it or not.
                if now.saturating_duration_since(broken) > self.grace.saturating_mul(3) {
                    return Next::Finish(Ended::Lost);
                }
            }
            StreamEnd::Moved => {
                self.pause = FIRST_PAUSE;
                return Next::Open;
            }
            StreamEnd::TaskEnded(ended) => return Next::Finish(ended),
        }
        if now >= self.deadline {
            return Next::Finish(Ended::Expired);
        }
        let pause = self.pause;
        self.pause = pause.saturating_mul(2).min(self.longest_pause());
        Next::OpenAfter(pause)
    }

    /// Several attempts must fit into one grace.
    fn longest_pause(&self) -> Duration {
        self.grace / 4
    }

    fn on_event(&mut self, event: Option<Event>) -> ControlFlow<StreamEnd, Option<Output>> {
        ControlFlow::Continue(match event {
            Some(Event::Ended(ended)) => {
                return ControlFlow::Break(StreamEnd::TaskEnded(Ended::of(ended.outcome())));
            }
            Some(Event::ProofWanted(wanted)) => Some(Output::Prove(wanted)),
            Some(Event::Proven(proven)) => Some(Output::KeepProof(proven.proof)),
            Some(Event::Rotated(_)) => self.on_rotated(),
            Some(Event::Suspended(_)) => Some(Output::Suspend),
            Some(Event::Unreported(_)) => {
                let is_trying = std::mem::replace(&mut self.trying_elsewhere, true);
                (!is_trying).then_some(Output::TryElsewhere)
            }
            Some(Event::Accepted(_)) | None => None,
        })
    }

    /// Moves the task to the certificate that was announced. If the agent has yet another one by
    /// now, that one is announced first: a certificate that the broker does not expect is refused.
    fn on_rotated(&mut self) -> Option<Output> {
        let announced = self.announced.take()?;
        if announced == self.latest.thumbprint() {
            Some(Output::Move(announced))
        } else {
            self.announce()
        }
    }

    /// Announces another SVID than the stream's own, on the connection of the old SVID and before
    /// the new one is used. One announcement waits for the answer to the one before.
    fn announce(&mut self) -> Option<Output> {
        if self.announced.is_some() || self.latest.chain() == self.bound.chain() {
            return None;
        }
        let certificate = self.latest.thumbprint();
        self.announced = Some(certificate);
        Some(Output::Rotate(certificate))
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
