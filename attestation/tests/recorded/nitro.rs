//! A recorded attestation document of a Nitro enclave.

use sundew_attestation::Roots;
use sundew_attestation::kinds::nitro;

use crate::{anchored, mutate, vector};

/// The time at which the document was made, 2022-11-09.
const NITRO_MS: i64 = 1_668_034_320_696;
const NITRO_NONCE: [u8; 32] = [
    198, 120, 200, 97, 53, 222, 83, 157, 24, 58, 207, 245, 136, 134, 217, 141, 251, 152, 35, 4, 26,
    249, 249, 52, 191, 144, 154, 192, 248, 217, 98, 69,
];

#[test]
fn ac_05_a_genuine_nitro_document_is_taken_at_its_time_for_its_nonce_under_its_root_only() {
    let (document, roots) = (
        vector("nitro/aws_nitro_document.cbor"),
        anchored("nitro/aws_nitro_root_cert.pem"),
    );
    let claims = nitro::verify(&document, &roots, &NITRO_NONCE, NITRO_MS + 1000).unwrap();
    assert_eq!(claims.values["instance_id"], ["i-04fd167167daacf3b"]);
    assert!(claims.values["pcr0"][0].starts_with("22f9e1c949208da5"));
    assert!(claims.fresh);
    // E12: the enclave's certificate was made for three hours.
    let end_ms = claims.not_after_ms.unwrap();
    assert!(
        (NITRO_MS..NITRO_MS + 3 * 3_600_000).contains(&end_ms),
        "{end_ms}"
    );
    // Each call below differs from the accepted one in a single argument.
    let refused = |document: &[u8], roots: &Roots, nonce: &[u8], at| {
        nitro::verify(document, roots, nonce, at).unwrap_err()
    };
    assert!(matches!(
        refused(&document, &roots, &NITRO_NONCE, NITRO_MS + 5 * 60_000 + 1),
        nitro::NitroError::Age
    ));
    assert!(matches!(
        refused(&document, &roots, &NITRO_NONCE, NITRO_MS - 30_001),
        nitro::NitroError::Age
    ));
    assert!(matches!(
        refused(&document, &roots, &NITRO_NONCE[..31], NITRO_MS),
        nitro::NitroError::Binding
    ));
    assert!(matches!(
        refused(&document, &roots, &[0; 32], NITRO_MS),
        nitro::NitroError::Binding
    ));
    assert!(matches!(
        refused(&document, &Roots::default(), &NITRO_NONCE, NITRO_MS),
        nitro::NitroError::Chain(_)
    ));
    assert!(matches!(
        refused(
            &document,
            &anchored("sev-snp/amd-roots/milan/ark.pem"),
            &NITRO_NONCE,
            NITRO_MS
        ),
        nitro::NitroError::Chain(_)
    ));
    assert!(matches!(
        refused(
            &vector("nitro/aws_nitro_document_bad_sig.cbor"),
            &roots,
            &NITRO_NONCE,
            NITRO_MS
        ),
        nitro::NitroError::Signature
    ));
}

#[test]
fn t34_no_bit_of_a_nitro_document_can_change_what_it_says() {
    let (document, roots) = (
        vector("nitro/aws_nitro_document.cbor"),
        anchored("nitro/aws_nitro_root_cert.pem"),
    );
    let free = mutate(&document, |document| {
        nitro::verify(document, &roots, &NITRO_NONCE, NITRO_MS)
    });
    assert_eq!(free, Vec::<usize>::new(), "bytes that nothing covers");
}
