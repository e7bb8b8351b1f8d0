//! First SVIDs and their renewal, from an embedded CA over a store without a process.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use sundew_attestation::spiffe::{BundleSet, TrustDomain, validate_chain};
use sundew_core::Ttl;
use sundew_proto::v1;
use tokio::sync::Semaphore;

use super::{Enrollment, EnrollmentUse};
use crate::ca::Ca;
use crate::clock;
use crate::peer::Channel;
use crate::refusal::Refusal;
use crate::refusal_recorder::RefusalRecorder;
use crate::testing::{DOMAIN, TestBroker, assert_refused};

/// A broker that has `/agent` registered, and its room of enrollment, with the CA of a domain.
async fn broker_with(domain: Option<&str>, places: usize) -> (TestBroker, Arc<Enrollment>) {
    let broker = TestBroker::start().await;
    broker.register("/agent", json!({})).await;
    let ca = match domain {
        Some(domain) => {
            let domain = TrustDomain::parse(domain).unwrap();
            let ca = Ca::open(&broker.ledger, domain, Ttl::HOUR).await;
            Some(Arc::new(ca.unwrap()))
        }
        None => None,
    };
    let enrollment = Enrollment::new(
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
    );
    (broker, Arc::new(enrollment))
}

async fn enrolling() -> (TestBroker, Arc<Enrollment>) {
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
