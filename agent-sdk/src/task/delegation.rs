//! A delegation: the part of a task that another workload may do.

use std::time::Duration;

use sundew_proto::v1::DelegateRequest;

use super::token::ttl_ms;

/// The part of a task that another workload may do ([`Task::delegate`](crate::Task::delegate)).
#[derive(Clone, Debug, Default)]
pub struct Delegation {
    /// Scopes of the other workload's task; each must be within the scopes of this task.
    pub scopes: Vec<String>,
    /// Audiences of the other task's tokens. If there are none, they are the audiences of this
    /// task.
    pub audience: Vec<String>,
    /// How long the other task may live. If not given, it may live as long as this task.
    pub ttl: Option<Duration>,
    /// How many levels the other workload may delegate further.
    pub depth: u32,
}

impl Delegation {
    /// Returns the request that grants this part of the task `task_id` to the workload `delegate`.
    pub(super) fn request(&self, task_id: &str, delegate: &str) -> DelegateRequest {
        DelegateRequest {
            task_id: task_id.to_owned(),
            delegate: delegate.to_owned(),
            scopes: self.scopes.clone(),
            audience: self.audience.clone(),
            ttl_ms: self.ttl.map_or(0, ttl_ms),
            depth: self.depth,
        }
    }
}
