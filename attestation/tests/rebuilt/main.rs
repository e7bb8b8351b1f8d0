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
mod local_user;
mod nitro;
mod oidc;
mod process;
mod sev_snp;
mod tdx;
mod tpm2;

use std::path::Path;

use sundew_attestation::Claims;
use sundew_attestation::kinds;

/// Returns all that a verdict says but the digest of the evidence, if the evidence was taken.
fn said<E>(verdict: Result<Claims, E>) -> Option<String> {
    let claims = verdict.ok()?;
    Some(format!(
        "{:?} {:?} {} {:?} {:?}",
        claims.values, claims.not_after_ms, claims.fresh, claims.assurance, claims.single_use
    ))
}

/// T34: each kind has hostile variants that know its structure, here or in `platforms`.
#[test]
fn t34_each_kind_has_a_test_of_structural_edits() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut kinds = kinds::about::KINDS.iter();
    let without = kinds.find(|about| {
        let files = ["rebuilt", "platforms"].map(|target| {
            let file = tests.join(target).join(format!("{}.rs", about.kind));
            std::fs::read_to_string(file).unwrap_or_default()
        });
        !files.iter().any(|text| text.contains("edits::structural("))
    });
    assert_eq!(without.map(|about| about.kind), None);
}
