//! Tasks and tokens in a broker's memory, with the attributes by which rules find them.
//!
//! The attributes are worked out once, when the record is read.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::id::{OrderId, TaskId, TokenId};
use crate::record::{TaskRecord, TokenRecord};
use crate::sealing::KeyFingerprint;
use crate::selector::{
    Attribute, Subject, audience_attributes, scope_attributes, serial_attribute,
    workload_attributes,
};

/// A task with its attributes and with the tasks that it was delegated from.
#[derive(Debug)]
pub struct KnownTask {
    record: TaskRecord,
    ancestors: Vec<Arc<KnownTask>>,
    /// The root key under which the task began. What belongs to the task is made under it.
    root_key: KeyFingerprint,
    identity: Vec<Attribute>,
    scopes: Vec<Attribute>,
}

impl Deref for KnownTask {
    type Target = TaskRecord;
    fn deref(&self) -> &TaskRecord {
        &self.record
    }
}

impl KnownTask {
    /// Makes a task from its record, from the tasks that it was delegated from, its parent last, and
    /// from the name of the root key under which the record is.
    #[must_use]
    pub fn new(record: TaskRecord, ancestors: Vec<Arc<Self>>, root_key: KeyFingerprint) -> Self {
        let mut identity = vec![
            Attribute::Task(record.id),
            Attribute::Tree(record.id),
            serial_attribute(&record.svid_serial),
        ];
        identity.extend(record.ancestors.iter().map(|id| Attribute::Tree(*id)));
        identity.extend(workload_attributes(&record.workload));
        identity.extend(
            record
                .claims
                .iter()
                .map(|claim| Attribute::Claim(claim.as_str().into())),
        );
        if let Some(order) = &record.order {
            identity.push(Attribute::FromOrder(OrderId::of_task(record.id)));
            identity.push(Attribute::OrderedBy(order.dispatcher.clone()));
        }
        identity.push(Attribute::Registration(record.registration.as_str().into()));
        let scopes = scope_attributes(record.scopes.iter());
        Self {
            record,
            ancestors,
            root_key,
            identity,
            scopes,
        }
    }

    /// Returns the name of the root key under which the task began. What belongs to the task is made
    /// under that key, whichever broker makes it.
    #[must_use]
    pub fn root_key(&self) -> KeyFingerprint {
        self.root_key
    }

    /// Returns the record of the task.
    #[must_use]
    pub fn record(&self) -> &TaskRecord {
        &self.record
    }

    /// Returns the tasks that this task was delegated from, its parent last.
    #[must_use]
    pub fn ancestors(&self) -> &[Arc<Self>] {
        &self.ancestors
    }

    /// Returns this task, then the tasks that it was delegated from, beginning with the root.
    pub fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.ancestors.iter().map(AsRef::as_ref))
    }

    /// Returns the identifier of this task, then those of the tasks that it was delegated from,
    /// beginning with its parent.
    pub fn lineage(&self) -> impl Iterator<Item = &TaskId> {
        std::iter::once(&self.record.id).chain(self.record.ancestors.iter().rev())
    }

    /// Returns the task as rules see it.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            position: self.position,
            issued_at_ms: self.created_at_ms,
            task: &self.identity,
            own: &self.scopes,
        }
    }
}

/// A token with its attributes and its task.
#[derive(Debug)]
pub struct KnownToken {
    record: TokenRecord,
    id: TokenId,
    task: Arc<KnownTask>,
    own: Vec<Attribute>,
    /// The last generation of the rules in which no rule killed the token. This result holds until
    /// a rule changes.
    checked_at: AtomicU64,
}

impl Deref for KnownToken {
    type Target = TokenRecord;
    fn deref(&self) -> &TokenRecord {
        &self.record
    }
}

impl KnownToken {
    /// Makes a token from its record, its identifier and its task.
    #[must_use]
    pub fn new(record: TokenRecord, id: TokenId, task: Arc<KnownTask>) -> Self {
        let mut own = vec![Attribute::Token(id)];
        own.extend(audience_attributes(&record.audience));
        own.extend(scope_attributes(record.scopes.iter()));
        if record.svid_serial != task.svid_serial {
            own.push(serial_attribute(&record.svid_serial));
        }
        if record.registration != task.registration {
            own.push(Attribute::Registration(record.registration.as_str().into()));
        }
        Self {
            record,
            id,
            task,
            own,
            checked_at: AtomicU64::new(0),
        }
    }

    /// Returns whether no rule of this generation kills the token, as far as is remembered.
    pub(crate) fn is_checked_at(&self, generation: u64) -> bool {
        self.checked_at.load(Ordering::Relaxed) == generation
    }

    /// Remembers that no rule of this generation kills the token.
    pub(crate) fn mark_checked_at(&self, generation: u64) {
        self.checked_at.store(generation, Ordering::Relaxed);
    }

    /// Returns the identifier of the token.
    #[must_use]
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// Returns the task that the token belongs to.
    #[must_use]
    pub fn task(&self) -> &Arc<KnownTask> {
        &self.task
    }

    /// Returns the token as rules see it.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            position: self.position,
            issued_at_ms: self.issued_at_ms,
            task: &self.task.identity,
            own: &self.own,
        }
    }
}
