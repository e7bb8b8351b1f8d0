use proptest::prelude::*;

use super::attribute::{scope_attributes, workload_attributes};
use super::*;
use crate::position::Position;

fn matches(selector: &Selector, task: &[Attribute]) -> bool {
    selector.matches(&Subject {
        position: Position(0),
        issued_at_ms: 10,
        task,
        own: &[],
    })
}

#[test]
fn t62_a_path_prefix_ends_at_a_segment() {
    let prefix = |text: &str| Selector {
        path_prefix: Some(SpiffeId::parse(text).unwrap()),
        ..Selector::default()
    };
    let of = |text: &str| workload_attributes(&SpiffeId::parse(text).unwrap());
    for (selected, id, hit) in [
        ("spiffe://a.b/x", "spiffe://a.b/x", true),
        ("spiffe://a.b/x", "spiffe://a.b/x/y", true),
        ("spiffe://a.b/x/y", "spiffe://a.b/x/y/z", true),
        ("spiffe://a.b/x", "spiffe://a.b/xy", false),
        ("spiffe://a.b/x/y", "spiffe://a.b/x", false),
        ("spiffe://a.b/x", "spiffe://a.c/x", false),
    ] {
        assert_eq!(matches(&prefix(selected), &of(id)), hit, "{selected} {id}");
    }
}

#[test]
fn ac_42_what_selects_nothing_is_refused() {
    assert_eq!(Selector::default().check(), Err(SelectorError::Empty));
    assert!(!matches(&Selector::default(), &[]));
    let everything = Selector {
        everything: true,
        ..Selector::default()
    };
    assert_eq!(everything.check(), Ok(()));
    assert!(matches(&everything, &[]));
    assert_eq!(
        Selector {
            audience: Some("x".to_owned()),
            ..everything
        }
        .check(),
        Err(SelectorError::Everything)
    );
    for blank in ["", " ", "\t"] {
        assert_eq!(
            Selector {
                audience: Some(blank.to_owned()),
                ..Selector::default()
            }
            .check(),
            Err(SelectorError::Text)
        );
    }
    for bad in ["x", "=", "oidc=1", "oidc.sub="] {
        assert_eq!(
            Selector {
                claims: vec![bad.to_owned()],
                ..Selector::default()
            }
            .check(),
            Err(SelectorError::Claim),
            "{bad}"
        );
    }
    assert_eq!(
        Selector {
            svid_serial: Some("0A".to_owned()),
            ..Selector::default()
        }
        .check(),
        Err(SelectorError::Serial)
    );
}

#[test]
fn criteria_are_a_conjunction() {
    let id = SpiffeId::parse("spiffe://a.b/x").unwrap();
    let attributes = workload_attributes(&id);
    let both = Selector {
        issued_before_ms: Some(10),
        ..Selector::workload(id)
    };
    assert!(
        !matches(&both, &attributes),
        "issued at 10 is not before 10"
    );
    assert!(matches(
        &Selector {
            issued_before_ms: Some(11),
            ..both
        },
        &attributes
    ));
}

fn scope() -> impl Strategy<Value = Scope> {
    "[ab]:[ab:](/[ab]){0,2}(/\\*)?".prop_filter_map("grammar", |text| Scope::parse(&text).ok())
}

proptest! {
    #[test]
    fn a_scope_selects_what_it_overlaps_with(selected in scope(), held in scope()) {
        let selector = Selector { scope: Some(selected.clone()), ..Selector::default() };
        let expected = selected.covers(&held) || held.covers(&selected);
        let held_attributes = scope_attributes(std::iter::once(&held));
        prop_assert_eq!(matches(&selector, &held_attributes), expected, "{} {}", selected, held);
    }
}
