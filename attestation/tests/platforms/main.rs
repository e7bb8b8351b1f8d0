//! Evidence in the very form in which platforms send it, under keys of the tests' own.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failing test panics"
)]

mod bundles;
mod cosign;
mod event_log;
mod manifest;
mod oidc;
mod rsa;
mod svid;
mod tpm2;
