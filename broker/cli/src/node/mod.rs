//! `sundew node`: one node for each host, which attests local processes through the kernel, and
//! gives them the identities that the broker delegates to the node.
//!
//! P1: the node proves its host with its own evidence when it begins its task, and serves only
//! while that task lives. The end of the task, by a responder or because evidence is not renewed,
//! takes away the node's word and its identities within seconds.

mod process_evidence;
mod service;
mod state;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sundew_broker::enrollment::local_process;
use sundew_broker::enrollment::workload_api::{WorkloadApi, secrets};
use sundew_broker::serve::local_grpc;
use sundew_proto::envoy::secret_discovery_service_server::SecretDiscoveryServiceServer;
use sundew_proto::spiffe::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use sundew_proto::v1::node_service_server::NodeServiceServer;
use sundew_sdk::Ttl;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::args::Connect;
use crate::client;
use service::{Node, Service};
use state::State;

/// The longest message that a local process may send, in bytes.
const MAX_MESSAGE: usize = 4 << 10;
/// Connections that are accepted and wait to be served.
const MAX_PENDING_CONNECTIONS: usize = 16;

/// Serves local processes until SIGTERM or Ctrl-C, and then completes the node's task.
pub(crate) async fn node(connect: &Connect, socket: PathBuf, ttl: Ttl) -> Result<ExitCode> {
    let agent = client::agent(connect).await?;
    let (publisher, state) = watch::channel(State::default());
    let node = Arc::new(Node::new(agent.clone(), state));
    let listener = local_process::bind(&socket).with_context(|| socket.display().to_string())?;
    let (connections, incoming) = mpsc::channel(MAX_PENDING_CONNECTIONS);
    tokio::spawn(local_process::accept(listener, connections));
    let api = WorkloadApi::new(Arc::clone(&node));
    let server = local_grpc()
        .add_service(
            SpiffeWorkloadApiServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE),
        )
        .add_service(
            SecretDiscoveryServiceServer::new(api).max_decoding_message_size(secrets::MAX_REQUEST),
        )
        .add_service(NodeServiceServer::new(Service(node)).max_decoding_message_size(MAX_MESSAGE));
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tracing::info!(
        node = %agent.id(), socket = %socket.display(), "node serves local processes"
    );
    tokio::select! {
        served = server.serve_with_incoming(ReceiverStream::new(incoming)) => {
            served.context("local socket")?;
        }
        () = state::hold_task(&agent, ttl, &publisher) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let task = publisher.send_replace(State::default()).task;
    let _ = std::fs::remove_file(&socket);
    // A request that is still served holds the task too; the task then ends when its grace is over.
    if let Some(task) = task.and_then(|task| Arc::try_unwrap(task).ok()) {
        task.complete().await?;
    }
    Ok(ExitCode::SUCCESS)
}
