//! The Sundew broker as a library: `sundew serve` and the tests start a [`serve::Server`] from a
//! [`serve::config::Config`].
//!
//! Each folder is a room: a struct that owns its own state and takes the `ledger` and what else
//! it uses, by name. What every room uses stays at the door: the files beside this one.
//! ARCHITECTURE.md draws which room may use which; `tests/tests/dependencies.rs` holds it.

// At the door.
pub mod clock;
mod ledger;
mod limits;
mod metrics;
mod random;
pub mod records;
mod refusal;
mod refusal_recorder;
mod role;
#[cfg(test)]
mod role_tests;
mod task_tree_index;
#[cfg(test)]
mod testing;
mod wire;

// Rooms.
mod access;
pub mod backup;
pub mod ca;
mod dispatch;
pub mod enrollment;
pub mod evidence;
pub mod journal;
mod lease;
mod liveness;
mod material;
mod peer;
mod registry;
mod response;
mod root_key;
mod secret;
pub mod serve;
pub mod store;
mod task;
mod traces;

pub use lease::postgres_removal;
