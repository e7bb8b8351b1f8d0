//! The ways in which a task ends.

use serde::{Deserialize, Serialize};

/// The way in which a task ended. A task has exactly one outcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The agent stopped attending the task.
    Abandoned,
    /// The agent called the task off.
    Canceled,
    /// The agent finished the task.
    Completed,
    /// The task's time ran out.
    Expired,
    /// The agent failed at the task.
    Failed,
    /// A responder ended the task.
    Revoked,
}

impl Outcome {
    /// Returns the word that records and the command line use for this outcome.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Canceled => "canceled",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Revoked => "revoked",
        }
    }
}
