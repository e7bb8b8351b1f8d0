//! One node for each host: attests local processes through the kernel, and gives them the
//! identities that the broker delegates to it.
//!
//! P1: it proves its host with its own evidence when it begins its task, and serves only while that
//! task lives. Ending the task, by a responder or because evidence is not renewed, takes away its
//! word and its identities within seconds.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sundew_broker::enrollment::local_process::{self, LocalProcess};
use sundew_broker::enrollment::workload_api::{
    Answer, Bundles, Candidate, Identities, WorkloadApi, caller,
};
use sundew_core::LocalSelector;
use sundew_core::client::process::{Evidence, Statement, signed_bytes};
use sundew_core::client::{JwtBundle, SpiffeId};
use sundew_proto::spiffe::X509svid;
use sundew_proto::spiffe::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use sundew_proto::v1::enrollment_service_client::EnrollmentServiceClient;
use sundew_proto::v1::node_service_server::{NodeService, NodeServiceServer};
use sundew_proto::v1::{
    AttestProcessRequest, AttestProcessResponse, IssueEntryJwtRequest, IssueEntryRequest,
    ListEntriesRequest,
};
use sundew_sdk::{Agent, Task, Ttl};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::args::Connect;
use crate::client;

/// How often the broker is asked what is delegated.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Longest pause between attempts to begin the node's task.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Executables that are read at a time.
const LOOKS: usize = 4;

/// Serves until SIGTERM or Ctrl-C.
pub(crate) async fn node(connect: &Connect, socket: PathBuf, ttl: Ttl) -> Result<()> {
    let agent = client::agent(connect).await?;
    let (state, now) = watch::channel(State::default());
    let node = Arc::new(Node {
        agent: agent.clone(),
        now,
        looks: Semaphore::new(LOOKS),
    });
    let listener = local_process::bind(&socket).with_context(|| socket.display().to_string())?;
    let (connections, incoming) = mpsc::channel(16);
    tokio::spawn(local_process::accept(listener, connections));
    let service = tonic::transport::Server::builder()
        .add_service(
            SpiffeWorkloadApiServer::new(WorkloadApi::new(Arc::clone(&node)))
                .max_decoding_message_size(4 << 10),
        )
        .add_service(NodeServiceServer::new(Service(node)).max_decoding_message_size(4 << 10));
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tracing::info!(node = %agent.id(), socket = %socket.display(), "node serves local processes");
    tokio::select! {
        served = service.serve_with_incoming(ReceiverStream::new(incoming)) => served.context("local socket")?,
        () = hold(&agent, ttl, &state) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let task = state.send_replace(State::default()).task;
    let _ = std::fs::remove_file(&socket);
    if let Some(task) = task.and_then(|task| Arc::try_unwrap(task).ok()) {
        task.complete().await?;
    }
    Ok(())
}

/// What the node may do at this moment.
#[derive(Clone, Default)]
struct State {
    task: Option<Arc<Task>>,
    entries: Entries,
}

/// What the broker delegates to the node.
#[derive(Clone, Default)]
struct Entries {
    candidates: Vec<Candidate>,
    jwt: HashMap<String, Arc<JwtBundle>>,
}

/// Holds a task for ever, and keeps the entries up to date while it lives.
async fn hold(agent: &Agent, ttl: Ttl, state: &watch::Sender<State>) {
    let mut pause = Duration::from_secs(1);
    loop {
        match agent
            .task("serve local processes")
            .scope("node:serve")
            .ttl(ttl.to_std())
            .begin()
            .await
        {
            Ok(task) => {
                pause = Duration::from_secs(1);
                tracing::info!(task = task.id(), "the node has proven its host");
                let task = Arc::new(task);
                let mut told = String::new();
                loop {
                    match entries(agent, task.id()).await {
                        Ok(entries) => drop(state.send_replace(State {
                            task: Some(Arc::clone(&task)),
                            entries,
                        })),
                        // What was given stands until it ends; nothing new is given without the
                        // broker anyway.
                        Err(error) if error.to_string() != told => {
                            told = error.to_string();
                            tracing::warn!(error = told, "entries could not be read");
                        }
                        Err(_) => {}
                    }
                    tokio::select! {
                        ended = task.ended() => {
                            tracing::warn!(?ended, "the node's task has ended");
                            break;
                        }
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                    }
                }
                // Nobody gets anything before the host is proven again.
                state.send_replace(State::default());
            }
            Err(error) => {
                tracing::error!(%error, "the node could not prove its host");
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn entries(agent: &Agent, task: &str) -> Result<Entries> {
    let request = ListEntriesRequest {
        task_id: task.to_owned(),
    };
    let answer = EnrollmentServiceClient::new(agent.connection()?.channel())
        .list_entries(request)
        .await
        .map_err(client::status_error)?
        .into_inner();
    let mut candidates = Vec::new();
    for entry in answer.entries {
        let local = entry
            .selectors
            .iter()
            .map(|text| serde_json::from_str::<LocalSelector>(text))
            .collect::<Result<_, _>>()?;
        candidates.push(Candidate {
            id: SpiffeId::parse(&entry.spiffe_id)?,
            local,
        });
    }
    let jwt = answer
        .jwt_bundles
        .into_iter()
        .map(|(domain, document)| Ok((domain, Arc::new(JwtBundle::parse(document)?))));
    Ok(Entries {
        candidates,
        jwt: jwt.collect::<Result<_>>()?,
    })
}

struct Node {
    agent: Agent,
    now: watch::Receiver<State>,
    looks: Semaphore,
}

impl Node {
    fn state(&self) -> State {
        self.now.borrow().clone()
    }

    fn task(&self) -> Result<Arc<Task>, Status> {
        self.state()
            .task
            .ok_or_else(|| Status::unavailable("the node has not proven its host"))
    }

    async fn issued(&self, id: &SpiffeId) -> Result<(X509svid, i64), Status> {
        let internal = |e: &dyn std::fmt::Display| Status::unavailable(e.to_string());
        let (key, csr) = crate::csr::generate_key_and_csr().map_err(|e| internal(&e))?;
        let request = IssueEntryRequest {
            task_id: self.task()?.id().to_owned(),
            spiffe_id: id.to_string(),
            csr,
        };
        let connection = self.agent.connection().map_err(|e| internal(&e))?;
        let answer = EnrollmentServiceClient::new(connection.channel())
            .issue_entry(request)
            .await?
            .into_inner();
        let svid = answer
            .svid
            .ok_or_else(|| internal(&"the broker sent no SVID"))?;
        let message = X509svid {
            spiffe_id: svid.spiffe_id,
            x509_svid: svid.certificates.concat(),
            x509_svid_key: key.serialize_der(),
            bundle: svid.bundle.concat(),
            hint: String::new(),
        };
        Ok((message, svid.not_after_ms))
    }

    async fn attest(&self, process: Arc<LocalProcess>, binding: &[u8]) -> Result<Vec<u8>, Status> {
        let binding: [u8; 32] = binding
            .try_into()
            .map_err(|_| Status::invalid_argument("binding: must be 32 bytes"))?;
        let task = self.task()?;
        let _place = self
            .looks
            .acquire()
            .await
            .map_err(|_| Status::unavailable("stopping"))?;
        let looked_at = Arc::clone(&process);
        let facts = tokio::task::spawn_blocking(move || looked_at.facts(true))
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?;
        let (Some(pid), Some(exe), Some(exe_sha256)) =
            (facts.pid, facts.exe.clone(), facts.exe_sha256.clone())
        else {
            return Err(Status::permission_denied(
                "the kernel does not let the node look at this process",
            ));
        };
        let statement = Statement {
            binding: hex::encode(binding),
            task: task.id().to_owned(),
            uid: process.uid(),
            gid: process.gid(),
            pid,
            exe,
            exe_sha256,
            container_id: facts.container_id().map(str::to_owned),
            systemd_unit: facts.systemd_unit().map(str::to_owned),
            cgroup: facts.cgroup,
            parent_exe: facts.parent_exe,
        };
        let internal = |e: &dyn std::fmt::Display| Status::unavailable(e.to_string());
        let statement = serde_json::to_string(&statement).map_err(|e| internal(&e))?;
        let identity = self.agent.identity();
        let evidence = Evidence {
            signature: STANDARD.encode(
                identity
                    .sign(&signed_bytes(&statement))
                    .map_err(|e| internal(&e))?,
            ),
            statement,
            chain: identity
                .chain()
                .iter()
                .map(|der| STANDARD.encode(der))
                .collect(),
        };
        serde_json::to_vec(&evidence).map_err(|e| internal(&e))
    }
}

impl Identities for Node {
    fn candidates(&self) -> Answer<'_, Vec<Candidate>> {
        Box::pin(async { Ok(self.state().entries.candidates) })
    }

    fn issue<'a>(&'a self, id: &'a SpiffeId) -> Answer<'a, (X509svid, i64)> {
        Box::pin(self.issued(id))
    }

    fn issue_jwt<'a>(&'a self, id: &'a SpiffeId, audience: &'a [String]) -> Answer<'a, String> {
        Box::pin(async move {
            let request = IssueEntryJwtRequest {
                task_id: self.task()?.id().to_owned(),
                spiffe_id: id.to_string(),
                audience: audience.to_vec(),
            };
            let connection = self
                .agent
                .connection()
                .map_err(|e| Status::unavailable(e.to_string()))?;
            Ok(EnrollmentServiceClient::new(connection.channel())
                .issue_entry_jwt(request)
                .await?
                .into_inner()
                .svid)
        })
    }

    fn bundles(&self) -> Bundles {
        let by_domain: HashMap<_, _> = self.agent.identity().roots().into_iter().collect();
        let jwt = self.state().entries.jwt;
        let documents = jwt
            .iter()
            .map(|(domain, bundle)| (domain, bundle.document()));
        let mut content: Vec<_> = by_domain
            .iter()
            .map(|(domain, roots)| (domain, roots.as_slice()))
            .chain(documents)
            .collect();
        content.sort_unstable();
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        for part in content
            .iter()
            .flat_map(|(domain, content)| [domain.as_bytes(), content])
        {
            digest.update(part);
        }
        let generation = digest
            .finish()
            .as_ref()
            .first_chunk()
            .copied()
            .map_or(0, u64::from_be_bytes);
        Bundles {
            generation,
            by_domain,
            jwt,
        }
    }

    fn refused(&self, rpc: &'static str, process: &LocalProcess) {
        tracing::warn!(
            rpc,
            uid = process.uid(),
            gid = process.gid(),
            "no entry matches a local process"
        );
    }
}

struct Service(Arc<Node>);

#[tonic::async_trait]
impl NodeService for Service {
    async fn attest_process(
        &self,
        request: Request<AttestProcessRequest>,
    ) -> Result<Response<AttestProcessResponse>, Status> {
        let process = caller(&request)?;
        let evidence = self
            .0
            .attest(process, &request.into_inner().binding)
            .await?;
        Ok(Response::new(AttestProcessResponse { evidence }))
    }
}
