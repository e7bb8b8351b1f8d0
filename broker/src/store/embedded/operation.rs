//! The operations that the embedded store's file is made of, and what each does to the state.

use std::collections::HashMap;

use sundew_core::store::{DocumentKind, StoredEntry};
use sundew_core::{EntryId, LeaseId, Position, TaskId};

use super::{State, Task};

/// One change.
#[derive(Clone, prost::Message)]
pub(super) struct Operation {
    #[prost(oneof = "kind::Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    pub(super) kind: Option<kind::Kind>,
}

#[derive(Clone, prost::Message)]
pub(super) struct Document {
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(super) value: Option<Vec<u8>>,
}

#[derive(Clone, prost::Message)]
pub(super) struct Used {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) name: Vec<u8>,
    #[prost(int64, tag = "2")]
    pub(super) until_ms: i64,
}

#[derive(Clone, prost::Message)]
pub(super) struct Place {
    #[prost(string, tag = "1")]
    pub(super) workload: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) task: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) deadline_ms: i64,
    #[prost(int64, tag = "4")]
    pub(super) due_ms: i64,
}

#[derive(Clone, prost::Message)]
pub(super) struct NewTask {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) record: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) retain_until_ms: i64,
    #[prost(message, optional, tag = "4")]
    pub(super) token: Option<NewToken>,
}

#[derive(Clone, prost::Message)]
pub(super) struct NewToken {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) task: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) record: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(super) retain_until_ms: i64,
}

#[derive(Clone, prost::Message)]
pub(super) struct Binding {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) task: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) binding: Vec<u8>,
}

#[derive(Clone, prost::Message)]
pub(super) struct Release {
    #[prost(string, tag = "1")]
    pub(super) workload: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) task: Vec<u8>,
}

#[derive(Clone, prost::Message)]
pub(super) struct Due {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) task: Vec<u8>,
    #[prost(int64, tag = "2")]
    pub(super) due_ms: i64,
}

#[derive(Clone, prost::Message)]
pub(super) struct Entry {
    #[prost(uint64, tag = "1")]
    pub(super) position: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) entry: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(super) until_ms: i64,
}

#[derive(Clone, prost::Message)]
pub(super) struct Lease {
    #[prost(string, tag = "1")]
    pub(super) engine: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) id: Vec<u8>,
    /// None: it is gone.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(super) record: Option<Vec<u8>>,
    #[prost(int64, tag = "4")]
    pub(super) due_ms: i64,
}

#[derive(Clone, prost::Message)]
pub(super) struct Had {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) task: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) lease: Vec<u8>,
}

#[derive(Clone, prost::Message)]
pub(super) struct Reaped {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) task: Vec<u8>,
}

pub(super) mod kind {
    /// What changes.
    #[derive(Clone, prost::Oneof)]
    pub(in super::super) enum Kind {
        #[prost(message, tag = "1")]
        Document(super::Document),
        #[prost(message, tag = "2")]
        Used(super::Used),
        #[prost(message, tag = "3")]
        Place(super::Place),
        #[prost(message, tag = "4")]
        Task(super::NewTask),
        #[prost(message, tag = "5")]
        Token(super::NewToken),
        #[prost(message, tag = "6")]
        Binding(super::Binding),
        #[prost(message, tag = "7")]
        Release(super::Release),
        #[prost(message, tag = "8")]
        Due(super::Due),
        #[prost(message, tag = "9")]
        Entry(super::Entry),
        #[prost(message, tag = "10")]
        Lease(super::Lease),
        #[prost(message, tag = "11")]
        Reaped(super::Reaped),
        #[prost(message, tag = "12")]
        Had(super::Had),
    }
}

use kind::Kind;

fn task_id(bytes: &[u8]) -> TaskId {
    TaskId::from_bytes(bytes.try_into().unwrap_or_default())
}

impl State {
    /// Applies one operation; reading the file back applies the same ones in the same order.
    pub(super) fn apply(&mut self, kind: &Kind) {
        self.operations = self.operations.saturating_add(1);
        match kind {
            Kind::Document(change) => {
                let Some(family) = DocumentKind::ALL
                    .into_iter()
                    .find(|k| k.as_str() == change.kind)
                else {
                    return;
                };
                let place = (family.as_str(), change.name.clone());
                match &change.value {
                    Some(value) => drop(self.documents.insert(place, value.clone())),
                    None => drop(self.documents.remove(&place)),
                }
            }
            Kind::Used(used) => {
                self.used.insert(
                    used.name.as_slice().try_into().unwrap_or_default(),
                    used.until_ms,
                );
            }
            Kind::Place(place) => {
                let task = task_id(&place.task);
                self.places
                    .entry(place.workload.clone())
                    .or_default()
                    .insert(task, place.deadline_ms);
                self.set_due(task, Some(place.due_ms));
            }
            Kind::Task(task) => {
                let new = Task {
                    record: task.record.clone(),
                    retain_until_ms: task.retain_until_ms,
                    bindings: Vec::new(),
                    leases: Default::default(),
                    tokens: Default::default(),
                };
                self.tasks.insert(task_id(&task.id), new);
                if let Some(token) = &task.token {
                    self.add_token(token);
                }
            }
            Kind::Token(token) => self.add_token(token),
            Kind::Binding(binding) => {
                if let Some(task) = self.tasks.get_mut(&task_id(&binding.task))
                    && !task.bindings.contains(&binding.binding)
                {
                    task.bindings.push(binding.binding.clone());
                }
            }
            Kind::Release(release) => {
                let task = task_id(&release.task);
                if let Some(places) = self.places.get_mut(&release.workload) {
                    places.remove(&task);
                }
                self.set_due(task, None);
            }
            Kind::Due(due) => self.set_due(task_id(&due.task), Some(due.due_ms)),
            Kind::Entry(entry) => {
                let (position, id) = (
                    Position(entry.position),
                    EntryId(entry.id.as_slice().try_into().unwrap_or_default()),
                );
                let stored = StoredEntry {
                    position,
                    id,
                    previous: self.tip.1,
                    bytes: entry.entry.clone(),
                };
                self.tip = (position, id);
                self.entries.push_back((stored, entry.until_ms));
            }
            Kind::Lease(lease) => {
                let id = LeaseId::from_bytes(lease.id.as_slice().try_into().unwrap_or_default());
                let leases = self.leases.entry(lease.engine.clone()).or_default();
                match &lease.record {
                    Some(record) => drop(leases.insert(id, (record.clone(), lease.due_ms))),
                    None => drop(leases.remove(&id)),
                }
            }
            Kind::Had(had) => {
                if let Some(task) = self.tasks.get_mut(&task_id(&had.task)) {
                    task.leases.insert(LeaseId::from_bytes(
                        had.lease.as_slice().try_into().unwrap_or_default(),
                    ));
                }
            }
            Kind::Reaped(reaped) => {
                if let Some(task) = self.tasks.get_mut(&task_id(&reaped.task)) {
                    task.tokens.clear();
                }
            }
        }
    }

    fn add_token(&mut self, token: &NewToken) {
        if let Some(task) = self.tasks.get_mut(&task_id(&token.task)) {
            task.tokens.insert(
                token.hash.as_slice().try_into().unwrap_or_default(),
                (token.record.clone(), token.retain_until_ms),
            );
        }
    }

    fn set_due(&mut self, task: TaskId, due_ms: Option<i64>) {
        if let Some(old) = self.due_at.remove(&task) {
            self.due.remove(&(old, task));
        }
        if let Some(at) = due_ms {
            self.due_at.insert(task, at);
            self.due.insert((at, task));
        }
    }

    /// Drops what has expired; answers about how many operations a snapshot would need.
    pub(super) fn purge(&mut self, now_ms: i64) -> usize {
        self.used.retain(|_, until| *until > now_ms);
        self.tasks.retain(|_, task| task.retain_until_ms > now_ms);
        for task in self.tasks.values_mut() {
            task.tokens.retain(|_, (_, until)| *until > now_ms);
        }
        for places in self.places.values_mut() {
            places.retain(|_, deadline| *deadline > now_ms);
        }
        self.places.retain(|_, places| !places.is_empty());
        // The last entry stays: the next one names it.
        let tip = self.tip.0;
        self.entries
            .retain(|(entry, until)| *until > now_ms || entry.position == tip);
        let tokens: usize = self.tasks.values().map(|task| task.tokens.len()).sum();
        let leases: usize = self.leases.values().map(HashMap::len).sum();
        self.documents.len()
            + self.used.len()
            + self.tasks.len()
            + tokens
            + self.due.len()
            + self.entries.len()
            + leases
    }

    /// Operations that make this state out of nothing.
    pub(super) fn snapshot(&self) -> Vec<Kind> {
        let mut out = Vec::new();
        for ((kind, name), value) in &self.documents {
            out.push(Kind::Document(Document {
                kind: (*kind).to_owned(),
                name: name.clone(),
                value: Some(value.clone()),
            }));
        }
        for (name, until_ms) in &self.used {
            out.push(Kind::Used(Used {
                name: name.to_vec(),
                until_ms: *until_ms,
            }));
        }
        for (workload, places) in &self.places {
            for (task, deadline_ms) in places {
                let due_ms = self.due_at.get(task).copied().unwrap_or(*deadline_ms);
                out.push(Kind::Place(Place {
                    workload: workload.clone(),
                    task: task.as_bytes().to_vec(),
                    deadline_ms: *deadline_ms,
                    due_ms,
                }));
            }
        }
        for (task, due_ms) in &self.due_at {
            out.push(Kind::Due(Due {
                task: task.as_bytes().to_vec(),
                due_ms: *due_ms,
            }));
        }
        for (id, task) in &self.tasks {
            let name = id.as_bytes().to_vec();
            out.push(Kind::Task(NewTask {
                id: name.clone(),
                record: task.record.clone(),
                retain_until_ms: task.retain_until_ms,
                token: None,
            }));
            for binding in &task.bindings {
                out.push(Kind::Binding(Binding {
                    task: name.clone(),
                    binding: binding.clone(),
                }));
            }
            for lease in &task.leases {
                out.push(Kind::Had(Had {
                    task: name.clone(),
                    lease: lease.as_bytes().to_vec(),
                }));
            }
            for (hash, (record, retain_until_ms)) in &task.tokens {
                out.push(Kind::Token(NewToken {
                    task: name.clone(),
                    hash: hash.to_vec(),
                    record: record.clone(),
                    retain_until_ms: *retain_until_ms,
                }));
            }
        }
        for (engine, leases) in &self.leases {
            for (id, (record, due_ms)) in leases {
                out.push(Kind::Lease(Lease {
                    engine: engine.clone(),
                    id: id.as_bytes().to_vec(),
                    record: Some(record.clone()),
                    due_ms: *due_ms,
                }));
            }
        }
        for (entry, until_ms) in &self.entries {
            out.push(Kind::Entry(Entry {
                position: entry.position.0,
                id: entry.id.0.to_vec(),
                entry: entry.bytes.clone(),
                until_ms: *until_ms,
            }));
        }
        out
    }
}
