use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, CrlScope, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};

use super::*;

const NOW_MS: i64 = 1_767_225_600_000; // 2026-01-01

struct Authority(CertificateParams, KeyPair);

impl Authority {
    fn new(name: &str, serial: u64) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from(serial));
        Self(params, KeyPair::generate().unwrap())
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.0, &self.1)
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        params
            .signed_by(key, &self.issuer())
            .unwrap()
            .der()
            .to_vec()
    }

    fn crl(
        &self,
        revoked: &[u64],
        next_update: i32,
        place: Option<CrlIssuingDistributionPoint>,
    ) -> Vec<u8> {
        let taken_back = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2025, 6, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 5, 1),
            next_update: date_time_ymd(next_update, 6, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: place,
            revoked_certs: revoked.iter().map(taken_back).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()).unwrap().der().to_vec()
    }
}

#[test]
fn t10_what_an_issuer_has_taken_back_is_refused_and_an_ended_or_forged_list_is_no_excuse() {
    let (root, middle, key) = (
        Authority::new("root", 1),
        Authority::new("middle", 2),
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
    let stranger = Authority::new("stranger", 9);
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
    let authority = Authority::new("root", 1);
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
