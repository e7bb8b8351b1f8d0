//! May it? The registration's ceiling decides, and times are clamped.
//!
//! P1: a [`Permit`] is made only here and needs [`Attested`]. P3: everything only narrows. What the
//! purpose or the instruction says never decides anything.

use sundew_attestation::Attested;
use sundew_attestation::spiffe::VerifiedSvid;

use crate::delegation::{Grant, within};
use crate::record::{TaskRecord, TokenBinding};
use crate::registration::Registration;
use crate::scope::ScopeSet;
use crate::ttl::Ttl;

/// Why something is not permitted. For the operator's record only.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Denial {
    /// An audience outside what the task allows.
    #[error("audience is outside of what is allowed")]
    Audience,
    /// The registration does not allow this binding.
    #[error("binding is not allowed by the registration")]
    Binding,
    /// The grant is for another workload or task, or too many levels are asked for, or the
    /// registration allows none.
    #[error("delegation is not allowed")]
    Delegation,
    /// No evidence carried the nonce, and the registration demands it.
    #[error("fresh evidence is required")]
    NotFresh,
    /// Nothing is left of the time: the evidence, the SVID or the task ends now.
    #[error("no time is left")]
    NoTime,
    /// A scope outside what the registration or the task allows.
    #[error("scope is outside of what is allowed")]
    Scope,
    /// The registration is of another workload than the peer.
    #[error("registration is of another workload")]
    Subject,
}

/// What is asked for a task.
#[derive(Clone, Debug)]
pub struct TaskRequest {
    /// What it shall be able to do.
    pub scopes: ScopeSet,
    /// How long, if asked.
    pub ttl: Option<Ttl>,
    /// Binding of its first token, if asked.
    pub binding: Option<TokenBinding>,
    /// Audience of its first token.
    pub audience: Vec<String>,
}

/// A task that another one is to be opened below, and the leave for it.
#[derive(Clone, Copy, Debug)]
pub struct Delegation<'a> {
    /// What the owner of the parent gave.
    pub grant: &'a Grant,
    /// The parent.
    pub parent: &'a TaskRecord,
}

/// What is asked for a token within a task.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// What it shall be good for; all of the task's if nothing is named.
    pub scopes: Option<ScopeSet>,
    /// How long, if asked.
    pub ttl: Option<Ttl>,
    /// Binding, if asked.
    pub binding: Option<TokenBinding>,
    /// For whom.
    pub audience: Vec<String>,
}

/// Proof that the registration allows it, with what it allows.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    scopes: ScopeSet,
    deadline_ms: i64,
    token_expires_ms: i64,
    binding: TokenBinding,
    audience: Vec<String>,
    task_audience: Vec<String>,
    depth_left: u32,
}

impl Permit {
    /// For whom the token is.
    #[must_use]
    pub fn audience(&self) -> &[String] {
        &self.audience
    }
    /// The audiences that tokens of the task may be meant for; empty: any.
    #[must_use]
    pub fn task_audience(&self) -> &[String] {
        &self.task_audience
    }
    /// How many levels may be delegated below the task.
    #[must_use]
    pub fn depth_left(&self) -> u32 {
        self.depth_left
    }
    /// What is allowed.
    #[must_use]
    pub fn scopes(&self) -> &ScopeSet {
        &self.scopes
    }
    /// When the task ends, in milliseconds since the epoch.
    #[must_use]
    pub fn deadline_ms(&self) -> i64 {
        self.deadline_ms
    }
    /// When the token ends, in milliseconds since the epoch.
    #[must_use]
    pub fn token_expires_ms(&self) -> i64 {
        self.token_expires_ms
    }
    /// What the presenter must hold.
    #[must_use]
    pub fn binding(&self) -> TokenBinding {
        self.binding
    }
}

/// Decides on a new task, below another one or not.
pub fn permit_task(
    registration: &Registration,
    svid: &VerifiedSvid,
    attested: &Attested,
    request: TaskRequest,
    delegation: Option<Delegation<'_>>,
    now_ms: i64,
) -> Result<Permit, Denial> {
    if registration.spiffe_id != *svid.id() {
        return Err(Denial::Subject);
    }
    if registration.require_fresh_evidence && !attested.is_fresh() {
        return Err(Denial::NotFresh);
    }
    if !registration.scopes.covers_all(&request.scopes) {
        return Err(Denial::Scope);
    }
    let Bounds {
        deadline_ms,
        audience: task_audience,
        depth_left,
    } = match delegation {
        None => Bounds {
            deadline_ms: i64::MAX,
            audience: Vec::new(),
            depth_left: registration.max_delegation_depth,
        },
        Some(delegation) => bounds(
            delegation,
            svid,
            &request,
            registration.max_delegation_depth,
        )?,
    };
    let asked = request
        .ttl
        .unwrap_or(registration.max_task_ttl)
        .min(registration.max_task_ttl);
    // The task may outlive an SVID, which rotates; it may not outlive its evidence or its parent
    // (P3).
    let deadline_ms = ends(now_ms, asked)
        .min(attested.not_after_ms().unwrap_or(i64::MAX))
        .min(deadline_ms);
    let token_expires_ms = ends(now_ms, registration.max_token_ttl)
        .min(deadline_ms)
        .min(svid.not_after_ms());
    if token_expires_ms <= now_ms {
        return Err(Denial::NoTime);
    }
    let audience = within(&task_audience, request.audience)?;
    let binding = binding(registration, request.binding)?;
    Ok(Permit {
        scopes: request.scopes,
        deadline_ms,
        token_expires_ms,
        binding,
        audience,
        task_audience,
        depth_left,
    })
}

struct Bounds {
    deadline_ms: i64,
    audience: Vec<String>,
    depth_left: u32,
}

/// P3: within the grant, and within the parent whatever the grant says.
fn bounds(
    delegation: Delegation<'_>,
    svid: &VerifiedSvid,
    request: &TaskRequest,
    registered_depth: u32,
) -> Result<Bounds, Denial> {
    let Delegation { grant, parent } = delegation;
    if grant.parent != parent.id
        || grant.delegate != *svid.id()
        || svid.id().trust_domain() != parent.workload.trust_domain()
    {
        return Err(Denial::Delegation);
    }
    let below = parent.depth_left.checked_sub(1).ok_or(Denial::Delegation)?;
    if !grant.scopes.covers_all(&request.scopes) || !parent.scopes.covers_all(&request.scopes) {
        return Err(Denial::Scope);
    }
    Ok(Bounds {
        deadline_ms: parent.deadline_ms.min(grant.expires_at_ms),
        audience: within(&parent.audience, grant.audience.clone())?,
        depth_left: below.min(grant.depth).min(registered_depth),
    })
}

/// Decides on another token within a live task.
pub fn permit_token(
    registration: &Registration,
    svid: &VerifiedSvid,
    task: &TaskRecord,
    request: TokenRequest,
    now_ms: i64,
) -> Result<Permit, Denial> {
    if registration.spiffe_id != *svid.id() || task.workload != *svid.id() {
        return Err(Denial::Subject);
    }
    let scopes = request.scopes.unwrap_or_else(|| task.scopes.clone());
    // P3: within the task, and within what the registration says today.
    if !task.scopes.covers_all(&scopes) || !registration.scopes.covers_all(&scopes) {
        return Err(Denial::Scope);
    }
    let asked = request
        .ttl
        .unwrap_or(registration.max_token_ttl)
        .min(registration.max_token_ttl);
    let token_expires_ms = ends(now_ms, asked)
        .min(task.deadline_ms)
        .min(svid.not_after_ms());
    if token_expires_ms <= now_ms {
        return Err(Denial::NoTime);
    }
    Ok(Permit {
        scopes,
        deadline_ms: task.deadline_ms,
        token_expires_ms,
        binding: binding(registration, request.binding)?,
        audience: within(&task.audience, request.audience)?,
        task_audience: Vec::new(),
        depth_left: task.depth_left,
    })
}

fn ends(now_ms: i64, ttl: Ttl) -> i64 {
    now_ms.saturating_add(ttl.as_ms())
}

fn binding(
    registration: &Registration,
    asked: Option<TokenBinding>,
) -> Result<TokenBinding, Denial> {
    let chosen = asked
        .or_else(|| registration.bindings.first().copied())
        .ok_or(Denial::Binding)?;
    if registration.bindings.contains(&chosen) {
        Ok(chosen)
    } else {
        Err(Denial::Binding)
    }
}
