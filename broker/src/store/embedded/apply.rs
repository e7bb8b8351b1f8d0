//! The changes that each operation makes to the state.

use sundew_core::store::{DocumentKind, StoredEntry};
use sundew_core::{EntryId, LeaseId, OrderId, Position, TaskId};

use super::operation::{
    Claim, Document, Entry, Lease, NewOrder, NewTask, NewToken, Place, Release, kind::Kind,
};
use super::state::{Order, State, Task};

impl State {
    /// Applies one operation. Reading the file back applies the same operations in the same order.
    pub(super) fn apply(&mut self, kind: &Kind) {
        self.operations = self.operations.saturating_add(1);
        match kind {
            Kind::Document(change) => self.apply_document(change),
            Kind::Used(used) => {
                self.used.insert(
                    used.name.as_slice().try_into().unwrap_or_default(),
                    used.until_ms,
                );
            }
            Kind::Place(place) => self.apply_place(place),
            Kind::Task(task) => self.apply_task(task),
            Kind::Token(token) => self.apply_token(token),
            Kind::Binding(binding) => {
                if let Some(task) = self.tasks.get_mut(&task_id(&binding.task)) {
                    let bindings = &mut task.bindings;
                    bindings.retain(|known| *known != binding.binding);
                    bindings.push(binding.binding.clone());
                    let limit = usize::try_from(binding.limit).unwrap_or(usize::MAX);
                    if limit > 0 && bindings.len() > limit {
                        bindings.drain(..bindings.len() - limit);
                    }
                }
            }
            Kind::Release(release) => self.apply_release(release),
            Kind::Claim(claim) => self.apply_claim(claim),
            Kind::Order(order) => self.apply_order(order),
            Kind::Unlisted(unlisted) => {
                if let Some(order) = self.orders.get_mut(&order_id(&unlisted.order)) {
                    order.listed_until_ms = 0;
                }
            }
            Kind::Due(due) => self.set_due(task_id(&due.task), Some(due.due_ms)),
            Kind::Agreement(agreement) => {
                self.agreement = (agreement.version, agreement.value.clone());
            }
            Kind::Dropped(dropped) => {
                let tip = self.tip.0;
                self.entries.retain(|(entry, _)| {
                    entry.position == tip || !dropped.positions.contains(&entry.position.0)
                });
            }
            Kind::Entry(entry) => self.apply_entry(entry),
            Kind::Lease(lease) => self.apply_lease(lease),
            Kind::Had(had) => {
                if let Some(task) = self.tasks.get_mut(&task_id(&had.task)) {
                    task.leases.insert(lease_id(&had.lease));
                }
            }
            Kind::Reaped(reaped) => {
                if let Some(task) = self.tasks.get_mut(&task_id(&reaped.task)) {
                    task.tokens = Default::default();
                }
            }
            Kind::Ended(ended) => {
                if let Some(task) = self.tasks.get_mut(&task_id(&ended.task)) {
                    task.record.clone_from(&ended.remains);
                    task.record.shrink_to_fit();
                    task.retain_until_ms = task.retain_until_ms.min(ended.retain_until_ms);
                    task.tokens = Default::default();
                }
            }
        }
    }

    /// Applies a change of a document. A kind that this version does not know is left out.
    fn apply_document(&mut self, change: &Document) {
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

    fn apply_place(&mut self, place: &Place) {
        let task = task_id(&place.task);
        self.places
            .entry(place.workload.clone())
            .or_default()
            .insert(task, place.deadline_ms);
        self.set_due(task, Some(place.due_ms));
    }

    fn apply_task(&mut self, task: &NewTask) {
        let new = Task {
            record: task.record.clone(),
            retain_until_ms: task.retain_until_ms,
            bindings: Vec::new(),
            leases: Default::default(),
            tokens: Default::default(),
        };
        self.tasks.insert(task_id(&task.id), new);
        if let Some(token) = &task.token {
            self.apply_token(token);
        }
    }

    fn apply_order(&mut self, order: &NewOrder) {
        let new = Order {
            dispatcher: order.dispatcher.clone(),
            record: order.record.clone(),
            claim: order.claim.clone(),
            listed_until_ms: order.listed_until_ms,
            retain_until_ms: order.retain_until_ms,
        };
        self.orders.insert(order_id(&order.id), new);
    }

    fn apply_claim(&mut self, claim: &Claim) {
        let Some(task) = &claim.task else {
            return;
        };
        if let Some(order) = self.orders.get_mut(&order_id(&task.id)) {
            order.claim = Some(claim.claim.clone());
            order.retain_until_ms = claim.retain_until_ms;
        }
        self.apply_task(task);
    }

    fn apply_token(&mut self, token: &NewToken) {
        if let Some(task) = self.tasks.get_mut(&task_id(&token.task)) {
            task.tokens.insert(
                token.hash.as_slice().try_into().unwrap_or_default(),
                (token.record.clone(), token.retain_until_ms),
            );
        }
    }

    fn apply_release(&mut self, release: &Release) {
        let task = task_id(&release.task);
        if let Some(places) = self.places.get_mut(&release.workload) {
            places.remove(&task);
        }
        self.set_due(task, None);
    }

    fn apply_entry(&mut self, entry: &Entry) {
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

    fn apply_lease(&mut self, lease: &Lease) {
        let leases = self.leases.entry(lease.engine.clone()).or_default();
        let id = lease_id(&lease.id);
        match &lease.record {
            Some(record) => drop(leases.insert(id, (record.clone(), lease.due_ms))),
            None => drop(leases.remove(&id)),
        }
    }

    /// Puts a task on the attendance list at this time, or takes it off.
    fn set_due(&mut self, task: TaskId, due_ms: Option<i64>) {
        if let Some(old) = self.due_at.remove(&task) {
            self.due.remove(&(old, task));
        }
        if let Some(at) = due_ms {
            self.due_at.insert(task, at);
            self.due.insert((at, task));
        }
    }
}

fn task_id(bytes: &[u8]) -> TaskId {
    TaskId::from_bytes(bytes.try_into().unwrap_or_default())
}

fn order_id(bytes: &[u8]) -> OrderId {
    OrderId::of_task(task_id(bytes))
}

fn lease_id(bytes: &[u8]) -> LeaseId {
    LeaseId::from_bytes(bytes.try_into().unwrap_or_default())
}
