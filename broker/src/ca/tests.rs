//! Rotations of the CA's keys, at brokers over one store whose clocks stand still.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use serde_json::json;
use sundew_attestation::spiffe::{
    BundleSet, JwtSvid, SpiffeId, SvidError, TrustDomain, validate_chain,
};
use sundew_core::store::{DocumentKind, Store as _};
use sundew_core::{RootKey, Ttl};
use sundew_proto::v1;

use super::keys::Key as _;
use super::{Ca, IdentityPermit};
use crate::backup::{Backup, RestoreMode, restore};
use crate::clock;
use crate::records::DocumentPlace;
use crate::refusal::Refusal;
use crate::testing::documents::caught_up;
use crate::testing::{DOMAIN, TestBroker, assert_refused};

const HOUR_MS: i64 = 3_600_000;
/// How long a former key is trusted beyond what it signed.
const MARGIN_MS: i64 = 60_000;

fn domain() -> TrustDomain {
    TrustDomain::parse(DOMAIN).unwrap()
}

fn agent() -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{DOMAIN}/agent")).unwrap()
}

/// The CA of a broker, with SVIDs for an hour.
async fn ca(broker: &TestBroker) -> Ca {
    Ca::open(&broker.ledger, domain(), (Ttl::HOUR, Ttl::MONTH))
        .await
        .unwrap()
}

async fn rotate(broker: &TestBroker, ca: &Ca, jwt: bool, key: &str) -> Result<(), Refusal> {
    let request = v1::RotateCaRequest {
        jwt,
        activate_after_ms: 0,
        idempotency_key: key.to_owned(),
    };
    ca.rotate(&broker.operator(), request).await.map(drop)
}

async fn drop_old(broker: &TestBroker, ca: &Ca, jwt: bool) -> Vec<v1::CaKey> {
    let request = v1::DropOldCaKeysRequest { jwt };
    let answer = ca.drop_old(&broker.operator(), request).await;
    answer.unwrap().keys
}

fn states(keys: &[v1::CaKey]) -> Vec<&str> {
    keys.iter().map(|key| key.state.as_str()).collect()
}

fn roots(broker: &TestBroker, ca: &Ca) -> Vec<v1::CaKey> {
    ca.show(&broker.operator()).roots
}

type Chain = Vec<CertificateDer<'static>>;

/// An SVID, with the bundle that comes with it.
fn svid(ca: &Ca) -> (Chain, Chain) {
    let (svid, _) = ca.issue_own(&agent(), &[]).unwrap();
    (svid.chain, svid.bundle)
}

/// What a broker says to an SVID.
fn judged(by: &Ca, chain: &Chain) -> Result<(), SvidError> {
    let mut bundles = BundleSet::default();
    bundles.insert(by.bundle().unwrap());
    validate_chain(chain, &bundles, clock::now_ms().div_euclid(1000)).map(drop)
}

fn token(ca: &Ca) -> (String, i64) {
    let permit = IdentityPermit {
        audience: vec!["api".to_owned()],
        ..IdentityPermit::own(&agent(), &[])
    };
    let issued = ca.issue_jwt(&permit).unwrap();
    (issued.token, issued.expires_at_ms)
}

/// Whether a token verifies with the keys of a broker.
fn verifies(by: &Ca, token: &str) -> bool {
    let bundle = by.bundle().unwrap();
    let jwt = bundle.jwt().unwrap();
    let now_ms = clock::now_ms();
    JwtSvid::verify(token.as_bytes(), "api", |_| Some(&**jwt), now_ms).is_ok()
}

/// I10: whoever renews an SVID within its life is let in at every moment of a rotation, by every
/// broker, and knows the root of every broker.
#[tokio::test]
async fn i10_no_svid_is_refused_in_its_life_while_the_root_is_rotated() {
    let broker = TestBroker::start().await;
    let other = broker.beside().await;
    let cas = [ca(&broker).await, ca(&other).await];
    let first = svid(&cas[0]);
    assert_eq!(first.1.len(), 1);
    rotate(&broker, &cas[0], false, "r").await.unwrap();
    let begun_ms = clock::now_ms();
    caught_up(&other).await;
    cas[1].refresh().await.unwrap();
    assert_eq!(states(&roots(&other, &cas[1])), ["active", "next"]);
    let mut held = vec![(clock::now_ms(), first.0, first.1)];
    let mut signers = Vec::new();
    while clock::now_ms() < begun_ms + 4 * HOUR_MS {
        let now_ms = clock::now_ms();
        held.retain(|(issued_ms, ..)| now_ms < issued_ms + HOUR_MS - 1000);
        for issuer in &cas {
            let (chain, bundle) = svid(issuer);
            let signer = roots(&broker, issuer);
            signers.push(signer.iter().position(|key| key.state == "active").unwrap());
            // Nobody who holds a bundle meets an SVID of a root that is not in it.
            for (_, _, known) in &held {
                let known = known.iter().map(AsRef::as_ref);
                let mut bundles = BundleSet::default();
                let bundle = sundew_attestation::spiffe::TrustBundle::from_der(domain(), known);
                bundles.insert(bundle);
                let met = validate_chain(&chain, &bundles, now_ms.div_euclid(1000));
                drop(met.unwrap());
            }
            held.push((now_ms, chain, bundle));
        }
        for (_, chain, _) in &held {
            for by in &cas {
                judged(by, chain).unwrap();
            }
        }
        clock::testing::advance_to(now_ms + 10 * 60_000);
    }
    assert_eq!((signers[0], *signers.last().unwrap()), (0, 1));
    assert_eq!(states(&roots(&broker, &cas[0])), ["retired", "active"]);
    assert_eq!(svid(&cas[1]).1.len(), 1);
    // What nobody trusts any more leaves the store, once.
    cas[0].forget_retired().await.unwrap();
    caught_up(&other).await;
    cas[1].refresh().await.unwrap();
    cas[1].forget_retired().await.unwrap();
    assert_eq!(states(&roots(&other, &cas[1])), ["active"]);
    assert_eq!(broker.journal("ca_keys_retired").len(), 1);
    assert!(other.journal("ca_keys_retired").is_empty());
}

/// I10: the moments are those of the document, to the millisecond, also for a broker that starts in
/// between.
#[tokio::test]
async fn i10_all_brokers_take_each_step_at_the_same_moment() {
    let broker = TestBroker::start().await;
    let first = ca(&broker).await;
    rotate(&broker, &first, false, "r").await.unwrap();
    let [old, new] = &*roots(&broker, &first) else {
        panic!("two roots");
    };
    let active_ms = new.active_from_ms;
    assert_eq!(active_ms, clock::now_ms() + HOUR_MS);
    assert_eq!(old.retires_at_ms, active_ms + HOUR_MS + MARGIN_MS);
    let late = broker.beside().await;
    let cas = [first, ca(&late).await];
    let all = |expected: &[&str]| {
        for ca in &cas {
            assert_eq!(states(&roots(&broker, ca)), expected);
        }
    };
    clock::testing::advance_to(active_ms - 1);
    all(&["active", "next"]);
    clock::testing::advance_to(active_ms);
    all(&["former", "active"]);
    clock::testing::advance_to(active_ms + HOUR_MS + MARGIN_MS - 1);
    all(&["former", "active"]);
    clock::testing::advance_to(active_ms + HOUR_MS + MARGIN_MS);
    all(&["retired", "active"]);
}

/// I10: a broker that has not heard of the rotation issues under the old root, and nothing of that
/// is refused before the root is dropped.
#[tokio::test]
async fn i10_a_broker_that_has_not_heard_works_until_the_old_root_is_dropped() {
    let broker = TestBroker::start().await;
    let other = broker.beside().await;
    let (told, deaf) = (ca(&broker).await, ca(&other).await);
    rotate(&broker, &told, false, "r").await.unwrap();
    clock::testing::advance_to(clock::now_ms() + HOUR_MS + 60_000);
    let of_deaf = svid(&deaf);
    assert_eq!(of_deaf.1.len(), 1);
    judged(&told, &of_deaf.0).unwrap();
    let left = drop_old(&broker, &told, false).await;
    assert_eq!(states(&left), ["active"]);
    assert!(judged(&told, &of_deaf.0).is_err());
    // Once it hears of it, it follows.
    caught_up(&other).await;
    deaf.refresh().await.unwrap();
    assert!(judged(&deaf, &of_deaf.0).is_err());
    judged(&told, &svid(&deaf).0).unwrap();
    // A retry finds nothing left to drop, and says the same.
    assert_eq!(drop_old(&broker, &told, false).await, left);
    assert_eq!(broker.journal("ca_keys_dropped").len(), 1);
}

/// I10: dropping is for a root that somebody else has, so it does not wait for the next one's time.
#[tokio::test]
async fn i10_dropping_the_old_root_makes_the_next_one_sign_at_once() {
    let broker = TestBroker::start().await;
    let ca = ca(&broker).await;
    let old = svid(&ca).0;
    rotate(&broker, &ca, false, "r").await.unwrap();
    let next = roots(&broker, &ca)[1].id.clone();
    let left = drop_old(&broker, &ca, false).await;
    assert_eq!((states(&left), &left[0].id), (vec!["active"], &next));
    assert!(judged(&ca, &old).is_err());
    judged(&ca, &svid(&ca).0).unwrap();
    let name = format!("ca/{DOMAIN}");
    let place = DocumentPlace::new(DocumentKind::Meta, &name);
    let stored = broker.store.document(place.kind, &name).await;
    let stored = stored.unwrap().unwrap();
    let opened = broker.ledger.records.open_document(place, &stored).unwrap();
    let root = broker.ledger.root();
    let text = root.unwrap(place.name, opened.body()).unwrap();
    let text: serde_json::Value = serde_json::from_slice(text.expose()).unwrap();
    assert_eq!(text["keys"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn i10_a_retry_rotates_once_and_a_second_rotation_waits_for_the_first() {
    let broker = TestBroker::start().await;
    let ca = ca(&broker).await;
    rotate(&broker, &ca, false, "r").await.unwrap();
    let before = roots(&broker, &ca);
    rotate(&broker, &ca, false, "r").await.unwrap();
    assert_eq!(roots(&broker, &ca), before);
    let second = rotate(&broker, &ca, false, "s").await;
    assert_refused!(
        second,
        Refusal::Invalid {
            field: "rotation",
            ..
        }
    );
    // The other kind of key has rotations of its own.
    rotate(&broker, &ca, true, "s").await.unwrap();
    clock::testing::advance_to(before[0].retires_at_ms);
    rotate(&broker, &ca, false, "s").await.unwrap();
    assert_eq!(states(&roots(&broker, &ca)), ["active", "next"]);
    assert_eq!(broker.journal("ca_rotated").len(), 3);
}

/// I10: no token is refused in its life, and none lives on when its key is gone.
#[tokio::test]
async fn i10_no_jwt_svid_is_refused_in_its_life_while_its_key_is_rotated() {
    let broker = TestBroker::start().await;
    let other = broker.beside().await;
    let cas = [ca(&broker).await, ca(&other).await];
    rotate(&broker, &cas[0], true, "r").await.unwrap();
    caught_up(&other).await;
    cas[1].refresh().await.unwrap();
    let until_ms = clock::now_ms() + 2 * HOUR_MS;
    let mut held: Vec<(String, i64)> = Vec::new();
    while clock::now_ms() < until_ms {
        held.retain(|(_, expires_ms)| clock::now_ms() < *expires_ms);
        held.extend(cas.iter().map(token));
        for (token, _) in &held {
            assert!(cas.iter().all(|by| verifies(by, token)));
        }
        clock::testing::advance_to(clock::now_ms() + 60_000);
    }
    let keys = cas[1].show(&other.operator()).jwt_keys;
    assert_eq!(states(&keys), ["retired", "active"]);
    let bundle = cas[1].bundle().unwrap();
    let document = String::from_utf8_lossy(bundle.jwt().unwrap().document()).into_owned();
    assert!(document.contains(&keys[1].id) && !document.contains(&keys[0].id));

    let (old, _) = token(&cas[0]);
    rotate(&broker, &cas[0], true, "s").await.unwrap();
    drop_old(&broker, &cas[0], true).await;
    assert!(!verifies(&cas[0], &old));
    assert!(verifies(&cas[0], &token(&cas[0]).0));
}

/// L22: who writes the store brings no root back that was dropped.
#[tokio::test]
async fn l22_the_document_of_before_does_not_bring_a_dropped_root_back() {
    let broker = TestBroker::start().await;
    let ca = ca(&broker).await;
    let name = format!("ca/{DOMAIN}");
    let read = || broker.store.document(DocumentKind::Meta, &name);
    let old_svid = svid(&ca).0;
    let first = read().await.unwrap();
    rotate(&broker, &ca, false, "r").await.unwrap();
    drop_old(&broker, &ca, false).await;
    let current = read().await.unwrap();
    let put = |before: Option<Vec<u8>>, after: Option<Vec<u8>>| {
        let (store, name) = (&broker.store, name.clone());
        async move {
            let replaced = store.replace_document(
                DocumentKind::Meta,
                &name,
                before.as_deref(),
                after.as_deref(),
            );
            assert!(replaced.await.unwrap());
        }
    };
    put(current.clone(), first.clone()).await;
    ca.refresh().await.unwrap();
    assert!(judged(&ca, &old_svid).is_err());
    let again = Ca::open(&broker.ledger, domain(), (Ttl::HOUR, Ttl::MONTH)).await;
    assert!(again.is_err());
    broker.ledger.look_at_documents().await.unwrap();
    let problems = broker.ledger.records.document_problems().join("\n");
    assert!(problems.contains("CA keys"), "{problems}");
    // A broker that still has the right ones writes them anew.
    drop_old(&broker, &ca, false).await;
    let again = Ca::open(&broker.ledger, domain(), (Ttl::HOUR, Ttl::MONTH))
        .await
        .unwrap();
    judged(&again, &svid(&ca).0).unwrap();
}

/// L21: keys only come: a backup from before a rotation brings no dropped root back, and brokers
/// follow the epoch that it begins.
#[tokio::test]
async fn l21_a_backup_from_before_a_rotation_keeps_the_newer_root() {
    let broker = TestBroker::start().await;
    let ca = ca(&broker).await;
    let old = svid(&ca).0;
    let store = Arc::clone(broker.ledger.records.store());
    let root = Arc::new(RootKey::new(&[0x7a; 32]).unwrap());
    let backup = Backup::take(&*store, &root, clock::now_ms());
    let backup = backup.await.unwrap();
    rotate(&broker, &ca, false, "r").await.unwrap();
    drop_old(&broker, &ca, false).await;
    let new = svid(&ca).0;
    for mode in [RestoreMode::Fill, RestoreMode::NewEpoch] {
        let restored = restore(&store, &root, &backup, mode, clock::now_ms()).await;
        drop(restored.unwrap());
        caught_up(&broker).await;
        ca.refresh().await.unwrap();
        let again = Ca::open(&broker.ledger, domain(), (Ttl::HOUR, Ttl::MONTH))
            .await
            .unwrap();
        for by in [&ca, &again] {
            judged(by, &new).unwrap();
            assert!(judged(by, &old).is_err());
        }
    }
    assert!(broker.ledger.records.document_problems().is_empty());
    rotate(&broker, &ca, false, "s").await.unwrap();
    assert_eq!(states(&roots(&broker, &ca)), ["active", "next"]);
}

/// The keys of a version that knew no rotation are read, and rotate.
#[tokio::test]
async fn keys_from_before_there_were_rotations_go_on_and_rotate() {
    let broker = TestBroker::start().await;
    let root = super::authority::RootAuthority::create(&domain()).unwrap();
    let jwt = super::jwt_authority::JwtAuthority::create(&domain()).unwrap();
    let text = json!({ "certificate": root.certificate, "key": root.key }).to_string();
    for (name, plain) in [("ca", text.as_bytes()), ("jwt", &jwt.key)] {
        let name = format!("{name}/{DOMAIN}");
        let sealed = broker.ledger.root().wrap(&name, plain).unwrap();
        let store = &broker.store;
        let put = store.replace_document(DocumentKind::Meta, &name, None, Some(&sealed));
        assert!(put.await.unwrap());
    }
    let ca = ca(&broker).await;
    let (svid, bundle) = svid(&ca);
    assert_eq!(bundle, [CertificateDer::from(root.certificate.clone())]);
    let (token, _) = token(&ca);
    rotate(&broker, &ca, false, "r").await.unwrap();
    rotate(&broker, &ca, true, "r").await.unwrap();
    let again = Ca::open(&broker.ledger, domain(), (Ttl::HOUR, Ttl::MONTH))
        .await
        .unwrap();
    judged(&again, &svid).unwrap();
    assert!(verifies(&again, &token));
    assert_eq!(states(&roots(&broker, &again)), ["active", "next"]);
}

/// Clients on gRPC's C library, and most others that are not SPIFFE's, look for a DNS name.
#[tokio::test]
async fn i9_the_brokers_own_svid_has_the_dns_names_of_the_configuration() {
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    let broker = TestBroker::start().await;
    let ca = ca(&broker).await;
    let names = ["sundew.internal", "localhost"].map(|name| DnsName::try_from(name).unwrap());
    let (own, _) = ca.issue_own(&agent(), &names).unwrap();
    assert!(judged(&ca, &own.chain).is_ok());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.bundle[0].clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider);
    let verifier = verifier.build().unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_millis(
        u64::try_from(clock::now_ms()).unwrap(),
    ));
    let is_server = |chain: &Chain, name: &str| {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let verified = verifier.verify_server_cert(&chain[0], &[], &name, &[], now);
        verified.is_ok()
    };
    assert!(is_server(&own.chain, "sundew.internal") && is_server(&own.chain, "localhost"));
    assert!(!is_server(&own.chain, "other.internal"));
    // Nobody else gets one.
    let (plain, _) = svid(&ca);
    assert!(!is_server(&plain, "sundew.internal"));
}
