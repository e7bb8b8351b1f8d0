//! The revocation log as this broker knows it: a view of the endings, and whether that view may be
//! asked.
//!
//! P4: an ending is answered only when its append is durable and every broker that could answer
//! "active" has applied it, or the freshness bound has passed. P5, P7: a view is fresh for a
//! bounded time after the heartbeat that renewed it was *sent*, on the monotonic clock; a view that
//! is not fresh is not asked.
//!
//! [`RevocationLog`] is what every room shares: it answers from the view and appends endings
//! (`commit.rs`). [`LogFollower`] is the one loop that reads the log, renews the view and tells the
//! rooms that subscribed (`follower.rs`); it also puts back what the store has lost (`repair.rs`), and
//! asks the other brokers whether the log has everything before a view becomes fresh (`vouching.rs`).
//! All brokers of a store have the same bounds (`agreement.rs`).
//! Their decisions are `sundew_core::protocol`.

mod agreement;
mod commit;
mod follower;
mod outbox;
mod repair;
mod revocation_log;
mod rewriting;
mod root_keys;
mod store_clock;
#[cfg(test)]
mod tests;
mod vouching;

pub(crate) use agreement::{AgreementError, agree, append_after};
pub(crate) use follower::{LogFollower, Subscriber};
pub(crate) use repair::each_entry;
pub(crate) use revocation_log::{
    AppendError, DurableSink, RevocationLog, Stale, entry_place, sealed_entry,
};
pub(crate) use rewriting::OtherEntries;
pub(crate) use root_keys::{RootKeyNames, require_known_keys};
