//! The verifiers, one file or folder for each kind of evidence.
//!
//! A new kind needs a module here with a line in [`about::KINDS`], a variant of
//! [`crate::Requirement`] and a collector in the SDK.

pub mod about;
pub mod aws_iid;
pub mod cosign;
pub mod local_user;
pub mod manifest;
pub mod nitro;
pub mod oidc;
pub mod process;
pub mod sev_snp;
pub mod tdx;
pub mod tpm2;
