//! Building of paths: what trust stores may hold, and what claimants may present.

use rcgen::{CustomExtension, KeyIdMethod, KeyPair, SerialNumber, date_time_ymd};

use super::testing::{Authority, NOW_MS, named};
use super::*;

fn check(leaf: &[u8], presented: &[Vec<u8>], roots: &Roots) -> Result<i64, ChainError> {
    verify(leaf, presented, roots, NOW_MS)
}

/// A maker of hardware with a root and an intermediate.
fn maker(name: &str) -> (Authority, Authority) {
    (
        Authority::new(&format!("{name} root")),
        Authority::new(&format!("{name} intermediate")),
    )
}

fn trusting(makers: &[(Authority, Authority)]) -> Roots {
    Roots {
        anchors: makers.iter().map(|(root, _)| root.root()).collect(),
        intermediates: makers
            .iter()
            .map(|(root, below)| below.below(root))
            .collect(),
        ..Roots::default()
    }
}

/// Returns an issuer's list with these serial numbers.
fn list(issuer: &Authority, revoked: &[u64]) -> Arc<Crl> {
    Arc::new(Crl::parse(&issuer.crl(revoked, 2026, None)).unwrap())
}

#[test]
fn e4_any_number_of_trusted_makers_may_stand_beside_the_one_of_the_path() {
    let makers: Vec<_> = (0..40).map(|index| maker(&index.to_string())).collect();
    let roots = trusting(&makers);
    for (_, intermediate) in &makers {
        check(&intermediate.leaf(), &[], &roots).unwrap();
    }
    check(&Authority::new("0 intermediate").leaf(), &[], &roots).unwrap_err();
}

#[test]
fn e4_two_issuers_of_one_name_are_both_taken() {
    for with_key_id in [true, false] {
        let makers = [maker("same"), maker("same"), maker("same")];
        let roots = trusting(&makers);
        for (_, intermediate) in &makers {
            let mut leaf = named("leaf");
            leaf.use_authority_key_identifier_extension = with_key_id;
            let leaf = intermediate.sign(&leaf, &KeyPair::generate().unwrap());
            check(&leaf, &[], &roots).unwrap();
        }
    }
}

/// RFC 5280 has key ids for the search alone, and some issuers write others than their own.
#[test]
fn e4_a_key_id_is_a_hint_and_no_condition() {
    let (root, mut below) = maker("odd");
    let makers = [(root, Authority(below.0.clone(), below.1)), maker("odd")];
    let roots = trusting(&makers);
    below.0.key_identifier_method = KeyIdMethod::PreSpecified(vec![1, 2, 3]);
    let odd = Authority(
        below.0,
        KeyPair::from_pem(&makers[0].1.1.serialize_pem()).unwrap(),
    );
    check(&odd.leaf(), &[], &roots).unwrap();
}

#[test]
fn e4_what_is_presented_beside_the_path_does_no_harm() {
    let (root, middle, last) = (
        Authority::new("root"),
        Authority::new("middle"),
        Authority::new("last"),
    );
    let roots = Roots {
        anchors: vec![root.root()],
        ..Roots::default()
    };
    let path = [last.below(&middle), middle.below(&root)];
    let stranger = Authority::new("last");
    let mut junk: Vec<_> = (0..4).map(|_| stranger.below(&stranger)).collect();
    junk.extend(path.clone());
    junk.push(root.root());
    check(&last.leaf(), &junk, &roots).unwrap();
    check(&stranger.leaf(), &junk, &roots).unwrap_err();
    // A certificate that is trusted and presented counts once.
    let roots = Roots {
        intermediates: path.to_vec(),
        ..roots
    };
    check(&last.leaf(), &path, &roots).unwrap();
}

#[test]
fn e4_the_work_that_a_claimant_causes_is_bounded() {
    let root = Authority::new("mesh");
    let roots = Roots {
        anchors: vec![root.root()],
        ..Roots::default()
    };
    // Each could have issued each other and the leaf, and the root each of them.
    let mut mesh: Vec<_> = (0..8).map(|_| Authority::new("mesh")).collect();
    for authority in &mut mesh {
        authority.0.use_authority_key_identifier_extension = false;
    }
    let presented: Vec<_> = mesh.iter().map(|one| one.below(one)).collect();
    let mut leaf = named("leaf");
    leaf.use_authority_key_identifier_extension = false;
    let leaf = Authority::new("mesh").sign(&leaf, &KeyPair::generate().unwrap());
    let refused = check(&leaf, &presented, &roots).unwrap_err();
    assert!(matches!(refused, ChainError::Budget), "{refused}");
    let nine = vec![presented[0].clone(); 9];
    assert!(matches!(
        check(&leaf, &nine, &roots).unwrap_err(),
        ChainError::TooLong
    ));
}

#[test]
fn e4_revocation_lists_of_two_issuers_of_one_name_are_told_apart() {
    let makers = [maker("same"), maker("same")];
    let mut roots = trusting(&makers);
    let (mut good, mut revoked) = (named("leaf"), named("leaf"));
    good.serial_number = Some(SerialNumber::from(1));
    revoked.serial_number = Some(SerialNumber::from(2));
    roots.crls = makers
        .iter()
        .map(|(_, issuer)| list(issuer, &[2]))
        .collect();
    for (_, issuer) in &makers {
        let key = KeyPair::generate().unwrap();
        check(&issuer.sign(&good, &key), &[], &roots).unwrap();
        let refused = check(&issuer.sign(&revoked, &key), &[], &roots).unwrap_err();
        assert!(
            matches!(refused, ChainError::Path(webpki::Error::CertRevoked)),
            "{refused}"
        );
    }
}

#[test]
fn e12_a_verdict_ends_with_the_first_end_in_its_path_and_lists() {
    let (mut root, mut below) = maker("ending");
    root.0.not_after = date_time_ymd(2040, 1, 1);
    below.0.not_after = date_time_ymd(2030, 1, 1);
    let leaf = below.leaf();
    let other = Authority::new("other");
    let lists = [list(&below, &[]), list(&other, &[])];
    let makers = [(root, below)];
    let mut roots = trusting(&makers);
    assert_eq!(check(&leaf, &[], &roots).unwrap(), 1_893_456_000_000);
    let [own, strange] = lists;
    roots.crls = vec![strange];
    assert_eq!(check(&leaf, &[], &roots).unwrap(), 1_893_456_000_000);
    roots.crls.push(own);
    assert_eq!(check(&leaf, &[], &roots).unwrap(), 1_780_272_000_000);
}

#[test]
fn e4_a_root_that_has_ended_or_has_not_begun_is_refused() {
    for (begin, end) in [(2020, 2025), (2027, 2030)] {
        let (mut root, below) = maker("old");
        root.0.not_before = date_time_ymd(begin, 1, 1);
        root.0.not_after = date_time_ymd(end, 1, 1);
        let refused = check(&below.leaf(), &[], &trusting(&[(root, below)])).unwrap_err();
        assert!(matches!(refused, ChainError::Anchor), "{refused}");
    }
}

/// Returns critical certificatePolicies with one policy (RFC 5280, section 4.2.1.4).
fn critical_policies() -> CustomExtension {
    let policy = vec![0x30, 0x06, 0x30, 0x04, 0x06, 0x02, 0x2a, 0x03];
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 32], policy);
    extension.set_criticality(true);
    extension
}

#[test]
fn e13_critical_certificate_policies_are_taken_at_every_place_of_a_path() {
    for (at_root, at_intermediate, at_leaf) in [
        (true, false, false),
        (false, true, false),
        (false, false, true),
        (true, true, true),
    ] {
        let (mut root, mut below) = maker("policies");
        let mut leaf = named("leaf");
        root.0
            .custom_extensions
            .extend(at_root.then(critical_policies));
        below
            .0
            .custom_extensions
            .extend(at_intermediate.then(critical_policies));
        leaf.custom_extensions
            .extend(at_leaf.then(critical_policies));
        let leaf = below.sign(&leaf, &KeyPair::generate().unwrap());
        let roots = trusting(&[(root, below)]);
        check(&leaf, &[], &roots).unwrap();
        for at in 0..leaf.len() {
            let mut bent = leaf.clone();
            bent[at] ^= 1 << (at % 8);
            assert!(check(&bent, &[], &roots).is_err(), "byte {at}");
        }
    }
}

#[test]
fn e13_other_critical_extensions_are_refused_as_ever() {
    // policyConstraints, inhibitAnyPolicy, and one that nobody knows.
    for oid in [&[2, 5, 29, 36][..], &[2, 5, 29, 54], &[1, 2, 3, 4]] {
        let (root, below) = maker("other");
        let mut leaf = named("leaf");
        let mut extension = CustomExtension::from_oid_content(oid, vec![0x30, 0]);
        extension.set_criticality(true);
        leaf.custom_extensions = vec![critical_policies(), extension];
        let leaf = below.sign(&leaf, &KeyPair::generate().unwrap());
        check(&leaf, &[], &trusting(&[(root, below)])).unwrap_err();
    }
}
