//! The policy: decides whether a task or a token may be issued, with which rights and for how long.
//!
//! P1: a [`Permit`] for a task is made only here, and only from [`Attested`]. P3: everything only
//! narrows, and times are clamped. The purpose and the instruction of a task never decide anything.

use sundew_attestation::Attested;
use sundew_attestation::spiffe::VerifiedSvid;

use crate::audience;
use crate::delegation::Grant;
use crate::denial::Denial;
use crate::order::Order;
use crate::record::TaskRecord;
use crate::registration::{Begin, Registration};
use crate::scope::ScopeSet;
use crate::token_binding::TokenBinding;
use crate::ttl::Ttl;

/// The rights that a workload asks for with a new task.
#[derive(Clone, Debug)]
pub struct TaskRequest {
    /// The scopes that the task shall have.
    pub scopes: ScopeSet,
    /// The time that the task shall last, if the workload asks for one.
    pub ttl: Option<Ttl>,
    /// The binding that the task's first token shall have, if the workload asks for one.
    pub binding: Option<TokenBinding>,
    /// The audiences that the task's first token shall be meant for.
    pub audience: Vec<String>,
}

/// The task that a new task is to be opened below, and the grant for it.
#[derive(Clone, Copy, Debug)]
pub struct Delegation<'a> {
    /// The grant by the owner of the parent.
    pub grant: &'a Grant,
    /// The task that the new task is opened below.
    pub parent: &'a TaskRecord,
}

/// The rights that a workload asks for with a token within a task.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// The scopes that the token shall have; all scopes of the task if none are named.
    pub scopes: Option<ScopeSet>,
    /// The time that the token shall be valid, if the workload asks for one.
    pub ttl: Option<Ttl>,
    /// The binding that the token shall have, if the workload asks for one.
    pub binding: Option<TokenBinding>,
    /// The audiences that the token shall be meant for.
    pub audience: Vec<String>,
}

/// The proof that the policy allows a task or a token, with the rights that it allows.
///
/// Only [`permit_task`] and [`permit_token`] make a permit. Whoever has one can read it:
///
/// ```
/// fn deadline(permit: &sundew_core::Permit) -> i64 {
///     permit.deadline_ms()
/// }
/// ```
///
/// A permit cannot be made, or given other rights, by hand:
///
/// ```compile_fail,E0451
/// fn widen(permit: sundew_core::Permit) -> sundew_core::Permit {
///     sundew_core::Permit {
///         deadline_ms: i64::MAX,
///         ..permit
///     }
/// }
/// ```
///
/// A permit is for one use, so it cannot be copied:
///
/// ```compile_fail,E0277
/// fn needs_clone<T: Clone>() {}
/// needs_clone::<sundew_core::Permit>();
/// ```
#[derive(Debug)]
#[must_use]
pub struct Permit {
    scopes: ScopeSet,
    deadline_ms: i64,
    token_expires_at_ms: i64,
    binding: TokenBinding,
    audience: Vec<String>,
    task_audience: Vec<String>,
    depth_left: u32,
}

impl Permit {
    /// Returns the audiences that the token is meant for.
    #[must_use]
    pub fn audience(&self) -> &[String] {
        &self.audience
    }
    /// Returns the ceiling that a parent and its grant set for the audiences of the task's tokens. An
    /// empty list sets no limit.
    #[must_use]
    pub fn task_audience(&self) -> &[String] {
        &self.task_audience
    }
    /// Returns the number of levels that may be delegated below the task.
    #[must_use]
    pub fn depth_left(&self) -> u32 {
        self.depth_left
    }
    /// Returns the scopes that are allowed.
    #[must_use]
    pub fn scopes(&self) -> &ScopeSet {
        &self.scopes
    }
    /// Returns the time at which the task ends, in milliseconds since the epoch.
    #[must_use]
    pub fn deadline_ms(&self) -> i64 {
        self.deadline_ms
    }
    /// Returns the time at which the token ends, in milliseconds since the epoch.
    #[must_use]
    pub fn token_expires_at_ms(&self) -> i64 {
        self.token_expires_at_ms
    }
    /// Returns the proof of possession that the presenter of the token must give.
    #[must_use]
    pub fn binding(&self) -> TokenBinding {
        self.binding
    }
}

/// Decides on a new task at `now_ms`, in milliseconds since the epoch. With an order, the task is the
/// one that was ordered. With a delegation, the task is opened below another one.
///
/// # Errors
///
/// The first [`Denial`] that applies.
pub fn permit_task(
    registration: &Registration,
    svid: &VerifiedSvid,
    attested: &Attested,
    request: TaskRequest,
    (order, delegation): (Option<&Order>, Option<Delegation<'_>>),
    now_ms: i64,
) -> Result<Permit, Denial> {
    if registration.spiffe_id != *svid.id() {
        return Err(Denial::Subject);
    }
    let ordered = ordered(registration, svid, &request, order, now_ms)?;
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
            deadline_ms: ordered.deadline_ms,
            audience: ordered.audience,
            depth_left: ordered.depth_left.min(registration.max_delegation_depth),
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
    let token_expires_at_ms = ends(now_ms, registration.max_token_ttl)
        .min(deadline_ms)
        .min(svid.not_after_ms());
    if token_expires_at_ms <= now_ms {
        return Err(Denial::NoTime);
    }
    // L26: within what a parent and its grant allow, and within the workload's own registration.
    let ceiling = audience::intersection(&task_audience, registration.audience_ceiling())?;
    let audience = audience::of_token(&ceiling, request.audience)?;
    let binding = binding(registration, request.binding)?;
    Ok(Permit {
        scopes: request.scopes,
        deadline_ms,
        token_expires_at_ms,
        binding,
        audience,
        task_audience,
        depth_left,
    })
}

/// The ceiling that a parent and its grant set for a new task.
struct Bounds {
    deadline_ms: i64,
    audience: Vec<String>,
    depth_left: u32,
}

/// Returns the ceiling that an order sets for its task (P3). Without an order there is none, and a
/// workload that begins tasks by orders only gets nothing.
fn ordered(
    registration: &Registration,
    svid: &VerifiedSvid,
    request: &TaskRequest,
    order: Option<&Order>,
    now_ms: i64,
) -> Result<Bounds, Denial> {
    let Some(order) = order else {
        return match registration.begin {
            Begin::Ordered => Err(Denial::NoOrder),
            Begin::Own => Ok(Bounds {
                deadline_ms: i64::MAX,
                audience: Vec::new(),
                depth_left: u32::MAX,
            }),
        };
    };
    if order.workload != *svid.id() || now_ms >= order.claimable_until_ms {
        return Err(Denial::Order);
    }
    if !order.scopes.covers_all(&request.scopes) {
        return Err(Denial::Scope);
    }
    Ok(Bounds {
        deadline_ms: order.deadline_ms,
        audience: order.audience.clone(),
        depth_left: order.depth,
    })
}

/// Returns the ceiling for a delegated task: that of the grant, and that of the parent whatever the
/// grant says (P3).
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
        audience: audience::narrow(&parent.audience, grant.audience.clone())?,
        depth_left: below.min(grant.depth).min(registered_depth),
    })
}

/// Decides on a token within a live task at `now_ms`, in milliseconds since the epoch.
///
/// # Errors
///
/// The first [`Denial`] that applies.
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
    let token_expires_at_ms = ends(now_ms, asked)
        .min(task.deadline_ms)
        .min(svid.not_after_ms());
    if token_expires_at_ms <= now_ms {
        return Err(Denial::NoTime);
    }
    let ceiling = audience::intersection(&task.audience, registration.audience_ceiling())?;
    Ok(Permit {
        scopes,
        deadline_ms: task.deadline_ms,
        token_expires_at_ms,
        binding: binding(registration, request.binding)?,
        audience: audience::of_token(&ceiling, request.audience)?,
        task_audience: Vec::new(),
        depth_left: task.depth_left,
    })
}

/// Returns the end of a duration that begins now, in milliseconds since the epoch.
fn ends(now_ms: i64, ttl: Ttl) -> i64 {
    now_ms.saturating_add(ttl.as_ms())
}

/// Returns the binding that was asked for, or else the registration's first one.
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
