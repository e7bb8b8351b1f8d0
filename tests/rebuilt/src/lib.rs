//! Evidence as platforms send it, rebuilt byte structure for byte structure under keys of the
//! tests' own.
//!
//! No byte of genuine evidence is here. What genuine evidence looks like was read from recordings,
//! and `attestation/tests/recorded` compares the two where recordings are at hand. The crate knows
//! nothing of the verifier, so that both have to agree on the formats.

pub mod aws_iid;
pub mod certificate;
pub mod der;
pub mod dice;
pub mod edits;
pub mod endorsement;
pub mod event_log;
pub mod key;
pub mod nitro;
pub mod oidc;
pub mod sev_snp;
pub mod tdx;

/// The time of all rebuilt evidence, in seconds since the epoch: 2027-01-15.
pub const NOW_S: i64 = 1_800_000_000;
/// The same time, in milliseconds since the epoch.
pub const NOW_MS: i64 = NOW_S * 1000;
