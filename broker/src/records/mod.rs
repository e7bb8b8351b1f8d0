//! Typed records over the store's bytes, tagged with their place, and what is kept of them in
//! memory.
//!
//! P4 allows caching: records never change, and whether they are alive is asked of the view at
//! every use. P8, T71: a record that does not carry this place's tag is refused, never repaired.
//! P12: every cache is bounded.

mod cache;
mod changes;
#[cfg(test)]
mod document_tests;
mod documents;
mod orders;
#[cfg(test)]
mod tests;
mod tokens;
mod under_root_key;
mod unreadable;
mod versions;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use sundew_attestation::spiffe::SpiffeId;
use sundew_core::store::{Created, DocumentKind, NewTask, Store};
use sundew_core::{
    Changed, DocumentVersion, Event, KeyFingerprint, KnownTask, KnownToken, RootKey, SealError,
    TaskId, TaskRecord, TokenHash, WorkloadRecord,
};

use crate::clock;
use crate::liveness::Subscriber;
use crate::refusal::Refusal;
use cache::{Cache, MAX_CACHED, TokenCache, bytes_of};
pub(crate) use changes::Before;
pub(crate) use documents::{CaKeys, Document, DocumentPlace, FIRST_OPERATOR, KEYRING};
pub(crate) use orders::{ClaimedOrder, StoredOrder};
pub(crate) use under_root_key::{counter_place, lease_place};
use unreadable::Unreadable;
use versions::Versions;

/// How long the record of a task stays in the store after the task's deadline, in milliseconds, so
/// that an operator can look at it.
const RETAIN_TASK_AFTER_DEADLINE_MS: i64 = 600_000;
/// How long what remains of a task stays in the store after its end, in milliseconds, for calls that
/// are repeated (A2). The journal has the rest for as long as it is kept.
const RETAIN_TASK_AFTER_END_MS: i64 = 120_000;

/// The certificates that a task was moved to and that may act for it beside the one that began it:
/// the newest of them (A5). An SVID that was rotated so often ago has ended.
const MAX_BINDINGS: usize = 8;

/// A task with the certificates that may act for it.
pub struct Task {
    /// The task's record, with the tasks that it was delegated from.
    pub known: Arc<KnownTask>,
    /// The SHA-256 of each certificate that the task was moved to.
    pub rotated_to: Vec<[u8; 32]>,
}

impl Task {
    /// Refuses unless this task was begun by the request that would begin the other one: they have
    /// one name, from one idempotency key.
    pub fn require_request_of(&self, other: &KnownTask) -> Result<(), Refusal> {
        if self.request == other.request && self.workload == other.workload {
            Ok(())
        } else {
            Err(Refusal::Idempotency)
        }
    }
}

/// The task that there is after a call to create it.
pub enum CreatedTask {
    /// An earlier call with this idempotency key created the task.
    Existing(Arc<Task>),
    /// This call created the task, with its first token.
    New(Arc<Task>, Arc<KnownToken>),
}

impl Deref for Task {
    type Target = KnownTask;
    fn deref(&self) -> &KnownTask {
        &self.known
    }
}

/// Typed records over a store, and what is kept of them in memory.
pub struct Records {
    store: Arc<dyn Store>,
    root: Arc<RootKey>,
    tasks: Cache<TaskId, Arc<Task>>,
    tokens: TokenCache,
    /// Registrations as they were read; `None` for a workload that is not registered.
    workloads: RwLock<HashMap<SpiffeId, Option<Arc<WorkloadRecord>>>>,
    /// Counts changes of registrations, so that what was read before a change is not kept after it.
    workloads_generation: AtomicU64,
    versions: Versions,
    unreadable: Unreadable,
    /// The number of times that the store lost something.
    gaps: AtomicU64,
}

impl Records {
    /// Returns records in this store that are tagged under these root keys.
    pub fn new(store: Arc<dyn Store>, root: Arc<RootKey>) -> Self {
        Self {
            store,
            root,
            tasks: Cache::new(),
            tokens: TokenCache::new(),
            workloads: RwLock::default(),
            workloads_generation: AtomicU64::new(0),
            versions: Versions::default(),
            unreadable: Unreadable::default(),
            gaps: AtomicU64::new(0),
        }
    }

    /// Returns the store below, for what has no typed records.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Returns the root keys.
    pub fn root(&self) -> &RootKey {
        &self.root
    }

    /// Returns the record in `bytes` if it was tagged under these parts, and a refusal that names
    /// `what` otherwise.
    pub(crate) fn open<'a, T, E>(
        &self,
        what: &'static str,
        parts: &[&[u8]],
        bytes: &'a [u8],
        decode: impl FnOnce(&'a [u8]) -> Result<T, E>,
    ) -> Result<T, Refusal> {
        self.open_by(what, parts, bytes, decode)
            .map(|(record, _)| record)
    }

    /// Returns what [`open`](Self::open) does, and the name of the root key under which it is.
    fn open_by<'a, T, E>(
        &self,
        what: &'static str,
        parts: &[&[u8]],
        bytes: &'a [u8],
        decode: impl FnOnce(&'a [u8]) -> Result<T, E>,
    ) -> Result<(T, KeyFingerprint), Refusal> {
        let (record, key) = self
            .root
            .untag_by(parts, bytes)
            .map_err(|cause| Refusal::Seal { what, cause })?;
        let record = decode(record).map_err(|_| Refusal::Seal {
            what,
            cause: SealError::Opening,
        })?;
        Ok((record, key))
    }

    /// Forgets everything in memory, after the store was emptied or lost something.
    pub fn forget(&self) {
        self.tasks.clear();
        self.tokens.clear();
        self.forget_workloads();
    }

    /// Returns how often the store lost something, as far as this broker has noticed.
    pub(crate) fn gaps(&self) -> u64 {
        self.gaps.load(Ordering::Acquire)
    }

    /// Forgets all registrations.
    fn forget_workloads(&self) {
        self.workloads_generation.fetch_add(1, Ordering::AcqRel);
        self.workloads
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Forgets a registration, after it was changed.
    pub fn forget_workload(&self, id: &SpiffeId) {
        self.workloads_generation.fetch_add(1, Ordering::AcqRel);
        self.workloads
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }

    /// Returns a registration from memory or from the store, if the workload is registered. What is
    /// in memory is as old as the view of the revocation log is.
    pub async fn workload(&self, id: &SpiffeId) -> Result<Option<Arc<WorkloadRecord>>, Refusal> {
        if let Some(known) = self
            .workloads
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
        {
            return Ok(known.clone());
        }
        let generation = self.workloads_generation.load(Ordering::Acquire);
        let place = DocumentPlace::new(DocumentKind::Workload, id.as_str());
        let record = match self.document(place).await? {
            Some(document) => Some(Arc::new(document.decode(WorkloadRecord::decode)?)),
            None => None,
        };
        let mut known = self
            .workloads
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // What was read before a change must not stay after it.
        if self.workloads_generation.load(Ordering::Acquire) == generation
            && known.len() < MAX_CACHED
        {
            known.insert(id.clone(), record.clone());
        }
        Ok(record)
    }

    /// Writes a task with its first token, unless an earlier call with this idempotency key has
    /// written it. Refuses if that was another request.
    pub async fn create_task(
        &self,
        task: Arc<KnownTask>,
        token: KnownToken,
        hash: &TokenHash,
    ) -> Result<CreatedTask, Refusal> {
        let id = task.id;
        let new = NewTask {
            id,
            record: self.of_task(&task, &[b"task", id.as_bytes()], task.encode()),
            retain_until_ms: task
                .deadline_ms
                .saturating_add(RETAIN_TASK_AFTER_DEADLINE_MS),
            token: self.new_token(&token, hash),
        };
        match self.store.create_task(new).await? {
            Created::New => {
                let task = Arc::new(Task {
                    known: task,
                    rotated_to: Vec::new(),
                });
                let token = Arc::new(token);
                self.tasks.insert(id, Arc::clone(&task), bytes_of(&task));
                self.tokens.insert(*hash, Arc::clone(&token));
                Ok(CreatedTask::New(task, token))
            }
            Created::Existing(_) => {
                // Not from memory, which may have an older task of this name (L11).
                let existing = self.read_task(id).await?;
                let existing = existing.ok_or(Refusal::NotFound("task"))?;
                existing.require_request_of(&task)?;
                Ok(CreatedTask::Existing(existing))
            }
        }
    }

    /// A2: leaves of a task that has ended what remains of it, in the store for a while and not in
    /// memory, and removes its tokens.
    pub async fn end_task(&self, task: &KnownTask) -> Result<(), Refusal> {
        let id = task.id;
        self.forget_task(&id);
        let remains = task.record().remains().encode();
        let remains = self.of_task(task, &[b"task", id.as_bytes()], remains);
        let until_ms = clock::now_ms().saturating_add(RETAIN_TASK_AFTER_END_MS);
        Ok(self.store.end_task(id, remains, until_ms).await?)
    }

    /// Forgets a task and its tokens.
    fn forget_task(&self, id: &TaskId) {
        self.tasks.remove(id);
        self.tokens.remove(id);
    }

    /// Returns a task from memory or from the store, if it exists.
    pub async fn task(&self, id: TaskId) -> Result<Option<Arc<Task>>, Refusal> {
        match self.tasks.get(&id) {
            Some(known) => Ok(Some(known)),
            None => self.read_task(id).await,
        }
    }

    /// Returns a task as the store has it, with the certificates that it was moved to at other
    /// brokers, and keeps it in memory.
    pub async fn read_task(&self, id: TaskId) -> Result<Option<Arc<Task>>, Refusal> {
        let Some(stored) = self.store.task(id).await? else {
            return Ok(None);
        };
        let Some(known) = self.open_task(id, &stored.record).await? else {
            return Ok(None);
        };
        let mut rotated_to = Vec::new();
        for binding in &stored.bindings {
            rotated_to.push(self.open(
                "task",
                &[b"binding", id.as_bytes()],
                binding,
                <[u8; 32]>::try_from,
            )?);
        }
        let task = Arc::new(Task { known, rotated_to });
        self.tasks.insert(id, Arc::clone(&task), bytes_of(&task));
        Ok(Some(task))
    }

    /// Returns a task from memory or from the store without keeping it in memory, for callers that
    /// look at all tasks.
    pub async fn look_at_task(&self, id: TaskId) -> Result<Option<Arc<KnownTask>>, Refusal> {
        if let Some(known) = self.tasks.get(&id) {
            return Ok(Some(Arc::clone(&known.known)));
        }
        match self.store.task(id).await? {
            Some(stored) => self.open_task(id, &stored.record).await,
            None => Ok(None),
        }
    }

    /// Returns a task whose record is there and whose ancestors are not all there any more, without
    /// its ancestors. Such a task is dead; it is to be put on the record and taken off the lists.
    pub async fn orphan(&self, id: TaskId) -> Result<Option<Arc<KnownTask>>, Refusal> {
        let Some(stored) = self.store.task(id).await? else {
            return Ok(None);
        };
        let (record, key) = self.open_by(
            "task",
            &[b"task", id.as_bytes()],
            &stored.record,
            |record| TaskRecord::decode(id, record),
        )?;
        Ok(Some(Arc::new(KnownTask::new(record, Vec::new(), key))))
    }

    /// Returns the task in a stored record, with all that it was delegated from. P4: the result is
    /// `None` if one of its ancestors does not exist, because nobody could say whether the task is
    /// alive.
    async fn open_task(&self, id: TaskId, bytes: &[u8]) -> Result<Option<Arc<KnownTask>>, Refusal> {
        let open = |id: TaskId, bytes: &[u8]| {
            self.open_by("task", &[b"task", id.as_bytes()], bytes, |record| {
                TaskRecord::decode(id, record)
            })
        };
        let (record, key) = open(id, bytes)?;
        // From the root down, because a task that was delegated is known by those above it.
        let mut ancestors: Vec<Arc<KnownTask>> = Vec::with_capacity(record.ancestors.len());
        for ancestor in &record.ancestors {
            let known = match self.tasks.get(ancestor) {
                Some(known) => Arc::clone(&known.known),
                None => {
                    let Some(stored) = self.store.task(*ancestor).await? else {
                        return Ok(None);
                    };
                    let (above, key) = open(*ancestor, &stored.record)?;
                    Arc::new(KnownTask::new(above, ancestors.clone(), key))
                }
            };
            ancestors.push(known);
        }
        Ok(Some(Arc::new(KnownTask::new(record, ancestors, key))))
    }

    /// Lets another certificate act for a task, from now on and besides those that may already.
    /// `certificate` is the certificate's SHA-256.
    pub async fn bind_task(&self, task: &KnownTask, certificate: [u8; 32]) -> Result<(), Refusal> {
        let place: [&[u8]; 2] = [b"binding", task.id.as_bytes()];
        let binding = self.of_task(task, &place, certificate.to_vec());
        let bound = self.store.bind_task(task.id, binding, MAX_BINDINGS);
        bound.await?;
        self.read_task(task.id).await.map(drop)
    }

    /// Tags something that belongs to a task under the root key of the task: it is of use for as
    /// long as that key is accepted, and so is the task.
    pub(super) fn of_task(&self, task: &KnownTask, place: &[&[u8]], record: Vec<u8>) -> Vec<u8> {
        self.root.tag_under(task.root_key(), place, record)
    }
}

impl Subscriber for Records {
    fn on_document(self: Arc<Self>, statement: &DocumentVersion) {
        self.learn(statement);
    }

    fn on_event(self: Arc<Self>, event: &Event) {
        match event {
            Event::Changed(Changed::Workload(id)) => self.forget_workload(id),
            Event::Ended { task, .. } => self.forget_task(task),
            Event::Changed(_)
            | Event::Floor
            | Event::Lifted(_)
            | Event::Resumed(_)
            | Event::Rule { .. }
            | Event::Suspended(_) => {}
        }
    }

    fn on_gap(self: Arc<Self>) {
        self.gaps.fetch_add(1, Ordering::AcqRel);
        self.forget();
    }
}
