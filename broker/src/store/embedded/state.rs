//! Everything that the embedded store has in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use sundew_core::store::StoredEntry;
use sundew_core::{EntryId, LeaseId, OrderId, Position, TaskId};

/// The state that the operations of the file add up to. Times are milliseconds since the epoch.
#[derive(Default)]
pub(super) struct State {
    /// The agreement on bounds: its version, 0 for none, and its bytes.
    pub(super) agreement: (u64, Vec<u8>),
    /// The documents, by the name of their kind and their own name.
    pub(super) documents: HashMap<(&'static str, String), Vec<u8>>,
    /// The single-use names that were taken, and until when they count as taken.
    pub(super) used: HashMap<[u8; 32], i64>,
    pub(super) orders: HashMap<OrderId, Order>,
    pub(super) tasks: HashMap<TaskId, Task>,
    /// The tasks of each workload that hold a place, and their deadlines.
    pub(super) places: HashMap<String, HashMap<TaskId, i64>>,
    /// The attendance list in the order of time.
    pub(super) due: BTreeSet<(i64, TaskId)>,
    /// The attendance list in the order of tasks.
    pub(super) due_at: BTreeMap<TaskId, i64>,
    /// The entries of the revocation log, and until when each is kept.
    pub(super) entries: VecDeque<(StoredEntry, i64)>,
    /// The leases of each engine: the record, and when it is due.
    pub(super) leases: HashMap<String, HashMap<LeaseId, (Vec<u8>, i64)>>,
    /// The last entry of the revocation log.
    pub(super) tip: (Position, EntryId),
    /// The number of operations in the file.
    pub(super) operations: usize,
}

/// An order with its claim, if somebody has claimed it.
pub(super) struct Order {
    pub(super) dispatcher: String,
    pub(super) record: Vec<u8>,
    pub(super) claim: Option<Vec<u8>>,
    /// Until when the order is on the list of its dispatcher; 0 if it was taken off.
    pub(super) listed_until_ms: i64,
    pub(super) retain_until_ms: i64,
}

/// A task with what was written beside it.
pub(super) struct Task {
    pub(super) record: Vec<u8>,
    pub(super) retain_until_ms: i64,
    pub(super) bindings: Vec<Vec<u8>>,
    /// The leases that the task has had.
    pub(super) leases: BTreeSet<LeaseId>,
    /// The tokens by their hash: the record, and until when it is kept.
    pub(super) tokens: HashMap<[u8; 32], (Vec<u8>, i64)>,
}

impl State {
    /// Drops what has expired at `now_ms`. Returns about how many operations a snapshot would need.
    pub(super) fn purge(&mut self, now_ms: i64) -> usize {
        self.used.retain(|_, until| *until > now_ms);
        self.orders
            .retain(|_, order| order.retain_until_ms > now_ms);
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
            + self.orders.len()
            + self.tasks.len()
            + tokens
            + self.due.len()
            + self.entries.len()
            + leases
    }
}
