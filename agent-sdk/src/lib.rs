//! The library that an agent links to get tokens and secrets for one task.
//!
//! ```no_run
//! # async fn example(prompt: &str) -> Result<(), sundew_sdk::Error> {
//! use sundew_sdk::{Agent, minutes};
//!
//! let agent = Agent::from_env().await?; // finds SVID source, broker, evidence collectors
//! let task = agent
//!     .task("triage issue 4711")
//!     .instruction(prompt)
//!     .scope("secret:demo/api-key")
//!     .ttl(minutes(5))
//!     .begin()
//!     .await?;
//! let key = task.secret("demo/api-key").await?; // zeroized, never prints
//! # drop(key);
//! task.complete().await?; // also: returned, dropped, panicked, killed → ended anyway
//! # Ok(()) }
//! ```
//!
//! No type here shows a credential in `Debug` (P9). A task attends in the background, moves to a
//! rotated SVID, and tells through [`Task::ended`] and [`Task::suspended`] what was done to it from
//! outside.
//!
//! # Modules
//!
//! Each module imports only modules below it:
//!
//! ```text
//! enclosing     the task of another process, of which this program is a part
//!  ├─→ presenter   a key of the program's own ──→ identity
//!  └─→ task, settings
//! task          begins, attends, reads, mints, delegates, ends
//!  ├─→ agent    the identity, the connection and the collectors, together
//!  │    ├─→ collect     evidence of what the agent is
//!  │    │    └──────────→ identity, settings
//!  │    └──────→ call, connection, identity, settings
//!  └─→ call     calls that may be made again
//!       └─→ connection  mutual TLS with the broker that was meant
//!            └─→ identity    the SVID, kept up to date
//!                 └─→ settings    what the environment says
//!
//! error         used by all of these but settings
//!  └─→ ended    how a task ended
//! clock         used by task and identity
//! ```

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests make what they need")
)]

mod agent;
mod call;
mod clock;
mod collect;
mod connection;
mod enclosing;
mod ended;
mod error;
mod identity;
mod presenter;
mod settings;
mod task;
#[cfg(test)]
mod testing;

pub use agent::{Agent, AgentBuilder};
pub use collect::{
    CollectError, Collected, Collector, Context, EvidenceCollector, LocalUserCollector,
    ManifestCollector, OidcCollector, ProcessCollector, Tpm2Collector, TpmError, TpmKey,
    TsmCollector, TsmKind, collect, collect_for, examine_tokens, kinds, measure,
};
pub use connection::{AnonymousConnection, Connection, handshake};
pub use enclosing::{EnclosingTask, TaskState};
pub use ended::Ended;
pub use error::Error;
pub use identity::{Identity, IdentitySource};
pub use presenter::Presenter;
pub use settings::Settings;
pub use sundew_core::client::{
    BundleSet, Scope, ScopeSet, SecretBytes, SpiffeId, TrustBundle, TrustDomain, Ttl,
};
pub use task::{Delegation, Lease, Secret, Task, TaskBuilder, TaskHandle, Token, TokenRequest};

/// Returns a duration of this many minutes.
#[must_use]
pub fn minutes(count: u64) -> std::time::Duration {
    std::time::Duration::from_secs(count.saturating_mul(60))
}

/// Returns a duration of this many seconds.
#[must_use]
pub fn seconds(count: u64) -> std::time::Duration {
    std::time::Duration::from_secs(count)
}

/// Holds the fragments of the README true: they are compiled as tests of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
