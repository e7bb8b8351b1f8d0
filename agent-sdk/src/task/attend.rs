//! Attending a task: a stream to the broker that is kept open, moved to each new SVID, and listened
//! to. This file does the I/O; [`step`] makes the decisions.

#![expect(
    clippy::disallowed_methods,
    reason = "the shell reads the clock for the pure step"
)]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use sundew_core::client::BindingPurpose;
use sundew_proto::v1::attend_request::Request;
use sundew_proto::v1::{
    AttendPing, AttendRequest, AttendResponse, AttendStart, MintTokenRequest, ProofWanted, Prove,
    RotateBinding,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Shared, mint};
use crate::agent::Agent;
use crate::call::client;
use crate::connection::Connection;
use crate::identity::IdentitySource;

mod step;

use step::{Attendance, Input, Next, Output, StreamEnd};

/// How many requests may wait to be sent.
const QUEUE: usize = 8;

/// Attends a task until it has ended, and then tells how.
pub(super) async fn attend(agent: Agent, shared: Arc<Shared>) {
    let bound = Arc::clone(shared.connection.load().identity());
    let mut attendance = Attendance::new(shared.grace, bound, now());
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

/// Opens one stream and keeps it until its end.
async fn stream(agent: &Agent, shared: &Shared, attendance: &mut Attendance) -> StreamEnd {
    let connection = shared.connection.load_full();
    attendance.open(Arc::clone(connection.identity()));
    let (requests, queue) = mpsc::channel(QUEUE);
    let stream = OpenStream {
        agent,
        shared,
        connection,
        requests,
    };
    stream.ask(Request::Start(AttendStart {
        task_id: shared.id.clone(),
        proof: shared.proof.load().to_vec(),
    }));
    let mut broker = client(&stream.connection);
    let mut answers = match broker.attend(ReceiverStream::new(queue)).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return StreamEnd::of_refusal(status.code()),
    };
    let mut identities = agent.identities();
    let mut input = Input::Svid(identities.current());
    loop {
        let result = match attendance.step(input, now()) {
            ControlFlow::Break(end) => return end,
            ControlFlow::Continue(Some(output)) => stream.perform(output).await,
            ControlFlow::Continue(None) => None,
        };
        input = match result {
            Some(result) => result,
            None => next(&mut identities, &mut answers, attendance.ping_at()).await,
        };
    }
}

/// Waits for the next thing that happens to a stream.
async fn next(
    identities: &mut IdentitySource,
    answers: &mut Streaming<AttendResponse>,
    ping_at: Instant,
) -> Input {
    tokio::select! {
        () = identities.changed() => Input::Svid(identities.current()),
        () = tokio::time::sleep_until(ping_at.into()) => Input::Silence,
        answer = answers.message() => match answer {
            Ok(Some(answer)) => Input::Heard(answer.event),
            Ok(None) => Input::Closed(None),
            Err(status) => Input::Closed(Some(status.code())),
        },
    }
}

/// An open stream, and the I/O that is done over it.
struct OpenStream<'a> {
    agent: &'a Agent,
    shared: &'a Shared,
    connection: Arc<Connection>,
    requests: mpsc::Sender<AttendRequest>,
}

impl OpenStream<'_> {
    /// Does what the step said, and returns what came of it, if the step wants to know.
    async fn perform(&self, output: Output) -> Option<Input> {
        match output {
            Output::KeepProof(proof) => self.shared.proof.store(Arc::new(proof)),
            Output::Move => return self.move_to_current_svid().await,
            Output::Ping => {
                return (!self.ask(Request::Ping(AttendPing {}))).then_some(Input::PingFailed);
            }
            Output::Prove(wanted) => self.prove(wanted),
            Output::Rotate(certificate) => {
                self.ask(Request::Rotate(RotateBinding {
                    certificate_sha256: certificate.to_vec(),
                }));
            }
        }
        None
    }

    /// Hands a request to the stream without waiting, and tells whether there was room for it.
    fn ask(&self, request: Request) -> bool {
        let request = AttendRequest {
            request: Some(request),
        };
        self.requests.try_send(request).is_ok()
    }

    /// Gives the task the connection of the agent's current SVID, and a token that is bound to it.
    async fn move_to_current_svid(&self) -> Option<Input> {
        let fresh = match self.agent.connection() {
            Ok(fresh) => fresh,
            Err(error) => {
                tracing::warn!(%error, "no connection with the new SVID");
                return None;
            }
        };
        // The old token is bound to the old SVID and dies with it.
        match mint(&fresh, &self.shared.id, MintTokenRequest::default()).await {
            Ok(token) => self.shared.token.store(Arc::new(token)),
            Err(error) => tracing::warn!(%error, "no token for the new SVID yet; mint one"),
        }
        self.shared.connection.store(fresh);
        Some(Input::Moved)
    }

    /// Answers the broker's wish for evidence beside the stream: collecting takes its time, and
    /// pings must go on.
    fn prove(&self, wanted: ProofWanted) {
        let (agent, connection) = (self.agent.clone(), Arc::clone(&self.connection));
        let requests = self.requests.clone();
        tokio::spawn(async move {
            let evidence = agent.answer(
                &connection,
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
                    // A stream that has ended meanwhile needs no answer.
                    let _ = requests.send(request).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the broker wants fresh evidence; without it the task is suspended");
                }
            }
        });
    }
}

/// Returns the time by the runtime's clock, which tests can pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
