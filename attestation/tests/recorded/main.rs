//! Evidence that real hardware produced (`tests/vectors`), and hostile variants of it (AC-05, T28,
//! T30 to T32, T34).

#![expect(clippy::disallowed_methods, reason = "a test reads its own switch")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod aws_iid;
mod nitro;
mod sev_snp;
mod tdx;
mod tpm2;

use std::path::Path;

use rustls_pki_types::pem::PemObject as _;
use sundew_attestation::{Claims, Roots};

fn vector(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/vectors")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn pem(name: &str) -> Vec<Vec<u8>> {
    rustls_pki_types::CertificateDer::pem_slice_iter(&vector(name))
        .map(|c| c.unwrap().to_vec())
        .collect()
}

/// Cuts the document at every length and flips one bit of each byte, or every bit if the
/// environment has `SUNDEW_ALL_BITS`. Each variant must be rejected or give the very same claims,
/// apart from the digest of the evidence. Returns the positions of the bytes that could be changed.
fn mutate<E: std::fmt::Debug>(
    document: &[u8],
    verify: impl Fn(&[u8]) -> Result<Claims, E>,
) -> Vec<usize> {
    let genuine = verify(document).unwrap();
    let same = |claims: &Claims| {
        let all = |claims: &Claims| {
            format!(
                "{:?} {:?} {} {:?}",
                claims.values, claims.not_after_ms, claims.fresh, claims.assurance
            )
        };
        all(claims) == all(&genuine)
    };
    for length in 0..document.len() {
        // Zeros at the end mean nothing, so they alone may be missing.
        if let Ok(claims) = verify(&document[..length]) {
            assert!(
                same(&claims) && document[length..].iter().all(|byte| *byte == 0),
                "cut at {length} was taken"
            );
        }
    }
    let all = std::env::var_os("SUNDEW_ALL_BITS").is_some();
    let mut free = Vec::new();
    let mut variant = document.to_vec();
    for at in 0..document.len() {
        for bit in 0..8 {
            if all || bit == at % 8 {
                variant[at] ^= 1 << bit;
                if let Ok(claims) = verify(&variant) {
                    assert!(same(&claims), "byte {at}, bit {bit} changes the claims");
                    free.push(at);
                }
                variant[at] = document[at];
            }
        }
    }
    free.dedup();
    free
}

fn anchored(name: &str) -> Roots {
    Roots {
        anchors: pem(name),
        ..Roots::default()
    }
}
