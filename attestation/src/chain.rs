//! X.509 paths of attestation keys (RFC 5280), validated by webpki.
//!
//! The caller names the anchors: a certificate that comes with the evidence is an intermediate at
//! most (T28). What came along says nothing of revocation either: lists are trust material.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, UnixTime,
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationOptionsBuilder, UnknownStatusPolicy, ring as algorithms,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

/// Most intermediates that are looked at (T09).
const MAX_INTERMEDIATES: usize = 8;

/// What hardware makers sign with. No SHA-1, no RSA below 2048 bits.
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    &PssWithTrailer,
];

/// RSA-PSS with SHA-384 as AMD writes its identifier: with the trailer field, although it is the
/// default (RFC 4055, section 3.1).
#[derive(Debug)]
struct PssWithTrailer;

impl SignatureVerificationAlgorithm for PssWithTrailer {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY
            .verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        AlgorithmIdentifier::from_slice(&[
            0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30, 0x39, 0xa0,
            0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02,
            0x05, 0x00, 0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d,
            0x01, 0x01, 0x08, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04,
            0x02, 0x02, 0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, 0x30, 0xa3, 0x03, 0x02, 0x01, 0x01,
        ])
    }
}

/// Roots of makers of hardware, with what they may have signed and taken back.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// Self-signed certificates, in DER.
    pub anchors: Vec<Vec<u8>>,
    /// What they signed, in DER.
    pub intermediates: Vec<Vec<u8>>,
    /// What was taken back. A certificate of an issuer that no list here is of is not looked up.
    pub crls: Vec<Arc<Crl>>,
}

/// A certificate revocation list (RFC 5280, section 5): complete, with a next update, for all
/// certificates and reasons of its issuer.
#[derive(Debug)]
pub struct Crl {
    list: CertRevocationList<'static>,
    next_update_ms: i64,
}

impl Crl {
    /// Reads one in DER. Its signature is checked when it is used, with its issuer's key.
    pub fn parse(der: &[u8]) -> Result<Self, ChainError> {
        let list = OwnedCertRevocationList::from_der(der).map_err(ChainError::Path)?;
        let (_, parsed) =
            CertificateRevocationList::from_der(der).map_err(|_| ChainError::Malformed)?;
        let next_update = parsed.next_update().ok_or(ChainError::Malformed)?;
        Ok(Self {
            list: list.into(),
            next_update_ms: next_update.timestamp().saturating_mul(1000),
        })
    }

    /// When it ends, in milliseconds since the epoch: evidence that depends on it is refused from
    /// then on.
    #[must_use]
    pub fn next_update_ms(&self) -> i64 {
        self.next_update_ms
    }
}

/// Any purpose that is not contradicted: attestation certificates have no extended key usage.
const NO_PURPOSE: KeyUsage = KeyUsage::required_if_present(&[0x67, 0x81, 0x05, 0x08, 0x03]);

/// Why a path was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Two intermediates of the same name.
    #[error("two intermediate certificates of the same name")]
    Ambiguous,
    /// Not a certificate.
    #[error("not a certificate")]
    Malformed,
    /// No valid path to an anchor at that time.
    #[error("no valid path to a trusted root: {0}")]
    Path(webpki::Error),
    /// More certificates than are looked at.
    #[error("more than {MAX_INTERMEDIATES} intermediate certificates")]
    TooLong,
    /// An intermediate whose key usage does not let it sign certificates.
    #[error("an intermediate may not sign certificates")]
    Usage,
}

/// Whether `leaf` has a valid path over `intermediates` to one of the anchors at this time.
pub(crate) fn verify(
    leaf: &[u8],
    intermediates: &[Vec<u8>],
    roots: &Roots,
    at_ms: i64,
) -> Result<(), ChainError> {
    verify_for(NO_PURPOSE, leaf, intermediates, roots, at_ms)
}

/// The same for a leaf of this purpose.
pub(crate) fn verify_for(
    purpose: KeyUsage,
    leaf: &[u8],
    intermediates: &[Vec<u8>],
    roots: &Roots,
    at_ms: i64,
) -> Result<(), ChainError> {
    if intermediates.len() > MAX_INTERMEDIATES {
        return Err(ChainError::TooLong);
    }
    let mut subjects = BTreeSet::new();
    for der in intermediates {
        // webpki does not look at the key usage of issuers.
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| ChainError::Malformed)?;
        let usage = certificate.key_usage().map_err(|_| ChainError::Malformed)?;
        if !rest.is_empty() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(ChainError::Usage);
        }
        // T09: one candidate for each step, so that a path costs as many signatures as it is long.
        if !subjects.insert(certificate.subject().as_raw().to_vec()) {
            return Err(ChainError::Ambiguous);
        }
    }
    let borrowed: Vec<CertificateDer<'_>> = roots
        .anchors
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let anchors = borrowed
        .iter()
        .map(webpki::anchor_from_trusted_cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| ChainError::Malformed)?;
    let intermediates: Vec<CertificateDer<'_>> = intermediates
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let leaf = CertificateDer::from(leaf);
    let leaf = EndEntityCert::try_from(&leaf).map_err(|_| ChainError::Malformed)?;
    let seconds = u64::try_from(at_ms.div_euclid(1000)).map_err(|_| ChainError::Malformed)?;
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let crls: Vec<_> = roots.crls.iter().map(|crl| &crl.list).collect();
    let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
        // Issuers without a list are common; one whose list has ended is not known not to have
        // taken something back (P7).
        options
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Enforce)
            .build()
    });
    leaf.verify_for_usage(
        ALGORITHMS,
        &anchors,
        &intermediates,
        at,
        purpose,
        revocation,
        None,
    )
    .map_err(ChainError::Path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
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
}
