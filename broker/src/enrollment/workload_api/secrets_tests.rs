use super::*;

const ID: &str = "spiffe://own.example/agent";

/// Two values in DER, as certificates.
const DER: [u8; 6] = [0x30, 1, 1, 0x30, 1, 2];

const OTHER: &str = "spiffe://own.example/other";

fn answer(ids: &[&str]) -> X509svidResponse {
    let svid = |id: &&str| X509svid {
        spiffe_id: (*id).to_owned(),
        x509_svid: DER.to_vec(),
        x509_svid_key: id.as_bytes().to_vec(),
        bundle: DER[..3].to_vec(),
        hint: String::new(),
    };
    X509svidResponse {
        svids: ids.iter().map(svid).collect(),
        crl: Vec::new(),
        federated_bundles: [("spiffe://partner.example".to_owned(), DER.to_vec())].into(),
    }
}

fn secrets(names: &[&str]) -> Result<Vec<Secret>, CallError> {
    let held = Held::new(answer(&[ID, OTHER]), None)?;
    held.secrets(&names.iter().map(ToString::to_string).collect())
}

/// The trust domains of a validation context, and how many roots each has.
fn domains(secret: &Secret) -> Vec<(String, usize)> {
    let Some(Type::ValidationContext(context)) = &secret.r#type else {
        panic!("{secret:?}")
    };
    let validator = context.custom_validator_config.as_ref().unwrap();
    let config = validator.typed_config.as_ref().unwrap();
    let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).unwrap();
    let roots = |of: &TrustDomain| match &of.trust_bundle.as_ref().unwrap().specifier {
        Some(Specifier::InlineBytes(pem)) => String::from_utf8_lossy(pem)
            .matches("BEGIN CERTIFICATE")
            .count(),
        None => 0,
    };
    config
        .trust_domains
        .iter()
        .map(|of| (of.name.clone(), roots(of)))
        .collect()
}

#[test]
fn each_name_gives_the_secret_that_envoys_for_spire_know_by_it() {
    let own = ("own.example".to_owned(), 1);
    let partner = ("partner.example".to_owned(), 2);
    for (name, expected) in [
        ("ROOTCA", vec![own.clone()]),
        ("spiffe://own.example", vec![own.clone()]),
        ("spiffe://partner.example", vec![partner.clone()]),
        ("ALL", vec![own, partner]),
    ] {
        let found = secrets(&[name]).unwrap();
        assert_eq!((found.len(), found[0].name.as_str()), (1, name));
        assert_eq!(domains(&found[0]), expected, "{name}");
    }
    for name in ["default", ID, "spiffe://own.example/other"] {
        let found = secrets(&[name]).unwrap();
        assert_eq!((found.len(), found[0].name.as_str()), (1, name));
        let Some(Type::TlsCertificate(pair)) = &found[0].r#type else {
            panic!("{name}")
        };
        assert!(pair.private_key.is_some() && pair.certificate_chain.is_some());
    }
    let all = secrets(&[]).unwrap();
    assert_eq!(all.len(), 4);
}

#[test]
fn what_the_process_may_not_have_is_refused_and_spoils_the_rest() {
    for name in [
        "spiffe://own.example/third",
        "spiffe://third.example",
        "rootca",
        "x",
    ] {
        assert!(secrets(&["default", name]).is_err(), "{name}");
    }
}

/// The first SVID is withheld, or another one comes before it.
#[test]
fn a_stream_that_has_an_id_as_default_gets_no_other_one_under_that_name() {
    for ids in [&[ID, OTHER], &[OTHER, ID]] {
        let held = Held::new(answer(ids), Some(ID)).unwrap();
        assert_eq!(
            held.secret("default").unwrap(),
            certificate("default", &held.svids[0])
        );
        assert_eq!(held.svids[0].spiffe_id, ID);
        assert_eq!(held.svids.len(), 2);
    }
    for ids in [&[OTHER][..], &[]] {
        let ended = Held::new(answer(ids), Some(ID)).map(drop).unwrap_err();
        assert_eq!(Status::from(ended).code(), tonic::Code::PermissionDenied);
    }
    let first = Held::new(answer(&[OTHER]), None).unwrap();
    assert_eq!(first.svids[0].spiffe_id, OTHER);
}

/// A withdrawal reaches Envoy: a stream that ended instead would leave it the former roots.
#[test]
fn a_trust_domain_that_is_withdrawn_is_replaced_by_one_that_nobody_has() {
    let partner = "spiffe://partner.example";
    let with = || Held::new(answer(&[ID]), None).unwrap();
    let without = || {
        let mut answer = answer(&[ID]);
        answer.federated_bundles.clear();
        Held::new(answer, None).unwrap()
    };
    assert!(without().secret(partner).is_err(), "never known");
    let then = with().then(without());
    for held in [with().then(without()).then(without()), then] {
        let names = ["default", partner].map(str::to_owned).into();
        let found = held.secrets(&names).unwrap();
        assert_eq!(found[1].name, partner);
        assert_eq!(domains(&found[1]), [(NOBODY.to_owned(), 1)]);
        let all = held.secret("ALL").unwrap();
        assert_eq!(domains(&all), [("own.example".to_owned(), 1)]);
        assert!(held.secret("spiffe://third.example").is_err());
        let again = held.then(with()).secret(partner).unwrap();
        assert_eq!(domains(&again), [("partner.example".to_owned(), 2)]);
    }
}

#[test]
fn other_resources_and_too_many_names_are_refused() {
    let request = |type_url: &str, count: usize| DiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names: (0..count).map(|n| n.to_string()).collect(),
        ..DiscoveryRequest::default()
    };
    assert_eq!(names(request(SECRET, MAX_NAMES)).unwrap().len(), MAX_NAMES);
    assert!(names(request("", 0)).unwrap().is_empty());
    assert!(names(request(SECRET, MAX_NAMES + 1)).is_err());
    let mut long = request(SECRET, 1);
    long.resource_names.push("x".repeat(MAX_NAMES_BYTES));
    assert!(names(long).is_err());
    assert!(
        names(request(
            "type.googleapis.com/envoy.config.listener.v3.Listener",
            1
        ))
        .is_err()
    );
}
