//! What was left out of a document of trust, because it cannot be used here.

use std::fmt::{self, Display};

/// The largest number of parts that are told one by one.
const MAX_TOLD: usize = 8;
/// The largest number of characters of a name that somebody else chose.
const MAX_NAME: usize = 64;

/// The parts of a document of trust that cannot be used. The document counts without them, and one
/// bad part costs no other. `Display` says how many they are, and of the first eight which and why.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LeftOut {
    count: usize,
    told: Vec<String>,
}

impl LeftOut {
    /// Notes a part and the reason why it is left out.
    pub fn add(&mut self, part: impl Display, reason: impl Display) {
        self.count = self.count.saturating_add(1);
        if self.told.len() < MAX_TOLD {
            self.told.push(format!("{part}: {reason}"));
        }
    }

    /// Notes everything that was left out of a part of this document.
    pub fn append(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        let room = MAX_TOLD.saturating_sub(self.told.len());
        self.told.extend(other.told.iter().take(room).cloned());
    }

    /// Returns how many parts were left out.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }
}

impl Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} left out: {}", self.count, self.told.join("; "))?;
        match self.count.saturating_sub(self.told.len()) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Returns a name that somebody else chose, as it can stand in a line of a log.
pub(crate) fn quoted(name: &str) -> String {
    let short: String = name.chars().take(MAX_NAME).collect();
    format!("`{}`", short.escape_debug())
}
