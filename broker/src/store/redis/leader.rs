//! The primary that acknowledges this broker's heartbeats, which all other connections follow.
//!
//! A primary that is deposed while it lives goes on to take writes: a Sentinel tells it after eight
//! seconds. A heartbeat needs a majority of the replicas, so the log notices at once. Whatever else
//! were written to the deposed primary, or read from it, would be lost or old (L12).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use ::redis::aio::ConnectionLike;
use ::redis::{RedisResult, cmd};

/// The field of `INFO replication` that names a primary; `heartbeat.lua` answers the same.
const PRIMARY: &str = "master_replid:";

/// The primary of the last heartbeat; nothing is known of it before the first.
#[derive(Default)]
pub(super) struct Leader {
    /// Counts the changes.
    term: AtomicU64,
    primary: Mutex<Option<String>>,
}

impl Leader {
    /// Notes that this primary has acknowledged a heartbeat.
    pub(super) fn acknowledged(&self, primary: &str) {
        let mut known = self.primary.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() != Some(primary) {
            *known = Some(primary.to_owned());
            self.term.fetch_add(1, Ordering::Release);
        }
    }

    /// The number of times that the primary has changed. A connection of another term is of no use.
    pub(super) fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// Says whether a connection leads to the primary of the last heartbeat, as far as that is known.
    pub(super) async fn is_at(&self, connection: &mut impl ConnectionLike) -> RedisResult<bool> {
        let info: String = cmd("INFO")
            .arg("replication")
            .query_async(connection)
            .await?;
        let primary = info.lines().find_map(|line| line.strip_prefix(PRIMARY));
        let known = self.primary.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.is_none() || known.as_deref() == primary)
    }
}
