//! The keys in Redis, and how the names and values there are read back. Names have no braces, so
//! each key has one hash tag (T37).

use sundew_core::store::{DocumentKind, NewToken, StoreError};
use sundew_core::{EntryId, OrderId, Position, TaskId};

/// The stream of the revocation log.
pub(super) const LOG: &str = "sundew:{log}:stream";
/// The hash of the brokers that follow the log, with what each has applied.
pub(super) const BROKERS: &str = "sundew:{log}:brokers";
/// The freshness bound of each broker, in milliseconds.
pub(super) const BOUNDS: &str = "sundew:{log}:bounds";
/// The agreement of the brokers on their bounds: its version and its bytes.
pub(super) const AGREEMENT: &str = "sundew:{log}:agreement";
/// The hash of what brokers say of themselves.
pub(super) const ABOUT: &str = "sundew:{log}:about";
/// What brokers ask the others with that have come to the log.
pub(super) const ARRIVALS: &str = "sundew:{log}:arrivals";
/// The hash that takes the place of [`ARRIVALS`] when a store is only tried.
pub(super) const PROBED_ARRIVALS: &str = "sundew:{log}:probed-arrivals";
/// The hash that takes the place of [`BROKERS`] when a store is only tried.
pub(super) const PROBED_BROKERS: &str = "sundew:{log}:probed-brokers";
/// The hash that takes the place of [`BOUNDS`] when a store is only tried.
pub(super) const PROBED_BOUNDS: &str = "sundew:{log}:probed-bounds";
/// The hash that takes the place of [`ABOUT`] when a store is only tried.
pub(super) const PROBED_ABOUT: &str = "sundew:{log}:probed-about";
/// The attendance list: all tasks, by when they are due.
pub(super) const DUE: &str = "sundew:due";

/// The list of all orders, by when they are taken off it.
pub(super) const ORDERS: &str = "sundew:orders";

/// The answers to a broker that has arrived.
pub(super) fn vouchers_key(arriving: &str) -> String {
    format!("sundew:{{log}}:vouchers:{arriving}")
}

/// The record of a task.
pub(super) fn task_key(task: TaskId) -> String {
    format!("sundew:{{{task}}}:task")
}

/// The certificates that a task was moved to, tagged.
pub(super) fn binding_key(task: TaskId) -> String {
    format!("sundew:{{{task}}}:bindings")
}

/// The certificates that a task was moved to, by when.
pub(super) fn binding_order_key(task: TaskId) -> String {
    format!("sundew:{{{task}}}:binding_order")
}

/// The names of the leases that a task has had.
pub(super) fn leases_key(task: TaskId) -> String {
    format!("sundew:{{{task}}}:leases")
}

/// The tokens of a task.
pub(super) fn tokens_key(task: TaskId) -> String {
    format!("sundew:{{{task}}}:tokens")
}

/// Returns the value that a token is stored as: until when it is kept, in milliseconds since the
/// epoch as 8 bytes big-endian, and then its record.
pub(super) fn token_value(token: &NewToken<'_>) -> Vec<u8> {
    let mut value = token.retain_until_ms.to_be_bytes().to_vec();
    value.extend_from_slice(&token.record);
    value
}

/// Returns the record in a value that [`token_value`] made.
pub(super) fn token_record(value: &[u8]) -> Result<Vec<u8>, StoreError> {
    value
        .get(8..)
        .map(<[u8]>::to_vec)
        .ok_or_else(|| nonsense("token"))
}

/// An order with its claim, in the slot of its task.
pub(super) fn order_key(order: OrderId) -> String {
    format!("sundew:{{{}}}:order", order.task())
}

/// The orders of a dispatcher, by when they are taken off the list.
pub(super) fn orders_key(dispatcher: &str) -> String {
    format!("sundew:{{{dispatcher}}}:orders")
}

/// The tasks that hold a place among those of their workload, by deadline.
pub(super) fn places_key(workload: &str) -> String {
    // SPIFFE IDs have no braces, so this is one hash tag, and `:` at the end is outside of it
    // (T37).
    format!("sundew:{{{workload}}}:tasks")
}

/// The documents of a kind.
pub(super) fn documents_key(kind: DocumentKind) -> String {
    format!("sundew:documents:{}", kind.as_str())
}

/// Returns the task that a member of a list of tasks names.
pub(super) fn task_of(member: &[u8]) -> Result<TaskId, StoreError> {
    Ok(TaskId::from_bytes(member.try_into().map_err(|_| {
        StoreError::Corrupt("member of a task list".to_owned())
    })?))
}

/// Returns the name of an entry; an empty text names the entry before the first one.
pub(super) fn entry_id(bytes: &[u8]) -> Result<EntryId, StoreError> {
    if bytes.is_empty() {
        return Ok(EntryId::default());
    }
    Ok(EntryId(
        bytes
            .try_into()
            .map_err(|_| StoreError::Corrupt("entry id".to_owned()))?,
    ))
}

/// Returns the error for an answer that makes no sense.
pub(super) fn nonsense(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

/// Returns the position that the id of a stream's entry stands for.
pub(super) fn position_of(stream_id: &str) -> Result<Position, StoreError> {
    let (position, _) = stream_id
        .split_once('-')
        .ok_or_else(|| nonsense("stream id"))?;
    Ok(Position(
        position.parse().map_err(|_| nonsense("stream id"))?,
    ))
}
