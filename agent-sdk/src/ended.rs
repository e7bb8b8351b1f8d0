//! How a task ended.

use std::fmt;

use sundew_proto::v1::Outcome;

/// How a task ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// The agent stopped attending.
    Abandoned,
    /// The agent called the task off.
    Canceled,
    /// The agent finished the task.
    Completed,
    /// The task's time ran out.
    Expired,
    /// The agent failed at the task.
    Failed,
    /// The broker does not know the agent or the task any more, or could not be reached for too
    /// long.
    Lost,
    /// A responder ended the task.
    Revoked,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Abandoned => "abandoned",
            Self::Canceled => "canceled",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Lost => "lost",
            Self::Revoked => "revoked",
        })
    }
}

impl Ended {
    /// Reads the word that [`Ended`] is shown as; any other one counts as [`Ended::Lost`].
    pub(crate) fn of_word(word: &str) -> Self {
        let all = [
            Self::Abandoned,
            Self::Canceled,
            Self::Completed,
            Self::Expired,
            Self::Failed,
            Self::Revoked,
        ];
        let found = all.into_iter().find(|ended| ended.to_string() == word);
        found.unwrap_or(Self::Lost)
    }

    /// Translates the broker's word; an outcome that the broker left out counts as [`Ended::Lost`].
    pub(crate) fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Abandoned => Self::Abandoned,
            Outcome::Canceled => Self::Canceled,
            Outcome::Completed => Self::Completed,
            Outcome::Expired => Self::Expired,
            Outcome::Failed => Self::Failed,
            Outcome::Revoked => Self::Revoked,
            Outcome::Unspecified => Self::Lost,
        }
    }
}
