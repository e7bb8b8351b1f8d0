//! Tasks, tokens and leases as the store receives and returns them.

use crate::credential::TokenHash;
use crate::id::{LeaseId, TaskId, TokenId};

/// The result of creating something that may exist already.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum Created {
    /// The thing existed before, with this record.
    Existing(Vec<u8>),
    /// The thing was created.
    New,
}

/// The result of creating a token within a task.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum CreatedToken {
    /// The token existed before, with this record.
    Existing(Vec<u8>),
    /// The task has as many tokens as it may have.
    Full,
    /// The token was created.
    New,
}

/// The result of reserving a place among the tasks of a workload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Reserved {
    /// The workload has as many tasks as it may have.
    Full,
    /// The place was reserved by an earlier call.
    Held,
    /// The place is reserved now.
    Taken,
}

/// A task as the store has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredTask {
    /// The record of the task.
    pub record: Vec<u8>,
    /// The SHA-256 digests of the certificates that the task was moved to when its SVID was
    /// rotated. The broker put a tag on each of them.
    pub bindings: Vec<Vec<u8>>,
}

/// A new task with its first token.
#[derive(Clone, Debug)]
pub struct NewTask<'a> {
    /// The identifier of the task.
    pub id: TaskId,
    /// The record of the task.
    pub record: Vec<u8>,
    /// The time from which the record may be deleted, in milliseconds since the epoch.
    pub retain_until_ms: i64,
    /// The first token of the task.
    pub token: NewToken<'a>,
}

/// A new token.
#[derive(Clone, Debug)]
pub struct NewToken<'a> {
    /// The hash by which the token is found.
    pub hash: &'a TokenHash,
    /// The record of the token.
    pub record: Vec<u8>,
    /// The time from which the record may be deleted, in milliseconds since the epoch.
    pub retain_until_ms: i64,
}

/// A token as the store has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredToken {
    /// The record of the token's task.
    pub task: Vec<u8>,
    /// The record of the token.
    pub record: Vec<u8>,
}

/// A part of the tokens of a task.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TokenPage {
    /// The identifiers and records of the tokens.
    pub tokens: Vec<(TokenId, Vec<u8>)>,
    /// The cursor at which the next page begins; 0 after the last page.
    pub next: u64,
}

/// A part of the tasks on the attendance list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TaskPage {
    /// The identifiers of the tasks. A task may be on several pages.
    pub tasks: Vec<TaskId>,
    /// The cursor at which the next page begins; 0 after the last page.
    pub next: u64,
}

/// A lease, which is a credential in another system that must be removed, as the store has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredLease {
    /// The identifier of the lease.
    pub id: LeaseId,
    /// The record of the lease.
    pub record: Vec<u8>,
    /// The time at which the credential is to be removed, in milliseconds since the epoch.
    pub due_ms: i64,
}
