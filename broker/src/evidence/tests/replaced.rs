//! E9: what an item takes away when it is replaced, or when it is a revocation list.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::add_content;
use crate::clock;
use crate::store::embedded::Refused;
use crate::testing::documents::caught_up;
use crate::testing::{Agent, Begun, TestBroker};

/// A root of enclaves.
struct Root(CertificateParams, KeyPair, String);

impl Root {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self(params, key, pem)
    }

    fn pem(&self) -> &str {
        &self.2
    }

    /// A list of these serial numbers.
    fn list(&self, serials: &[u64]) -> Vec<u8> {
        let now = OffsetDateTime::from_unix_timestamp(clock::now_ms().div_euclid(1000)).unwrap();
        let taken_back = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + Duration::days(30),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(taken_back).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.0, &self.1);
        params.signed_by(&issuer).unwrap().der().to_vec()
    }
}

/// A broker that trusts a root, and an agent with a task, who might have shown an enclave below it.
async fn with_root(root: &Root) -> (TestBroker, Agent, Begun) {
    let broker = TestBroker::start().await;
    trust(&broker, "nitro", root.pem().as_bytes()).await;
    let mut document = broker.registration("/agent", json!({}));
    let enclave = json!({ "kind": "nitro", "claims": { "pcr0": ["00"] } });
    let manifest = document["evidence"][0].take();
    document["evidence"] = json!([{ "any_of": [manifest, enclave] }]);
    broker.register("/agent", document).await;
    let agent = broker.agent("/agent");
    let begun = broker.begin(agent.request(&["exec:git"]), &agent).await;
    (broker, agent, begun.unwrap())
}

/// Adds an item, and returns how many revocations that made.
async fn trust(broker: &TestBroker, kind: &str, content: &[u8]) -> usize {
    let added = add_content(broker, kind, "aws", content).await.unwrap();
    added.revocations.len()
}

#[tokio::test]
async fn e9_replacing_an_item_by_one_that_lacks_something_ends_what_rests_on_it() {
    let root = Root::new("one");
    let (broker, agent, begun) = with_root(&root).await;
    let more = format!("{}{}", Root::new("other").pem(), root.pem());
    assert_eq!(trust(&broker, "nitro", more.as_bytes()).await, 0);
    assert!(broker.is_active(&begun.token, &agent).await);
    let other = Root::new("third");
    let other = other.pem();
    assert_eq!(trust(&broker, "nitro", other.as_bytes()).await, 1);
    assert!(!broker.is_active(&begun.token, &agent).await);
    // Whoever begins after it rests on what is trusted now.
    let later = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert_eq!(trust(&broker, "nitro", other.as_bytes()).await, 0);
    assert!(broker.is_active(&later.unwrap().token, &agent).await);
}

#[tokio::test]
async fn e9_a_revocation_list_ends_what_may_rest_on_what_it_takes_back() {
    let root = Root::new("one");
    let (broker, agent, begun) = with_root(&root).await;
    assert_eq!(trust(&broker, "crl", &root.list(&[])).await, 0);
    assert!(broker.is_active(&begun.token, &agent).await);
    assert_eq!(trust(&broker, "crl", &root.list(&[7])).await, 1);
    assert!(!broker.is_active(&begun.token, &agent).await);
    let later = broker.begin(agent.request(&["exec:git"]), &agent).await;
    assert_eq!(trust(&broker, "crl", &root.list(&[7, 7])).await, 0);
    assert!(broker.is_active(&later.unwrap().token, &agent).await);
}

/// L5: the broker died between the replacement and its endings; the registrar repeats it at another
/// one.
#[tokio::test]
async fn e9_a_retry_of_a_replacement_that_broke_off_ends_what_rests_on_it() {
    let root = Root::new("one");
    let (one, agent, begun) = with_root(&root).await;
    let other = Root::new("other");
    let other = other.pem();
    *one.store.refuses.lock().unwrap() = Some(Refused::Entries);
    let broken_off = add_content(&one, "nitro", "aws", other.as_bytes()).await;
    assert!(broken_off.is_err());
    one.die();
    *one.store.refuses.lock().unwrap() = None;
    let two = one.beside().await;
    caught_up(&two).await;
    assert!(two.is_active(&begun.token, &agent).await);
    assert_eq!(trust(&two, "nitro", other.as_bytes()).await, 1);
    assert!(!two.is_active(&begun.token, &agent).await);
}
