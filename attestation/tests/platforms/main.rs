//! Evidence in the very form in which platforms send it, under keys of the tests' own.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod cosign;
mod manifest;
mod oidc;
mod rsa;
mod svid;
mod tpm2;
