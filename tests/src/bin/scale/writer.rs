//! Records and entries of the log, written as brokers write them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sundew_attestation::spiffe::SpiffeId;
use sundew_broker::records::Records;
use sundew_broker::store::redis::RedisStore;
use sundew_core::store::{AppendAfter, Reserved};
use sundew_core::{
    Credential, EntryId, Event, KnownTask, KnownToken, LogEntry, Position, RootKey, ScopeSet,
    TaskId, TaskRecord, TokenBinding, TokenRecord,
};
use sundew_tests::now_ms;
use sundew_tests::pki::{DOMAIN, Svid};
use sundew_tests::redis::settings;
use sundew_tests::world::World;

/// The writer that brokers use, with the harness's root key.
pub(crate) struct Writer {
    pub(crate) records: Arc<Records>,
    pub(crate) root: Arc<RootKey>,
}

impl Writer {
    pub(crate) fn new(world: &World) -> Self {
        let settings = settings(
            &world.redis.as_ref().expect("redis").url(),
            Duration::from_secs(5),
        );
        let root = Arc::new(RootKey::new(&[0x7a; 32]).expect("key"));
        Self {
            records: Arc::new(Records::new(RedisStore::new(settings), Arc::clone(&root))),
            root,
        }
    }

    /// The ids of the tasks that [`fill`] writes.
    pub(crate) fn tasks(&self, count: usize) -> Vec<TaskId> {
        (0..count).map(|n| task_id(&self.root, n)).collect()
    }
}

fn task_id(root: &RootKey, n: usize) -> TaskId {
    TaskId::from_bytes(root.derive_name(&[b"fill", &n.to_be_bytes()]))
}

fn task_record(
    id: TaskId,
    workload: &str,
    created_at_ms: i64,
    position: u64,
    svid: &Svid,
) -> TaskRecord {
    TaskRecord {
        id,
        workload: SpiffeId::parse(workload).expect("id"),
        purpose: "triage the open issues of the payment service".to_owned(),
        instruction: "read issue 4711 and propose a fix".to_owned(),
        scopes: ScopeSet::parse(&["secret:app/key", "tool:github.create_pr"]).expect("scopes"),
        audience: vec![],
        created_at_ms,
        deadline_ms: created_at_ms + 3_600_000,
        certificate: svid.thumbprint(),
        svid_serial: vec![7; 16],
        position: Position(position),
        grace_ms: 3_600_000,
        registration: "0123456789abcdef".to_owned(),
        request: [3; 32],
        evidence: vec![format!("oidc:{}", "ab".repeat(32))],
        claims: vec![
            format!("oidc.sub={workload}"),
            "oidc.iss=https://issuer.example".to_owned(),
            "oidc.aud=sundew".to_owned(),
        ],
        ancestors: vec![],
        depth_left: 0,
        order: None,
    }
}

/// Writes a task with its tokens; returns the credential of the first one.
async fn write_task(
    (records, root): (&Records, &RootKey),
    workload: &str,
    n: usize,
    tokens: usize,
    svid: &Svid,
    now: i64,
) -> Credential {
    let id = task_id(root, n);
    let record = task_record(id, workload, now, 1, svid);
    let reserved = records
        .store()
        .reserve_task(
            workload,
            id,
            record.deadline_ms,
            record.deadline_ms,
            1_000_000,
            now,
        )
        .await;
    assert_eq!(reserved, Ok(Reserved::Taken));
    let task = Arc::new(KnownTask::new(record, vec![], root.active()));
    let mut first = None;
    for t in 0..tokens {
        let credential = Credential::new(
            id,
            root.derive(&[b"fill", &n.to_be_bytes(), &t.to_be_bytes()]),
        );
        let hash = credential.hash();
        let token = TokenRecord {
            task: id,
            scopes: task.scopes.clone(),
            audience: vec![],
            issued_at_ms: now,
            expires_at_ms: now + 3_000_000,
            binding: TokenBinding::Certificate,
            certificate: task.certificate,
            svid_serial: task.svid_serial.clone(),
            position: Position(1),
            registration: task.registration.clone(),
            request: [4; 16],
        };
        let token = KnownToken::new(token, hash.token_id(), Arc::clone(&task));
        if t == 0 {
            records
                .create_task(Arc::clone(&task), token, &hash)
                .await
                .expect("task");
        } else {
            records
                .create_token(token, &hash, u32::MAX)
                .await
                .expect("token");
        }
        first.get_or_insert(credential);
    }
    first.expect("a token")
}

/// Writes tasks with tokens, 64 at a time; answers a sample of credentials with the index of their
/// group.
pub(crate) async fn fill(
    writer: &Writer,
    groups: usize,
    tasks: usize,
    tokens: usize,
    svid: &Svid,
) -> Vec<(usize, String)> {
    let (now, mut sample) = (now_ms(), Vec::new());
    let next = Arc::new(AtomicUsize::new(0));
    let work: Vec<_> = (0..64)
        .map(|_| {
            let (records, root, next, svid) = (
                Arc::clone(&writer.records),
                Arc::clone(&writer.root),
                Arc::clone(&next),
                svid.clone(),
            );
            tokio::spawn(async move {
                let mut sample = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= tasks {
                        return sample;
                    }
                    let group = n % groups;
                    let workload = format!("spiffe://{DOMAIN}/fleet/g{group}/agent");
                    let writer = (&*records, &*root);
                    let first = write_task(writer, &workload, n, tokens, &svid, now).await;
                    if n % ((tasks / 500) | 1) == 0 {
                        sample.push((group, first.expose().to_string()));
                    }
                }
            })
        })
        .collect();
    for each in work {
        sample.extend(each.await.expect("fill"));
    }
    sample
}

pub(crate) async fn append(writer: &Writer, n: u64, event: Event) {
    let mut id = [0x55; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    let entry = LogEntry {
        id: EntryId(id),
        event,
        retain_until_ms: now_ms() + 3_600_000,
        document: None,
    };
    // The brokers of this store have started once, and their agreement was never changed.
    let after = AppendAfter {
        agreement: 1,
        floor: Position(0),
    };
    let bytes = writer.root.tag(&[b"log", &entry.id.0], entry.encode());
    writer
        .records
        .store()
        .append(entry.id, &bytes, entry.retain_until_ms, after)
        .await
        .expect("append");
}
