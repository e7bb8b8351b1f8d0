//! The first operator of a store, and the one of an emergency, over a store without a process.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, SigningKey as _};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use sundew_attestation::dsse::{Envelope, pre_authentication_encoding};
use sundew_attestation::spiffe::{BundleSet, SpiffeId, validate_chain};
use sundew_core::Ttl;
use sundew_core::store::{DocumentKind, Store as _};
use sundew_proto::v1;

use super::break_glass::PAYLOAD_TYPE;
use super::{BreakGlass, Owner, OwnerError, OwnerSvids, Person};
use crate::clock;
use crate::enrollment::tests::room_of;
use crate::records::FIRST_OPERATOR;
use crate::role::{Operators, Reach, Role, Roles};
use crate::testing::documents::caught_up;
use crate::testing::{DOMAIN, TestBroker};

const META: DocumentKind = DocumentKind::Meta;

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{DOMAIN}{path}")).unwrap()
}

/// Two persons and a stranger, with keys.
fn keys() -> [KeyPair; 3] {
    [(); 3].map(|()| KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap())
}

/// The room of the owner of a folder, at this broker.
struct Room {
    owner: Owner,
    given: OwnerSvids,
    uid: u32,
    folder: tempfile::TempDir,
}

async fn room(broker: &TestBroker, keys: &[KeyPair]) -> Room {
    room_with(broker, keys, Ttl::HOUR).await
}

/// The room at a broker whose CA gives SVIDs for so long.
async fn room_with(broker: &TestBroker, keys: &[KeyPair], ttl: Ttl) -> Room {
    let roles = [
        ("/boss", Role::Registrar),
        ("/emergency", Role::Responder),
        ("/guard", Role::Responder),
    ];
    let roles: BTreeMap<_, _> = roles
        .into_iter()
        .map(|(path, role)| (id(path), Roles::from([(role, Reach::Unbounded)])))
        .collect();
    let persons = keys.iter().take(2).zip(["ann", "bob"]);
    let person = |(key, name): (&KeyPair, &str)| Person {
        name: name.to_owned(),
        key: key.public_key_pem(),
    };
    let break_glass = (!keys.is_empty()).then(|| BreakGlass {
        spiffe_id: id("/emergency"),
        persons: persons.map(person).collect(),
    });
    let folder = tempfile::tempdir().unwrap();
    let uid = folder.path().metadata().unwrap().uid();
    let given = OwnerSvids::default();
    let owner = Owner::new(
        room_of(broker, Some(DOMAIN), (ttl, 1)).await,
        Arc::new(Operators::new(roles)),
        folder.path().to_owned(),
        break_glass,
        given.clone(),
    );
    Room {
        owner,
        given,
        uid,
        folder,
    }
}

fn csr_of(key: &KeyPair) -> Vec<u8> {
    let request = CertificateParams::default().serialize_request(key);
    request.unwrap().der().to_vec()
}

fn csr() -> Vec<u8> {
    csr_of(&KeyPair::generate().unwrap())
}

impl Room {
    async fn bootstrap(&self, path: &str, csr: Vec<u8>) -> Result<v1::Svid, OwnerError> {
        let spiffe_id = match path {
            "" => String::new(),
            path => id(path).to_string(),
        };
        let request = v1::BootstrapRequest { spiffe_id, csr };
        self.owner.bootstrap(self.uid, request).await
    }

    async fn ask(&self, reason: &str) -> Result<Vec<u8>, OwnerError> {
        let request = v1::AskBreakGlassRequest {
            spiffe_id: String::new(),
            csr: csr(),
            reason: reason.to_owned(),
        };
        let asked = self.owner.ask_break_glass(self.uid, request).await?;
        Ok(asked.statement)
    }

    async fn redeem(&self, statement: &[u8], keys: &[&KeyPair]) -> Result<v1::Svid, OwnerError> {
        let mut envelope = Envelope::unsigned(PAYLOAD_TYPE, statement);
        let message = pre_authentication_encoding(PAYLOAD_TYPE, statement);
        for key in keys {
            envelope.add("", &key.sign(&message).unwrap());
        }
        let request = v1::BreakGlassRequest {
            envelope: serde_json::to_vec(&envelope).unwrap(),
        };
        self.owner.break_glass(self.uid, request).await
    }

    /// What brokers find in an SVID.
    fn verified(&self, svid: &v1::Svid) -> (SpiffeId, i64) {
        let chain: Vec<_> = svid
            .certificates
            .iter()
            .cloned()
            .map(CertificateDer::from)
            .collect();
        let mut bundles = BundleSet::default();
        bundles.insert(self.owner.enrollment.own_ca().unwrap().bundle().unwrap());
        let svid = validate_chain(&chain, &bundles, clock::now_ms() / 1000).unwrap();
        (svid.id().clone(), svid.not_after_ms())
    }
}

fn events(broker: &TestBroker, event: &str) -> usize {
    broker.journal(event).len()
}

#[tokio::test]
async fn i10_the_first_operator_is_given_once_for_all_brokers_of_a_store() {
    let one = TestBroker::start().await;
    let two = one.beside().await;
    let (first, second) = (room(&one, &[]).await, room(&two, &[]).await);
    let key = KeyPair::generate().unwrap();
    let svid = first.bootstrap("", csr_of(&key)).await.unwrap();
    let (who, ends_ms) = first.verified(&svid);
    assert_eq!(who, id("/boss"));
    assert_eq!(
        (
            events(&one, "operator_bootstrapped"),
            first.given.bootstrap.get()
        ),
        (1, 1)
    );

    // A repetition of the request whose answer was lost ends when the first did.
    clock::testing::advance(Duration::from_secs(600));
    let again = first.bootstrap("/boss", csr_of(&key)).await.unwrap();
    assert_eq!(first.verified(&again), (id("/boss"), ends_ms));
    assert_eq!(events(&one, "operator_bootstrapped"), 1);

    caught_up(&two).await;
    for room in [&first, &second] {
        let refused = room.bootstrap("/boss", csr()).await;
        assert!(matches!(refused, Err(OwnerError::Bootstrapped(_))));
    }
    // Also at one that starts later, and for the first key once its SVID has ended.
    let three = two.beside().await;
    three.fresh().await;
    let third = room(&three, &[]).await;
    assert!(third.bootstrap("", csr()).await.is_err());
    clock::testing::advance(Ttl::HOUR.to_std());
    for broker in [&one, &three] {
        broker.fresh().await;
    }
    for room in [&first, &third] {
        let refused = room.bootstrap("/boss", csr_of(&key)).await;
        assert!(matches!(refused, Err(OwnerError::Bootstrapped(_))));
    }
    assert_eq!(
        (second.given.bootstrap.get(), third.given.bootstrap.get()),
        (0, 0)
    );
}

/// L22: whoever writes the store makes no second first operator.
#[tokio::test]
async fn i10_a_record_that_was_taken_away_or_forged_gives_no_second_first_operator() {
    let one = TestBroker::start().await;
    let two = one.beside().await;
    let first = room(&one, &[]).await;
    first.bootstrap("", csr()).await.unwrap();
    caught_up(&two).await;
    let second = room(&two, &[]).await;
    let stored = one
        .store
        .document(META, FIRST_OPERATOR)
        .await
        .unwrap()
        .unwrap();
    let mut now = Some(stored.clone());
    let mut flipped = stored.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for bytes in [None, Some(flipped), Some(b"x".to_vec())] {
        let replaced =
            one.store
                .replace_document(META, FIRST_OPERATOR, now.as_deref(), bytes.as_deref());
        assert!(replaced.await.unwrap());
        now = bytes;
        for room in [&first, &second] {
            let refused = room.bootstrap("", csr()).await;
            assert!(matches!(refused, Err(OwnerError::Bootstrapped(_))));
        }
        let records = &one.ledger.records;
        records.look_at_documents().await.unwrap();
        let problems = records.document_problems().join("\n");
        assert!(problems.contains(FIRST_OPERATOR), "{problems}");
    }
    assert_eq!(
        events(&one, "operator_bootstrapped") + events(&two, "operator_bootstrapped"),
        1
    );
}

#[tokio::test]
async fn i10_only_the_owner_of_the_state_gets_an_operator_and_only_one_of_the_configuration() {
    let broker = TestBroker::start().await;
    let keys = keys();
    let room = room(&broker, &keys).await;
    let (owner, other) = (&room.owner, room.uid + 1);
    let bootstrap = v1::BootstrapRequest {
        spiffe_id: String::new(),
        csr: csr(),
    };
    let refused = owner.bootstrap(other, bootstrap).await;
    assert!(matches!(refused, Err(OwnerError::NotOwner { asks, .. }) if asks == other));
    let ask = v1::AskBreakGlassRequest {
        csr: csr(),
        reason: "r".to_owned(),
        ..v1::AskBreakGlassRequest::default()
    };
    let refused = owner.ask_break_glass(other, ask).await;
    assert!(matches!(refused, Err(OwnerError::NotOwner { .. })));
    let refused = owner
        .break_glass(other, v1::BreakGlassRequest::default())
        .await;
    assert!(matches!(refused, Err(OwnerError::NotOwner { .. })));

    for path in ["/stranger", "/guard", "/boss/x"] {
        let refused = room.bootstrap(path, csr()).await;
        assert!(matches!(refused, Err(OwnerError::NotOperator(_))), "{path}");
    }
    let refused = room.bootstrap("/boss", b"no request".to_vec()).await;
    assert!(matches!(refused, Err(OwnerError::Refused(_))));
    owner.operators.replace(BTreeMap::new());
    assert!(matches!(
        room.bootstrap("", csr()).await,
        Err(OwnerError::NoOperator)
    ));
    let registrar = Roles::from([(Role::Registrar, Reach::Unbounded)]);
    let both = ["/boss", "/second"].map(|path| (id(path), registrar.clone()));
    owner.operators.replace(both.into());
    assert!(matches!(
        room.bootstrap("", csr()).await,
        Err(OwnerError::Several(_))
    ));
    assert_eq!(events(&broker, "operator_bootstrapped"), 0);
    // Nothing of that was the first time.
    room.bootstrap("/second", csr()).await.unwrap();
    std::fs::remove_dir(room.folder.path()).unwrap();
    assert!(matches!(
        room.bootstrap("/boss", csr()).await,
        Err(OwnerError::State(_))
    ));
}

#[tokio::test]
async fn i10_an_emergency_takes_two_persons_and_an_hour_at_most() {
    let broker = TestBroker::start().await;
    let keys = keys();
    let [ann, bob, stranger] = &keys;
    let room = room_with(&broker, &keys, Ttl::DAY).await;
    let statement = room.ask("the on-call lost her key").await.unwrap();
    let signed_by: [&[&KeyPair]; 6] = [
        &[],
        &[ann],
        &[ann, ann],
        &[bob, bob, bob],
        &[ann, stranger],
        &[stranger, stranger],
    ];
    for keys in signed_by {
        let refused = room.redeem(&statement, keys).await;
        assert!(
            matches!(refused, Err(OwnerError::Signatures(_))),
            "{}",
            keys.len()
        );
    }
    let mut other: Value = serde_json::from_slice(&statement).unwrap();
    other["reason"] = json!("another");
    let other = other.to_string().into_bytes();
    assert!(matches!(
        room.redeem(&other, &[ann, bob]).await,
        Err(OwnerError::NotAsked)
    ));
    assert_eq!(
        (events(&broker, "break_glass"), room.given.break_glass.get()),
        (0, 0)
    );

    let svid = room.redeem(&statement, &[bob, ann]).await.unwrap();
    let (who, ends_ms) = room.verified(&svid);
    assert_eq!(who, id("/emergency"));
    assert!(ends_ms <= clock::now_ms() + 3_600_000, "{ends_ms}");
    let records = broker.journal("break_glass");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].field("persons"), Some("ann, bob"));
    assert_eq!(records[0].field("reason"), Some("the on-call lost her key"));
    assert_eq!(room.given.break_glass.get(), 1);
    // Good once, for a while, and only the last one that was asked for.
    assert!(matches!(
        room.redeem(&statement, &[ann, bob]).await,
        Err(OwnerError::NotAsked)
    ));
    let former = room.ask("once").await.unwrap();
    let last = room.ask("twice").await.unwrap();
    assert!(matches!(
        room.redeem(&former, &[ann, bob]).await,
        Err(OwnerError::NotAsked)
    ));
    clock::testing::advance(Duration::from_secs(15 * 60));
    broker.fresh().await;
    assert!(matches!(
        room.redeem(&last, &[ann, bob]).await,
        Err(OwnerError::NotAsked)
    ));
    for reason in ["", "  ", "two\nlines", &"x".repeat(1025)] {
        assert!(matches!(room.ask(reason).await, Err(OwnerError::Reason)));
    }
    // What was said at another broker counts for nothing here.
    let two = broker.beside().await;
    let elsewhere = self::room(&two, &keys).await;
    let statement = elsewhere.ask("there").await.unwrap();
    assert!(matches!(
        room.redeem(&statement, &[ann, bob]).await,
        Err(OwnerError::NotAsked)
    ));
}

#[tokio::test]
async fn i10_an_emergency_is_none_where_nobody_is_named_or_its_svid_could_be_renewed() {
    let broker = TestBroker::start().await;
    let off = room(&broker, &[]).await;
    assert!(matches!(off.ask("r").await, Err(OwnerError::BreakGlassOff)));
    let keys = keys();
    let [ann, bob, _] = &keys;
    let room = room(&broker, &keys).await;
    let statement = room.ask("r").await.unwrap();
    broker.register("/emergency", json!({})).await;
    assert!(matches!(
        room.ask("r").await,
        Err(OwnerError::Registered(_))
    ));
    let refused = room.redeem(&statement, &[ann, bob]).await;
    assert!(matches!(refused, Err(OwnerError::Registered(_))));
}
