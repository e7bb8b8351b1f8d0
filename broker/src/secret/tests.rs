//! Stored secrets and their keyring over a store without a process.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sundew_core::store::DocumentKind;
use sundew_core::{SealError, SecretBytes};
use sundew_proto::v1;

use super::Secrets;
use crate::liveness::Subscriber;
use crate::refusal::Refusal;
use crate::testing::documents::{caught_up, put as put_form, put_back, stored};
use crate::testing::{TestBroker, assert_refused};

async fn put(broker: &TestBroker, request: v1::PutSecretRequest) -> Result<u64, Refusal> {
    let secrets = Arc::clone(&broker.rooms.secrets);
    let answer = secrets.put_secret(broker.operator(), request).await?;
    Ok(answer.version)
}

fn request(name: &str, value: &[u8], key: &str) -> v1::PutSecretRequest {
    v1::PutSecretRequest {
        name: name.to_owned(),
        value: value.to_vec(),
        idempotency_key: key.to_owned(),
    }
}

async fn rotate(broker: &TestBroker, key: &str) -> u32 {
    let secrets = Arc::clone(&broker.rooms.secrets);
    let request = v1::RotateKeyringRequest {
        idempotency_key: key.to_owned(),
    };
    let answer = secrets.rotate_keyring(broker.operator(), request).await;
    answer.unwrap().key_id
}

/// The value of a secret, opened under its name.
async fn value(secrets: &Secrets, name: &str) -> Result<Vec<u8>, Refusal> {
    let stored = secrets.read(name).await?.expect("a secret");
    let sealed = STANDARD.decode(&stored.sealed).unwrap();
    Ok(secrets.open(name, &sealed).await?.expose().to_vec())
}

async fn listed(broker: &TestBroker) -> Vec<v1::SecretInfo> {
    let secrets = Arc::clone(&broker.rooms.secrets);
    let answer = secrets.list_secrets(broker.operator(), v1::ListSecretsRequest {});
    answer.await.unwrap().secrets
}

#[tokio::test]
async fn a_secret_is_read_as_it_was_written_and_each_write_is_a_version() {
    let broker = TestBroker::start().await;
    let secrets = &broker.rooms.secrets;
    assert!(secrets.read("app/db").await.unwrap().is_none());
    for (written, version) in [(&b"one"[..], 1), (b"two", 2)] {
        let put = put(&broker, request("app/db", written, "")).await;
        assert_eq!(put.unwrap(), version);
        assert_eq!(value(secrets, "app/db").await.unwrap(), written);
    }
    let list = listed(&broker).await;
    assert_eq!((list[0].name.as_str(), list[0].version), ("app/db", 2));
    let text = serde_json::to_string(&broker.journal("secret_written")).unwrap();
    assert!(text.contains("app/db") && !text.contains("two"));
}

#[tokio::test]
async fn a_write_with_the_same_key_and_value_is_one_write() {
    let broker = TestBroker::start().await;
    for (written, version) in [(&b"one"[..], 1), (b"one", 1), (b"two", 2)] {
        let put = put(&broker, request("app/db", written, "once")).await;
        assert_eq!(put.unwrap(), version);
    }
    assert_eq!(broker.journal("secret_written").len(), 2);
}

#[tokio::test]
async fn each_malformed_field_of_a_write_is_named() {
    let broker = TestBroker::start().await;
    for (named, request) in [
        ("name", request("app//db", b"x", "")),
        ("name", request("app/*", b"x", "")),
        ("value", request("app/db", b"", "")),
        ("value", request("app/db", &[b'x'; 1025], "")),
        ("idempotency_key", request("app/db", b"x", "a b")),
    ] {
        match put(&broker, request).await {
            Err(Refusal::Invalid { field, .. }) => assert_eq!(field, named),
            Err(other) => panic!("{named}: {other}"),
            Ok(_) => panic!("{named} was taken"),
        }
    }
    assert!(listed(&broker).await.is_empty());
}

#[tokio::test]
async fn a_deleted_secret_is_gone_and_is_not_deleted_again() {
    let broker = TestBroker::start().await;
    broker.put_secret("app/db", "x").await;
    let delete = || {
        let request = v1::DeleteSecretRequest {
            name: "app/db".to_owned(),
        };
        Arc::clone(&broker.rooms.secrets).delete_secret(broker.operator(), request)
    };
    assert_eq!(delete().await.unwrap().action, "deleted");
    assert!(listed(&broker).await.is_empty());
    assert_eq!(delete().await.unwrap().action, "absent");
    assert_eq!(broker.journal("secret_deleted").len(), 1);
}

#[tokio::test]
async fn a_record_in_the_place_of_another_does_not_open() {
    let broker = TestBroker::start().await;
    broker.put_secret("app/db", "one").await;
    broker.put_secret("app/mail", "two").await;
    let store = broker.ledger.records.store();
    let kind = DocumentKind::Secret;
    let one = store.document(kind, "app/db").await.unwrap().unwrap();
    let two = store.document(kind, "app/mail").await.unwrap();
    let swapped = store.replace_document(kind, "app/mail", two.as_deref(), Some(&one));
    assert!(swapped.await.unwrap());
    let read = broker.rooms.secrets.read("app/mail").await;
    assert_refused!(read, Refusal::Seal { what: "secret", .. });
}

#[tokio::test]
async fn what_was_sealed_under_one_name_opens_under_no_other() {
    let broker = TestBroker::start().await;
    broker.put_secret("app/db", "one").await;
    let secrets = &broker.rooms.secrets;
    let stored = secrets.read("app/db").await.unwrap().unwrap();
    let sealed = STANDARD.decode(&stored.sealed).unwrap();
    let opened = secrets.open("app/mail", &sealed).await;
    assert_refused!(
        opened,
        Refusal::Seal {
            cause: SealError::Opening,
            ..
        }
    );
}

#[tokio::test]
async fn after_a_rotation_old_secrets_open_and_are_sealed_anew() {
    let broker = TestBroker::start().await;
    let secrets = &broker.rooms.secrets;
    broker.put_secret("app/db", "one").await;
    let before = listed(&broker).await[0].key_id;
    assert_eq!(secrets.reseal().await.unwrap(), 0);

    let key_id = rotate(&broker, "").await;
    assert!(key_id > before);
    assert_eq!(value(secrets, "app/db").await.unwrap(), b"one");
    broker.put_secret("app/mail", "two").await;
    let keys = |list: Vec<v1::SecretInfo>| {
        let mut keys: Vec<_> = list.into_iter().map(|s| (s.name, s.key_id)).collect();
        keys.sort();
        keys.into_iter().map(|(_, key)| key).collect::<Vec<_>>()
    };
    assert_eq!(keys(listed(&broker).await), [before, key_id]);

    assert_eq!(secrets.reseal().await.unwrap(), 1);
    assert_eq!(keys(listed(&broker).await), [key_id, key_id]);
    assert_eq!(value(secrets, "app/db").await.unwrap(), b"one");
    assert_eq!(listed(&broker).await[0].version, 1);
    assert_eq!(secrets.reseal().await.unwrap(), 0);
}

/// Lets an hour pass for what waits; answers how many documents were read in it.
async fn read_in_an_hour(broker: &TestBroker) -> usize {
    let count = || broker.store.documents_read.load(Ordering::Relaxed);
    let before = count();
    for _ in 0..120 {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(30)).await;
        tokio::time::resume();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    count() - before
}

#[tokio::test]
async fn a6_secrets_are_read_at_the_start_and_after_a_rotation_and_at_no_other_time() {
    let broker = TestBroker::start().await;
    for number in 0..10 {
        broker.put_secret(&format!("app/{number}"), "x").await;
    }
    let keeping = tokio::spawn(Arc::clone(&broker.rooms.secrets).keep_sealed());
    assert_eq!(read_in_an_hour(&broker).await, 20);
    assert_eq!(read_in_an_hour(&broker).await, 0);
    let key_id = rotate(&broker, "").await;
    while listed(&broker).await.iter().any(|s| s.key_id != key_id) {
        tokio::task::yield_now().await;
    }
    assert!(read_in_an_hour(&broker).await > 0);
    assert_eq!(read_in_an_hour(&broker).await, 0);
    // What an older key sealed may be in a store that lost something.
    Subscriber::on_gap(Arc::clone(&broker.rooms.secrets));
    assert!(read_in_an_hour(&broker).await >= 20);
    assert_eq!(read_in_an_hour(&broker).await, 0);
    keeping.abort();
}

#[tokio::test]
async fn a_rotation_with_the_same_key_is_one_rotation() {
    let broker = TestBroker::start().await;
    let first = rotate(&broker, "once").await;
    assert_eq!(rotate(&broker, "once").await, first);
    assert!(rotate(&broker, "twice").await > first);
    assert_eq!(broker.journal("keyring_rotated").len(), 2);
}

#[tokio::test]
async fn another_broker_opens_what_was_sealed_after_a_rotation_it_has_not_heard_of() {
    let broker = TestBroker::start().await;
    let other = Secrets::new(broker.ledger.clone(), 1024).unwrap();
    other.reload_keyring().await.unwrap();
    rotate(&broker, "").await;
    broker.put_secret("app/db", "one").await;
    assert_eq!(value(&other, "app/db").await.unwrap(), b"one");
}

/// L22: a keyring from before a rotation seals and opens nothing, also at a broker that began with
/// it.
#[tokio::test]
async fn l22_a_keyring_that_was_put_back_is_used_for_nothing() {
    let one = TestBroker::start().await;
    one.put_secret("app/db", "x").await;
    let kind = DocumentKind::Meta;
    let old = stored(&one, kind).await.unwrap();
    put_form(&one, kind, 1).await.unwrap().unwrap();
    put_back(&one, kind, Some(&old)).await;
    let two = one.beside().await;
    caught_up(&two).await;
    let secrets = two.rooms.secrets.clone();
    let put = secrets.put_secret(two.operator(), request("app/db", b"y", ""));
    assert_refused!(
        put.await,
        Refusal::Outdated {
            what: "keyring",
            ..
        }
    );
    let value = SecretBytes::new(vec![1]);
    let sealed = one.rooms.secrets.seal("app/db", &value).await.unwrap();
    let opened = two.rooms.secrets.open("app/db", &sealed).await;
    assert_refused!(
        opened,
        Refusal::Outdated {
            what: "keyring",
            ..
        }
    );
}

/// L22: whoever writes the store can take the keyring away, and that makes no broker useless.
#[tokio::test]
async fn l22_a_keyring_that_is_lost_for_good_is_replaced_by_a_rotation() {
    let one = TestBroker::start().await;
    let kind = DocumentKind::Meta;
    put_form(&one, kind, 1).await.unwrap().unwrap();
    // It only has what it made itself, before it read in the log that there was another one.
    put_back(&one, kind, None).await;
    one.die();
    let two = one.beside().await;
    caught_up(&two).await;
    let secrets = two.rooms.secrets.clone();
    let put = secrets.put_secret(two.operator(), request("app/db", b"y", ""));
    assert_refused!(
        put.await,
        Refusal::Outdated {
            what: "keyring",
            ..
        }
    );
    put_form(&two, kind, 2).await.unwrap().unwrap();
    two.put_secret("app/db", "y").await;
    let three = two.beside().await;
    caught_up(&three).await;
    let record = three.rooms.secrets.read("app/db").await.unwrap().unwrap();
    let sealed = STANDARD.decode(record.sealed).unwrap();
    three.rooms.secrets.open("app/db", &sealed).await.unwrap();
}
