//! Responses of a Workload API in which a trust domain is bad, or is not there any more.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use sundew_attestation::spiffe::{SpiffeId, TrustDomain};
use sundew_proto::spiffe::X509svid;

use super::*;

const LIMIT: Duration = Duration::from_secs(3600);
const BROKER: &str = "spiffe://own.example/broker";
const GATEWAY: &str = "spiffe://own.example/gateway";

struct Authority {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let issuer = Issuer::new(params, key);
        Self { der, issuer }
    }

    fn svid(&self, id: &str, hint: &str) -> X509svid {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        X509svid {
            spiffe_id: id.to_owned(),
            x509_svid: leaf.der().to_vec(),
            x509_svid_key: key.serialize_der(),
            bundle: self.der.clone(),
            hint: hint.to_owned(),
        }
    }
}

fn response(svids: &[X509svid], federated: &[(&str, &[u8])]) -> X509svidResponse {
    let federated = federated.iter();
    X509svidResponse {
        svids: svids.to_vec(),
        federated_bundles: federated
            .map(|(domain, roots)| (format!("spiffe://{domain}"), roots.to_vec()))
            .collect(),
        ..X509svidResponse::default()
    }
}

fn source(choice: SvidChoice) -> WorkloadApiSource {
    let trust = Arc::new(Trust::default());
    WorkloadApiSource::new(trust, "/run/agent.sock".into(), choice, LIMIT)
}

/// How many roots a trust domain has, if it is known.
fn roots(source: &WorkloadApiSource, domain: &str) -> Option<usize> {
    let current = source.trust.current();
    let bundle = current.bundles.of(&TrustDomain::parse(domain).unwrap())?;
    Some(bundle.certificates().count())
}

fn own_certificate(source: &WorkloadApiSource) -> Option<Vec<u8>> {
    Some(source.trust.identity()?.cert.first()?.to_vec())
}

#[test]
fn i4_a_trust_domain_that_is_not_listed_any_more_is_withdrawn_at_once() {
    let (own, partner) = (Authority::new(), Authority::new());
    let mut source = source(SvidChoice::First);
    let svid = own.svid(BROKER, "");
    source.take(response(
        std::slice::from_ref(&svid),
        &[("partner.example", &partner.der)],
    ));
    assert_eq!(roots(&source, "partner.example"), Some(1));
    let generation = source.trust.current().generation;
    source.take(response(&[svid], &[]));
    assert_eq!(roots(&source, "partner.example"), None);
    assert_eq!(roots(&source, "own.example"), Some(1));
    assert!(source.trust.current().generation > generation);
    assert!(own_certificate(&source).is_some());
}

#[test]
fn i5_one_partners_bundle_costs_no_other_and_not_ones_own() {
    let (own, good, next) = (Authority::new(), Authority::new(), Authority::new());
    let mut source = source(SvidChoice::First);
    let svid = own.svid(BROKER, "");
    source.take(response(
        std::slice::from_ref(&svid),
        &[("good.example", &good.der)],
    ));
    let rotated = own.svid(BROKER, "");
    let bad = [&b"\x30\x03\x02\x01\x00"[..], &good.der].concat();
    let both = [&good.der[..], &next.der].concat();
    source.take(response(
        std::slice::from_ref(&rotated),
        &[
            ("bad.example", &bad),
            ("good.example", &both),
            ("not a name", &good.der),
        ],
    ));
    assert_eq!(own_certificate(&source), Some(rotated.x509_svid));
    for (domain, number) in [("own.example", 1), ("good.example", 2), ("bad.example", 1)] {
        assert_eq!(roots(&source, domain), Some(number), "{domain}");
    }
    let problems = source.trust.problems();
    assert_eq!(
        problems[0],
        "bundle of bad.example: 1 left out: root 0: not an X.509 certificate"
    );
    assert!(
        problems[1].starts_with("workload api: 1 left out: federated bundle `spiffe://not a name`")
    );
    let counted = source.trust.left_out();
    assert!(counted.values().map(|parts| parts.count()).eq([1, 1]));
}

/// The good roots of a bundle that has bad ones go when they are removed.
#[test]
fn i5_a_removed_root_goes_at_once_even_if_the_rest_is_bad() {
    let (own, partner) = (Authority::new(), Authority::new());
    let mut source = source(SvidChoice::First);
    let svid = own.svid(BROKER, "");
    source.take(response(
        std::slice::from_ref(&svid),
        &[("partner.example", &partner.der)],
    ));
    source.take(response(&[svid], &[("partner.example", b"\x30")]));
    assert_eq!(roots(&source, "partner.example"), Some(0));
}

#[test]
fn i11_the_svid_is_the_one_that_was_chosen_and_none_other_in_its_absence() {
    let own = Authority::new();
    let svids = [own.svid(GATEWAY, "edge"), own.svid(BROKER, "core")];
    let choices = [
        (SvidChoice::First, 0),
        (SvidChoice::Hint("core".to_owned()), 1),
        (SvidChoice::Id(SpiffeId::parse(BROKER).unwrap()), 1),
    ];
    for (choice, index) in choices {
        let mut source = source(choice);
        source.take(response(&svids, &[]));
        let expected = Some(svids[index].x509_svid.clone());
        assert_eq!(own_certificate(&source), expected);
        // The chosen SVID is redacted, and the other is not taken for it.
        source.take(response(&[own.svid("spiffe://own.example/x", "")], &[]));
        assert_eq!(own_certificate(&source).is_none(), index == 1);
        assert_eq!(roots(&source, "own.example"), Some(1));
        assert_eq!(source.trust.problems().len(), index);
    }
}

#[test]
fn ac_09_what_an_api_that_fails_has_brought_is_withdrawn_after_its_limit_and_nothing_else() {
    let _stopped = clock::testing::stop();
    let own = Authority::new();
    let mut source = source(SvidChoice::First);
    let file = TrustDomain::parse("file.example").unwrap();
    let of_file = sundew_attestation::spiffe::TrustBundle::from_der(file, [&own.der[..]]);
    source.trust.publish(Source::Files, of_file);
    source.take(response(&[own.svid(BROKER, "")], &[]));
    clock::testing::advance(LIMIT);
    source.failed(WorkloadApiError::Closed);
    // A response that lacks a mandatory field is none.
    source.take(response(&[], &[]));
    assert_eq!(roots(&source, "own.example"), Some(1));
    clock::testing::advance(Duration::from_millis(1));
    source.take(response(&[], &[]));
    assert_eq!(roots(&source, "own.example"), None);
    assert_eq!(roots(&source, "file.example"), Some(1));
    assert!(own_certificate(&source).is_some());
}
