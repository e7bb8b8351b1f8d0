//! Evidence about a local process: what the kernel says of it, signed by the node.

#![expect(
    clippy::disallowed_methods,
    reason = "the node answers local processes itself"
)]

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sundew_broker::enrollment::local_process::LocalProcess;
use sundew_core::client::process::{Evidence, Statement, signed_bytes};
use sundew_sdk::Identity;
use tonic::Status;

/// Asks the kernel about a process. Fails if the kernel does not let the node read the process's
/// executable.
pub(super) async fn inspect(
    process: Arc<LocalProcess>,
    task_id: &str,
    binding: &[u8; 32],
) -> Result<Statement, Status> {
    let facts = Arc::clone(&process).facts(true).await;
    let (Some(pid), Some(exe_sha256)) = (facts.pid, facts.exe_sha256.clone()) else {
        return Err(Status::permission_denied(
            "the kernel does not let the node look at this process",
        ));
    };
    let group = facts.control_group();
    Ok(Statement {
        binding: hex::encode(binding),
        task: task_id.to_owned(),
        uid: process.uid(),
        gid: process.gid(),
        pid,
        // Empty says nothing: the node has another file at that path.
        exe: facts.exe.clone().unwrap_or_default(),
        exe_sha256,
        container_id: group.container_id.map(str::to_owned),
        systemd_unit: group.systemd_unit.map(str::to_owned),
        cgroup: facts.cgroup,
        parent_exe: facts.parent_exe,
    })
}

/// Returns a statement in JSON with the node's signature and certificates.
pub(super) fn sign(statement: &Statement, identity: &Identity) -> Result<Vec<u8>, Status> {
    let statement = serde_json::to_string(statement).map_err(unavailable)?;
    let signature = identity
        .sign(&signed_bytes(&statement))
        .map_err(unavailable)?;
    let evidence = Evidence {
        signature: STANDARD.encode(signature),
        statement,
        chain: identity
            .chain()
            .iter()
            .map(|der| STANDARD.encode(der))
            .collect(),
    };
    serde_json::to_vec(&evidence).map_err(unavailable)
}

/// Returns a failure of the node, or of its way to the broker, as a status.
pub(super) fn unavailable(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}
