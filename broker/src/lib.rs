//! The Sundew broker as a library: configuration, stores, the revocation log, TLS, and the
//! services.

pub mod attendance;
pub mod broker;
pub mod ca;
pub mod chain_log;
pub mod clock;
pub mod config;
pub mod issuers;
pub mod journal;
pub mod jwt_authority;
mod lease;
pub mod liveness;
pub mod local_process;
pub mod material;
pub mod metrics;
pub mod offline;
pub mod operations;
pub mod peer;
pub mod records;
pub mod refusal;
pub mod server;
pub mod sources;
pub mod store;
pub mod tls;
pub mod trust;

mod access;
mod authority;
mod enrollment;
mod evidence;
mod fetch;
mod grpc;
mod kin;
mod make_credential;
mod own_identities;
mod registry;
mod response;
mod task;
mod to_the_end;
mod tpm_keys;
mod trust_items;
pub mod workload_api;

pub use lease::postgres_removal;
