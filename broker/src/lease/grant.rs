//! Making a credential for a task: intent, creation, confirmation (P6).

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sundew_core::store::StoredLease;
use sundew_core::{KnownTask, LeaseId, LeaseRecord, SecretBytes};
use sundew_proto::v1;

use super::engine::{NewCredential, Role};
use super::{Leases, RunningEngine};
use crate::clock;
use crate::limits::IssuingPlace;
use crate::records::lease_place;
use crate::refusal::Refusal;

/// The longest time that a call waits for a target.
const LEASE_WITHIN: Duration = Duration::from_secs(15);

impl Leases {
    /// The engine and role that a secret's name means, if it means one.
    pub(crate) fn engine_of(&self, secret: &str) -> Option<(Arc<RunningEngine>, String)> {
        let (name, role) = secret.rsplit_once('/')?;
        Some((self.engine(name)?, role.to_owned()))
    }

    /// The name of the lease that a task has for a secret at this moment. Another suspension or
    /// resumption gives it another name (L10).
    pub(crate) fn lease_id(&self, task: &KnownTask, secret: &str) -> LeaseId {
        let interruptions = self.ledger.log.latest_view().interruptions(task);
        let root = (self.ledger.root(), task.root_key());
        LeaseRecord::id(root, task.id, secret, &interruptions)
    }

    /// Makes the credential of a lease for a task, or answers with the one that it has. The caller
    /// has seen to it that the task may have it, and hands it out only if the lease has the same
    /// name after that. `place` is given back before the target is waited for.
    pub(crate) async fn lease(
        &self,
        task: &Arc<KnownTask>,
        id: LeaseId,
        engine: &RunningEngine,
        role: &str,
        place: IssuingPlace,
    ) -> Result<v1::Lease, Refusal> {
        let granted = engine
            .config
            .roles
            .get(role)
            .ok_or(Refusal::NotFound("role of an engine"))?;
        // A4: from here on the call waits for the target, in a place of the target's own.
        let waiting = engine.queue.take(&task.workload);
        let _waiting = waiting.ok_or(Refusal::TargetBusy)?;
        drop(place);
        let made = self.make(task, id, engine, role, granted);
        match tokio::time::timeout(LEASE_WITHIN, made).await {
            Ok(made) => made,
            // What was begun is made whole by the next call, and is removed with its task.
            Err(_) => Err(Refusal::Engine("no answer in time".to_owned())),
        }
    }

    /// Makes the credential of a lease, or finds the one that there is.
    async fn make(
        &self,
        task: &Arc<KnownTask>,
        id: LeaseId,
        engine: &RunningEngine,
        role: &str,
        granted: &Role,
    ) -> Result<v1::Lease, Refusal> {
        // Whoever asks while the credential is being made gets the one that is made.
        let making = self.making(id);
        let _made_alone = making.lock().await;
        let known = self.live_lease(&engine.config.name, id).await?;
        let mut record = known.unwrap_or_else(|| intended(task, id, engine, role, granted));
        let password = self.lease_password(task, id);
        // A target that lost its users, in a restart or a restore, gets this one again.
        if !record.confirmed || !exists(engine, &record).await? {
            self.create(task, id, engine, granted, &mut record, &password)
                .await?;
        }
        let url = engine.driver.url(&record.username, &password);
        let password = String::from_utf8_lossy(password.expose()).into_owned();
        Ok(v1::Lease {
            lease_id: id.to_string(),
            username: record.username,
            password,
            url,
            expires_at_ms: record.expires_at_ms,
            ca: engine.driver.ca().unwrap_or_default().to_owned(),
        })
    }

    /// The lock of a lease. It is there for as long as somebody has it.
    fn making(&self, id: LeaseId) -> Arc<tokio::sync::Mutex<()>> {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = making.get(&id).and_then(Weak::upgrade) {
            return lock;
        }
        making.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        making.insert(id, Arc::downgrade(&lock));
        lock
    }

    /// The lease that there is, made or intended.
    async fn live_lease(&self, engine: &str, id: LeaseId) -> Result<Option<LeaseRecord>, Refusal> {
        let Some(stored) = self.ledger.records.store().lease(engine, id).await? else {
            return Ok(None);
        };
        let record = self.open_lease(engine, &stored)?;
        // Once it is due it is on its way out, and a task does not get the same again.
        if record.is_being_removed(stored.due_ms, clock::now_ms()) {
            return Err(Refusal::Engine(record.problem));
        }
        Ok(Some(record))
    }

    /// Writes the intent, makes the credential at the target, and confirms the lease.
    async fn create(
        &self,
        task: &Arc<KnownTask>,
        id: LeaseId,
        engine: &RunningEngine,
        granted: &Role,
        record: &mut LeaseRecord,
        password: &SecretBytes,
    ) -> Result<(), Refusal> {
        let (store, name) = (self.ledger.records.store(), &engine.config.name);
        // P6: whatever happens from here on, somebody will remove it.
        let intent = self.sealed_lease(id, record, record.expires_at_ms);
        store.put_lease(name, task.id, intent).await?;
        self.watch(task, id, record);
        let credential = NewCredential {
            username: &record.username,
            password,
            expires_at_ms: record.expires_at_ms,
        };
        if let Err(error) = engine.driver.create(granted, &credential).await {
            engine.set_problem(&error);
            // Another broker may have made it at the same time, and may have handed it out: a lease
            // that could not be made stays as it is until its task ends, or until it is asked for
            // again. Nobody has the password of what a slow target may still make.
            return match self.live_lease(name, id).await? {
                Some(made) if made.confirmed => {
                    *record = made;
                    Ok(())
                }
                _ => Err(Refusal::Engine(error.to_string())),
            };
        }
        engine.set_problem("");
        record.confirmed = true;
        let confirmed = self.sealed_lease(id, record, record.expires_at_ms);
        Ok(store.put_lease(name, task.id, confirmed).await?)
    }

    pub(super) fn open_lease(
        &self,
        engine: &str,
        stored: &StoredLease,
    ) -> Result<LeaseRecord, Refusal> {
        self.ledger.records.open(
            "lease",
            &lease_place(engine, &stored.id),
            &stored.record,
            LeaseRecord::decode,
        )
    }

    pub(super) fn sealed_lease(
        &self,
        id: LeaseId,
        record: &LeaseRecord,
        due_ms: i64,
    ) -> StoredLease {
        StoredLease {
            id,
            record: self
                .ledger
                .root()
                .tag(&lease_place(&record.engine, &id), record.encode()),
            due_ms,
        }
    }

    fn lease_password(&self, task: &KnownTask, id: LeaseId) -> SecretBytes {
        let parts: [&[u8]; 2] = [b"lease-password", id.as_bytes()];
        let derived = self.ledger.root().derive_under(task.root_key(), &parts);
        SecretBytes::new(URL_SAFE_NO_PAD.encode(derived).into_bytes())
    }
}

/// Whether the target still has what a lease is of.
async fn exists(engine: &RunningEngine, record: &LeaseRecord) -> Result<bool, Refusal> {
    let found = engine.driver.exists(&record.username).await;
    found.map_err(|error| {
        engine.set_problem(&error);
        Refusal::Engine(error.to_string())
    })
}

/// The record of a lease that is to be made.
fn intended(
    task: &KnownTask,
    id: LeaseId,
    engine: &RunningEngine,
    role: &str,
    granted: &Role,
) -> LeaseRecord {
    let now_ms = clock::now_ms();
    LeaseRecord {
        task: task.id,
        workload: task.workload.clone(),
        engine: engine.config.name.clone(),
        role: role.to_owned(),
        username: LeaseRecord::username(engine.prefix(task.root_key()), id),
        created_at_ms: now_ms,
        expires_at_ms: now_ms
            .saturating_add(granted.max_ttl.as_ms())
            .min(task.deadline_ms),
        confirmed: false,
        failures: 0,
        problem: String::new(),
    }
}
