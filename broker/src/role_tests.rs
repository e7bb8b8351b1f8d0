//! Who is an operator, and of what.

use std::collections::{BTreeMap, BTreeSet};

use sundew_attestation::spiffe::SpiffeId;

use crate::refusal::Refusal;
use crate::role::{Introspector, Operators, Registrar, Responder, Role};
use crate::testing::{TestBroker, assert_refused};

fn roles(id: &SpiffeId, roles: &[Role]) -> BTreeMap<SpiffeId, BTreeSet<Role>> {
    BTreeMap::from([(id.clone(), roles.iter().copied().collect())])
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
    assert_eq!(registrar.id(), peer.id());
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
