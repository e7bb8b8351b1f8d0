//! From a configuration to a running broker, and back.
//!
//! `server.rs` reads like a table of contents of starting and stopping. `grpc/` names the use case
//! of each RPC, `gate.rs` is the way of every call into one.

mod allowed_hosts;
mod background;
mod broker;
mod bundle_endpoint;
pub mod config;
mod detached;
mod gate;
mod grpc;
mod handshake_recorder;
mod journal_watch;
mod ledger_opening;
mod listeners;
mod local_calls;
mod messages;
mod open_calls;
mod operations;
mod own_issue;
mod restore_recorder;
mod server;
mod sources;
mod start_error;
mod stopping;

pub use ledger_opening::{open_store_of, read_root_keys};
pub use local_calls::{ChargedToUser, LocalCalls, local_grpc};
pub use server::Server;
pub use start_error::StartError;
