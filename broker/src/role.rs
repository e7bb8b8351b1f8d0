//! Roles of operators, the proof that a caller has a role, and the proof that what it asks for is
//! within the bounds of that role.
//!
//! AC-18: nothing is implied by having a certificate; a role is a line of the configuration.
//! O4: a role is over everything, or within bounds. A use case names the proof that it needs. One
//! that is about the whole broker takes an [`Unbounded`]. One that is about workloads takes an
//! [`Operator`], which tells who it is to those only who have asked whether it may ([`Within`]).

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;

use arc_swap::ArcSwap;
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{KnownTask, Registration, RoleBounds, Scope, ScopeSet, Selector};
use sundew_proto::v1;

use crate::peer::Peer;
use crate::refusal::Refusal;

/// A role, as the configuration names it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May order tasks for others.
    Dispatcher,
    /// May ask about anybody's tokens.
    Introspector,
    /// May register workloads and write secrets.
    Registrar,
    /// May look at tasks and revoke.
    Responder,
}

impl Role {
    /// The word for the role, as in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Introspector => "introspector",
            Self::Registrar => "registrar",
            Self::Responder => "responder",
        }
    }

    /// The lists that bound the role, by their keys in the configuration.
    #[must_use]
    pub fn bounds(self) -> &'static [&'static str] {
        match self {
            Self::Dispatcher => &["path_prefixes", "scopes", "secrets"],
            Self::Introspector => &["path_prefixes", "audiences"],
            Self::Registrar => &["path_prefixes", "scopes", "audiences", "secrets"],
            Self::Responder => &["path_prefixes"],
        }
    }
}

/// How far a role of an operator reaches.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reach {
    /// Over everything.
    Unbounded,
    /// Over what is within these bounds.
    Within(Arc<RoleBounds>),
}

/// The roles of one operator, and how far each of them reaches.
pub type Roles = BTreeMap<Role, Reach>;

/// A role as a type, so that a proof of one role is no proof of another.
pub(crate) trait RoleType {
    /// The role.
    const ROLE: Role;
}

/// [`Role::Dispatcher`] as a type.
pub(crate) enum Dispatcher {}
/// [`Role::Introspector`] as a type.
pub(crate) enum Introspector {}
/// [`Role::Registrar`] as a type.
pub(crate) enum Registrar {}
/// [`Role::Responder`] as a type.
pub(crate) enum Responder {}

impl RoleType for Dispatcher {
    const ROLE: Role = Role::Dispatcher;
}
impl RoleType for Introspector {
    const ROLE: Role = Role::Introspector;
}
impl RoleType for Registrar {
    const ROLE: Role = Role::Registrar;
}
impl RoleType for Responder {
    const ROLE: Role = Role::Responder;
}

/// The proof that a caller has a role. Only [`Operators::prove`] makes one, and a use case of
/// operators cannot be called without it.
#[must_use]
pub(crate) struct Operator<R> {
    peer: Arc<Peer>,
    reach: Reach,
    role: PhantomData<R>,
}

impl<R: RoleType> Operator<R> {
    /// The connection of the caller.
    pub(crate) fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Whether a workload is within the bounds: what lists leave out of others.
    pub(crate) fn reaches(&self, workload: &SpiffeId) -> bool {
        match &self.reach {
            Reach::Unbounded => true,
            Reach::Within(bounds) => bounds.have_workload(workload),
        }
    }

    /// The proof that a workload is within the bounds.
    pub(crate) fn over(&self, workload: &SpiffeId) -> Result<Within<'_>, Refusal> {
        self.within(self.reaches(workload), || format!("workload {workload}"))
    }

    /// Whether a task is within the bounds: its owner is, or somebody is from whom it was delegated,
    /// and whose authority it has.
    pub(crate) fn reaches_task(&self, task: &KnownTask) -> bool {
        let mut chain = task.chain();
        chain.any(|each| self.reaches(&each.workload))
    }

    /// Whether a secret is within the bounds, by its name.
    pub(crate) fn reaches_secret(&self, name: &str) -> bool {
        match &self.reach {
            Reach::Unbounded => true,
            Reach::Within(bounds) => {
                Scope::of_secret(name).is_ok_and(|secret| bounds.have_secret(&secret))
            }
        }
    }

    /// Whether one of these audiences is within the bounds.
    pub(crate) fn reaches_audience(&self, audiences: &[String]) -> bool {
        match &self.reach {
            Reach::Unbounded => true,
            Reach::Within(bounds) => bounds.have_some_audience(audiences),
        }
    }

    /// The proof that there are no bounds.
    pub(crate) fn over_everything(&self) -> Result<Within<'_>, Refusal> {
        let is_unbounded = self.reach == Reach::Unbounded;
        self.within(is_unbounded, || ABOUT_ALL.to_owned())
    }

    /// The proof that a task is within the bounds. P11: one that is not is answered like one that is
    /// not there.
    pub(crate) fn over_task(&self, task: &KnownTask) -> Result<Within<'_>, Refusal> {
        let within = self.within(self.reaches_task(task), String::new);
        within.map_err(|refusal| refusal.out_of_sight("task"))
    }

    /// The proof that a secret is within the bounds, by its name.
    pub(crate) fn over_secret(&self, name: &str) -> Result<Within<'_>, Refusal> {
        self.within(self.reaches_secret(name), || format!("secret {name}"))
    }

    /// The proof that a selector matches nothing beyond the bounds, by a criterion that says so.
    pub(crate) fn selecting(&self, selector: &Selector) -> Result<Within<'_>, Refusal> {
        let Reach::Within(bounds) = &self.reach else {
            return self.over_everything();
        };
        self.within(bounds.have_selected(selector), || {
            if selector.everything {
                return ABOUT_ALL.to_owned();
            }
            let prefixes = bounds.path_prefixes.to_strings().join(" or ");
            format!("the selector may match what is elsewhere: add a SPIFFE prefix of {prefixes}")
        })
    }

    /// The proof that all that a registration hands out is within the bounds.
    pub(crate) fn handing_out(&self, registration: &Registration) -> Result<Within<'_>, Refusal> {
        let beyond = match &self.reach {
            Reach::Unbounded => Vec::new(),
            Reach::Within(bounds) => bounds.beyond(registration),
        };
        self.within(beyond.is_empty(), || {
            format!("{}: {}", registration.spiffe_id, beyond.join("; "))
        })
    }

    /// The proof that a task of a workload with these scopes is within the bounds.
    pub(crate) fn ordering(
        &self,
        workload: &SpiffeId,
        scopes: &ScopeSet,
    ) -> Result<Within<'_>, Refusal> {
        let within = self.over(workload)?;
        if let Reach::Within(bounds) = &self.reach
            && let Some(scope) = scopes.iter().find(|scope| !bounds.have_scope(scope))
        {
            return Err(Refusal::BeyondBounds {
                role: R::ROLE.as_str(),
                what: format!("scope {scope}"),
            });
        }
        Ok(within)
    }

    fn within(&self, is_within: bool, what: impl Fn() -> String) -> Result<Within<'_>, Refusal> {
        if is_within {
            return Ok(Within {
                actor: self.peer.id(),
            });
        }
        Err(Refusal::BeyondBounds {
            role: R::ROLE.as_str(),
            what: what(),
        })
    }
}

/// Says why a role within bounds is not enough.
const ABOUT_ALL: &str = "this is about all workloads";

/// The proof that what an operator asks for is within the bounds of its role. Only an [`Operator`]
/// makes one.
#[derive(Clone, Copy)]
#[must_use]
pub(crate) struct Within<'a> {
    actor: &'a SpiffeId,
}

impl<'a> Within<'a> {
    /// The SPIFFE ID of the operator.
    pub(crate) fn actor(self) -> &'a SpiffeId {
        self.actor
    }
}

/// The proof that a caller has a role without bounds, for what is about the whole broker.
#[must_use]
pub(crate) struct Unbounded<R>(Operator<R>);

impl<R: RoleType> Unbounded<R> {
    /// The SPIFFE ID of the operator.
    pub(crate) fn id(&self) -> &SpiffeId {
        self.0.peer().id()
    }
}

/// What a use case of operators wants proven of its caller.
pub(crate) trait RoleProof: Sized {
    /// The role that the caller needs.
    type Role: RoleType;
    /// The proof of an operator, or a refusal if its role does not reach as far.
    fn of(operator: Operator<Self::Role>) -> Result<Self, Refusal>;
}

impl<R: RoleType> RoleProof for Operator<R> {
    type Role = R;
    fn of(operator: Self) -> Result<Self, Refusal> {
        Ok(operator)
    }
}

impl<R: RoleType> RoleProof for Unbounded<R> {
    type Role = R;
    fn of(operator: Operator<R>) -> Result<Self, Refusal> {
        match operator.reach {
            Reach::Unbounded => Ok(Self(operator)),
            Reach::Within(_) => Err(Refusal::BeyondBounds {
                role: R::ROLE.as_str(),
                what: ABOUT_ALL.to_owned(),
            }),
        }
    }
}

/// Whether somebody may order for a workload by the role `dispatcher`, itself or over others for whom
/// it may order, over any number of steps.
pub(crate) fn may_order_for(
    roles: &BTreeMap<SpiffeId, Roles>,
    from: &SpiffeId,
    workload: &SpiffeId,
) -> bool {
    let reach_of = |id: &SpiffeId| roles.get(id)?.get(&Role::Dispatcher);
    let orders_for = |id: &SpiffeId, other: &SpiffeId| match reach_of(id) {
        None => false,
        Some(Reach::Unbounded) => true,
        Some(Reach::Within(bounds)) => bounds.have_workload(other),
    };
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(id) = next.pop() {
        if orders_for(id, workload) {
            return true;
        }
        let further = roles.keys().filter(|other| orders_for(id, other));
        next.extend(further.filter(|other| seen.insert(*other)));
    }
    false
}

/// The roles of every operator, replaced as a whole when the configuration is read again.
pub(crate) struct Operators(ArcSwap<BTreeMap<SpiffeId, Roles>>);

impl Operators {
    /// The roles that the configuration gives.
    pub(crate) fn new(roles: BTreeMap<SpiffeId, Roles>) -> Self {
        Self(ArcSwap::from_pointee(roles))
    }

    /// Takes over another configuration; calls that begin from now on are held against it.
    pub(crate) fn replace(&self, roles: BTreeMap<SpiffeId, Roles>) {
        self.0.store(Arc::new(roles));
    }

    /// Whether somebody has any role.
    pub(crate) fn is_operator(&self, id: &SpiffeId) -> bool {
        self.0.load().get(id).is_some_and(|roles| !roles.is_empty())
    }

    /// Whether somebody may order for a workload, over any number of steps.
    pub(crate) fn may_order_for(&self, from: &SpiffeId, workload: &SpiffeId) -> bool {
        may_order_for(&self.0.load(), from, workload)
    }

    /// The operators who may register everything.
    pub(crate) fn registrars(&self) -> Vec<SpiffeId> {
        let roles = self.0.load();
        let registrars = roles
            .iter()
            .filter(|(_, roles)| roles.get(&Role::Registrar) == Some(&Reach::Unbounded));
        registrars.map(|(id, _)| id.clone()).collect()
    }

    /// The proof that the caller has the role, or a refusal that names the role.
    pub(crate) fn prove<R: RoleType>(&self, peer: &Arc<Peer>) -> Result<Operator<R>, Refusal> {
        let all = self.0.load();
        let roles = all.get(peer.id()).filter(|roles| !roles.is_empty());
        match roles.map(|roles| roles.get(&R::ROLE)) {
            Some(Some(reach)) => Ok(Operator {
                peer: Arc::clone(peer),
                reach: reach.clone(),
                role: PhantomData,
            }),
            // P11: an operator may know which role it is; nobody else learns what there is.
            Some(None) => Err(Refusal::OtherRole(R::ROLE.as_str())),
            None => Err(Refusal::Role(R::ROLE.as_str())),
        }
    }

    /// Tells a caller its roles, and how far each of them reaches.
    pub(crate) fn show(&self, peer: &Peer) -> Result<v1::ShowOperatorResponse, Refusal> {
        let all = self.0.load();
        let roles = all.get(peer.id()).filter(|roles| !roles.is_empty());
        let roles = roles.ok_or(Refusal::Role("operator"))?.iter();
        let roles = roles.map(|(role, reach)| message(*role, reach));
        Ok(v1::ShowOperatorResponse {
            spiffe_id: peer.id().to_string(),
            roles: roles.collect(),
        })
    }
}

/// A role of an operator as a message.
fn message(role: Role, reach: &Reach) -> v1::OperatorRole {
    let bounds = match reach {
        Reach::Unbounded => None,
        Reach::Within(bounds) => Some(v1::RoleBounds {
            path_prefixes: bounds.path_prefixes.to_strings(),
            scopes: bounds.scopes.to_strings(),
            audiences: bounds.audiences.to_strings(),
            secrets: bounds.secrets.to_strings(),
        }),
    };
    v1::OperatorRole {
        role: role.as_str().to_owned(),
        bounds,
    }
}
