//! Tasks and tokens with the attributes by which rules find them, worked out once.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::id::{TaskId, TokenId};
use crate::record::{TaskRecord, TokenRecord};
use crate::selector::{
    Attribute, Subject, audience_attributes, scope_attributes, workload_attributes,
};

/// A task, the tasks that it was delegated from, and its attributes.
#[derive(Debug)]
pub struct KnownTask {
    record: TaskRecord,
    ancestors: Vec<Arc<KnownTask>>,
    identity: Vec<Attribute>,
    scopes: Vec<Attribute>,
}

impl Deref for KnownTask {
    type Target = TaskRecord;
    fn deref(&self) -> &TaskRecord {
        &self.record
    }
}

fn serial_attribute(serial: &[u8]) -> Attribute {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in serial {
        let _ = write!(text, "{byte:02x}");
    }
    // As certificates are printed: without the zero that keeps a number positive.
    let text = if serial.len() > 1 {
        text.strip_prefix("00").unwrap_or(&text)
    } else {
        &text
    };
    Attribute::Serial(text.into())
}

impl KnownTask {
    /// A task with the ones that it was delegated from, its parent last.
    #[must_use]
    pub fn new(record: TaskRecord, ancestors: Vec<Arc<Self>>) -> Self {
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
        identity.push(Attribute::Registration(record.registration.as_str().into()));
        let scopes = scope_attributes(record.scopes.iter());
        Self {
            record,
            ancestors,
            identity,
            scopes,
        }
    }

    /// Its record.
    #[must_use]
    pub fn record(&self) -> &TaskRecord {
        &self.record
    }

    /// The tasks that it was delegated from, its parent last.
    #[must_use]
    pub fn ancestors(&self) -> &[Arc<Self>] {
        &self.ancestors
    }

    /// Itself, then the tasks that it was delegated from, the first one first.
    pub fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.ancestors.iter().map(AsRef::as_ref))
    }

    /// The names of itself and of the tasks that it was delegated from, the nearest first.
    pub fn lineage(&self) -> impl Iterator<Item = &TaskId> {
        std::iter::once(&self.record.id).chain(self.record.ancestors.iter().rev())
    }

    /// As rules see it.
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

/// A token with its task and its attributes.
#[derive(Debug)]
pub struct KnownToken {
    record: TokenRecord,
    id: TokenId,
    task: Arc<KnownTask>,
    own: Vec<Attribute>,
    /// The generation of the rules at which none of them killed it: what was found once holds
    /// until a rule changes.
    spared_at: AtomicU64,
}

impl Deref for KnownToken {
    type Target = TokenRecord;
    fn deref(&self) -> &TokenRecord {
        &self.record
    }
}

impl KnownToken {
    /// A token of a task.
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
            spared_at: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_spared_at(&self, generation: u64) -> bool {
        self.spared_at.load(Ordering::Relaxed) == generation
    }

    pub(crate) fn spare_at(&self, generation: u64) {
        self.spared_at.store(generation, Ordering::Relaxed);
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// Its task.
    #[must_use]
    pub fn task(&self) -> &Arc<KnownTask> {
        &self.task
    }

    /// As rules see it.
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
