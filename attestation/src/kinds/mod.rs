//! One file per kind of evidence. A new kind is a file here, a variant of [`crate::Requirement`] and a collector in the SDK.

pub mod manifest;
pub mod oidc;
