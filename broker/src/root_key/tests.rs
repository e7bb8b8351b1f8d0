//! A whole rotation of the root key over one store, each broker under the keys of its step (I10).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use sundew_core::store::{DocumentKind, Store as _};
use sundew_core::{Event, RootKey, TaskId};
use sundew_proto::v1;

use crate::clock;
use crate::records::{DocumentPlace, Records};
use crate::refusal::Refusal;
use crate::testing::documents::{KINDS, caught_up, name, put, put_back, stored};
use crate::testing::{Agent, Begun, TestBroker, assert_refused};

fn former() -> RootKey {
    RootKey::new(&[0x7a; 32]).unwrap()
}

fn next() -> RootKey {
    RootKey::new(&[0x7b; 32]).unwrap()
}

async fn rewrite(broker: &TestBroker, check: bool) -> v1::RewriteUnderRootKeyResponse {
    let request = v1::RewriteUnderRootKeyRequest { check };
    let room = Arc::clone(&broker.rooms.root_keys);
    room.rewrite(broker.operator(), request).await.unwrap()
}

/// What is left, by kind.
fn left(answer: &v1::RewriteUnderRootKeyResponse) -> Vec<(&str, u64)> {
    let rows = answer.left.iter().filter(|left| left.count > 0);
    rows.map(|left| (left.kind.as_str(), left.count)).collect()
}

fn selector(path: &str) -> v1::Selector {
    v1::Selector {
        spiffe_id: format!("spiffe://test.example{path}"),
        ..v1::Selector::default()
    }
}

fn by_serial() -> v1::Selector {
    v1::Selector {
        svid_serial: "abcd".to_owned(),
        ..v1::Selector::default()
    }
}

async fn begin_named(broker: &TestBroker, agent: &Agent) -> Result<Begun, Refusal> {
    let request = v1::BeginTaskRequest {
        idempotency_key: "the-task".to_owned(),
        ..agent.request(&["exec:git"])
    };
    broker.begin(request, agent).await
}

fn named(begun: &Begun) -> v1::MintTokenRequest {
    v1::MintTokenRequest {
        idempotency_key: "the-token".to_owned(),
        ..begun.mint()
    }
}

#[tokio::test]
async fn i10_a_retry_gets_the_same_task_and_token_whichever_key_is_active() {
    let one = TestBroker::start().await;
    one.register("/agent", json!({})).await;
    let agent = one.agent("/agent");
    let begun = begin_named(&one, &agent).await.unwrap();
    let minted = one.mint(named(&begun), &agent).await.unwrap();

    let two = one
        .beside_under(next().accepting([former()]).unwrap())
        .await;
    let again = begin_named(&two, &agent).await.unwrap();
    assert_eq!(
        (&again.id, &again.token.token),
        (&begun.id, &begun.token.token)
    );
    let again = two.mint(named(&begun), &agent).await.unwrap();
    assert_eq!(again.token, minted.token);
    // A token of the other broker's making, for a task of the former key.
    let further = two.mint(begun.mint(), &agent).await.unwrap();
    for token in [&begun.token, &minted, &further] {
        assert!(two.is_active(token, &agent).await);
    }

    // What began under the new key is known to a broker that has it as an accepted one.
    let late = two
        .begin(agent.request(&["exec:git"]), &agent)
        .await
        .unwrap();
    let other = v1::BeginTaskRequest {
        idempotency_key: "another-task".to_owned(),
        ..agent.request(&["exec:git"])
    };
    let under_next = two.begin(other, &agent).await.unwrap();
    let three = one
        .beside_under(former().accepting([next()]).unwrap())
        .await;
    let other = v1::BeginTaskRequest {
        idempotency_key: "another-task".to_owned(),
        ..agent.request(&["exec:git"])
    };
    let again = three.begin(other, &agent).await.unwrap();
    assert_eq!(
        (again.id, again.token.token),
        (under_next.id, under_next.token.token)
    );
    let token = three.mint(late.mint(), &agent).await.unwrap();
    assert!(two.is_active(&token, &agent).await);

    // A broker without the key refuses what is under it, and answers nothing about it.
    let store = Arc::clone(one.ledger.records.store());
    let only = Records::new(store, Arc::new(next()));
    let id = TaskId::parse(&begun.id).unwrap();
    let refused = only.read_task(id).await;
    assert_refused!(refused.map(drop), Refusal::Seal { what: "task", .. });
}

#[tokio::test]
async fn i10_a_key_of_a_task_that_ended_under_the_former_key_begins_no_other() {
    let one = TestBroker::start().await;
    one.register("/agent", json!({})).await;
    let agent = one.agent("/agent");
    let begun = begin_named(&one, &agent).await.unwrap();
    let selector = v1::Selector {
        task_id: begun.id.clone(),
        ..v1::Selector::default()
    };
    one.respond(selector, v1::Effect::Revoke).await;
    let two = one
        .beside_under(next().accepting([former()]).unwrap())
        .await;
    caught_up(&two).await;
    assert_refused!(begin_named(&two, &agent).await, Refusal::TaskDead(_));
}

#[tokio::test]
async fn i10_after_the_rewrite_nothing_that_stays_needs_the_former_key() {
    let one = TestBroker::start().await;
    for kind in KINDS {
        put(&one, kind, 1).await.unwrap().unwrap();
    }
    // A rule about the SVIDs of a deleted registration stands as long as an SVID may live.
    one.register("/gone", json!({})).await;
    let gone = v1::DeleteWorkloadRequest {
        spiffe_id: "spiffe://test.example/gone".to_owned(),
    };
    let registry = Arc::clone(&one.rooms.registry);
    registry
        .delete_workload(one.operator(), gone)
        .await
        .unwrap();
    one.respond(by_serial(), v1::Effect::Revoke).await;
    one.put_secret("gone", "v").await;
    let gone = v1::DeleteSecretRequest {
        name: "gone".to_owned(),
    };
    let secrets = Arc::clone(&one.rooms.secrets);
    secrets.delete_secret(one.operator(), gone).await.unwrap();
    let agent = one.agent("/agent");
    let begun = begin_named(&one, &agent).await.unwrap();
    let held = one.respond(selector("/held"), v1::Effect::Quarantine).await;
    let lifted = one.respond(selector("/free"), v1::Effect::Quarantine).await;
    let lift = v1::LiftRequest {
        revocation_id: lifted.clone(),
        reason: "test".to_owned(),
    };
    let responses = Arc::clone(&one.rooms.responses);
    responses.lift(one.operator(), lift).await.unwrap();
    one.respond(selector("/dead"), v1::Effect::Revoke).await;
    one.die();

    let two = one
        .beside_under(next().accepting([former()]).unwrap())
        .await;
    caught_up(&two).await;
    let versions = versions(&two).await;
    let about_svids = rules_about_svids(&two);
    assert!(
        about_svids.len() >= 2,
        "of a deletion, and by serial number"
    );
    let bytes = stored(&two, DocumentKind::Secret).await;
    let told = rewrite(&two, true).await;
    assert_eq!(
        (told.rewritten, &told.active),
        (0, &next().active().to_string())
    );
    let kinds: Vec<_> = left(&told).iter().map(|(kind, _)| *kind).collect();
    for kind in ["agreement", "document", "entry", "task"] {
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
    assert_eq!(
        stored(&two, DocumentKind::Secret).await,
        bytes,
        "it was only a look"
    );

    let told = rewrite(&two, false).await;
    assert!(told.rewritten > 8, "{told:?}");
    // Only what ends by itself is left, and it says when.
    for left in &told.left {
        assert!(
            ["entry", "task"].contains(&&*left.kind) || left.count == 0,
            "{left:?}"
        );
        let days = |count: i64| clock::now_ms() + count * 24 * 3_600_000;
        assert!(
            (days(0)..days(2)).contains(&left.until_ms) || left.count == 0,
            "{left:?}"
        );
    }
    assert_eq!(
        rewrite(&two, false).await.rewritten,
        0,
        "a repetition finds nothing"
    );
    assert!(two.is_active(&begun.token, &agent).await);
    caught_up(&two).await;
    assert_eq!(self::versions(&two).await, versions);
    assert_eq!(two.journal("root_key_rewriting").len(), 2);

    // A day later, tasks and endings of the time before are gone from the store, and so is the key.
    clock::testing::advance(std::time::Duration::from_secs(26 * 3600));
    let four = two
        .beside_under(next().accepting([former()]).unwrap())
        .await;
    four.ledger.log.forget().await.unwrap();
    two.store.trim_log(clock::now_ms(), &[]).await.unwrap();
    let three = one.beside_under(next()).await;
    caught_up(&three).await;
    for kind in KINDS {
        let name = name(kind);
        let place = DocumentPlace::new(kind, &name);
        assert!(is_there(&three, place).await, "{kind:?}");
        // A retry of what was done under the former key, which nobody can know any more.
        if kind != DocumentKind::Meta {
            put(&three, kind, 2).await.unwrap().unwrap();
        }
    }
    let rules: Vec<_> = {
        let view = three.ledger.log.view().unwrap();
        let rules = view.active_rules();
        rules.iter().map(|(_, entry, _)| entry.id).collect()
    };
    assert_eq!(rules_about_svids(&three), about_svids);
    let name = |id: &sundew_core::EntryId| format!("rev-{}", hex::encode(id.0));
    let names: Vec<_> = rules.iter().map(name).collect();
    assert!(
        names.contains(&held) && !names.contains(&lifted),
        "{names:?}"
    );
    assert!(three.ledger.records.document_problems().is_empty());
    three.ledger.look_at_documents().await.unwrap();
    assert!(three.ledger.records.document_problems().is_empty());
}

/// The names of the rules about SVIDs that a broker knows.
fn rules_about_svids(broker: &TestBroker) -> BTreeSet<[u8; 16]> {
    let view = broker.ledger.log.view().unwrap();
    let rules = view.active_rules().into_iter().filter(|(_, entry, _)| {
        matches!(&entry.event, Event::Rule { selector, .. } if selector.is_about_svids())
    });
    rules.map(|(_, entry, _)| entry.id.0).collect()
}

/// Whether a broker reads a document.
async fn is_there(broker: &TestBroker, place: DocumentPlace<'_>) -> bool {
    let document = broker.ledger.records.document(place).await;
    document.unwrap().is_some()
}

/// The versions of all documents, as the store has them.
async fn versions(broker: &TestBroker) -> Vec<(String, u64)> {
    let found = broker.ledger.records.look_at_documents().await.unwrap();
    let mut versions: Vec<_> = found
        .into_iter()
        .map(|statement| (statement.name, statement.version))
        .collect();
    versions.sort();
    versions
}

#[tokio::test]
async fn i10_what_is_under_a_key_that_was_removed_is_refused_as_altered() {
    let one = TestBroker::start().await;
    put(&one, DocumentKind::Secret, 1).await.unwrap().unwrap();
    let old = stored(&one, DocumentKind::Secret).await.unwrap();
    let two = one
        .beside_under(next().accepting([former()]).unwrap())
        .await;
    caught_up(&two).await;
    rewrite(&two, false).await;
    let three = one.beside_under(next()).await;
    let place = DocumentPlace::new(DocumentKind::Secret, "app/db");
    assert!(is_there(&three, place).await);
    put_back(&three, DocumentKind::Secret, Some(&old)).await;
    let refused = three.ledger.records.document(place).await;
    assert_refused!(refused.map(drop), Refusal::Seal { .. });
    // The broker that still accepts the key does not take an older version either.
    assert!(is_there(&two, place).await);
    assert_eq!(left(&rewrite(&three, true).await), [("document", 1)]);
}

/// The last entry of a log stays for as long as it is the last.
#[tokio::test]
async fn i10_the_last_entry_from_before_the_rotation_leaves_the_log_too() {
    let one = TestBroker::start().await;
    one.respond(selector("/agent"), v1::Effect::Revoke).await;
    let two = one
        .beside_under(next().accepting([former()]).unwrap())
        .await;
    caught_up(&two).await;
    let told = rewrite(&two, false).await;
    assert_eq!(left(&told), [("entry", 1)]);
    let until_ms = told.left[0].until_ms;
    clock::testing::advance(std::time::Duration::from_secs(26 * 3600));
    assert!(until_ms < clock::now_ms(), "it says when");
    two.ledger.log.forget().await.unwrap();
    assert_eq!(left(&rewrite(&two, true).await), []);
}

#[tokio::test]
async fn i10_a_retry_of_an_operator_is_known_under_either_key() {
    let one = TestBroker::start().await;
    put(&one, DocumentKind::Secret, 1).await.unwrap().unwrap();
    put(&one, DocumentKind::Meta, 1).await.unwrap().unwrap();
    let request = || v1::RevokeRequest {
        selector: Some(selector("/agent")),
        effect: v1::Effect::Quarantine.into(),
        reason: "test".to_owned(),
        idempotency_key: "once".to_owned(),
    };
    let responses = Arc::clone(&one.rooms.responses);
    let first = responses.revoke(one.operator(), request()).await.unwrap();
    let before = [
        stored(&one, DocumentKind::Secret).await,
        stored(&one, DocumentKind::Meta).await,
    ];
    let two = one
        .beside_under(next().accepting([former()]).unwrap())
        .await;
    caught_up(&two).await;
    put(&two, DocumentKind::Secret, 1).await.unwrap().unwrap();
    put(&two, DocumentKind::Meta, 1).await.unwrap().unwrap();
    let after = [
        stored(&two, DocumentKind::Secret).await,
        stored(&two, DocumentKind::Meta).await,
    ];
    assert_eq!(after, before);
    let responses = Arc::clone(&two.rooms.responses);
    let second = responses.revoke(two.operator(), request()).await.unwrap();
    assert_eq!(second.revocation_id, first.revocation_id);
}
