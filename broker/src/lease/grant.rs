//! Making a credential for a task: intent, creation, confirmation (P6).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sundew_core::store::StoredLease;
use sundew_core::{KnownTask, LeaseId, LeaseRecord, SecretBytes};
use sundew_proto::v1;

use super::engine::{NewCredential, Role};
use super::{Leases, RunningEngine};
use crate::clock;
use crate::refusal::Refusal;

/// Time after which a credential is removed whose making failed, in milliseconds: a target that was
/// slow may have made it after all.
const AFTER_FAILURE_MS: i64 = 2_000;

impl Leases {
    /// The engine and the role that the name of a secret means, if it names an engine.
    pub(crate) fn engine_of(&self, secret: &str) -> Option<(Arc<RunningEngine>, String)> {
        let (name, role) = secret.rsplit_once('/')?;
        Some((self.engine(name)?, role.to_owned()))
    }

    /// Makes a credential for a task, or answers the credential that the task has already. The
    /// caller has made sure that the task may have it.
    pub(crate) async fn lease(
        &self,
        task: &Arc<KnownTask>,
        secret: &str,
        engine: &RunningEngine,
        role: &str,
    ) -> Result<v1::Lease, Refusal> {
        let granted = engine
            .config
            .roles
            .get(role)
            .ok_or(Refusal::NotFound("role of an engine"))?;
        let id = LeaseRecord::id(self.ledger.root(), task.id, secret);
        let name = &engine.config.name;
        let mut record = match self.ledger.records.store().lease(name, id).await? {
            Some(stored) => {
                let record = self.open_lease(name, &stored)?;
                // A lease that is due is on its way out, and a task does not get it again.
                if record.is_being_removed(stored.due_ms, clock::now_ms()) {
                    return Err(Refusal::Engine(record.problem));
                }
                record
            }
            None => intended(task, id, engine, role, granted),
        };
        let password = self.lease_password(id);
        if !record.confirmed {
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
        })
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
        self.watch(task, name, id);
        let credential = NewCredential {
            username: &record.username,
            password,
            expires_at_ms: record.expires_at_ms,
        };
        if let Err(error) = engine.driver.create(granted, &credential).await {
            engine.set_problem(&error);
            record.problem = error.to_string();
            let soon_ms = clock::now_ms().saturating_add(AFTER_FAILURE_MS);
            store
                .retry_lease(name, self.sealed_lease(id, record, soon_ms))
                .await?;
            return Err(Refusal::Engine(error.to_string()));
        }
        engine.set_problem("");
        record.confirmed = true;
        let confirmed = self.sealed_lease(id, record, record.expires_at_ms);
        Ok(store.put_lease(name, task.id, confirmed).await?)
    }

    /// Opens the record of a stored lease; refuses one that was changed in the store.
    pub(super) fn open_lease(
        &self,
        engine: &str,
        stored: &StoredLease,
    ) -> Result<LeaseRecord, Refusal> {
        self.ledger.records.open(
            "lease",
            &[b"lease", engine.as_bytes(), stored.id.as_bytes()],
            &stored.record,
            LeaseRecord::decode,
        )
    }

    /// A lease as the store has it, due at `due_ms`, in milliseconds since the epoch.
    pub(super) fn sealed_lease(
        &self,
        id: LeaseId,
        record: &LeaseRecord,
        due_ms: i64,
    ) -> StoredLease {
        StoredLease {
            id,
            record: self.ledger.root().tag(
                &[b"lease", record.engine.as_bytes(), id.as_bytes()],
                record.encode(),
            ),
            due_ms,
        }
    }

    /// The password of a lease. It is derived, so it is stored nowhere.
    fn lease_password(&self, id: LeaseId) -> SecretBytes {
        SecretBytes::new(
            URL_SAFE_NO_PAD
                .encode(
                    self.ledger
                        .root()
                        .derive(&[b"lease-password", id.as_bytes()]),
                )
                .into_bytes(),
        )
    }
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
        username: LeaseRecord::username(&engine.prefix, id),
        created_at_ms: now_ms,
        expires_at_ms: now_ms
            .saturating_add(granted.max_ttl.as_ms())
            .min(task.deadline_ms),
        confirmed: false,
        failures: 0,
        problem: String::new(),
    }
}
