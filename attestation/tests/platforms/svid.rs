//! X.509-SVIDs below the roots of long-lived trust domains (I7).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use sundew_attestation::spiffe::{
    BundleSet, SvidError, TrustBundle, TrustDomain, VerifiedSvid, validate_chain,
};

const NOW_S: i64 = 1_800_000_000;
/// The largest number of roots in a bundle.
const ROOTS: usize = 256;

struct Authority(CertificateParams, KeyPair);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        Self(params, KeyPair::generate().unwrap())
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        let issuer = Issuer::from_params(&self.0, &self.1);
        params.signed_by(key, &issuer).unwrap().der().to_vec()
    }
}

fn leaf() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("spiffe://a.test/agent".try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params
}

/// Validates an SVID below an intermediate of one of several roots. All have one name, as SPIRE gives
/// it.
fn validate(roots: &[Authority], issuer: &Authority) -> Result<VerifiedSvid, SvidError> {
    let ders: Vec<_> = roots
        .iter()
        .map(|root| root.0.self_signed(&root.1).unwrap().der().to_vec())
        .collect();
    let domain = TrustDomain::parse("a.test").unwrap();
    let bundle = TrustBundle::from_der(domain, ders.iter().map(Vec::as_slice));
    let mut bundles = BundleSet::default();
    bundles.insert(bundle);
    let intermediate = Authority::new("SPIFFE");
    let chain = [
        intermediate.sign(&leaf(), &KeyPair::generate().unwrap()),
        issuer.sign(&intermediate.0, &intermediate.1),
    ];
    validate_chain(&chain.map(CertificateDer::from), &bundles, NOW_S)
}

/// Some issuers write another key id than their own.
#[test]
fn i7_a_key_id_is_a_hint_and_no_condition() {
    let root = Authority::new("SPIFFE");
    let mut odd = Authority(
        root.0.clone(),
        KeyPair::from_pem(&root.1.serialize_pem()).unwrap(),
    );
    odd.0.key_identifier_method = KeyIdMethod::PreSpecified(vec![1, 2, 3]);
    assert!(validate(&[root, Authority::new("SPIFFE")], &odd).is_ok());
}

#[test]
fn i7_as_many_roots_of_one_name_are_taken_as_a_bundle_may_have() {
    let roots: Vec<_> = (0..ROOTS).map(|_| Authority::new("SPIFFE")).collect();
    for root in [&roots[0], &roots[ROOTS - 1]] {
        assert!(validate(&roots, root).is_ok());
    }
    let stranger = Authority::new("SPIFFE");
    assert!(matches!(
        validate(&roots, &stranger),
        Err(SvidError::Untrusted)
    ));
}

/// A root on P-256, and an SVID that it signed with ECDSA and SHA-512, both made with openssl.
const SHA512: [&str; 2] = [
    "MIIBpDCCAUugAwIBAgIUZsj2yVen5L6xE1A0bocjYBXvjxswCgYIKoZIzj0EAwIwETEPMA0GA1UECgwGU1BJRkZF\
    MCAXDTI2MTEyNzA0MDM0NloYDzIxMjYxMTAzMDQwMzQ2WjARMQ8wDQYDVQQKDAZTUElGRkUwWTATBgcqhkjOPQIB\
    BggqhkjOPQMBBwNCAARqjgtqNQwnttOjmbWkkAoIqAJm4FXYdI2oQAUJOxIsfXmqQyl+Y+y+NbNYdA4gt9MUZYEw\
    epLn0hlH3KQQoy3ro38wfTAdBgNVHQ4EFgQUOqLQwLsGmnZKbDtbPfBOI5SPDHQwHwYDVR0jBBgwFoAUOqLQwLsG\
    mnZKbDtbPfBOI5SPDHQwDwYDVR0TAQH/BAUwAwEB/zAaBgNVHREEEzARhg9zcGlmZmU6Ly9hLnRlc3QwDgYDVR0P\
    AQH/BAQDAgIEMAoGCCqGSM49BAMCA0cAMEQCIC0ndGxUlCrHAFfnBHLEDinMRTH7urdTYq+buxjh+MQ0AiAvMZSv\
    5a1YJovlFA0rla7blTNrvlkRDeK2WfbEeLsdbA==",
    "MIIBqjCCAVCgAwIBAgIUSDsCJ9Ucxdj4UcHwFQyxCGMHspwwCgYIKoZIzj0EAwQwETEPMA0GA1UECgwGU1BJRkZF\
    MCAXDTI2MTEyNzA0MDM0NloYDzIxMjYxMTAzMDQwMzQ2WjARMQ8wDQYDVQQKDAZTUElGRkUwWTATBgcqhkjOPQIB\
    BggqhkjOPQMBBwNCAASMohhzUxxw7NilpmB09EIk1DBS0SKWbLnbYd6rI+v5jygtWDJlxc/bCCpXoQCWj9hyrPtW\
    Vx+bGNivAi2p+Sy8o4GDMIGAMCAGA1UdEQQZMBeGFXNwaWZmZTovL2EudGVzdC9hZ2VudDAOBgNVHQ8BAf8EBAMC\
    B4AwDAYDVR0TAQH/BAIwADAdBgNVHQ4EFgQUQD/vRMv2jBn3eiqxCSRPMwMmk8gwHwYDVR0jBBgwFoAUOqLQwLsG\
    mnZKbDtbPfBOI5SPDHQwCgYIKoZIzj0EAwQDSAAwRQIhAIXIdW7W3EhCJq1fuZDJvYl9O5GOhgBIJj7Gkdn7KYhO\
    AiBLR07TkT4Bw8R4HMEVYfsjDjJooZPBCABWQhQ2O8NMww==",
];

/// I6: that there is no path would send the operator looking for a root.
#[test]
fn i6_a_signature_algorithm_that_is_not_accepted_is_named() {
    let [root, leaf] = SHA512.map(|text| STANDARD.decode(text).unwrap());
    let domain = TrustDomain::parse("a.test").unwrap();
    let mut bundles = BundleSet::default();
    bundles.insert(TrustBundle::from_der(domain, [root.as_slice()]));
    let refused = validate_chain(&[CertificateDer::from(leaf)], &bundles, NOW_S);
    assert_eq!(refused.unwrap_err(), SvidError::SignatureAlgorithm);
}
