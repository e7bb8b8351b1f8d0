//! Scopes: `<kind>:<resource>`, one grammar and one subset rule for broker and SDK (AC-11, AC-12).
//!
//! ```text
//! scope    = kind ":" resource          at most 256 bytes
//! kind     = lower-case letter, then lower-case letters, digits, "_" or "-"; at most 32
//! resource = segment *( "/" segment ) [ "/*" ]  |  "*"
//! segment  = 1*( ALPHA / DIGIT / "." / "_" / "-" / ":" / "@" / "+" )  but not "." or ".."
//! ```
//!
//! P3: authority only narrows. Scopes are not normalised: two that differ in a byte are different.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest scope, in bytes.
const MAX_SCOPE: usize = 256;
/// The longest kind, in bytes.
const MAX_KIND: usize = 32;

/// A right: an action or a resource that a token may be used for.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(Arc<str>);

/// The reason why a text is not a scope, or a list of texts is not a set of scopes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ScopeError {
    /// A character is outside the grammar.
    #[error("character not allowed in a scope")]
    Character,
    /// The list is empty, and at least one scope is needed.
    #[error("at least one scope is needed")]
    Empty,
    /// The text does not begin with `<kind>:`.
    #[error("a scope is `<kind>:<resource>`, such as `secret:db/readonly`")]
    Kind,
    /// A segment is empty, `.` or `..`.
    #[error("segments must not be empty, `.` or `..`")]
    Segment,
    /// The text is longer than 256 bytes.
    #[error("a scope is at most 256 bytes")]
    TooLong,
    /// The list has more than 64 scopes.
    #[error("at most 64 scopes")]
    TooMany,
    /// A `*` stands elsewhere than as the whole last segment.
    #[error("`*` is only allowed as the whole last segment")]
    Wildcard,
}

impl Scope {
    /// Parses a scope.
    ///
    /// # Errors
    ///
    /// The [`ScopeError`] that says where the text leaves the grammar.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        if text.len() > MAX_SCOPE {
            return Err(ScopeError::TooLong);
        }
        let (kind, resource) = text.split_once(':').ok_or(ScopeError::Kind)?;
        let starts_well = kind.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if !starts_well
            || kind.len() > MAX_KIND
            || !kind
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
        {
            return Err(ScopeError::Kind);
        }
        let mut segments = resource.split('/').peekable();
        while let Some(segment) = segments.next() {
            if segment == "*" && segments.peek().is_none() {
                break;
            }
            if segment.contains('*') {
                return Err(ScopeError::Wildcard);
            }
            if matches!(segment, "" | "." | "..") {
                return Err(ScopeError::Segment);
            }
            if !segment.bytes().all(|b| {
                b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':' | b'@' | b'+')
            }) {
                return Err(ScopeError::Character);
            }
        }
        Ok(Self(text.into()))
    }

    /// Returns the scope `secret:<name>` of one secret.
    ///
    /// # Errors
    ///
    /// [`ScopeError::Wildcard`] if the name has a wildcard, which stands for many secrets, or
    /// another [`ScopeError`] if the name is outside the grammar.
    pub fn of_secret(name: &str) -> Result<Self, ScopeError> {
        let scope = Self::parse(&format!("secret:{name}"))?;
        if scope.is_wildcard() {
            Err(ScopeError::Wildcard)
        } else {
            Ok(scope)
        }
    }

    /// Returns the scope as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the scope ends in `*`.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.ends_with('*')
    }

    /// Returns whether this scope allows everything that `other` allows.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match self.0.strip_suffix('*') {
            // The prefix ends in `/` or `:`, so it ends at a segment, and the grammar has no empty
            // segment after it.
            Some(prefix) => other.0.starts_with(prefix),
            None => self.0 == other.0,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Scope {
    type Error = ScopeError;
    fn try_from(text: String) -> Result<Self, ScopeError> {
        Self::parse(&text)
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.0.as_ref().to_owned()
    }
}

/// A set of 1 to 64 scopes. A clone shares the scopes and is cheap.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct ScopeSet(Arc<BTreeSet<Scope>>);

impl ScopeSet {
    /// The number of scopes that one task or token may have.
    pub const MAX: usize = 64;

    /// Parses a list of scopes. Duplicates count once.
    ///
    /// # Errors
    ///
    /// The [`ScopeError`] of the first text that is not a scope, or of the list.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, ScopeError> {
        if texts.len() > Self::MAX {
            return Err(ScopeError::TooMany);
        }
        let set: BTreeSet<Scope> = texts
            .iter()
            .map(|text| Scope::parse(text.as_ref()))
            .collect::<Result<_, _>>()?;
        if set.is_empty() {
            Err(ScopeError::Empty)
        } else {
            Ok(Self(Arc::new(set)))
        }
    }

    /// Returns whether some scope of the set covers `scope`.
    #[must_use]
    pub fn covers(&self, scope: &Scope) -> bool {
        self.0.iter().any(|own| own.covers(scope))
    }

    /// Returns whether every scope of `other` is covered by some scope of this set (P3).
    #[must_use]
    pub fn covers_all(&self, other: &Self) -> bool {
        other.0.iter().all(|scope| self.covers(scope))
    }

    /// Returns the scopes in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.iter()
    }

    /// Returns a set of the first scope alone.
    #[must_use]
    pub fn first(&self) -> Self {
        Self(Arc::new(self.0.iter().take(1).cloned().collect()))
    }

    /// Returns the scopes as texts in ascending order.
    #[must_use]
    pub fn to_strings(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|scope| scope.as_str().to_owned())
            .collect()
    }
}

impl TryFrom<Vec<String>> for ScopeSet {
    type Error = ScopeError;
    fn try_from(texts: Vec<String>) -> Result<Self, ScopeError> {
        Self::parse(&texts)
    }
}

impl From<ScopeSet> for Vec<String> {
    fn from(set: ScopeSet) -> Self {
        set.to_strings()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ac_11_every_string_has_a_defined_result() {
        for good in [
            "secret:db/reporting/readonly",
            "tool:github.create_pr",
            "net:api.github.com:443",
            "pkg:pypi/requests",
            "exec:git",
            "secret:*",
            "secret:a/*",
            "x-1_y:a",
        ] {
            assert_eq!(Scope::parse(good).map(String::from).as_deref(), Ok(good));
        }
        let long = format!("secret:{}", "a".repeat(250));
        for (bad, why) in [
            ("", ScopeError::Kind),
            ("*", ScopeError::Kind),
            ("secret", ScopeError::Kind),
            ("Secret:a", ScopeError::Kind),
            (":a", ScopeError::Kind),
            ("*:a", ScopeError::Kind),
            ("secret:", ScopeError::Segment),
            ("secret:a//b", ScopeError::Segment),
            ("secret:/a", ScopeError::Segment),
            ("secret:a/", ScopeError::Segment),
            ("secret:.", ScopeError::Segment),
            ("secret:a/../b", ScopeError::Segment),
            ("secret:a*", ScopeError::Wildcard),
            ("secret:*/a", ScopeError::Wildcard),
            ("secret:**", ScopeError::Wildcard),
            ("secret:a b", ScopeError::Character),
            ("secret:a,b", ScopeError::Character),
            ("secret:a\n", ScopeError::Character),
            ("secret:{a}", ScopeError::Character),
            ("secret:\u{430}", ScopeError::Character),
            (&long, ScopeError::TooLong),
        ] {
            assert_eq!(Scope::parse(bad), Err(why), "{bad:?}");
        }
        assert_eq!(ScopeSet::parse::<&str>(&[]), Err(ScopeError::Empty));
        assert_eq!(
            ScopeSet::parse(&vec!["exec:git"; 65]),
            Err(ScopeError::TooMany)
        );
        assert_eq!(
            ScopeSet::parse(&["exec:git", "exec:git"]).map(|s| s.to_strings()),
            Ok(vec!["exec:git".to_owned()])
        );
        assert!(Scope::of_secret("*").is_err() && Scope::of_secret("a/*").is_err());
    }

    #[test]
    fn a_wildcard_ends_at_a_segment() {
        let covers = |a: &str, b: &str| Scope::parse(a).unwrap().covers(&Scope::parse(b).unwrap());
        assert!(
            covers("secret:a/*", "secret:a/b")
                && covers("secret:a/*", "secret:a/b/c")
                && covers("secret:a/*", "secret:a/b/*")
                && covers("secret:*", "secret:a")
        );
        assert!(
            !covers("secret:a/*", "secret:a")
                && !covers("secret:a/*", "secret:ab/c")
                && !covers("secret:a/b", "secret:a/*")
                && !covers("secret:*", "secrets:a")
        );
        assert!(!covers("secret:a", "secret:A") && !covers("secret:a", "tool:a"));
    }

    fn scope() -> impl Strategy<Value = Scope> {
        "[ab]:[ab](/[ab]){0,2}(/\\*)?".prop_filter_map("grammar", |text| Scope::parse(&text).ok())
    }

    proptest! {
        #[test]
        fn covering_is_a_partial_order_and_means_subset(a in scope(), b in scope(), c in scope()) {
            prop_assert!(a.covers(&a));
            if a.covers(&b) && b.covers(&c) {
                prop_assert!(a.covers(&c));
            }
            if a.covers(&b) && b.covers(&a) {
                prop_assert_eq!(&a, &b);
            }
            if a.covers(&b) && !c.is_wildcard() && b.covers(&c) {
                prop_assert!(a.covers(&c));
            }
        }

        #[test]
        fn what_parses_is_what_was_written(text in ".{0,40}") {
            if let Ok(scope) = Scope::parse(&text) {
                prop_assert_eq!(scope.as_str(), text);
            }
        }
    }
}
