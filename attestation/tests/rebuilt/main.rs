//! Evidence rebuilt by `sundew-rebuilt`, and hostile variants of it (AC-05, T28 to T32, T34): all
//! that `recorded` checks with genuine evidence, for everybody to run.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod aws_iid;
mod event_log;
mod nitro;
mod oidc;
mod sev_snp;
mod tdx;
mod tpm2;

use sundew_attestation::Claims;

/// Returns all that a verdict says but the digest of the evidence, if the evidence was taken.
fn said<E>(verdict: Result<Claims, E>) -> Option<String> {
    let claims = verdict.ok()?;
    Some(format!(
        "{:?} {:?} {} {:?} {:?}",
        claims.values, claims.not_after_ms, claims.fresh, claims.assurance, claims.single_use
    ))
}
