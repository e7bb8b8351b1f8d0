//! Issuers for tests of chains.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CrlIssuingDistributionPoint, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, date_time_ymd,
};

/// 2026-01-01.
pub(crate) const NOW_MS: i64 = 1_767_225_600_000;

/// An issuer of certificates and of lists of those that it has taken back.
pub(crate) struct Authority(pub(super) CertificateParams, pub(super) KeyPair);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(params, KeyPair::generate().unwrap())
    }

    pub(crate) fn with_serial(mut self, serial: u64) -> Self {
        self.0.serial_number = Some(SerialNumber::from(serial));
        self
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.0, &self.1)
    }

    pub(crate) fn root(&self) -> Vec<u8> {
        self.0.self_signed(&self.1).unwrap().der().to_vec()
    }

    pub(crate) fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        params
            .signed_by(key, &self.issuer())
            .unwrap()
            .der()
            .to_vec()
    }

    pub(crate) fn below(&self, other: &Self) -> Vec<u8> {
        other.sign(&self.0, &self.1)
    }

    pub(crate) fn leaf(&self) -> Vec<u8> {
        self.sign(&named("leaf"), &KeyPair::generate().unwrap())
    }

    /// A list of these serial numbers that ends on the first of June.
    pub(crate) fn crl(
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
            key_identifier_method: self.0.key_identifier_method.clone(),
        };
        params.signed_by(&self.issuer()).unwrap().der().to_vec()
    }
}

pub(crate) fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}
