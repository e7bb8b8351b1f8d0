//! `process`: the statement of a node about a process on its host, which the node inspected through
//! the kernel. It is signed with the node's SVID key.
//!
//! A statement is trusted no more than its node. The registration names the nodes whose statements
//! are accepted, and the broker accepts one only while the node's own task is alive, which rests on
//! the node's own evidence.
//!
//! I3: of unit and container the broker believes what the path of the control group says from the
//! root, and not what the node read in it: nodes of earlier versions read the end of the path, which
//! users write.

pub mod control_group;
#[cfg(test)]
mod control_group_tests;

use serde::{Deserialize, Serialize};

use crate::claims::{Assurance, Claims, Values, Voucher};
use crate::json;
use crate::spiffe::{BundleSet, SpiffeId};
pub use crate::statement::SignedStatement as Evidence;
use crate::statement::{self, MAX_STATEMENT, StatementError};
use control_group::ControlGroup;

/// The label before the statement in what is signed.
const LABEL: &[u8] = b"sundew/v1/process-evidence";

/// The user id that the kernel gives for every user that it cannot name to who asks, because they
/// have no number in that one's user namespace (user_namespaces(7)).
pub const NOBODY: u32 = 65534;

/// A node's statement about a process.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The binding that the process asked for, in lower-case hexadecimal.
    pub binding: String,
    /// The id of the node's own task at the broker.
    pub task: String,
    /// The effective user id of the process.
    pub uid: u32,
    /// The effective group id of the process.
    pub gid: u32,
    /// The process id on the host.
    pub pid: u32,
    /// The path of the executable; empty if the node has another file there, since whoever makes a
    /// mount namespace chooses its paths.
    pub exe: String,
    /// The SHA-256 of the executable in lower-case hexadecimal.
    pub exe_sha256: String,
    /// The path of the control group, by [`control_group::path_of`]. Its end is a hint: users name
    /// what lies below their own groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The id of the container that the control group belongs to, for brokers that do not read the
    /// path themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// The systemd unit that the control group belongs to, for brokers that do not read the path
    /// themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd_unit: Option<String>,
    /// The path of the parent process's executable. This is a hint: the parent may be another
    /// process by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_exe: Option<String>,
}

/// The reasons to reject a node's statement.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The statement is bound to another challenge or key.
    #[error("not bound to this challenge and key")]
    Binding,
    /// The registration does not name this node.
    #[error("node `{0}` is not one of the registered ones")]
    Node(String),
    /// The statement, its signature or the node's SVID was rejected.
    #[error("node's statement: {0}")]
    Statement(#[from] StatementError),
}

/// Returns the bytes that the node's key signs: a label and the statement.
#[must_use]
pub fn signed_bytes(statement: &str) -> Vec<u8> {
    [LABEL, statement.as_bytes()].concat()
}

/// Verifies a statement of one of `nodes`, and that it is bound to `binding`. `bundles` verifies
/// the node's SVID; `now_ms` is in milliseconds since the epoch.
///
/// # Errors
/// Each [`ProcessError`] names the check that failed.
pub fn verify(
    payload: &[u8],
    nodes: &[SpiffeId],
    bundles: &BundleSet,
    binding: &[u8],
    now_ms: i64,
) -> Result<Claims, ProcessError> {
    let (node, text) = statement::verify(payload, LABEL, bundles, now_ms)?;
    if !nodes.contains(node.id()) {
        return Err(ProcessError::Node(node.id().to_string()));
    }
    // T27: the statement is read from the bytes that were signed.
    let statement: Statement = json::read(text.as_bytes(), MAX_STATEMENT)
        .map_err(|e| StatementError::Malformed(e.to_string()))?;
    if statement.binding != hex::encode(binding) {
        return Err(ProcessError::Binding);
    }
    let mut values = Values::default();
    values.text("node", node.id());
    if statement.uid != NOBODY {
        values.text("uid", statement.uid);
    }
    values.text("gid", statement.gid);
    values.text("pid", statement.pid);
    values.text("exe_sha256", statement.exe_sha256);
    let group = statement.cgroup.as_deref().map(ControlGroup::of);
    let ControlGroup {
        container_id,
        systemd_unit,
    } = group.unwrap_or_default();
    let optional = [
        (
            "exe",
            Some(statement.exe.as_str()).filter(|path| !path.is_empty()),
        ),
        ("cgroup", statement.cgroup.as_deref()),
        ("container_id", container_id),
        ("systemd_unit", systemd_unit),
        ("parent_exe", statement.parent_exe.as_deref()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            values.text(name, value);
        }
    }
    Ok(Claims {
        not_after_ms: Some(node.not_after_ms()),
        voucher: Some(Voucher {
            node: node.id().clone(),
            certificate: *node.thumbprint(),
            task: statement.task,
        }),
        ..Claims::of("process", Assurance::Vouched, true, values, payload)
    })
}
