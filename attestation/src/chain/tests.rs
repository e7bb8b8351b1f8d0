use rcgen::{
    CertificateParams, CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope, KeyPair,
    SerialNumber,
};

use super::testing::{Authority, NOW_MS};
use super::*;

#[test]
fn t10_what_an_issuer_has_taken_back_is_refused_and_an_ended_or_forged_list_is_no_excuse() {
    let (root, middle, key) = (
        Authority::new("root").with_serial(1),
        Authority::new("middle").with_serial(2),
        KeyPair::generate().unwrap(),
    );
    let mut leaf = CertificateParams::default();
    leaf.serial_number = Some(SerialNumber::from(3));
    let (leaf, intermediate) = (middle.sign(&leaf, &key), root.sign(&middle.0, &middle.1));
    let anchor = root.0.self_signed(&root.1).unwrap().der().to_vec();
    let check = |lists: &[Vec<u8>]| {
        let crls = lists
            .iter()
            .map(|der| Arc::new(Crl::parse(der).unwrap()))
            .collect();
        verify(
            &leaf,
            std::slice::from_ref(&intermediate),
            &Roots {
                anchors: vec![anchor.clone()],
                intermediates: Vec::new(),
                crls,
            },
            NOW_MS,
        )
    };
    let stranger = Authority::new("stranger").with_serial(9);
    let forger = Authority(middle.0.clone(), KeyPair::generate().unwrap());
    for good in [
        vec![],
        vec![middle.crl(&[4], 2026, None)],
        vec![root.crl(&[3], 2026, None), middle.crl(&[2], 2026, None)],
        vec![stranger.crl(&[2, 3], 2026, None)],
    ] {
        assert!(check(&good).is_ok(), "{:?}", check(&good));
    }
    assert!(matches!(
        check(&[middle.crl(&[4, 3], 2026, None)]),
        Err(ChainError::Path(webpki::Error::CertRevoked))
    ));
    assert!(
        matches!(
            check(&[root.crl(&[2], 2026, None)]),
            Err(ChainError::Path(webpki::Error::CertRevoked))
        ),
        "an intermediate"
    );
    assert!(matches!(
        check(&[middle.crl(&[4], 2025, None)]),
        Err(ChainError::Path(webpki::Error::CrlExpired { .. }))
    ));
    assert!(
        matches!(
            check(&[forger.crl(&[], 2026, None)]),
            Err(ChainError::Path(_))
        ),
        "a list under another key of the same name"
    );
    assert_eq!(
        Crl::parse(&middle.crl(&[], 2026, None))
            .unwrap()
            .next_update_ms(),
        1_780_272_000_000
    );
}

#[test]
fn t10_lists_in_parts_and_bent_lists_do_no_harm() {
    let authority = Authority::new("root").with_serial(1);
    let place = |uris: &[&str], scope| CrlIssuingDistributionPoint {
        distribution_point: CrlDistributionPoint {
            uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
        },
        scope,
    };
    for place in [
        place(&["http://a.test/1", "http://a.test/2"], None),
        place(&["http://a.test/1"], Some(CrlScope::CaCertsOnly)),
    ] {
        let _ = Crl::parse(&authority.crl(&[3], 2026, Some(place)));
    }
    let list = authority.crl(
        &[3, 4],
        2026,
        Some(place(&["http://a.test/1"], Some(CrlScope::UserCertsOnly))),
    );
    for length in 0..list.len() {
        assert!(Crl::parse(&list[..length]).is_err(), "cut at {length}");
    }
    for at in 0..list.len() {
        let mut bent = list.clone();
        bent[at] ^= 0xff;
        let _ = Crl::parse(&bent);
    }
}
