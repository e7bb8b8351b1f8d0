//! Responses with several SVIDs, and with parts that cannot be used.

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};

use super::*;

fn certificate(ca: bool, uri: &str) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    (params.is_ca, params.key_usages) = if ca {
        (
            IsCa::Ca(BasicConstraints::Unconstrained),
            vec![KeyUsagePurpose::KeyCertSign],
        )
    } else {
        (IsCa::ExplicitNoCa, vec![KeyUsagePurpose::DigitalSignature])
    };
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

fn root() -> Vec<u8> {
    certificate(true, "spiffe://own.example")
}

/// Two SVIDs, as two matching entries of SPIRE give them.
struct Served {
    gateway: Vec<u8>,
    broker: Vec<u8>,
    bundle: Vec<u8>,
}

impl Served {
    fn new() -> Self {
        Self {
            gateway: certificate(false, "spiffe://own.example/gateway"),
            broker: certificate(false, "spiffe://own.example/broker"),
            bundle: root(),
        }
    }

    fn entries(&self) -> [SvidEntry<'_>; 2] {
        let entry = |spiffe_id, chain, hint| SvidEntry {
            spiffe_id,
            chain,
            bundle: &self.bundle,
            hint,
        };
        [
            entry("spiffe://own.example/gateway", &self.gateway, "external"),
            entry("spiffe://own.example/broker", &self.broker, "internal"),
        ]
    }

    fn read(&self, choice: &SvidChoice) -> Result<ChosenSvid, ResponseError> {
        let federated: [(&str, &[u8]); 0] = [];
        let response = WorkloadResponse::read(&self.entries(), federated, choice);
        response.unwrap().svid
    }
}

fn roots(response: &WorkloadResponse, domain: &str) -> Option<usize> {
    let domain = TrustDomain::parse(domain).unwrap();
    let bundle = response.bundles.of(&domain)?;
    Some(bundle.certificates().count())
}

#[test]
fn i11_an_svid_is_chosen_by_its_id_or_its_hint_and_is_the_first_otherwise() {
    let served = Served::new();
    let id = |text: &str| SvidChoice::Id(SpiffeId::parse(text).unwrap());
    let hint = |text: &str| SvidChoice::Hint(text.to_owned());
    for (choice, index) in [
        (SvidChoice::First, 0),
        (id("spiffe://own.example/broker"), 1),
        (id("spiffe://own.example/gateway"), 0),
        (hint("internal"), 1),
    ] {
        let chosen = served.read(&choice).unwrap();
        assert_eq!(chosen.index, index, "{choice}");
        let expected = [&served.gateway, &served.broker][index];
        assert_eq!(chosen.chain, [CertificateDer::from(expected.clone())]);
    }
    let absent = served.read(&hint("other")).unwrap_err().to_string();
    assert_eq!(
        absent,
        "there is not an SVID with the hint `other`; there are: \
         `spiffe://own.example/gateway` (hint `external`), \
         `spiffe://own.example/broker` (hint `internal`)"
    );
    let absent = served.read(&id("spiffe://own.example/b")).unwrap_err();
    assert!(matches!(absent, ResponseError::Absent { .. }));
}

/// Section 5.2.1: of several with one hint, the first is selected.
#[test]
fn i11_of_two_svids_with_one_hint_the_first_is_taken() {
    let served = Served::new();
    let entries = served
        .entries()
        .map(|entry| SvidEntry { hint: "h", ..entry });
    let choice = SvidChoice::Hint("h".to_owned());
    let federated: [(&str, &[u8]); 0] = [];
    let response = WorkloadResponse::read(&entries, federated, &choice).unwrap();
    assert_eq!(response.svid.unwrap().index, 0);
}

#[test]
fn i11_an_entry_does_not_say_of_a_certificate_whose_it_is() {
    let served = Served::new();
    let [gateway, mut broker] = served.entries();
    broker.chain = gateway.chain;
    let choice = SvidChoice::Hint("internal".to_owned());
    let federated: [(&str, &[u8]); 0] = [];
    let response = WorkloadResponse::read(&[gateway, broker], federated, &choice).unwrap();
    assert!(matches!(response.svid, Err(ResponseError::AnotherId(_))));
}

#[test]
fn i5_a_bundle_that_cannot_be_used_costs_no_other_and_not_ones_own() {
    let (served, good) = (Served::new(), root());
    let half = [&good[..], &good[..20]].concat();
    let federated: [(&str, &[u8]); 5] = [
        ("spiffe://good.example", &good),
        ("half.example", &half),
        ("spiffe://bad.example", b"\x30\x00"),
        ("spiffe://Not A Domain", &good),
        ("spiffe://own.example", &good),
    ];
    let response = WorkloadResponse::read(&served.entries(), federated, &SvidChoice::First);
    let response = response.unwrap();
    assert!(response.svid.is_ok());
    for (domain, number) in [
        ("own.example", 1),
        ("good.example", 1),
        ("half.example", 1),
        ("bad.example", 0),
    ] {
        assert_eq!(roots(&response, domain), Some(number), "{domain}");
    }
    assert_eq!(response.bundles.iter().count(), 4);
    let own = response
        .bundles
        .iter()
        .find(|b| b.trust_domain().id().ends_with("own.example"));
    let own: Vec<_> = own.unwrap().certificates().map(|c| c.to_vec()).collect();
    assert_eq!(own, std::slice::from_ref(&served.bundle));
    let told = response.left_out.to_string();
    assert!(
        told.starts_with("2 left out: federated bundle `spiffe://Not A Domain`: "),
        "{told}"
    );
}

/// Section 4.5: such a response is discarded, and says nothing about what was removed.
#[test]
fn a_response_that_lacks_a_mandatory_field_is_discarded() {
    let served = Served::new();
    let federated: [(&str, &[u8]); 0] = [];
    let read = |entries: &[SvidEntry<'_>]| {
        WorkloadResponse::read(entries, federated, &SvidChoice::First).is_ok()
    };
    let [gateway, broker] = served.entries();
    assert!(read(&[gateway, broker]));
    assert!(!read(&[]));
    for incomplete in [
        SvidEntry {
            spiffe_id: "",
            ..broker
        },
        SvidEntry {
            chain: &[],
            ..broker
        },
        SvidEntry {
            bundle: &[],
            ..broker
        },
    ] {
        assert!(!read(&[gateway, incomplete]));
    }
}
