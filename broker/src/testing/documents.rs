//! One document of each family, written, read and deleted by the rooms that own it.

use serde_json::json;
use sundew_core::Position;
use sundew_core::store::DocumentKind;
use sundew_proto::v1;

use super::{DOMAIN, TestBroker};
use crate::records::DocumentPlace;
use crate::refusal::Refusal;

/// The families whose documents have versions.
pub(crate) const KINDS: [DocumentKind; 5] = [
    DocumentKind::Engine,
    DocumentKind::Meta,
    DocumentKind::Secret,
    DocumentKind::Trust,
    DocumentKind::Workload,
];

/// The name of the document of a family that the tests change.
pub(crate) fn name(kind: DocumentKind) -> String {
    match kind {
        DocumentKind::Engine => "app/cache".to_owned(),
        DocumentKind::Meta => "keyring".to_owned(),
        DocumentKind::Response => "rev-".to_owned(),
        DocumentKind::Secret => "app/db".to_owned(),
        DocumentKind::Trust => "reference/models/m-1".to_owned(),
        DocumentKind::Workload => format!("spiffe://{DOMAIN}/agent"),
    }
}

/// Writes the document of a family, in its first or its second form. Returns `None` for a family
/// that nobody announces: an action of a responder tells how far a clean-up is.
pub(crate) async fn put(
    broker: &TestBroker,
    kind: DocumentKind,
    form: u8,
) -> Option<Result<(), Refusal>> {
    let rooms = &broker.rooms;
    let written = match kind {
        DocumentKind::Engine => {
            let grants = ["+get", "+set"][usize::from(form - 1)];
            let document = json!({
                "name": name(kind),
                "target": { "kind": "redis", "host": "127.0.0.1", "port": 1 },
                "roles": { "reader": { "grants": [grants, "~app:*"] } },
            });
            let password = if engine_is(broker, grants).await {
                Vec::new()
            } else {
                b"hunter2".to_vec()
            };
            let request = v1::PutEngineRequest {
                document: document.to_string(),
                password,
                unchecked: true,
            };
            let put = rooms.leases.clone().put_engine(broker.operator(), request);
            put.await.map(drop)
        }
        DocumentKind::Meta => {
            let request = v1::RotateKeyringRequest {
                idempotency_key: form.to_string(),
            };
            let secrets = rooms.secrets.clone();
            secrets
                .rotate_keyring(broker.operator(), request)
                .await
                .map(drop)
        }
        DocumentKind::Response => return None,
        DocumentKind::Secret => {
            let request = v1::PutSecretRequest {
                name: name(kind),
                value: vec![form],
                idempotency_key: form.to_string(),
            };
            let secrets = rooms.secrets.clone();
            secrets
                .put_secret(broker.operator(), request)
                .await
                .map(drop)
        }
        DocumentKind::Trust => {
            let request = v1::AddTrustRequest {
                kind: "reference".to_owned(),
                name: "models/m-1".to_owned(),
                content: vec![b'0' + form],
            };
            let items = rooms.trust_items.clone();
            items.add_trust(broker.operator(), request).await.map(drop)
        }
        DocumentKind::Workload => {
            let document = broker.registration("/agent", json!({ "max_tasks": form }));
            let request = v1::ApplyWorkloadsRequest {
                documents: vec![document.to_string()],
                dry_run: false,
            };
            let registry = rooms.registry.clone();
            registry
                .apply_workloads(broker.operator(), request)
                .await
                .map(drop)
        }
    };
    Some(written)
}

/// Whether the stored engine has this grant, so that putting it again changes nothing.
async fn engine_is(broker: &TestBroker, grant: &str) -> bool {
    let place = DocumentPlace::new(DocumentKind::Engine, "app/cache");
    let document = broker.ledger.records.document(place).await;
    document.ok().flatten().is_some_and(|document| {
        String::from_utf8_lossy(document.body()).contains(&format!("\"{grant}\""))
    })
}

/// Deletes the document of a family, if that can be done; answers what became of it.
pub(crate) async fn delete(
    broker: &TestBroker,
    kind: DocumentKind,
) -> Option<Result<String, Refusal>> {
    let rooms = &broker.rooms;
    Some(match kind {
        DocumentKind::Engine => {
            let request = v1::DeleteEngineRequest { name: name(kind) };
            let leases = rooms.leases.clone();
            let deleted = leases.delete_engine(broker.operator(), request).await;
            deleted.map(|answer| answer.action)
        }
        DocumentKind::Meta | DocumentKind::Response => return None,
        DocumentKind::Secret => {
            let request = v1::DeleteSecretRequest { name: name(kind) };
            let secrets = rooms.secrets.clone();
            let deleted = secrets.delete_secret(broker.operator(), request).await;
            deleted.map(|answer| answer.action)
        }
        DocumentKind::Trust => {
            let request = v1::RemoveTrustRequest {
                kind: "reference".to_owned(),
                name: "models/m-1".to_owned(),
                reason: "test".to_owned(),
            };
            let items = rooms.trust_items.clone();
            let removed = items.remove_trust(broker.operator(), request).await;
            removed.map(|answer| answer.action)
        }
        DocumentKind::Workload => {
            let request = v1::DeleteWorkloadRequest {
                spiffe_id: name(kind),
            };
            let registry = rooms.registry.clone();
            let deleted = registry.delete_workload(broker.operator(), request).await;
            deleted.map(|answer| answer.action)
        }
    })
}

/// What the store has in the place of that document.
pub(crate) async fn stored(broker: &TestBroker, kind: DocumentKind) -> Option<Vec<u8>> {
    let store = broker.ledger.records.store();
    store.document(kind, &name(kind)).await.unwrap()
}

/// Waits until a broker has applied what the log has.
pub(crate) async fn caught_up(broker: &TestBroker) {
    let store = broker.ledger.records.store();
    let log = store.read_log(Position(0), 1000).await.unwrap();
    let last = log.last().unwrap().id;
    while broker.ledger.log.view().unwrap().applied().1 != last {
        tokio::task::yield_now().await;
    }
}

/// Puts bytes into the store, as whoever writes it can: `None` takes away what is there.
pub(crate) async fn put_back(broker: &TestBroker, kind: DocumentKind, bytes: Option<&[u8]>) {
    let now = stored(broker, kind).await;
    let store = broker.ledger.records.store();
    let place = name(kind);
    let replaced = store.replace_document(kind, &place, now.as_deref(), bytes);
    assert!(replaced.await.unwrap());
}
