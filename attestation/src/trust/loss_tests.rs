use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::chain::testing::{Authority, NOW_MS};

fn pem(certificates: &[Vec<u8>]) -> Vec<u8> {
    let one = |der: &Vec<u8>| {
        let text = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    certificates
        .iter()
        .map(one)
        .collect::<String>()
        .into_bytes()
}

fn item(kind: TrustKind, name: &str, content: &[u8]) -> TrustItem {
    TrustItem::parse(kind, name, content).unwrap()
}

fn material(items: &[TrustItem]) -> TrustMaterial {
    let mut material = TrustMaterial::default();
    material.replace_items(items.iter().cloned().map(Arc::new));
    material
}

#[test]
fn e9_a_root_that_an_item_has_no_more_is_lost_and_one_that_another_item_has_is_not() {
    let (one, other) = (Authority::new("one").root(), Authority::new("other").root());
    let nitro = |name: &str, roots: &[Vec<u8>]| item(TrustKind::Nitro, name, &pem(roots));
    let before = material(&[nitro("aws", &[one.clone(), other.clone()])]);
    let losses = |after: &[TrustItem]| before.losses(&material(after), NOW_MS);
    assert_eq!(
        losses(&[nitro("aws", std::slice::from_ref(&one))]),
        [Loss::Kind(TrustKind::Nitro)]
    );
    assert_eq!(losses(&[]), [Loss::Kind(TrustKind::Nitro)]);
    let third = Authority::new("third").root();
    assert!(losses(&[nitro("aws", &[third, other.clone(), one.clone()])]).is_empty());
    assert!(losses(&[nitro("aws", &[one]), nitro("more", &[other])]).is_empty());
}

#[test]
fn e9_a_list_loses_what_it_takes_back_that_no_list_took_back_before() {
    let (amd, aws) = (Authority::new("ARK"), Authority::new("aws"));
    let ask = Authority::new("ASK");
    let chain = [amd.root(), ask.below(&amd)];
    let trusted = [
        item(TrustKind::SevSnp, "milan", &pem(&chain)),
        item(TrustKind::Nitro, "aws", &pem(&[aws.root()])),
    ];
    let with = |lists: &[Vec<u8>]| {
        let lists = lists.iter().enumerate();
        let lists = lists.map(|(at, list)| item(TrustKind::Crl, &format!("list-{at}"), list));
        material(&[trusted.to_vec(), lists.collect()].concat())
    };
    let losses = |before: &[Vec<u8>], after: &[Vec<u8>]| with(before).losses(&with(after), NOW_MS);
    let (of_amd, of_aws) = (
        [Loss::Kind(TrustKind::SevSnp)],
        [Loss::Kind(TrustKind::Nitro)],
    );
    assert_eq!(losses(&[], &[ask.crl(&[3], 2026, None)]), of_amd);
    assert_eq!(losses(&[], &[aws.crl(&[3], 2026, None)]), of_aws);
    // The certificate of somebody that came with the evidence.
    let zone = Authority::new("zone");
    assert_eq!(losses(&[], &[zone.crl(&[3], 2026, None)]), of_aws);
    let old = ask.crl(&[3, 4], 2026, None);
    assert_eq!(
        losses(
            std::slice::from_ref(&old),
            &[ask.crl(&[5, 4, 3], 2026, None)]
        ),
        of_amd
    );
    // A list that is only newer takes nothing back, nor does one of nothing or one that goes.
    for harmless in [vec![ask.crl(&[4, 3], 2027, None)], vec![]] {
        assert!(losses(std::slice::from_ref(&old), &harmless).is_empty());
    }
    assert!(losses(&[], &[ask.crl(&[], 2026, None)]).is_empty());
    // Another issuer's certificate of the same number is another one.
    assert_eq!(losses(&[old], &[aws.crl(&[3], 2026, None)]), of_aws);
}

#[test]
fn a_reference_value_is_lost_with_the_item_and_not_with_its_remark() {
    let value = |remark: &[u8]| item(TrustKind::Reference, "models/m-1", remark);
    let before = material(&[value(b"approved")]);
    let lost = Loss::Value {
        set: "models".to_owned(),
        value: "m-1".to_owned(),
    };
    let without = before.without(TrustKind::Reference, "models/m-1");
    assert_eq!(before.losses(&without, NOW_MS), [lost]);
    assert!(
        before
            .losses(&material(&[value(b"again")]), NOW_MS)
            .is_empty()
    );
}

#[test]
fn of_very_many_claims_everything_of_the_kind_is_lost() {
    let claim = |at: usize| Loss::Claim(TrustKind::Tpm2Ak, format!("tpm2.key={at:04}"));
    let few: BTreeSet<_> = (0..MAX_CLAIMS).map(claim).collect();
    assert_eq!(bounded(few.clone()).len(), MAX_CLAIMS);
    let many = few.into_iter().chain([claim(MAX_CLAIMS)]).collect();
    assert_eq!(bounded(many), [Loss::Kind(TrustKind::Tpm2Ak)]);
}
