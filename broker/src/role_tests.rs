//! Who is an operator, and of what.

use std::collections::BTreeMap;
use std::sync::Arc;

use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{Limit, RoleBounds};

use crate::refusal::Refusal;
use crate::role::{
    Introspector, Operator, Operators, Reach, Registrar, Responder, Role, RoleProof, Roles,
    Unbounded,
};
use crate::testing::{TestBroker, assert_refused};

fn roles(id: &SpiffeId, roles: &[Role]) -> BTreeMap<SpiffeId, Roles> {
    let roles = roles.iter().map(|role| (*role, Reach::Unbounded));
    BTreeMap::from([(id.clone(), roles.collect())])
}

#[tokio::test]
async fn who_has_no_role_is_refused_by_the_name_of_the_role() {
    let broker = TestBroker::start().await;
    let peer = broker.agent("/agent").peer;
    let nobody = Operators::new(BTreeMap::new());
    assert_refused!(
        nobody.prove::<Introspector>(&peer),
        Refusal::Role("introspector")
    );
    assert_refused!(nobody.prove::<Registrar>(&peer), Refusal::Role("registrar"));
    assert_refused!(nobody.prove::<Responder>(&peer), Refusal::Role("responder"));
}

#[tokio::test]
async fn one_role_is_no_proof_of_another() {
    let broker = TestBroker::start().await;
    let peer = broker.agent("/agent").peer;
    let operators = Operators::new(roles(peer.id(), &[Role::Registrar]));
    let registrar = operators.prove::<Registrar>(&peer).unwrap();
    assert_eq!(registrar.peer().id(), peer.id());
    // C6: an operator hears which role is missing.
    assert_refused!(
        operators.prove::<Responder>(&peer),
        Refusal::OtherRole("responder")
    );
}

#[tokio::test]
async fn a_role_that_was_taken_away_is_not_proven_again() {
    let broker = TestBroker::start().await;
    let peer = broker.agent("/agent").peer;
    let operators = Operators::new(roles(peer.id(), &[Role::Responder]));
    assert!(operators.prove::<Responder>(&peer).is_ok());
    operators.replace(roles(peer.id(), &[]));
    assert_refused!(
        operators.prove::<Responder>(&peer),
        Refusal::Role("responder")
    );
}

#[tokio::test]
async fn o4_a_role_within_bounds_is_over_what_they_have_and_never_over_the_whole_broker() {
    let broker = TestBroker::start().await;
    let peer = broker.agent("/boss").peer;
    let team_a = RoleBounds {
        path_prefixes: Limit::parse(&["spiffe://test.example/team-a"]).unwrap(),
        ..RoleBounds::default()
    };
    let roles = Roles::from([(Role::Registrar, Reach::Within(Arc::new(team_a)))]);
    let operators = Operators::new(BTreeMap::from([(peer.id().clone(), roles)]));
    let prove = || operators.prove::<Registrar>(&peer);
    let registrar: Operator<Registrar> = prove().and_then(RoleProof::of).unwrap();
    let id = |path: &str| SpiffeId::parse(&format!("spiffe://test.example{path}")).unwrap();
    assert_eq!(registrar.over(&id("/team-a/x")).unwrap().actor(), peer.id());
    assert_refused!(
        registrar.over(&id("/team-b/x")),
        Refusal::BeyondBounds { .. }
    );
    let whole: Result<Unbounded<Registrar>, _> = prove().and_then(RoleProof::of);
    assert_refused!(whole, Refusal::BeyondBounds { .. });
    // Nobody who may not register everything is who the owner of the state goes on from.
    assert_eq!(operators.registrars(), []);
}
