//! Identity documents of EC2 in DER, signed by OpenSSL (T27, T28).

use sundew_attestation::kinds::aws_iid;
use sundew_attestation::{Claims, TrustItem, TrustKind};
use sundew_tests::hardware::Region;

const GOOD: [&str; 3] = ["-nodetach", "-md", "sha256"];

const WITHOUT_ATTRIBUTES: [&str; 4] = ["-nodetach", "-md", "sha256", "-noattr"];

/// A document that is signed twice by its region.
fn signed_twice(region: &Region, document: &[u8]) -> Vec<u8> {
    let twice = region.sign(document, &GOOD);
    std::fs::write(region.folder.path().join("once"), &twice).expect("made");
    region.openssl(&[
        "cms",
        "-resign",
        "-nocerts",
        "-inform",
        "DER",
        "-in",
        "once",
        "-signer",
        "region.pem",
        "-inkey",
        "key.pem",
        "-outform",
        "DER",
        "-out",
        "twice",
    ]);
    std::fs::read(region.folder.path().join("twice")).expect("made")
}

/// Documents that are signed in another way, or say something else.
fn bent_identity_documents(region: &Region, document: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let text = String::from_utf8(document.to_vec()).expect("made");
    let evil = Region::new("2048");
    vec![
        (
            "another signer, whose certificate is enclosed",
            evil.sign(document, &GOOD),
        ),
        (
            "a region without a certificate",
            region.sign(
                text.replace("\"eu-west-2\"", "\"us-gov-west-1\"")
                    .as_bytes(),
                &GOOD,
            ),
        ),
        (
            "SHA-1",
            region.sign(document, &["-nodetach", "-md", "sha1"]),
        ),
        ("detached", region.sign(document, &["-md", "sha256"])),
        (
            "no instance",
            region.sign(text.replace("instanceId", "other").as_bytes(), &GOOD),
        ),
        (
            "a member twice",
            region.sign(text.replace("\"version\"", "\"region\"").as_bytes(), &GOOD),
        ),
        ("two signers", signed_twice(region, document)),
        ("the plain document", document.to_vec()),
    ]
}

/// T34: no bit may change what a signed document says.
fn no_bit_changes_what_it_says<E: std::fmt::Debug>(
    signed: &[u8],
    verify: impl Fn(&[u8]) -> Result<Claims, E>,
) {
    let genuine = verify(signed).expect("made");
    for at in 0..signed.len() {
        let mut variant = signed.to_vec();
        variant[at] ^= 1 << (at % 8);
        if let Ok(claims) = verify(&variant) {
            assert_eq!(
                (&claims.values, &claims.single_use),
                (&genuine.values, &genuine.single_use),
                "byte {at}"
            );
        }
        assert!(verify(&signed[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn ac_05_t27_t28_identity_documents_count_under_the_pinned_certificate_of_their_region_only() {
    let document = sundew_rebuilt::aws_iid::DOCUMENT.as_bytes();
    let (region, short) = (Region::new("2048"), Region::new("1024"));
    let (der, now_ms) = (region.der(), sundew_tests::now_ms());
    let verify = |signed: &[u8], at| {
        aws_iid::verify(
            signed,
            |name| (name == "eu-west-2").then_some(der.as_slice()),
            at,
        )
    };
    // With signed attributes and without, as AWS has had both.
    for flags in [&GOOD[..], &WITHOUT_ATTRIBUTES] {
        let claims = verify(&region.sign(document, flags), now_ms).expect("made");
        assert_eq!(
            (
                claims.values["instanceId"][0].as_str(),
                claims.values["accountId"][0].as_str()
            ),
            ("i-0123456789abcdef0", "123456789012")
        );
        assert!(!claims.fresh && claims.single_use.is_some());
    }
    for (what, signed) in bent_identity_documents(&region, document) {
        assert!(verify(&signed, now_ms).is_err(), "{what}: taken");
    }
    // T27: the enclosed document changed under the signature.
    for flags in [&GOOD[..], &WITHOUT_ATTRIBUTES] {
        let mut signed = region.sign(document, flags);
        let at = signed
            .windows(12)
            .position(|window| window == b"123456789012")
            .expect("made");
        signed[at] = b'9';
        assert!(matches!(
            verify(&signed, now_ms),
            Err(aws_iid::IidError::Signature)
        ));
    }
    // Outside the certificate's validity.
    assert!(verify(&region.sign(document, &GOOD), now_ms - 86_400_000).is_err());
    assert!(verify(&region.sign(document, &GOOD), now_ms + 3651 * 86_400_000).is_err());
    no_bit_changes_what_it_says(&region.sign(document, &GOOD), |signed| {
        verify(signed, now_ms)
    });
    // A short key is not taken as a region's.
    assert!(TrustItem::parse(TrustKind::AwsIid, "eu-west-2", &short.pem()).is_err());
    assert!(TrustItem::parse(TrustKind::AwsIid, "eu-west-2", &region.pem()).is_ok());
}
