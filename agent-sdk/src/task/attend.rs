//! Attending a task: a stream to the broker that is kept open, moved to each new SVID, and listened
//! to. This file does the I/O; [`step`] makes the decisions.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use sundew_core::client::BindingPurpose;
use sundew_proto::v1::attend_request::Request;
use sundew_proto::v1::attend_response::Event;
use sundew_proto::v1::{
    AttendPing, AttendRequest, AttendResponse, AttendStart, MintTokenRequest, ProofWanted, Prove,
    RotateBinding,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Shared, mint};
use crate::agent::Agent;
use crate::call::{client, is_declined};
use crate::clock::now;
use crate::connection::Connection;
use crate::identity::IdentitySource;

mod step;

use step::{Attendance, Input, Next, Output, StreamEnd};

/// How many requests may wait to be sent.
const QUEUE: usize = 8;

/// Attends a task until it has ended, and then tells how.
pub(super) async fn attend(agent: Agent, shared: Arc<Shared>) {
    let bound = Arc::clone(shared.connection.load().identity());
    let mut attendance = Attendance::new(shared.grace, shared.deadline, bound, now());
    loop {
        let end = stream(&agent, &shared, &mut attendance).await;
        match attendance.after(end, now()) {
            Next::Finish(ended) => {
                shared.ended.send_replace(Some(ended));
                return;
            }
            Next::Open => {}
            Next::OpenAfter(pause) => tokio::time::sleep(pause).await,
        }
    }
}

impl Shared {
    /// The first request of a stream.
    fn start(&self) -> Request {
        Request::Start(AttendStart {
            task_id: self.id.clone(),
            proof: self.proof.load().to_vec(),
        })
    }
}

/// Opens one stream and keeps it until its end.
async fn stream(agent: &Agent, shared: &Arc<Shared>, attendance: &mut Attendance) -> StreamEnd {
    let connection = shared.connection.load_full();
    attendance.open(Arc::clone(connection.identity()), now());
    let (requests, queue) = mpsc::channel(QUEUE);
    ask(&requests, shared.start());
    // P2: the broker binds a challenge to the connection on which it sends it.
    let before = connection.session();
    let mut answers = match client(&connection).attend(ReceiverStream::new(queue)).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => {
            // The next stream may be led to a broker that can serve it.
            if is_declined(&status)
                && let Ok(other) = agent.elsewhere(&connection)
            {
                shared.connection.store(other);
            }
            return StreamEnd::of_refusal(&status);
        }
    };
    let mut stream = OpenStream {
        agent,
        shared,
        exporter: before.of_call_until(connection.session()),
        connection,
        requests,
        moving: JoinSet::new(),
    };
    let mut identities = agent.identities();
    let mut input = Input::Svid(identities.current());
    loop {
        let result = match attendance.step(input, now()) {
            ControlFlow::Break(end) => return end,
            ControlFlow::Continue(Some(output)) => stream.perform(output),
            ControlFlow::Continue(None) => None,
        };
        input = match result {
            Some(result) => result,
            None => {
                let moved = &mut stream.moving;
                next(&mut identities, &mut answers, moved, attendance.ping_at()).await
            }
        };
    }
}

/// Waits for the next thing that happens to a stream.
async fn next(
    identities: &mut IdentitySource,
    answers: &mut Streaming<AttendResponse>,
    moving: &mut JoinSet<Input>,
    ping_at: Instant,
) -> Input {
    tokio::select! {
        () = identities.changed() => Input::Svid(identities.current()),
        () = tokio::time::sleep_until(ping_at.into()) => Input::Silence,
        Some(moved) = moving.join_next() => moved.unwrap_or(Input::NotMoved),
        answer = answers.message() => match answer {
            Ok(Some(answer)) => Input::Heard(answer.event),
            Ok(None) => Input::Closed(None),
            Err(status) => Input::Closed(Some(status.code())),
        },
    }
}

/// Tells whether a broker takes a stream for the task on this connection.
async fn is_accepted(connection: &Connection, shared: &Shared) -> bool {
    let (requests, queue) = mpsc::channel(QUEUE);
    ask(&requests, shared.start());
    let Ok(answers) = client(connection).attend(ReceiverStream::new(queue)).await else {
        return false;
    };
    let answer = answers.into_inner().message().await;
    matches!(
        answer,
        Ok(Some(AttendResponse {
            event: Some(Event::Accepted(_))
        }))
    )
}

/// Hands a request to a stream without waiting, and tells whether there was room for it.
fn ask(requests: &mpsc::Sender<AttendRequest>, request: Request) -> bool {
    let request = AttendRequest {
        request: Some(request),
    };
    requests.try_send(request).is_ok()
}

/// An open stream, and the I/O that is done over it.
struct OpenStream<'a> {
    agent: &'a Agent,
    shared: &'a Arc<Shared>,
    connection: Arc<Connection>,
    /// The channel binding of the session that the stream is on, if that is known for sure. The
    /// connection itself may have been opened again since: a broker lets old streams go on.
    exporter: Option<[u8; 32]>,
    requests: mpsc::Sender<AttendRequest>,
    /// Moves to another SVID or broker that are under way, each with what came of it. They end with
    /// the stream.
    moving: JoinSet<Input>,
}

impl OpenStream<'_> {
    /// Does what the step said, and returns what came of it, if the step wants to know at once.
    fn perform(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::KeepProof(proof) => self.shared.proof.store(Arc::new(proof)),
            Output::Move(certificate) => return self.move_to(certificate),
            Output::Ping => {
                let sent = ask(&self.requests, Request::Ping(AttendPing {}));
                return (!sent).then_some(Input::PingFailed);
            }
            Output::Prove(wanted) => match self.exporter {
                Some(exporter) => self.prove(wanted, exporter),
                None => return Some(Input::Unbound),
            },
            Output::Rotate(certificate) => {
                let certificate_sha256 = certificate.to_vec();
                let rotate = Request::Rotate(RotateBinding { certificate_sha256 });
                return (!ask(&self.requests, rotate)).then_some(Input::PingFailed);
            }
            Output::TryElsewhere => self.try_elsewhere(),
            Output::Suspend => drop(self.shared.suspended.send_replace(true)),
        }
        None
    }

    /// Begins to give the task the connection of the SVID that was announced, and a token that is
    /// bound to it. This goes on beside the stream: minting may take many attempts, and pings must
    /// go on.
    fn move_to(&mut self, certificate: [u8; 32]) -> Option<Input> {
        let fresh = match self.agent.connection() {
            Ok(fresh) => fresh,
            Err(error) => {
                tracing::warn!(%error, "no connection with the new SVID");
                return Some(Input::NotMoved);
            }
        };
        if fresh.identity().thumbprint() != certificate {
            return Some(Input::Svid(Arc::clone(fresh.identity())));
        }
        let shared = Arc::clone(self.shared);
        self.moving.spawn(async move {
            // The old token is bound to the old SVID and dies with it.
            match mint(&fresh, &shared.id, MintTokenRequest::default()).await {
                Ok(token) => shared.token.store(Arc::new(token)),
                Err(error) => tracing::warn!(%error, "no token for the new SVID yet; mint one"),
            }
            shared.connection.store(fresh);
            Input::Moved
        });
        None
    }

    /// Begins to attend the task over another connection, beside the stream.
    fn try_elsewhere(&mut self) {
        let (agent, shared) = (self.agent.clone(), Arc::clone(self.shared));
        let connection = Arc::clone(&self.connection);
        self.moving.spawn(async move {
            let Ok(other) = agent.elsewhere(&connection) else {
                return Input::Stayed;
            };
            let accepted = tokio::time::timeout(shared.grace / 4, is_accepted(&other, &shared));
            if accepted.await == Ok(true) {
                shared.connection.store(other);
                return Input::Moved;
            }
            // The next attempt is to lead elsewhere again.
            let _ = agent.elsewhere(&other);
            Input::Stayed
        });
    }

    /// Answers the broker's wish for evidence beside the stream: collecting takes its time, and
    /// pings must go on. If the stream's connection has gone when the evidence is there, nobody
    /// hears the answer, and the next stream is asked anew.
    fn prove(&self, wanted: ProofWanted, exporter: [u8; 32]) {
        let (agent, connection) = (self.agent.clone(), Arc::clone(&self.connection));
        let requests = self.requests.clone();
        tokio::spawn(async move {
            let evidence = agent.answer(
                connection.identity(),
                exporter,
                BindingPurpose::Prove,
                &wanted.nonce,
                &wanted.evidence_sets,
                &wanted.audience,
            );
            match evidence.await {
                Ok(evidence) => {
                    let prove = Request::Prove(Prove {
                        nonce: wanted.nonce,
                        evidence,
                    });
                    let request = AttendRequest {
                        request: Some(prove),
                    };
                    let _ = requests.send(request).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the broker wants fresh evidence; without it the task is suspended");
                }
            }
        });
    }
}

#[cfg(test)]
mod tests;
