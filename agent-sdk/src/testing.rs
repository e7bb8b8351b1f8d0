//! Identities with certificates of their own, and a broker in memory whose attendance streams a unit
//! test drives by hand.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use sundew_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use sundew_proto::v1::{self, AttendRequest, AttendResponse};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status, Streaming};

use crate::identity::Identity;

/// Makes an identity whose certificate differs from every other's.
pub(crate) fn identity() -> Arc<Identity> {
    let made = rcgen::generate_simple_self_signed(["agent".to_owned()]).expect("made");
    let key = made.signing_key.serialize_der();
    Arc::new(Identity::unchecked(
        "spiffe://test.example/agent",
        vec![made.cert.der().clone()],
        key.try_into().expect("key"),
    ))
}

/// A stream that the agent has opened, as the broker sees it.
pub(crate) struct Opened {
    pub(crate) requests: Streaming<AttendRequest>,
    pub(crate) answers: mpsc::Sender<Result<AttendResponse, Status>>,
}

impl Opened {
    pub(crate) async fn request(&mut self) -> v1::attend_request::Request {
        let request = self.requests.message().await.expect("stream");
        request.and_then(|r| r.request).expect("request")
    }

    pub(crate) async fn tell(&self, event: v1::attend_response::Event) {
        let answer = AttendResponse { event: Some(event) };
        self.answers.send(Ok(answer)).await.expect("told");
    }
}

/// A broker in memory, as a unit test sees it.
pub(crate) struct Memory {
    pub(crate) channel: Channel,
    /// Each stream that the agent opens. When this is dropped, the broker refuses streams as not
    /// permitted.
    pub(crate) streams: mpsc::Receiver<Opened>,
    /// Each ending that the agent asks for.
    pub(crate) completed: mpsc::UnboundedReceiver<v1::CompleteTaskRequest>,
}

/// Serves a broker in memory. It takes so long to begin a task or to mint a token.
pub(crate) fn broker(takes: Duration) -> Memory {
    let (streams, opened) = mpsc::channel(1);
    let (completions, completed) = mpsc::unbounded_channel();
    let (incoming, accepted) = mpsc::channel::<io::Result<DuplexStream>>(1);
    let service = AgentServiceServer::new(MemoryBroker {
        streams,
        completions,
        takes,
    });
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(accepted)));
    let connector = tower::service_fn(move |_: Uri| {
        let incoming = incoming.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            incoming.send(Ok(theirs)).await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(TokioIo::new(ours))
        }
    });
    let channel = Endpoint::from_static("http://memory").connect_with_connector_lazy(connector);
    Memory {
        channel,
        streams: opened,
        completed,
    }
}

struct MemoryBroker {
    streams: mpsc::Sender<Opened>,
    completions: mpsc::UnboundedSender<v1::CompleteTaskRequest>,
    takes: Duration,
}

type Answer<T> = Result<Response<T>, Status>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("not in memory"))
}

#[tonic::async_trait]
impl AgentService for MemoryBroker {
    type AttendStream = ReceiverStream<Result<AttendResponse, Status>>;

    async fn attend(
        &self,
        request: Request<Streaming<AttendRequest>>,
    ) -> Answer<Self::AttendStream> {
        let (answers, queue) = mpsc::channel(8);
        let requests = request.into_inner();
        let opened = Opened { requests, answers };
        let sent = self.streams.send(opened).await;
        sent.map_err(|_| Status::permission_denied("not permitted"))?;
        Ok(Response::new(ReceiverStream::new(queue)))
    }

    async fn mint_token(
        &self,
        request: Request<v1::MintTokenRequest>,
    ) -> Answer<v1::MintTokenResponse> {
        tokio::time::sleep(self.takes).await;
        let token = v1::Token {
            token: "another credential".to_owned(),
            token_id: format!("minted for {}", request.into_inner().task_id),
            ..v1::Token::default()
        };
        Ok(Response::new(v1::MintTokenResponse { token: Some(token) }))
    }

    async fn challenge(&self, _: Request<v1::ChallengeRequest>) -> Answer<v1::ChallengeResponse> {
        Ok(Response::new(v1::ChallengeResponse {
            evidence_sets: vec![v1::EvidenceSet::default()],
            ..v1::ChallengeResponse::default()
        }))
    }

    async fn begin_task(&self, _: Request<v1::BeginTaskRequest>) -> Answer<v1::BeginTaskResponse> {
        tokio::time::sleep(self.takes).await;
        let task = v1::Task {
            task_id: "task-1".to_owned(),
            deadline_ms: i64::MAX,
            ..v1::Task::default()
        };
        Ok(Response::new(v1::BeginTaskResponse {
            task: Some(task),
            token: Some(v1::Token::default()),
            ..v1::BeginTaskResponse::default()
        }))
    }

    async fn get_secret(&self, _: Request<v1::GetSecretRequest>) -> Answer<v1::GetSecretResponse> {
        not_here()
    }

    async fn delegate(&self, _: Request<v1::DelegateRequest>) -> Answer<v1::DelegateResponse> {
        not_here()
    }

    async fn suspend_task(
        &self,
        _: Request<v1::SuspendTaskRequest>,
    ) -> Answer<v1::SuspendTaskResponse> {
        not_here()
    }

    async fn resume_task(
        &self,
        _: Request<v1::ResumeTaskRequest>,
    ) -> Answer<v1::ResumeTaskResponse> {
        not_here()
    }

    async fn complete_task(
        &self,
        request: Request<v1::CompleteTaskRequest>,
    ) -> Answer<v1::CompleteTaskResponse> {
        let request = request.into_inner();
        let outcome = request.outcome;
        // Tests that do not look at it have dropped the receiver.
        let _ = self.completions.send(request);
        Ok(Response::new(v1::CompleteTaskResponse { outcome }))
    }
}
