//! First SVIDs and their renewal, from an embedded CA over a store without a process.

mod claims;
mod taken_back;

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use sundew_attestation::spiffe::{BundleSet, SpiffeId, TrustDomain, validate_chain};
use sundew_core::{TaskId, Ttl};
use sundew_proto::v1;
use tokio::sync::Semaphore;

use super::{Enrollment, EnrollmentUse};
use crate::ca::{Ca, Shown};
use crate::clock;
use crate::peer::{Channel, Peer};
use crate::refusal::Refusal;
use crate::refusal_recorder::RefusalRecorder;
use crate::testing::{DOMAIN, TestBroker, assert_refused};

/// For how long identities are renewed.
const RENEW_WITHIN: Ttl = Ttl::HOUR;

/// A broker that has `/agent` registered, and its room of enrollment, with the CA of a domain.
async fn broker_with(domain: Option<&str>, places: usize) -> (TestBroker, Arc<Enrollment>) {
    let broker = TestBroker::start().await;
    broker.register("/agent", json!({})).await;
    let room = room_of(&broker, domain, (Ttl::HOUR, places)).await;
    (broker, room)
}

/// The room of enrollment of a broker, with the CA of a domain whose SVIDs live so long.
pub(super) async fn room_of(
    broker: &TestBroker,
    domain: Option<&str>,
    (ttl, places): (Ttl, usize),
) -> Arc<Enrollment> {
    let ca = match domain {
        Some(domain) => {
            let domain = TrustDomain::parse(domain).unwrap();
            let ca = Ca::open(&broker.ledger, domain, (ttl, RENEW_WITHIN)).await;
            Some(Arc::new(ca.unwrap()))
        }
        None => None,
    };
    Arc::new(Enrollment::new(
        broker.ledger.clone(),
        ca,
        EnrollmentUse {
            enroll_permits: Arc::new(Semaphore::new(places)),
            evidence: Arc::clone(&broker.rooms.evidence),
            issue_permits: Arc::new(Semaphore::new(1)),
            refusals: RefusalRecorder::new(Arc::clone(&broker.ledger.journal), Arc::default()),
            tasks: Arc::clone(&broker.rooms.tasks),
            trust: Arc::clone(&broker.trust),
        },
    ))
}

pub(super) async fn enrolling() -> (TestBroker, Arc<Enrollment>) {
    broker_with(Some(DOMAIN), 1).await
}

fn csr() -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key);
    request.unwrap().der().to_vec()
}

fn id(path: &str) -> String {
    format!("spiffe://{DOMAIN}{path}")
}

async fn create(
    broker: &TestBroker,
    enrollment: &Arc<Enrollment>,
    spiffe_id: &str,
    ttl_ms: i64,
) -> Result<v1::CreateJoinTokenResponse, Refusal> {
    let request = v1::CreateJoinTokenRequest {
        spiffe_id: spiffe_id.to_owned(),
        ttl_ms,
    };
    let enrollment = Arc::clone(enrollment);
    enrollment
        .create_join_token(broker.operator(), request)
        .await
}

async fn enroll(
    enrollment: &Arc<Enrollment>,
    channel: &Channel,
    request: v1::EnrollRequest,
) -> Result<v1::Svid, Refusal> {
    let answer = Arc::clone(enrollment).enroll(channel, request).await?;
    Ok(answer.svid.unwrap())
}

async fn redeem(enrollment: &Arc<Enrollment>, join_token: &str) -> Result<v1::Svid, Refusal> {
    let request = v1::EnrollRequest {
        join_token: join_token.to_owned(),
        csr: csr(),
        ..v1::EnrollRequest::default()
    };
    enroll(enrollment, &Channel::new([1; 32]), request).await
}

#[tokio::test]
async fn a_join_token_gives_one_svid_that_the_bundle_verifies() {
    let (broker, enrollment) = enrolling().await;
    let token = create(&broker, &enrollment, &id("/agent"), 0).await;
    let token = token.unwrap();
    assert_eq!(token.expires_at_ms, clock::now_ms() + 600_000);
    let svid = redeem(&enrollment, &token.join_token).await.unwrap();
    assert_eq!(svid.spiffe_id, id("/agent"));
    let mut bundles = BundleSet::default();
    bundles.insert(enrollment.own_ca().unwrap().bundle().unwrap());
    let chain: Vec<_> = svid
        .certificates
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    let verified = validate_chain(&chain, &bundles, clock::now_ms().div_euclid(1000));
    assert_eq!(verified.unwrap().id().as_str(), id("/agent"));
    let again = redeem(&enrollment, &token.join_token).await;
    assert_refused!(again, Refusal::JoinToken);
    let records = broker.journal("svid_issued");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].field("grounds"), Some("join_token"));
}

#[tokio::test]
async fn a_join_token_ends_at_its_millisecond() {
    let (broker, enrollment) = enrolling().await;
    let agent = id("/agent");
    let create = || create(&broker, &enrollment, &agent, 1000);
    let (in_time, late) = (create().await.unwrap(), create().await.unwrap());
    clock::testing::advance_to(in_time.expires_at_ms - 1);
    assert!(redeem(&enrollment, &in_time.join_token).await.is_ok());
    clock::testing::advance_to(late.expires_at_ms);
    let late = redeem(&enrollment, &late.join_token).await;
    assert_refused!(late, Refusal::JoinToken);
}

#[tokio::test]
async fn what_is_no_join_token_of_this_broker_is_refused() {
    let (broker, enrollment) = enrolling().await;
    let token = create(&broker, &enrollment, &id("/agent"), 0).await;
    let mut touched = token.unwrap().join_token;
    let last = if touched.pop() == Some('A') { 'Q' } else { 'A' };
    touched.push(last);
    for token in ["", "sdj_", "sdj_AAAA", "token", touched.as_str()] {
        assert_refused!(redeem(&enrollment, token).await, Refusal::JoinToken);
    }
}

#[tokio::test]
async fn a_join_token_is_made_for_a_registered_workload_of_this_ca_and_a_day_at_most() {
    let (broker, enrollment) = enrolling().await;
    for (spiffe_id, ttl_ms, named) in [
        ("spiffe://other.example/agent".to_owned(), 0, "spiffe_id"),
        ("agent".to_owned(), 0, "spiffe_id"),
        (id("/agent"), -1, "ttl_ms"),
        (id("/agent"), 86_400_001, "ttl_ms"),
    ] {
        match create(&broker, &enrollment, &spiffe_id, ttl_ms).await {
            Err(Refusal::Invalid { field, .. }) => assert_eq!(field, named),
            Err(other) => panic!("{named}: {other}"),
            Ok(_) => panic!("{named} was taken"),
        }
    }
    let unregistered = create(&broker, &enrollment, &id("/other"), 0).await;
    assert_refused!(unregistered, Refusal::NotFound("workload"));
    assert!(broker.journal("join_token_created").is_empty());
}

#[tokio::test]
async fn a_workload_that_was_deleted_meanwhile_gets_no_svid() {
    let (broker, enrollment) = enrolling().await;
    let agent = broker.agent("/agent");
    let token = create(&broker, &enrollment, &id("/agent"), 0).await;
    let delete = v1::DeleteWorkloadRequest {
        spiffe_id: id("/agent"),
    };
    let registry = Arc::clone(&broker.rooms.registry);
    let deleted = registry.delete_workload(broker.operator(), delete).await;
    deleted.unwrap();
    let first = redeem(&enrollment, &token.unwrap().join_token).await;
    assert_refused!(first, Refusal::Unregistered);
    let renew = v1::RenewRequest { csr: csr() };
    let renewed = Arc::clone(&enrollment).renew(agent.peer, renew).await;
    assert_refused!(renewed, Refusal::Unregistered);
    assert!(broker.journal("svid_issued").is_empty());
}

#[tokio::test]
async fn an_svid_is_renewed_for_who_has_it_whatever_the_request_for_it_says() {
    let (broker, enrollment) = enrolling().await;
    let peer = broker.agent("/agent").peer;
    let renew = |csr| {
        let request = v1::RenewRequest { csr };
        Arc::clone(&enrollment).renew(Arc::clone(&peer), request)
    };
    let renewed = renew(csr()).await.unwrap().svid.unwrap();
    assert_eq!(renewed.spiffe_id, id("/agent"));
    let malformed = renew(vec![1, 2, 3]).await;
    assert_refused!(malformed, Refusal::Invalid { field: "csr", .. });
}

/// The caller who has this SVID.
fn holder(enrollment: &Enrollment, svid: v1::Svid) -> Arc<Peer> {
    let mut bundles = BundleSet::default();
    bundles.insert(enrollment.own_ca().unwrap().bundle().unwrap());
    let chain = svid.certificates.into_iter().map(CertificateDer::from);
    let chain: Vec<_> = chain.collect();
    let verified = validate_chain(&chain, &bundles, clock::now_ms().div_euclid(1000)).unwrap();
    let remote = "127.0.0.1:1".parse().unwrap();
    Arc::new(Peer::new(verified, 0, chain, [1; 32], remote))
}

async fn renew(enrollment: &Arc<Enrollment>, peer: &Arc<Peer>) -> Result<v1::Svid, Refusal> {
    let request = v1::RenewRequest { csr: csr() };
    let renewed = Arc::clone(enrollment).renew(Arc::clone(peer), request);
    Ok(renewed.await?.svid.unwrap())
}

/// Somebody who was enrolled by a join token.
async fn enrolled(broker: &TestBroker, enrollment: &Arc<Enrollment>) -> Arc<Peer> {
    let token = create(broker, enrollment, &id("/agent"), 0).await.unwrap();
    holder(
        enrollment,
        redeem(enrollment, &token.join_token).await.unwrap(),
    )
}

fn of_agent() -> v1::Selector {
    v1::Selector {
        spiffe_id: id("/agent"),
        ..v1::Selector::default()
    }
}

async fn lift(broker: &TestBroker, revocation_id: String) {
    let request = v1::LiftRequest {
        revocation_id,
        reason: "test".to_owned(),
    };
    let responses = Arc::clone(&broker.rooms.responses);
    responses.lift(broker.operator(), request).await.unwrap();
}

/// I1: neither the first SVID nor the next one, and the join token is good afterwards.
#[tokio::test]
async fn i1_a_quarantine_gives_no_svid_and_uses_up_no_join_token() {
    let (broker, enrollment) = enrolling().await;
    let peer = enrolled(&broker, &enrollment).await;
    let token = create(&broker, &enrollment, &id("/agent"), 0)
        .await
        .unwrap();
    for effect in [v1::Effect::Quarantine, v1::Effect::Contain] {
        let rule = broker.respond(of_agent(), effect).await;
        let redeemed = redeem(&enrollment, &token.join_token).await;
        assert_refused!(redeemed, Refusal::Quarantined);
        assert_refused!(renew(&enrollment, &peer).await, Refusal::Quarantined);
        lift(&broker, rule).await;
    }
    assert!(renew(&enrollment, &peer).await.is_ok());
    assert!(redeem(&enrollment, &token.join_token).await.is_ok());
}

/// I1: who is suspended must be able to come back, and has nothing of the SVID until then.
#[tokio::test]
async fn i1_a_suspension_lets_an_svid_be_renewed() {
    let (broker, enrollment) = enrolling().await;
    let peer = enrolled(&broker, &enrollment).await;
    broker.respond(of_agent(), v1::Effect::Suspend).await;
    assert!(renew(&enrollment, &peer).await.is_ok());
}

/// I1: a rule by serial number, which a renewal would shake off.
#[tokio::test]
async fn i1_an_svid_whose_serial_was_revoked_is_not_renewed() {
    let (broker, enrollment) = enrolling().await;
    let (one, other) = (
        enrolled(&broker, &enrollment).await,
        enrolled(&broker, &enrollment).await,
    );
    let selector = v1::Selector {
        svid_serial: sundew_attestation::hex(one.svid().serial()),
        ..v1::Selector::default()
    };
    broker.respond(selector, v1::Effect::Revoke).await;
    assert_refused!(renew(&enrollment, &one).await, Refusal::Quarantined);
    assert!(renew(&enrollment, &other).await.is_ok());
    // A rule that names no SVID kills what was issued, and nothing more.
    broker.respond(of_agent(), v1::Effect::Revoke).await;
    assert!(renew(&enrollment, &other).await.is_ok());
}

/// I1: a rule by serial number is about all SVIDs of one chain of renewals: a holder that renews before
/// the rule comes does not shake it off.
#[tokio::test]
async fn i1_a_rule_by_serial_number_finds_every_renewal() {
    for effect in [v1::Effect::Revoke, v1::Effect::Contain] {
        let (broker, enrollment) = enrolling().await;
        let mut chain = vec![enrolled(&broker, &enrollment).await];
        for at in 0..3 {
            let next = renew(&enrollment, &chain[at]).await.unwrap();
            chain.push(holder(&enrollment, next));
        }
        let other = enrolled(&broker, &enrollment).await;
        let serials: std::collections::HashSet<_> =
            chain.iter().map(|peer| peer.svid().serial()).collect();
        assert_eq!(serials.len(), 4, "each has a number of its own");
        let selector = v1::Selector {
            svid_serial: sundew_attestation::hex(chain[1].svid().serial()),
            ..v1::Selector::default()
        };
        broker.respond(selector, effect).await;
        for renewed in &chain {
            assert_refused!(renew(&enrollment, renewed).await, Refusal::Quarantined);
        }
        assert!(renew(&enrollment, &other).await.is_ok());
        // An SVID may live much longer than a task.
        assert_eq!(taken_back::svid_rules_of_a_year(&broker), 1);
    }
}

/// I1: renewals have an end, however often one follows another.
#[tokio::test]
async fn i1_what_was_shown_counts_for_a_while() {
    let (broker, enrollment) = enrolling().await;
    let mut peer = enrolled(&broker, &enrollment).await;
    let since_ms = peer.grounds().unwrap().since_ms;
    let end_ms = since_ms + RENEW_WITHIN.as_ms();
    while clock::now_ms() < end_ms - 20 * 60_000 {
        clock::testing::advance_to(clock::now_ms() + 20 * 60_000);
        broker.fresh().await;
        let svid = renew(&enrollment, &peer).await.unwrap();
        assert!(svid.not_after_ms <= end_ms);
        peer = holder(&enrollment, svid);
        assert_eq!(peer.grounds().unwrap().since_ms, since_ms);
    }
    clock::testing::advance_to(end_ms);
    broker.fresh().await;
    assert_refused!(renew(&enrollment, &peer).await, Refusal::GroundsTooOld);
}

/// I1: what a node said of somebody counts as long as the node's task lives.
#[tokio::test]
async fn i1_the_word_of_a_node_ends_with_its_task() {
    let (broker, enrollment) = enrolling().await;
    let (node, begun) = broker.agent_with_task().await;
    let task = TaskId::parse(&begun.id).unwrap();
    let task = broker.ledger.records.task(task).await.unwrap().unwrap();
    let ca = enrollment.own_ca().unwrap();
    let agent = SpiffeId::parse(&id("/agent")).unwrap();
    let permit = ca.permit(&agent, Shown::Node(&task), &[]).await.unwrap();
    let svid = enrollment.issue(&permit, &csr(), "test").await.unwrap();
    assert!(svid.not_after_ms <= task.deadline_ms);
    let peer = holder(&enrollment, svid);
    let renewed = renew(&enrollment, &peer).await.unwrap();
    let renewed = holder(&enrollment, renewed);
    assert_eq!(renewed.grounds().unwrap().node, Some(task.id));
    let complete = v1::CompleteTaskRequest {
        task_id: begun.id,
        ..v1::CompleteTaskRequest::default()
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    tasks.complete(node.peer, complete).await.unwrap();
    for peer in [&peer, &renewed] {
        assert_refused!(renew(&enrollment, peer).await, Refusal::TaskDead(_));
        let node = peer.grounds().unwrap().node;
        let required = broker.ledger.require_node(node).await;
        assert_refused!(required, Refusal::TaskDead(_));
    }
    assert_refused!(
        enrollment.issue(&permit, &csr(), "test").await,
        Refusal::TaskDead(_)
    );
}

#[tokio::test]
async fn enrolling_by_evidence_needs_a_challenge_a_registration_and_a_place() {
    let (broker, enrollment) = enrolling().await;
    let channel = Channel::new([1; 32]);
    let request = |path: &str, nonce: Vec<u8>| v1::EnrollRequest {
        spiffe_id: id(path),
        csr: csr(),
        nonce,
        ..v1::EnrollRequest::default()
    };
    let nonce = || enrollment.enroll_challenge(&channel).unwrap().nonce;
    let without = enroll(&enrollment, &channel, request("/agent", Vec::new())).await;
    assert_refused!(without, Refusal::Challenge);
    let unknown = enroll(&enrollment, &channel, request("/other", nonce())).await;
    assert_refused!(unknown, Refusal::Unregistered);
    // `/agent` says of no evidence that a first SVID is given for it.
    let nothing = enroll(&enrollment, &channel, request("/agent", nonce())).await;
    assert_refused!(nothing, Refusal::Appraisal(_));
    assert!(broker.journal("svid_issued").is_empty());
    drop(broker);

    let (_broker, full) = broker_with(Some(DOMAIN), 0).await;
    let nonce = full.enroll_challenge(&channel).unwrap().nonce;
    let crowded = enroll(&full, &channel, request("/agent", nonce)).await;
    assert_refused!(crowded, Refusal::Overload);
}

#[tokio::test]
async fn a_ca_issues_nothing_outside_of_its_trust_domain() {
    let (broker, enrollment) = broker_with(Some("other.example"), 1).await;
    let renew = v1::RenewRequest { csr: csr() };
    let peer = broker.agent("/agent").peer;
    let renewed = enrollment.renew(peer, renew).await;
    assert_refused!(renewed, Refusal::Unregistered);
}

#[tokio::test]
async fn a_broker_without_a_ca_says_so() {
    let (broker, enrollment) = broker_with(None, 1).await;
    let refused = Refusal::Unsupported("embedded CA").to_string();
    let created = create(&broker, &enrollment, &id("/agent"), 0).await;
    assert_eq!(created.err().unwrap().to_string(), refused);
    let redeemed = redeem(&enrollment, "sdj_AAAA").await;
    assert_eq!(redeemed.err().unwrap().to_string(), refused);
    let challenge = enrollment.enroll_challenge(&Channel::new([1; 32]));
    assert_eq!(challenge.err().unwrap().to_string(), refused);
}
