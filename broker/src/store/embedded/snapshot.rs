//! The operations that make a state out of nothing, for a compacted file.

use sundew_core::TaskId;

use super::operation::{
    Agreement, Binding, Document, Due, Entry, Had, Lease, NewOrder, NewTask, NewToken, Place, Used,
    kind::Kind,
};
use super::state::{State, Task};

impl State {
    /// Returns operations that make this state out of nothing.
    pub(super) fn snapshot(&self) -> Vec<Kind> {
        let mut out = Vec::new();
        let (version, value) = self.agreement.clone();
        if version > 0 {
            out.push(Kind::Agreement(Agreement { version, value }));
        }
        self.snapshot_documents(&mut out);
        self.snapshot_lists(&mut out);
        self.snapshot_orders(&mut out);
        // A token, a binding or a lease that a task has had is written after its task, because it
        // is applied only to a task that is there.
        for (id, task) in &self.tasks {
            snapshot_task(*id, task, &mut out);
        }
        self.snapshot_leases(&mut out);
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

    fn snapshot_documents(&self, out: &mut Vec<Kind>) {
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
    }

    fn snapshot_lists(&self, out: &mut Vec<Kind>) {
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
    }

    fn snapshot_orders(&self, out: &mut Vec<Kind>) {
        for (id, order) in &self.orders {
            out.push(Kind::Order(NewOrder {
                id: id.as_bytes().to_vec(),
                dispatcher: order.dispatcher.clone(),
                record: order.record.clone(),
                listed_until_ms: order.listed_until_ms,
                retain_until_ms: order.retain_until_ms,
                claim: order.claim.clone(),
            }));
        }
    }

    fn snapshot_leases(&self, out: &mut Vec<Kind>) {
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
    }
}

fn snapshot_task(id: TaskId, task: &Task, out: &mut Vec<Kind>) {
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
            limit: 0,
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
