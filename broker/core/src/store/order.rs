//! Orders as the store receives and returns them.

use super::task::NewTask;
use crate::id::OrderId;

/// A new order.
#[derive(Clone, Debug)]
pub struct NewOrder<'a> {
    /// The identifier of the order.
    pub id: OrderId,
    /// The identity that orders.
    pub dispatcher: &'a str,
    /// The record of the order.
    pub record: Vec<u8>,
    /// The time from which the order is on no list, in milliseconds since the epoch.
    pub listed_until_ms: i64,
    /// The time from which the record may be deleted, in milliseconds since the epoch.
    pub retain_until_ms: i64,
    /// The number of orders that the dispatcher may have on its list.
    pub limit: u32,
    /// The present, in milliseconds since the epoch.
    pub now_ms: i64,
}

/// An order as the store has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredOrder {
    /// The record of the order.
    pub record: Vec<u8>,
    /// The claim, once somebody has claimed the order.
    pub claim: Option<Vec<u8>>,
}

/// The claim of an order, with the task that begins by it.
#[derive(Clone, Debug)]
pub struct OrderClaim<'a> {
    /// The record of the claim.
    pub claim: Vec<u8>,
    /// The time from which the order with its claim may be deleted, in milliseconds since the epoch.
    pub retain_until_ms: i64,
    /// The task of the order, which has the identifier of the order.
    pub task: NewTask<'a>,
}

/// The result of claiming an order.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum Claimed {
    /// The order was claimed before, with this record.
    Before(Vec<u8>),
    /// There is no such order, or its task exists without a claim.
    Gone,
    /// The order was claimed, and its task has begun.
    Now,
}
