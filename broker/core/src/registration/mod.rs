//! Registrations: the evidence that a workload must show, and the most that it may ask for.
//!
//! P3: the registration is the ceiling of everything that its workload gets. P1: without evidence
//! that satisfies it, the workload gets nothing.

mod begin;
mod diff;
mod narrowing;
mod problems;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sundew_attestation::kinds::process::NOBODY;
use sundew_attestation::kinds::process::control_group::{can_pin, is_container_id};
use sundew_attestation::spiffe::SpiffeId;
use sundew_attestation::{AppraisalPolicy, CrossCheck, Rule};

use crate::record::RecordError;
use crate::scope::ScopeSet;
use crate::token_binding::TokenBinding;
use crate::ttl::Ttl;

pub use begin::Begin;
pub use problems::RegistrationProblem;

/// The document that `sundew workload apply` reads: the rights and duties of one workload.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The workload that the registration is for.
    pub spiffe_id: SpiffeId,
    /// Whether the workload begins tasks on its own word.
    pub begin: Begin,
    /// The evidence that the workload must show. Every rule of the list must be satisfied.
    pub evidence: Vec<Rule>,
    /// The conditions that must hold between pieces of evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cross_checks: Vec<CrossCheck>,
    /// The scopes that the tasks of the workload may use at most.
    pub scopes: ScopeSet,
    /// The audiences for which the tasks of the workload may have tokens at most: names, or names
    /// whose last segment is `*`. L26: without this list there is no limit, as for registrations of
    /// the time before it; an empty list is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audiences: Option<Vec<String>>,
    /// The longest time that a task may last.
    #[serde(default = "default_task_ttl")]
    pub max_task_ttl: Ttl,
    /// The longest time that a token may be valid.
    #[serde(default = "default_token_ttl")]
    pub max_token_ttl: Ttl,
    /// The time after which an unattended task ends.
    #[serde(default = "default_grace")]
    pub attendance_grace: Ttl,
    /// The number of tasks that the workload may have at a time.
    #[serde(default = "default_max_tasks")]
    pub max_tasks: u32,
    /// The number of levels that may be delegated below a task of the workload; 0 forbids
    /// delegation.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max_delegation_depth: u32,
    /// The number of tasks that may be delegated from one task of the workload at a time.
    #[serde(default = "default_max_children")]
    pub max_delegated_tasks: u32,
    /// The bindings that tokens of the workload may have. The first one is the default.
    #[serde(default = "default_bindings")]
    pub bindings: Vec<TokenBinding>,
    /// Whether at least one piece of evidence must carry the nonce.
    #[serde(default)]
    pub require_fresh_evidence: bool,
    /// The time within which a task must show fresh evidence again. A task that does not is
    /// suspended, and is ended once this time has passed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prove_every: Option<Ttl>,
    /// Whether every request for a secret must come with evidence of its own.
    #[serde(default, skip_serializing_if = "is_false")]
    pub evidence_at_secrets: bool,
    /// The evidence for which the embedded CA gives a first SVID on the enrollment listener. If the
    /// list is empty, a first SVID is given for a join token only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enrollment: Vec<Rule>,
    /// The local processes to which the embedded CA gives this identity over the Workload API.
    #[serde(default)]
    pub local: Vec<LocalSelector>,
    /// The audiences for which the Workload API may make JWT-SVIDs of the workload. JWT-SVIDs are
    /// bearer tokens, so an empty list, the default, means that none are made (P8).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jwt_svid_audiences: Vec<String>,
    /// The person or team to call when something is wrong with the workload.
    pub owner: String,
    /// Names and values for people and for lists. They never decide anything.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// The facts that the kernel must report of a local process. Every field that is given must match.
///
/// I2: a user, a container or a unit must be among them ([`LocalSelector::problem`]). A process can
/// hand its socket to another program, become one, or bring a file of its own to any path; so an
/// executable only narrows.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LocalSelector {
    /// The node that gives the identity to its processes. If no node is named, the broker gives the
    /// identity to processes on its own machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<SpiffeId>,
    /// The effective user identifier of the process: of a user that runs nothing else.
    pub uid: Option<u32>,
    /// The effective group identifier of the process.
    pub gid: Option<u32>,
    /// The id of the container that the process is in: 64 lower-case hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// The unit of the host's systemd that the process is in, such as `agent.service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd_unit: Option<String>,
    /// The path of the executable, where the broker or the node has the same file.
    pub exe: Option<String>,
    /// The SHA-256 digest of the executable, in lower-case hexadecimal.
    pub exe_sha256: Option<String>,
}

impl LocalSelector {
    /// Returns why the selector means no process at all, if it does, as a sentence for the
    /// registrar.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        if self.uid.is_none() && self.container_id.is_none() && self.systemd_unit.is_none() {
            return Some(
                "an executable or a group only narrows: add `uid` (of a user that runs nothing \
                 else), `container_id` or `systemd_unit` to the selector",
            );
        }
        if matches!(self.uid, Some(NOBODY | u32::MAX)) {
            return Some("this `uid` stands for all users that the kernel cannot name");
        }
        if !self.container_id.as_deref().is_none_or(is_container_id) {
            return Some("`container_id` must be 64 lower-case hexadecimal digits");
        }
        if !self.systemd_unit.as_deref().is_none_or(can_pin) {
            return Some(
                "`systemd_unit` must be the whole name of a unit, such as `agent.service`, and \
                 not of a session: sessions are numbered in the order in which users log in",
            );
        }
        None
    }

    /// Returns whether the selector means every process that `other` means.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        fn is_wider<T: PartialEq>(wide: Option<&T>, narrow: Option<&T>) -> bool {
            wide.is_none() || wide == narrow
        }
        self.node == other.node
            && is_wider(self.uid.as_ref(), other.uid.as_ref())
            && is_wider(self.gid.as_ref(), other.gid.as_ref())
            && is_wider(self.container_id.as_ref(), other.container_id.as_ref())
            && is_wider(self.systemd_unit.as_ref(), other.systemd_unit.as_ref())
            && is_wider(self.exe.as_ref(), other.exe.as_ref())
            && is_wider(self.exe_sha256.as_ref(), other.exe_sha256.as_ref())
    }
}

fn default_task_ttl() -> Ttl {
    Ttl::HOUR
}
fn default_token_ttl() -> Ttl {
    Ttl::QUARTER_HOUR
}
fn default_grace() -> Ttl {
    Ttl::HALF_MINUTE
}
fn default_max_tasks() -> u32 {
    100
}
fn default_max_children() -> u32 {
    16
}
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}
fn default_bindings() -> Vec<TokenBinding> {
    vec![TokenBinding::Certificate]
}

impl Registration {
    /// Returns the policy for evidence at the beginning of a task.
    #[must_use]
    pub fn policy(&self) -> AppraisalPolicy<'_> {
        AppraisalPolicy {
            rules: &self.evidence,
            cross_checks: &self.cross_checks,
        }
    }

    /// Returns the policy for evidence at enrollment, for a first SVID.
    #[must_use]
    pub fn enrollment_policy(&self) -> AppraisalPolicy<'_> {
        AppraisalPolicy {
            rules: &self.enrollment,
            cross_checks: &[],
        }
    }

    /// Returns the ceiling of the audiences. An empty list sets no limit.
    #[must_use]
    pub fn audience_ceiling(&self) -> &[String] {
        self.audiences.as_deref().unwrap_or_default()
    }

    /// Returns the canonical JSON document of the registration, which is compared and shown.
    #[must_use]
    pub fn document(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Returns the members that differ between `old` and this registration: lines `- path: value`
    /// for members of `old`, then lines `+ path: value` for members of this registration.
    #[must_use]
    pub fn diff_from(&self, old: Option<&Self>) -> Vec<String> {
        diff::diff(
            &old.map(Self::document).unwrap_or_default(),
            &self.document(),
        )
    }
}

/// The stored form of a registration, with its version and the person who applied it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct WorkloadRecord {
    /// The registration as the platform team applied it.
    pub registration: Registration,
    /// The version of the registration, which changes whenever the registration changes.
    pub version: String,
    /// The time at which the registration was applied, in milliseconds since the epoch.
    pub applied_at_ms: i64,
    /// The identity of whoever applied the registration.
    pub applied_by: String,
}

impl WorkloadRecord {
    /// Returns the bytes that the store keeps.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the bytes that [`WorkloadRecord::encode`] returned. O2: a registration of the time
    /// before orders does not say who begins tasks; it was the workload.
    ///
    /// # Errors
    ///
    /// [`RecordError::Json`] if the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut stored: serde_json::Value = serde_json::from_slice(bytes)?;
        let registration = stored.get_mut("registration");
        if let Some(members) = registration.and_then(serde_json::Value::as_object_mut) {
            let begin = members.entry("begin");
            begin.or_insert_with(|| Begin::Own.as_str().into());
        }
        Ok(serde_json::from_value(stored)?)
    }
}
