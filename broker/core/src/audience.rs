//! Audiences: the services that a token is meant for, and ceilings over them.
//!
//! ```text
//! audience = 1*256 printable ASCII characters other than space and "*"
//! pattern  = audience | "*" | prefix "*"       the prefix ends in "/" or ":"
//! ```
//!
//! A ceiling is a list of patterns. An empty ceiling sets no limit. P3: the audiences of a token or
//! a grant only narrow those above it. Audiences are not normalised: two that differ in a byte are
//! different. So none is taken that a service which does normalise URLs (RFC 3986, section 6) could
//! read as another one, outside of the ceiling that it is under.

use crate::denial::Denial;

/// What a service may read as a part of a path, or as its end.
const ENCODED: [&str; 3] = ["%2e", "%2f", "%5c"];

/// Returns whether a text can be an audience: 1 to 256 printable ASCII characters without spaces
/// and without `*`, and normalised as far as it has a path.
#[must_use]
pub fn is_audience(text: &str) -> bool {
    (1..=256).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'*' | b'\\' | b'#'))
        && is_normalised(text)
}

/// Whether no segment of a path is `.`, `..` or empty, but for the last one, and none is hidden.
fn is_normalised(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let path = text.split_once("://").map_or(text, |(_, rest)| rest);
    let path = path.strip_suffix('/').unwrap_or(path);
    !ENCODED.iter().any(|encoded| lower.contains(encoded))
        && !path
            .split('/')
            .skip(1)
            .any(|segment| matches!(segment, "" | "." | ".."))
}

/// Returns whether a text can stand in a ceiling: an audience, `*`, or an audience whose last
/// segment is `*`. Segments end at `/` and at `:`.
pub(crate) fn is_pattern(text: &str) -> bool {
    match text.strip_suffix('*') {
        None => is_audience(text),
        Some("") => true,
        Some(prefix) => prefix.ends_with(['/', ':']) && is_audience(prefix),
    }
}

/// Returns whether a ceiling allows all of these audiences (P3).
#[must_use]
pub fn allows_audiences(ceiling: &[String], audiences: &[String]) -> bool {
    ceiling.is_empty()
        || audiences.iter().all(|audience| {
            ceiling
                .iter()
                .any(|pattern| pattern_covers(pattern, audience))
        })
}

/// Returns whether one pattern allows everything that the other one allows.
pub(crate) fn pattern_covers(pattern: &str, other: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => other.starts_with(prefix),
        None => pattern == other,
    }
}

/// Returns the ceiling of whoever is under both ceilings (P3). Two ceilings that have nothing in
/// common are refused with [`Denial::Audience`], because an empty list would set no limit.
pub(crate) fn intersection(one: &[String], other: &[String]) -> Result<Vec<String>, Denial> {
    if one.is_empty() || other.is_empty() {
        return Ok([one, other].concat());
    }
    let within = |some: &[String], ceiling: &[String]| {
        let allowed =
            |pattern: &&String| ceiling.iter().any(|above| pattern_covers(above, pattern));
        some.iter().filter(allowed).cloned().collect::<Vec<_>>()
    };
    let mut both = within(one, other);
    for pattern in within(other, one) {
        if !both.contains(&pattern) {
            both.push(pattern);
        }
    }
    if both.is_empty() {
        Err(Denial::Audience)
    } else {
        Ok(both)
    }
}

/// Returns the ceiling that a grant gets under a ceiling. A request that names nothing gets the
/// whole ceiling. A request that names something outside of it is refused with
/// [`Denial::Audience`].
pub(crate) fn narrow(ceiling: &[String], asked: Vec<String>) -> Result<Vec<String>, Denial> {
    if asked.is_empty() {
        Ok(ceiling.to_vec())
    } else if allows_audiences(ceiling, &asked) {
        Ok(asked)
    } else {
        Err(Denial::Audience)
    }
}

/// Returns the audiences that a token gets under a ceiling, like [`narrow`]. A token is never meant
/// for a pattern, so a request that names nothing gets the audiences of the ceiling that are none.
pub(crate) fn of_token(ceiling: &[String], asked: Vec<String>) -> Result<Vec<String>, Denial> {
    let mut audiences = narrow(ceiling, asked)?;
    audiences.retain(|audience| is_audience(audience));
    Ok(audiences)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_audience_only_narrows() {
        assert_eq!(narrow(&[], list(&["x"])), Ok(list(&["x"])));
        assert_eq!(narrow(&list(&["x", "y"]), vec![]), Ok(list(&["x", "y"])));
        assert_eq!(
            narrow(&list(&["x"]), list(&["x", "y"])),
            Err(Denial::Audience)
        );
        assert_eq!(of_token(&list(&["x", "y/*"]), vec![]), Ok(list(&["x"])));
        let named = list(&["y/z"]);
        assert_eq!(of_token(&list(&["x", "y/*"]), named.clone()), Ok(named));
    }

    #[test]
    fn a_wildcard_is_a_whole_last_segment() {
        for good in ["x", "*", "https://a.example/*", "spiffe://*", "urn:a:*"] {
            assert!(is_pattern(good), "{good}");
        }
        for bad in [
            "",
            "a*",
            "**",
            "*/",
            "a/*/b",
            "a/**",
            "a b",
            "https://*.example/",
        ] {
            assert!(!is_pattern(bad), "{bad}");
        }
        assert!(!is_audience("a/*") && !is_audience("*") && is_audience("a/b"));
        for good in [
            "https://a.example",
            "https://a.example/",
            "urn:a:b",
            "a/b.c/..d",
        ] {
            assert!(is_audience(good), "{good}");
        }
        for bad in [
            "https://a.example/../b",
            "https://a.example/x/..",
            "https://a.example/./b",
            "https://a.example//b",
            "https://a.example/%2E%2e/b",
            "https://a.example/x%2fb",
            "https://a.example/\\b",
            "https://a.example/x#b",
            "a/..",
        ] {
            assert!(!is_audience(bad), "{bad}");
        }
        let ceiling = list(&["https://a.example/*"]);
        assert!(allows_audiences(
            &ceiling,
            &list(&["https://a.example/b/c"])
        ));
        for outside in ["https://a.example", "https://a.example.evil/", "https://b/"] {
            assert!(!allows_audiences(&ceiling, &list(&[outside])), "{outside}");
        }
    }

    #[test]
    fn ceilings_without_a_common_audience_are_not_without_limit() {
        let (one, other) = (list(&["x"]), list(&["y"]));
        assert_eq!(intersection(&one, &other), Err(Denial::Audience));
        assert_eq!(intersection(&one, &[]), Ok(one.clone()));
        assert_eq!(intersection(&[], &other), Ok(other));
    }

    fn ceiling() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("[ab](/[ab]){0,2}(/\\*)?|\\*", 0..4)
    }

    proptest! {
        #[test]
        fn an_intersection_allows_what_both_allow(
            one in ceiling(),
            other in ceiling(),
            audience in "[ab](/[ab]){0,3}",
        ) {
            let asked = [audience];
            let both = allows_audiences(&one, &asked) && allows_audiences(&other, &asked);
            let met = intersection(&one, &other);
            prop_assert_eq!(met.is_ok_and(|met| allows_audiences(&met, &asked)), both);
        }
    }
}
