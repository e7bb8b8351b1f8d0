//! Secrets that are made for one task in another system, and certainly removed there (P6).
//!
//! Intent is written before creation, under the name that the credential will have; creation,
//! removal and listing at the target are the engines' business (`engine.rs`), due leases the
//! workers' (`worker.rs`). The password is derived, so it is stored nowhere.

mod engine;
mod postgres;
mod redis_acl;
mod worker;

pub use postgres::removal as postgres_removal;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sundew_core::store::{DocumentKind, StoredLease};
use sundew_core::{
    Changed, Event, KnownTask, LeaseId, LeaseRecord, Liveness, SealError, SecretBytes, TaskId,
};
use sundew_proto::v1;
use tokio::sync::Notify;

use crate::broker::{Broker, Role as OperatorRole};
use crate::clock;
use crate::journal;
use crate::kin::Kin;
use crate::peer::Peer;
use crate::refusal::Refusal;
use engine::{Engine, EngineConfig, NewCredential};

/// A credential whose making failed may still be made by a target that was slow: it is removed a
/// little later.
const AFTER_FAILURE_MS: i64 = 2_000;
const ATTEMPTS: usize = 16;

/// An engine as the store has it.
#[derive(Deserialize, Serialize)]
struct EngineDocument {
    config: EngineConfig,
    /// Sealed under the keyring, base64.
    password: String,
}

/// An engine in use.
pub(crate) struct RunningEngine {
    config: EngineConfig,
    driver: Arc<dyn Engine>,
    prefix: String,
    problem: Mutex<String>,
    wake: Notify,
}

impl RunningEngine {
    fn set_problem(&self, problem: impl ToString) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem.to_string();
    }

    /// Why the target could not be worked with lately; empty if it could.
    pub(crate) fn problem(&self) -> String {
        self.problem
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Engines, and the tasks that have leases.
#[derive(Default)]
pub(crate) struct Leases {
    engines: Mutex<HashMap<String, Arc<RunningEngine>>>,
    /// Tasks with leases that are not due yet, as far as this broker knows.
    tasks: Mutex<Kin<Watched>>,
    /// Rings when tasks may have died, and when engines changed.
    news: Notify,
    ended: Mutex<Vec<TaskId>>,
    counts: Mutex<(u64, u64)>,
    /// What is wrong with engines that cannot be used at all.
    unusable: Mutex<Vec<String>>,
    look_at_all: AtomicBool,
}

struct Watched {
    task: Arc<KnownTask>,
    leases: Vec<(String, LeaseId)>,
}

impl Leases {
    fn engine(&self, name: &str) -> Option<Arc<RunningEngine>> {
        self.engines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// All engines.
    pub(crate) fn engines(&self) -> Vec<(String, Arc<RunningEngine>)> {
        self.engines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(name, engine)| (name.clone(), Arc::clone(engine)))
            .collect()
    }

    /// How many leases there were lately over all engines, and how many of them were due.
    pub(crate) fn counts(&self) -> (u64, u64) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong with targets, for health.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let problems = self
            .engines()
            .into_iter()
            .map(|(name, engine)| (name, engine.problem()));
        let problems = problems
            .filter(|(_, problem)| !problem.is_empty())
            .map(|(name, problem)| format!("engine {name}: {problem}"));
        self.unusable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .chain(problems)
            .collect()
    }

    fn watch(&self, task: &Arc<KnownTask>, engine: &str, id: LeaseId) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = tasks.or_insert_with(task.id, &task.record().ancestors, || Watched {
            task: Arc::clone(task),
            leases: Vec::new(),
        });
        if !watched.leases.iter().any(|(_, known)| *known == id) {
            watched.leases.push((engine.to_owned(), id));
        }
    }

    /// Hears what the log says; looked at as soon as the view has it.
    pub(crate) fn hear(&self, event: &Event) {
        match event {
            Event::Ended { task, .. } => {
                let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
                let before = ended.len();
                ended.extend(tasks.ending_with(task).map(|(id, _)| *id));
                if ended.len() == before {
                    return;
                }
            }
            Event::Rule { .. } => self.look_at_all.store(true, Ordering::Release),
            Event::Lifted(_)
            | Event::Suspended(_)
            | Event::Resumed(_)
            | Event::Changed(_)
            | Event::Floor => return,
        }
        self.news.notify_one();
    }
}

/// A lease with its place.
pub(crate) struct Lease {
    pub(crate) id: LeaseId,
    pub(crate) record: LeaseRecord,
    pub(crate) due_ms: i64,
}

impl Lease {
    pub(crate) fn message(&self) -> v1::LeaseInfo {
        v1::LeaseInfo {
            lease_id: self.id.to_string(),
            engine: self.record.engine.clone(),
            role: self.record.role.clone(),
            task_id: self.record.task.to_string(),
            username: self.record.username.clone(),
            due_ms: self.due_ms,
            failures: self.record.failures,
            problem: self.record.problem.clone(),
        }
    }
}

impl Broker {
    fn open_lease(&self, engine: &str, stored: &StoredLease) -> Result<LeaseRecord, Refusal> {
        self.records.open(
            "lease",
            &[b"lease", engine.as_bytes(), stored.id.as_bytes()],
            &stored.record,
            LeaseRecord::decode,
        )
    }

    fn sealed_lease(&self, id: LeaseId, record: &LeaseRecord, due_ms: i64) -> StoredLease {
        StoredLease {
            id,
            record: self.root().tag(
                &[b"lease", record.engine.as_bytes(), id.as_bytes()],
                record.encode(),
            ),
            due_ms,
        }
    }

    fn lease_password(&self, id: LeaseId) -> SecretBytes {
        SecretBytes::new(
            URL_SAFE_NO_PAD
                .encode(self.root().derive(&[b"lease-password", id.as_bytes()]))
                .into_bytes(),
        )
    }

    /// The engine and role that a secret's name means, if it means one.
    pub(crate) fn engine_of(&self, secret: &str) -> Option<(Arc<RunningEngine>, String)> {
        let (name, role) = secret.rsplit_once('/')?;
        Some((self.leases.engine(name)?, role.to_owned()))
    }

    /// Makes a credential for a task, or answers with the one that it has. The caller has seen to
    /// it that the task may have it.
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
            .ok_or(Refusal::Absent("role of an engine"))?;
        let (name, id, now_ms) = (
            &engine.config.name,
            LeaseRecord::id(self.root(), task.id, secret),
            clock::now_ms(),
        );
        let store = self.records.store();
        let mut record = match store.lease(name, id).await? {
            Some(stored) => {
                let record = self.open_lease(name, &stored)?;
                // Once it is due it is on its way out, and a task does not get the same again.
                if record.is_being_removed(stored.due_ms, now_ms) {
                    return Err(Refusal::Engine(record.problem));
                }
                record
            }
            None => LeaseRecord {
                task: task.id,
                workload: task.workload.clone(),
                engine: name.clone(),
                role: role.to_owned(),
                username: LeaseRecord::username(&engine.prefix, id),
                created_at_ms: now_ms,
                expires_at_ms: now_ms
                    .saturating_add(granted.max_ttl.as_ms())
                    .min(task.deadline_ms),
                confirmed: false,
                failures: 0,
                problem: String::new(),
            },
        };
        let password = self.lease_password(id);
        if !record.confirmed {
            // P6: whatever happens from here on, somebody will remove it.
            store
                .put_lease(
                    name,
                    task.id,
                    self.sealed_lease(id, &record, record.expires_at_ms),
                )
                .await?;
            self.leases.watch(task, name, id);
            let credential = NewCredential {
                username: &record.username,
                password: &password,
                expires_at_ms: record.expires_at_ms,
            };
            if let Err(error) = engine.driver.create(granted, &credential).await {
                engine.set_problem(&error);
                record.problem = error.to_string();
                store
                    .retry_lease(
                        name,
                        self.sealed_lease(id, &record, now_ms.saturating_add(AFTER_FAILURE_MS)),
                    )
                    .await?;
                return Err(Refusal::Engine(error.to_string()));
            }
            engine.set_problem("");
            record.confirmed = true;
            store
                .put_lease(
                    name,
                    task.id,
                    self.sealed_lease(id, &record, record.expires_at_ms),
                )
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

    /// Shows every lease of every engine to `look`.
    pub(crate) async fn each_lease(&self, mut look: impl FnMut(Lease)) -> Result<(), Refusal> {
        for (name, _) in self.leases.engines() {
            for stored in self.stored_leases(&name).await? {
                look(Lease {
                    id: stored.id,
                    record: self.open_lease(&name, &stored)?,
                    due_ms: stored.due_ms,
                });
            }
        }
        Ok(())
    }

    /// All leases of an engine as they are stored, each once.
    async fn stored_leases(&self, engine: &str) -> Result<Vec<StoredLease>, Refusal> {
        let (mut all, mut seen, mut from) = (Vec::new(), HashSet::new(), 0);
        loop {
            let (page, next) = self.records.store().leases(engine, from).await?;
            all.extend(page.into_iter().filter(|lease| seen.insert(lease.id)));
            if next == 0 {
                return Ok(all);
            }
            from = next;
        }
    }

    /// Makes the leases of these tasks due, if the tasks are dead.
    async fn end_leases(&self, tasks: Vec<TaskId>) -> Result<(), Refusal> {
        let mut due: HashMap<String, Vec<LeaseId>> = HashMap::new();
        let mut dead = Vec::new();
        {
            let view = self.keeper.view()?;
            let now_ms = clock::now_ms();
            let watched = self
                .leases
                .tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for (id, watched) in tasks.iter().filter_map(|id| Some((id, watched.get(id)?))) {
                if view.judge_task(&watched.task, now_ms) != Liveness::Alive {
                    dead.push(*id);
                    watched.leases.iter().for_each(|(engine, lease)| {
                        due.entry(engine.clone()).or_default().push(*lease)
                    });
                }
            }
        }
        let now_ms = clock::now_ms();
        for (engine, leases) in &due {
            for some in leases.chunks(500) {
                self.records.store().lease_due(engine, some, now_ms).await?;
            }
            if let Some(engine) = self.leases.engine(engine) {
                engine.wake.notify_one();
            }
        }
        let mut watched = self
            .leases
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        dead.iter().for_each(|task| watched.remove(task));
        Ok(())
    }

    fn open_engine(&self, name: &str, bytes: &[u8]) -> Result<EngineDocument, Refusal> {
        self.records.open(
            "engine",
            &[b"engine", name.as_bytes()],
            bytes,
            serde_json::from_slice,
        )
    }

    async fn engine_password(
        &self,
        name: &str,
        document: &EngineDocument,
    ) -> Result<SecretBytes, Refusal> {
        let sealed = STANDARD
            .decode(&document.password)
            .map_err(|_| Refusal::Seal {
                what: "engine",
                cause: SealError::Opening,
            })?;
        self.open_secret(&format!("engine {name}"), &sealed).await
    }

    /// Reads all engines anew.
    pub(crate) async fn reload_engines(&self) -> Result<(), Refusal> {
        let (mut fresh, mut unusable) = (HashMap::new(), Vec::new());
        for (name, bytes) in self.records.store().documents(DocumentKind::Engine).await? {
            match self.running_engine(&name, &bytes).await {
                Ok(engine) => drop(fresh.insert(name, Arc::new(engine))),
                Err(error) => {
                    // The others work, and this one's leases wait for an engine that can be used.
                    tracing::error!(engine = name, %error, "engine cannot be used: put it again");
                    unusable.push(format!(
                        "engine {name} cannot be used, put it again: {error}"
                    ));
                }
            }
        }
        *self
            .leases
            .engines
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = fresh;
        *self
            .leases
            .unusable
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = unusable;
        self.leases.news.notify_one();
        Ok(())
    }

    async fn running_engine(&self, name: &str, bytes: &[u8]) -> Result<RunningEngine, Refusal> {
        let document = self.open_engine(name, bytes)?;
        let password = self.engine_password(name, &document).await?;
        let prefix = LeaseRecord::prefix(self.root(), name);
        let driver = document
            .config
            .driver(password)
            .map_err(|e| Refusal::Engine(e.to_string()))?;
        Ok(RunningEngine {
            config: document.config,
            driver,
            prefix,
            problem: Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// Creates or replaces an engine.
    pub(crate) async fn put_engine(
        self: Arc<Self>,
        peer: Arc<Peer>,
        mut request: v1::PutEngineRequest,
    ) -> Result<v1::PutEngineResponse, Refusal> {
        self.require(&peer, OperatorRole::Registrar)?;
        let given = SecretBytes::new(std::mem::take(&mut request.password));
        let config: EngineConfig =
            serde_json::from_str(&request.document).map_err(|e| Refusal::invalid("document", e))?;
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(Refusal::invalid("document", problems.join("; ")));
        }
        let name = config.name.clone();
        for _ in 0..ATTEMPTS {
            let before = self
                .records
                .store()
                .document(DocumentKind::Engine, &name)
                .await?;
            // One that does not open any more is replaced like one that is not there.
            let old = before
                .as_ref()
                .and_then(|bytes| self.open_engine(&name, bytes).ok());
            let kept = match &old {
                Some(old) if given.expose().is_empty() => {
                    self.engine_password(&name, old).await.ok()
                }
                Some(_) | None => Some(given.clone()),
            };
            let (old, password) =
                kept.map_or_else(|| (None, given.clone()), |password| (old, password));
            let action = match &old {
                None => "created",
                Some(old) if given.expose().is_empty() && old.config == config => {
                    return Ok(v1::PutEngineResponse {
                        action: "unchanged".to_owned(),
                    });
                }
                Some(_) => "changed",
            };
            if !request.unchecked {
                let driver = config
                    .driver(password.clone())
                    .map_err(|e| Refusal::invalid("document", e))?;
                driver.check().await.map_err(|e| {
                    Refusal::invalid("document", format!("the target was tried: {e}"))
                })?;
            }
            let sealed = self
                .keyring
                .load()
                .seal(&format!("engine {name}"), password.expose())
                .map_err(|cause| Refusal::Seal {
                    what: "engine",
                    cause,
                })?;
            let document = EngineDocument {
                config: config.clone(),
                password: STANDARD.encode(sealed),
            };
            self.journal
                .write(
                    journal::record("engine_written")
                        .with("engine", &name)
                        .with("actor", peer.id())
                        .with("action", action),
                )
                .await?;
            let bytes = self.root().tag(
                &[b"engine", name.as_bytes()],
                serde_json::to_vec(&document).unwrap_or_default(),
            );
            if self
                .records
                .store()
                .replace_document(DocumentKind::Engine, &name, before.as_deref(), Some(&bytes))
                .await?
            {
                self.reload_engines().await?;
                self.changed(Changed::Engines).await?;
                return Ok(v1::PutEngineResponse {
                    action: action.to_owned(),
                });
            }
        }
        Err(Refusal::Store(sundew_core::store::StoreError::Unavailable(
            "the engine is being changed by others".to_owned(),
        )))
    }

    /// All engines, without their passwords.
    pub(crate) async fn list_engines(
        self: Arc<Self>,
        peer: Arc<Peer>,
        _: v1::ListEnginesRequest,
    ) -> Result<v1::ListEnginesResponse, Refusal> {
        self.require(&peer, OperatorRole::Registrar)?;
        let mut engines = Vec::new();
        for (name, bytes) in self.records.store().documents(DocumentKind::Engine).await? {
            let document = self.open_engine(&name, &bytes)?;
            let (leases, leases_due) = self
                .records
                .store()
                .lease_counts(&name, clock::now_ms())
                .await?;
            let problem = self
                .leases
                .engine(&name)
                .map(|engine| engine.problem())
                .unwrap_or_default();
            engines.push(v1::EngineInfo {
                document: serde_json::to_string(&document.config).unwrap_or_default(),
                leases,
                leases_due,
                problem,
            });
        }
        Ok(v1::ListEnginesResponse { engines })
    }

    /// Removes an engine. P6: not while there is something at its target that nobody would remove
    /// then.
    pub(crate) async fn delete_engine(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::DeleteEngineRequest,
    ) -> Result<v1::DeleteEngineResponse, Refusal> {
        self.require(&peer, OperatorRole::Registrar)?;
        let before = self
            .records
            .store()
            .document(DocumentKind::Engine, &request.name)
            .await?
            .ok_or(Refusal::Absent("engine"))?;
        let (leases, _) = self
            .records
            .store()
            .lease_counts(&request.name, clock::now_ms())
            .await?;
        if leases > 0 {
            return Err(Refusal::invalid(
                "name",
                format!(
                    "the engine has {leases} leases: revoke what they are for and wait until `sundew lease list` is empty"
                ),
            ));
        }
        self.journal
            .write(
                journal::record("engine_deleted")
                    .with("engine", &request.name)
                    .with("actor", peer.id()),
            )
            .await?;
        if !self
            .records
            .store()
            .replace_document(DocumentKind::Engine, &request.name, Some(&before), None)
            .await?
        {
            return Err(Refusal::Absent("engine"));
        }
        self.reload_engines().await?;
        self.changed(Changed::Engines).await?;
        Ok(v1::DeleteEngineResponse {})
    }
}
