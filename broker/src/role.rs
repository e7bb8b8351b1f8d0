//! Roles of operators, and the proof that a caller has a role.
//!
//! AC-18: nothing is implied by having a certificate; a role is a line of the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;

use arc_swap::ArcSwap;
use sundew_attestation::spiffe::SpiffeId;

use crate::peer::Peer;
use crate::refusal::Refusal;

/// A role, as the configuration names it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
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
            Self::Introspector => "introspector",
            Self::Registrar => "registrar",
            Self::Responder => "responder",
        }
    }
}

/// A role as a type, so that a proof of one role is no proof of another.
pub(crate) trait RoleType {
    /// The role.
    const ROLE: Role;
}

/// [`Role::Introspector`] as a type.
pub(crate) enum Introspector {}
/// [`Role::Registrar`] as a type.
pub(crate) enum Registrar {}
/// [`Role::Responder`] as a type.
pub(crate) enum Responder {}

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
    role: PhantomData<R>,
}

impl<R> Operator<R> {
    /// The SPIFFE ID of the operator.
    pub(crate) fn id(&self) -> &SpiffeId {
        self.peer.id()
    }

    /// The connection of the caller.
    pub(crate) fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }
}

/// The roles of every operator, replaced as a whole when the configuration is read again.
pub(crate) struct Operators(ArcSwap<BTreeMap<SpiffeId, BTreeSet<Role>>>);

impl Operators {
    /// The roles that the configuration gives.
    pub(crate) fn new(roles: BTreeMap<SpiffeId, BTreeSet<Role>>) -> Self {
        Self(ArcSwap::from_pointee(roles))
    }

    /// Takes over another configuration; calls that begin from now on are held against it.
    pub(crate) fn replace(&self, roles: BTreeMap<SpiffeId, BTreeSet<Role>>) {
        self.0.store(Arc::new(roles));
    }

    /// Whether somebody has any role.
    pub(crate) fn is_operator(&self, id: &SpiffeId) -> bool {
        self.0.load().get(id).is_some_and(|roles| !roles.is_empty())
    }

    /// The operators who may register.
    pub(crate) fn registrars(&self) -> Vec<SpiffeId> {
        let roles = self.0.load();
        let registrars = roles
            .iter()
            .filter(|(_, roles)| roles.contains(&Role::Registrar));
        registrars.map(|(id, _)| id.clone()).collect()
    }

    /// The proof that the caller has the role, or a refusal that names the role.
    pub(crate) fn prove<R: RoleType>(&self, peer: &Arc<Peer>) -> Result<Operator<R>, Refusal> {
        let all = self.0.load();
        let roles = all.get(peer.id()).filter(|roles| !roles.is_empty());
        match roles {
            Some(roles) if roles.contains(&R::ROLE) => Ok(Operator {
                peer: Arc::clone(peer),
                role: PhantomData,
            }),
            // P11: an operator may know which role it is; nobody else learns what there is.
            Some(_) => Err(Refusal::OtherRole(R::ROLE.as_str())),
            None => Err(Refusal::Role(R::ROLE.as_str())),
        }
    }
}
