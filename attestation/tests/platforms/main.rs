//! Evidence in the very form in which platforms send it, under keys of the tests' own.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod aws_iid;
mod cosign;
mod manifest;
mod nitro;
mod oidc;
mod rsa;
mod sev_snp;
mod svid;
mod tpm2;
