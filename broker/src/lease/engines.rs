//! Engines as the store has them and as they run: put, list, delete, and read anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sundew_core::store::DocumentKind;
use sundew_core::{KeyFingerprint, LeaseId, LeaseRecord, SealError, SecretBytes};
use sundew_proto::v1;
use tokio::sync::Notify;

use super::Leases;
use super::engine::{Engine, EngineConfig, UNREACHABLE};
use super::queue::TargetQueue;
use super::trial::{is_on_trial, try_target};
use crate::clock;
use crate::journal;
use crate::ledger::{Change, NoDependents};
use crate::records::{Document, DocumentPlace};
use crate::refusal::Refusal;
use crate::role::{Registrar, Unbounded};
use crate::wire::deletion;

/// How often a change is tried again when another broker changed the same engine.
const ATTEMPTS: usize = 16;

/// The longest time for a list of the names at a target.
const LISTED_WITHIN: Duration = Duration::from_secs(5);

/// An engine as the store has it.
#[derive(Deserialize, Serialize)]
struct EngineDocument {
    config: EngineConfig,
    /// Sealed under the keyring, base64.
    password: String,
}

/// An engine in use.
pub(crate) struct RunningEngine {
    pub(super) config: EngineConfig,
    pub(super) driver: Arc<dyn Engine>,
    /// What names at the target begin with, for each root key, that of the active one first.
    pub(super) prefixes: Vec<(KeyFingerprint, String)>,
    problem: Mutex<String>,
    pub(super) queue: Arc<TargetQueue>,
    pub(super) wake: Notify,
}

impl RunningEngine {
    /// What the names begin with that are given under a root key.
    pub(super) fn prefix(&self, root_key: KeyFingerprint) -> &str {
        let found = self.prefixes.iter().find(|(key, _)| *key == root_key);
        let found = found.or_else(|| self.prefixes.first());
        found.map_or("", |(_, prefix)| prefix)
    }

    /// The names that a lease can have, under each root key.
    pub(super) fn names(&self, id: LeaseId) -> impl Iterator<Item = String> {
        let prefixes = self.prefixes.iter();
        prefixes.map(move |(_, prefix)| LeaseRecord::username(prefix, id))
    }

    /// Whether a name at the target is one of a trial that may be under way.
    pub(super) fn is_on_trial(&self, name: &str) -> bool {
        let mut prefixes = self.prefixes.iter();
        prefixes.any(|(_, prefix)| is_on_trial(prefix, name))
    }

    /// The number of names at the target that were given under another root key than the active one.
    pub(super) async fn names_under_other_keys(&self) -> Result<usize, String> {
        let mut count = 0_usize;
        for (_, prefix) in self.prefixes.iter().skip(1) {
            let listed = tokio::time::timeout(LISTED_WITHIN, self.driver.list(prefix)).await;
            let listed = listed.map_err(|_| "the target did not answer in time".to_owned())?;
            let names = listed.map_err(|error| error.to_string())?;
            count = count.saturating_add(names.len());
        }
        Ok(count)
    }

    pub(super) fn set_problem(&self, problem: impl ToString) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem.to_string();
    }

    /// Whether the target could not be reached lately.
    pub(super) fn is_unreachable(&self) -> bool {
        self.problem().starts_with(UNREACHABLE)
    }

    /// Why the target could not be worked with lately; empty if it could.
    pub(crate) fn problem(&self) -> String {
        self.problem
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Leases {
    /// Creates or replaces an engine.
    pub(crate) async fn put_engine(
        self: Arc<Self>,
        operator: Unbounded<Registrar>,
        mut request: v1::PutEngineRequest,
    ) -> Result<v1::PutEngineResponse, Refusal> {
        let given = SecretBytes::new(std::mem::take(&mut request.password));
        let config: EngineConfig =
            serde_json::from_str(&request.document).map_err(|e| Refusal::invalid("document", e))?;
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(Refusal::invalid("document", problems.join("; ")));
        }
        let name = config.name.clone();
        let place = DocumentPlace::new(DocumentKind::Engine, &name);
        for _ in 0..ATTEMPTS {
            let before = self.ledger.before_change(place).await?;
            let (old, password) = self.replaced(before.document.as_ref(), &given).await;
            let action = match &old {
                None => "created",
                Some(old) if given.expose().is_empty() && old.config == config => "unchanged",
                Some(_) => "changed",
            };
            let change = if action == "unchanged" {
                Change::Keep
            } else {
                if !request.unchecked {
                    let root = self.ledger.root();
                    let prefix = LeaseRecord::prefix((root, root.active()), &name);
                    try_target(&config, password.clone(), &prefix).await?;
                }
                let sealed = self
                    .secrets
                    .seal(&format!("engine {name}"), &password)
                    .await?;
                let document = EngineDocument {
                    config: config.clone(),
                    password: STANDARD.encode(sealed),
                };
                let record = journal::record("engine_written")
                    .with("engine", &name)
                    .with("actor", operator.id())
                    .with("action", action);
                Change::Write(serde_json::to_vec(&document).unwrap_or_default(), record)
            };
            let put = self.ledger.put_document(place, &before, change, action);
            if let Some(action) = put.await? {
                self.reload_engines().await?;
                return Ok(v1::PutEngineResponse {
                    action: action.to_owned(),
                });
            }
        }
        Err(Refusal::Conflict("engine"))
    }

    /// The engine that a new one replaces, if it can still be opened, and the password of the new
    /// one: the one that was given, else the old one's.
    async fn replaced(
        &self,
        before: Option<&Document>,
        given: &SecretBytes,
    ) -> (Option<EngineDocument>, SecretBytes) {
        // An engine that does not open any more is replaced like one that is not there.
        let Some(old) = before.and_then(|before| open_engine(before).ok()) else {
            return (None, given.clone());
        };
        if !given.expose().is_empty() {
            return (Some(old), given.clone());
        }
        match self.engine_password(&old).await {
            Ok(kept) => (Some(old), kept),
            Err(_) => (None, given.clone()),
        }
    }

    /// All engines, without their passwords.
    pub(crate) async fn list_engines(
        self: Arc<Self>,
        _: Unbounded<Registrar>,
        _: v1::ListEnginesRequest,
    ) -> Result<v1::ListEnginesResponse, Refusal> {
        let mut engines = Vec::new();
        let records = &self.ledger.records;
        for (name, document) in records.readable_documents(DocumentKind::Engine).await? {
            let document = open_engine(&document)?;
            let (leases, leases_due) = self
                .ledger
                .records
                .store()
                .lease_counts(&name, clock::now_ms())
                .await?;
            let problem = self
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
        operator: Unbounded<Registrar>,
        request: v1::DeleteEngineRequest,
    ) -> Result<v1::DeleteEngineResponse, Refusal> {
        let store = self.ledger.records.store();
        let (leases, _) = store.lease_counts(&request.name, clock::now_ms()).await?;
        if leases > 0 {
            return Err(Refusal::invalid(
                "name",
                format!(
                    "the engine has {leases} leases: revoke what they are for and wait until `sundew lease list` is empty"
                ),
            ));
        }
        let record = journal::record("engine_deleted")
            .with("engine", &request.name)
            .with("actor", operator.id());
        let place = DocumentPlace::new(DocumentKind::Engine, &request.name);
        // Nothing rests on an engine that has no leases.
        let withdrawn = self.ledger.withdraw_document(place, record, &NoDependents);
        let (existed, ()) = withdrawn.await?;
        self.reload_engines().await?;
        Ok(v1::DeleteEngineResponse {
            action: deletion(existed).to_owned(),
        })
    }

    /// Reads all engines anew.
    pub(crate) async fn reload_engines(&self) -> Result<(), Refusal> {
        let (mut fresh, mut unusable) = (HashMap::new(), Vec::new());
        let documents = self.ledger.records.documents(DocumentKind::Engine).await?;
        for (name, document) in documents {
            let engine = match document {
                Ok(document) => self.running_engine(&name, &document).await,
                Err(error) => Err(error),
            };
            match engine {
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
        *self.engines.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        *self.unusable.lock().unwrap_or_else(PoisonError::into_inner) = unusable;
        self.news.notify_one();
        Ok(())
    }

    pub(super) fn reload_engines_in_background(self: Arc<Self>) {
        tokio::spawn(async move {
            if let Err(error) = self.reload_engines().await {
                tracing::error!(%error, "engines could not be read anew");
            }
        });
    }

    async fn running_engine(
        &self,
        name: &str,
        document: &Document,
    ) -> Result<RunningEngine, Refusal> {
        let document = open_engine(document)?;
        let password = self.engine_password(&document).await?;
        let root = self.ledger.root();
        let prefix = |key| (key, LeaseRecord::prefix((root, key), name));
        let prefixes = root.names().map(prefix).collect();
        let driver = document
            .config
            .driver(password)
            .map_err(|e| Refusal::Engine(e.to_string()))?;
        Ok(RunningEngine {
            config: document.config,
            driver,
            prefixes,
            problem: Mutex::default(),
            queue: Arc::default(),
            wake: Notify::new(),
        })
    }

    async fn engine_password(&self, document: &EngineDocument) -> Result<SecretBytes, Refusal> {
        let sealed = STANDARD
            .decode(&document.password)
            .map_err(|_| Refusal::Seal {
                what: "engine",
                cause: SealError::Opening,
            })?;
        let name = format!("engine {}", document.config.name);
        self.secrets.open(&name, &sealed).await
    }
}

fn open_engine(document: &Document) -> Result<EngineDocument, Refusal> {
    document.decode(serde_json::from_slice)
}
