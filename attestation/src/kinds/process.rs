//! `process`: what a node says of a process on its host, after looking at it through the kernel;
//! signed with the node's SVID key.
//!
//! No more trusted than the node is: the registration names the nodes whose word counts, and the
//! broker takes it only while the node's own task, begun on the node's own evidence, is alive.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::claims::{Assurance, Claims, Values, Voucher};
use crate::dsse::VerifyingKey;
use crate::json;
use crate::spiffe::{BundleSet, SpiffeId, SvidError, validate_chain};

/// Largest evidence, in bytes.
const MAX_EVIDENCE: usize = 64 << 10;

/// What a node sends.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// JSON text of [`Statement`]: exactly these bytes are signed.
    pub statement: String,
    /// Base64 of the node's signature over [`signed_bytes`].
    pub signature: String,
    /// Base64 of the node's X.509-SVID in DER, leaf first.
    pub chain: Vec<String>,
}

/// What a node says.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Lower-case hexadecimal of what the process wants it bound to.
    pub binding: String,
    /// The node's task at the broker.
    pub task: String,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Number of the process on the host.
    pub pid: u32,
    /// Path of the executable.
    pub exe: String,
    /// Lower-case hexadecimal SHA-256 of the executable.
    pub exe_sha256: String,
    /// Control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Container that the control group is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// systemd unit that the control group is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd_unit: Option<String>,
    /// Path of the parent's executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_exe: Option<String>,
}

/// Why evidence of this kind was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Bound to something else.
    #[error("not bound to this challenge and key")]
    Binding,
    /// Malformed evidence.
    #[error("malformed: {0}")]
    Malformed(String),
    /// A node whose word does not count here.
    #[error("node `{0}` is not one of the registered ones")]
    Node(String),
    /// Not signed by the node.
    #[error("signature")]
    Signature,
    /// The node's SVID is not good.
    #[error("node's SVID: {0}")]
    Svid(#[from] SvidError),
}

/// What the node's key signs.
#[must_use]
pub fn signed_bytes(statement: &str) -> Vec<u8> {
    let mut out = b"sundew/v1/process-evidence".to_vec();
    out.extend_from_slice(statement.as_bytes());
    out
}

/// Verifies a statement of one of the nodes, and that it is bound to `binding`.
pub fn verify(
    payload: &[u8],
    nodes: &[SpiffeId],
    bundles: &BundleSet,
    binding: &[u8],
    now_ms: i64,
) -> Result<Claims, ProcessError> {
    let malformed = |e: &dyn std::fmt::Display| ProcessError::Malformed(e.to_string());
    let evidence: Evidence = json::read(payload, MAX_EVIDENCE).map_err(|e| malformed(&e))?;
    let chain: Vec<_> = evidence
        .chain
        .iter()
        .map(|der| STANDARD.decode(der).map(CertificateDer::from))
        .collect::<Result<_, _>>()
        .map_err(|e| malformed(&e))?;
    let node = validate_chain(&chain, bundles, now_ms.div_euclid(1000))?;
    if !nodes.contains(node.id()) {
        return Err(ProcessError::Node(node.id().to_string()));
    }
    let key = VerifyingKey::from_der(node.public_key()).map_err(|e| malformed(&e))?;
    let signature = STANDARD
        .decode(&evidence.signature)
        .map_err(|e| malformed(&e))?;
    if !key.verifies(&signed_bytes(&evidence.statement), &signature) {
        return Err(ProcessError::Signature);
    }
    let statement: Statement =
        json::read(evidence.statement.as_bytes(), MAX_EVIDENCE).map_err(|e| malformed(&e))?;
    if statement.binding != crate::claims::hex(binding) {
        return Err(ProcessError::Binding);
    }
    let mut values = Values::default();
    values.text("node", node.id());
    for (name, value) in [
        ("uid", statement.uid),
        ("gid", statement.gid),
        ("pid", statement.pid),
    ] {
        values.text(name, value);
    }
    for (name, value) in [("exe", statement.exe), ("exe_sha256", statement.exe_sha256)] {
        values.text(name, value);
    }
    let optional = [
        ("cgroup", statement.cgroup),
        ("container_id", statement.container_id),
        ("systemd_unit", statement.systemd_unit),
        ("parent_exe", statement.parent_exe),
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
