//! Evidence that real hardware and clouds produced, and hostile variants of it (AC-05, T28, T30 to
//! T32, T34).
//!
//! The recordings belong to others and are not in the repository. `SUNDEW_RECORDED` names the
//! folder that has them, one folder for each kind:
//! `SUNDEW_RECORDED=FOLDER cargo test -p sundew-attestation --test recorded -- --nocapture`. No
//! other command runs these tests, and they fail without the folder. `tests/rebuilt` makes what
//! everybody can test with, and [`shapes`] holds it to the form of the recordings.

#![expect(clippy::disallowed_methods, reason = "a test reads its own setting")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a failing test panics"
)]

mod aws_iid;
mod nitro;
mod sev_snp;
mod shapes;
mod tdx;
mod tpm2;

use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject as _;
use sundew_attestation::{Claims, Roots};
use sundew_rebuilt::edits;

/// Returns the folder of the recordings.
fn folder() -> PathBuf {
    let named = std::env::var_os("SUNDEW_RECORDED");
    let named = named.unwrap_or_else(|| panic!("SUNDEW_RECORDED names no folder of recordings"));
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(named)
}

fn vector(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn pem(name: &str) -> Vec<Vec<u8>> {
    rustls_pki_types::CertificateDer::pem_slice_iter(&vector(name))
        .map(|c| c.unwrap().to_vec())
        .collect()
}

/// Bends each byte (`SUNDEW_ALL_BITS`: each bit); returns where bytes may differ.
fn mutate<E>(document: &[u8], verify: impl Fn(&[u8]) -> Result<Claims, E>) -> Vec<usize> {
    edits::bits(document, |variant| {
        let claims = verify(variant).ok()?;
        Some(format!(
            "{:?} {:?} {} {:?}",
            claims.values, claims.not_after_ms, claims.fresh, claims.assurance
        ))
    })
}

fn anchored(name: &str) -> Roots {
    Roots {
        anchors: pem(name),
        ..Roots::default()
    }
}
