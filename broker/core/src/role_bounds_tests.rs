use proptest::prelude::*;

use super::*;

fn prefixes(texts: &[&str]) -> Limit<PathPrefix> {
    Limit::parse(texts).unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// The bounds of team A's registrar.
fn team_a() -> RoleBounds {
    RoleBounds {
        path_prefixes: prefixes(&["spiffe://a.test/team-a"]),
        scopes: Limit::parse(&["tool:github/*"]).unwrap(),
        audiences: Limit::parse(&["https://a.test/*"]).unwrap(),
        secrets: Limit::parse(&["team-a/*", "shared/one"]).unwrap(),
    }
}

#[test]
fn an_entry_that_is_no_pattern_of_its_list_is_refused() {
    let prefix = |text: &str| Limit::<PathPrefix>::parse(&[text]);
    for good in ["*", "spiffe://a.test", "spiffe://a.test/x/y"] {
        assert_eq!(prefix(good).unwrap().to_strings(), [good], "{good}");
    }
    for bad in [
        "",
        "a.test",
        "spiffe://",
        "spiffe://a.test/",
        "spiffe://a.test/x/*",
        "spiffe://*",
    ] {
        assert_eq!(prefix(bad), Err(RoleBoundsError::PathPrefix), "{bad}");
    }
    let scope = |text: &str| Limit::<ScopePattern>::parse(&[text]);
    assert!(scope("*").is_ok() && scope("tool:*").is_ok());
    assert_eq!(scope("secret:x"), Err(RoleBoundsError::SecretScope));
    assert_eq!(scope("tool"), Err(RoleBoundsError::Scope(ScopeError::Kind)));
    let secret = |text: &str| Limit::<SecretPattern>::parse(&[text]);
    assert_eq!(secret("a/*").unwrap().to_strings(), ["a/*"]);
    assert_eq!(secret("secret:x"), Err(RoleBoundsError::SecretScope));
    let audience = |texts: &[&str]| Limit::<AudiencePattern>::parse(texts);
    assert_eq!(audience(&["a b"]), Err(RoleBoundsError::Audience));
    assert_eq!(audience(&["*", "a"]), Err(RoleBoundsError::Alone));
    assert_eq!(audience(&[]), Ok(Limit::default()));
}

#[test]
fn a_prefix_ends_at_a_whole_segment() {
    let bounds = team_a();
    for within in ["spiffe://a.test/team-a", "spiffe://a.test/team-a/x/y"] {
        assert!(bounds.have_workload(&id(within)), "{within}");
    }
    for outside in [
        "spiffe://a.test/team-ab",
        "spiffe://a.test/team",
        "spiffe://b.test/team-a",
        "spiffe://a.test.b/team-a",
    ] {
        assert!(!bounds.have_workload(&id(outside)), "{outside}");
    }
    let domain = RoleBounds {
        path_prefixes: prefixes(&["spiffe://a.test"]),
        ..RoleBounds::default()
    };
    assert!(domain.have_workload(&id("spiffe://a.test/x")));
    assert!(!domain.have_workload(&id("spiffe://a.test.b/x")));
    assert!(!RoleBounds::default().have_workload(&id("spiffe://a.test/x")));
}

#[test]
fn o4_a_selector_is_within_bounds_only_by_a_criterion_that_says_so() {
    let bounds = team_a();
    let within = |selector: Selector| bounds.have_selected(&selector);
    let of = |text: &str| Some(id(text));
    assert!(within(Selector::workload(id("spiffe://a.test/team-a/x"))));
    assert!(within(Selector {
        path_prefix: of("spiffe://a.test/team-a"),
        audience: Some("https://b.test".to_owned()),
        ..Selector::default()
    }));
    let outside = [
        Selector::workload(id("spiffe://a.test/team-b/x")),
        Selector {
            path_prefix: of("spiffe://a.test/team"),
            ..Selector::default()
        },
        Selector {
            audience: Some("https://a.test/x".to_owned()),
            ..Selector::default()
        },
        Selector {
            trust_domain: Some(TrustDomain::parse("a.test").unwrap()),
            ..Selector::default()
        },
        Selector {
            issued_before_ms: Some(1),
            ..Selector::default()
        },
    ];
    for selector in outside {
        assert!(!within(selector.clone()), "{selector:?}");
    }
    let everything = Selector {
        everything: true,
        ..Selector::default()
    };
    let anywhere = RoleBounds {
        path_prefixes: Limit::Any,
        ..RoleBounds::default()
    };
    assert!(!anywhere.have_selected(&everything) && !within(everything));
}

#[test]
fn o4_what_a_registration_hands_out_beyond_the_bounds_is_named() {
    let registration = |changes: serde_json::Value| {
        let mut document = serde_json::json!({
            "spiffe_id": "spiffe://a.test/team-a/agent",
            "evidence": [],
            "begin": "self",
            "scopes": ["tool:github/pr", "secret:team-a/key", "secret:shared/one"],
            "audiences": ["https://a.test/x", "https://a.test/y/*"],
            "owner": "team A",
        });
        let changes = changes.as_object().unwrap().clone();
        document.as_object_mut().unwrap().extend(changes);
        serde_json::from_value::<Registration>(document).unwrap()
    };
    let beyond = |changes| team_a().beyond(&registration(changes));
    assert_eq!(beyond(serde_json::json!({})), Vec::<String>::new());
    let wide = serde_json::json!({
        "spiffe_id": "spiffe://a.test/team-b/agent",
        "scopes": ["secret:*", "secret:shared/*", "tool:*", "exec:git", "secret:team-a/*"],
        "audiences": ["https://b.test", "*"],
        "jwt_svid_audiences": ["https://b.test", "https://a.test/z"],
    });
    assert_eq!(
        beyond(wide),
        [
            "spiffe_id",
            "scopes: exec:git",
            "scopes: secret:*",
            "scopes: secret:shared/*",
            "scopes: tool:*",
            "audiences: https://b.test",
            "audiences: *",
            "jwt_svid_audiences: https://b.test",
        ]
    );
    let mut open = registration(serde_json::json!({}));
    open.audiences = None;
    assert_eq!(team_a().beyond(&open).len(), 1);
    assert_eq!(RoleBounds::default().beyond(&open).len(), 5);
}

proptest! {
    /// P3: what is within bounds stays within them when it is narrowed.
    #[test]
    fn what_a_scope_within_bounds_covers_is_within_them(
        bound in "(tool|exec):([ab](/[ab]){0,2}(/\\*)?|\\*)",
        wide in "(tool|exec):([ab](/[ab]){0,2}(/\\*)?|\\*)",
        narrow in "(tool|exec):([ab](/[ab]){0,3}(/\\*)?|\\*)",
    ) {
        let bounds = RoleBounds {
            scopes: Limit::parse(&[bound]).unwrap(),
            ..RoleBounds::default()
        };
        let (wide, narrow) = (Scope::parse(&wide).unwrap(), Scope::parse(&narrow).unwrap());
        if wide.covers(&narrow) && bounds.have_scope(&wide) {
            prop_assert!(bounds.have_scope(&narrow));
        }
    }

    /// A selector within bounds matches no workload outside of them.
    #[test]
    fn a_selector_within_bounds_matches_nothing_outside(
        bound in "spiffe://[ab](/[ab]){0,2}",
        selected in "spiffe://[ab](/[ab]){1,3}",
        owner in "spiffe://[ab](/[ab]){1,4}",
        is_prefix in any::<bool>(),
    ) {
        let bounds = RoleBounds {
            path_prefixes: prefixes(&[&bound]),
            ..RoleBounds::default()
        };
        let selector = if is_prefix {
            Selector { path_prefix: Some(id(&selected)), ..Selector::default() }
        } else {
            Selector::workload(id(&selected))
        };
        let attributes = crate::selector::workload_attributes(&id(&owner));
        let subject = crate::selector::Subject {
            position: crate::position::Position(0),
            issued_at_ms: 0,
            task: &attributes,
            own: &[],
        };
        if bounds.have_selected(&selector) && selector.matches(&subject) {
            prop_assert!(bounds.have_workload(&id(&owner)));
        }
    }
}
