//! The bounds of an operator's role: over which workloads it is, and what it may hand out to them.
//!
//! A role without bounds is over everything. Bounds are lists, and what a list does not name is
//! outside of it, so an empty list allows nothing; only `*`, alone in its list, sets no limit. Names
//! are compared as everywhere else: SPIFFE IDs by whole path segments as in a
//! [`Selector`], scopes and audiences by the one subset rule that each of them has (P3).

use std::fmt;

use sundew_attestation::spiffe::{SpiffeId, TrustDomain};

use crate::audience::{is_pattern, pattern_covers};
use crate::registration::Registration;
use crate::scope::{Scope, ScopeError};
use crate::selector::Selector;

/// What all scopes of secrets begin with.
const SECRET: &str = "secret:";
/// Stands alone in a list that sets no limit.
const ANY: &str = "*";

/// The reason why a list of a bound is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RoleBoundsError {
    /// A `*` stands beside other entries.
    #[error("`*` sets no limit, so it stands alone in its list")]
    Alone,
    /// An entry is no audience.
    #[error("must be audiences, or audiences whose last segment is `*`")]
    Audience,
    /// An entry is neither a SPIFFE ID nor a trust domain.
    #[error(
        "must be SPIFFE IDs such as `spiffe://example.org/team-a`, each of which stands for all \
         below it too, or trust domains such as `spiffe://example.org`"
    )]
    PathPrefix,
    /// An entry is no scope.
    #[error(transparent)]
    Scope(ScopeError),
    /// A scope is that of a secret.
    #[error("secrets are named by `secrets`, without `secret:`")]
    SecretScope,
}

/// An entry of a list: a pattern over names.
pub trait Pattern: fmt::Display + Sized {
    /// Reads an entry.
    ///
    /// # Errors
    ///
    /// The [`RoleBoundsError`] that says what an entry of the list must be.
    fn parse(text: &str) -> Result<Self, RoleBoundsError>;
}

/// Names to which a role is bounded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Limit<P> {
    /// There is no limit.
    Any,
    /// What one of these patterns covers; nothing if there is none.
    Only(Vec<P>),
}

impl<P> Default for Limit<P> {
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

impl<P: Pattern> Limit<P> {
    /// Reads a list.
    ///
    /// # Errors
    ///
    /// The [`RoleBoundsError`] of the first entry that cannot be taken, or of the list.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, RoleBoundsError> {
        match texts {
            [only] if only.as_ref() == ANY => Ok(Self::Any),
            _ if texts.iter().any(|text| text.as_ref() == ANY) => Err(RoleBoundsError::Alone),
            _ => {
                let patterns = texts.iter().map(|text| P::parse(text.as_ref()));
                Ok(Self::Only(patterns.collect::<Result<_, _>>()?))
            }
        }
    }

    /// Returns the list as it is written.
    #[must_use]
    pub fn to_strings(&self) -> Vec<String> {
        match self {
            Self::Any => vec![ANY.to_owned()],
            Self::Only(patterns) => patterns.iter().map(ToString::to_string).collect(),
        }
    }

    fn has(&self, is_covered_by: impl Fn(&P) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::Only(patterns) => patterns.iter().any(is_covered_by),
        }
    }
}

/// Workloads: one and those below it by whole path segments, or all of a trust domain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PathPrefix {
    /// All workloads of a trust domain.
    Domain(TrustDomain),
    /// This workload and those whose SPIFFE IDs continue this one.
    Path(SpiffeId),
}

impl PathPrefix {
    fn covers(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Domain(domain) => domain == id.trust_domain(),
            Self::Path(prefix) => id
                .as_str()
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => f.write_str(&domain.id()),
            Self::Path(id) => id.fmt(f),
        }
    }
}

impl Pattern for PathPrefix {
    fn parse(text: &str) -> Result<Self, RoleBoundsError> {
        if let Ok(id) = SpiffeId::parse(text) {
            return Ok(Self::Path(id));
        }
        let domain = text
            .starts_with("spiffe://")
            .then(|| TrustDomain::parse(text));
        match domain {
            Some(Ok(domain)) => Ok(Self::Domain(domain)),
            Some(Err(_)) | None => Err(RoleBoundsError::PathPrefix),
        }
    }
}

/// A scope of another kind than `secret`, or a wildcard over such scopes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ScopePattern(Scope);

impl fmt::Display for ScopePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Pattern for ScopePattern {
    fn parse(text: &str) -> Result<Self, RoleBoundsError> {
        let scope = Scope::parse(text).map_err(RoleBoundsError::Scope)?;
        if is_of_secrets(&scope) {
            return Err(RoleBoundsError::SecretScope);
        }
        Ok(Self(scope))
    }
}

/// The name of a secret, or a wildcard over names. It is held as the scope of that secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SecretPattern(Scope);

impl fmt::Display for SecretPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().strip_prefix(SECRET).unwrap_or_default())
    }
}

impl Pattern for SecretPattern {
    fn parse(text: &str) -> Result<Self, RoleBoundsError> {
        // With its prefix, a name would be a name of something else.
        if text.starts_with(SECRET) {
            return Err(RoleBoundsError::SecretScope);
        }
        let scope = Scope::parse(&format!("{SECRET}{text}"));
        scope.map(Self).map_err(RoleBoundsError::Scope)
    }
}

/// An audience, or a wildcard over audiences, as ceilings have them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AudiencePattern(String);

impl fmt::Display for AudiencePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Pattern for AudiencePattern {
    fn parse(text: &str) -> Result<Self, RoleBoundsError> {
        if is_pattern(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(RoleBoundsError::Audience)
        }
    }
}

fn is_of_secrets(scope: &Scope) -> bool {
    scope.as_str().starts_with(SECRET)
}

/// The bounds of one role. A list that the role has no use for is empty.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RoleBounds {
    /// The workloads that the role is over.
    pub path_prefixes: Limit<PathPrefix>,
    /// The scopes that it may hand out, those of secrets aside.
    pub scopes: Limit<ScopePattern>,
    /// The audiences that it may hand out, or may ask about.
    pub audiences: Limit<AudiencePattern>,
    /// The secrets that it may write and hand out.
    pub secrets: Limit<SecretPattern>,
}

impl RoleBounds {
    /// Returns whether a workload is within the bounds.
    #[must_use]
    pub fn have_workload(&self, id: &SpiffeId) -> bool {
        self.path_prefixes.has(|prefix| prefix.covers(id))
    }

    /// Returns whether the selector can match nothing but what is of workloads within the bounds, by
    /// a criterion that says so. `everything` is never within bounds (O4).
    #[must_use]
    pub fn have_selected(&self, selector: &Selector) -> bool {
        if selector.everything {
            return false;
        }
        let within_domain = |domain: &TrustDomain| {
            self.path_prefixes
                .has(|prefix| matches!(prefix, PathPrefix::Domain(own) if own == domain))
        };
        matches!(self.path_prefixes, Limit::Any)
            || [&selector.workload, &selector.path_prefix]
                .into_iter()
                .flatten()
                .any(|id| self.have_workload(id))
            || selector.trust_domain.as_ref().is_some_and(within_domain)
    }

    /// Returns whether the secret of a scope, or each secret that a wildcard stands for, is within
    /// the bounds.
    #[must_use]
    pub fn have_secret(&self, secret: &Scope) -> bool {
        self.secrets.has(|pattern| pattern.0.covers(secret))
    }

    /// Returns whether a scope may be handed out.
    #[must_use]
    pub fn have_scope(&self, scope: &Scope) -> bool {
        if is_of_secrets(scope) {
            self.have_secret(scope)
        } else {
            self.scopes.has(|pattern| pattern.0.covers(scope))
        }
    }

    /// Returns whether an audience, or each one that a pattern stands for, is within the bounds.
    #[must_use]
    pub fn have_audience(&self, audience: &str) -> bool {
        self.audiences
            .has(|pattern| pattern_covers(&pattern.0, audience))
    }

    /// Returns whether one of these audiences is within the bounds. Where there is a limit, a list
    /// without audiences is outside of it.
    #[must_use]
    pub fn have_some_audience(&self, audiences: &[String]) -> bool {
        self.audiences == Limit::Any
            || audiences
                .iter()
                .any(|audience| self.have_audience(audience))
    }

    /// Returns what a registration would hand out beyond the bounds, one line each. Nothing may be
    /// handed out together with that, not even what is within: whoever writes the registration says
    /// on which evidence all of it is given.
    #[must_use]
    pub fn beyond(&self, registration: &Registration) -> Vec<String> {
        let mut beyond = Vec::new();
        if !self.have_workload(&registration.spiffe_id) {
            beyond.push("spiffe_id".to_owned());
        }
        let scopes = registration.scopes.iter();
        let scopes = scopes.filter(|scope| !self.have_scope(scope));
        beyond.extend(scopes.map(|scope| format!("scopes: {scope}")));
        match &registration.audiences {
            None if self.audiences != Limit::Any => {
                beyond.push("audiences: without this list there is no limit".to_owned());
            }
            audiences => {
                let audiences = audiences.iter().flatten();
                let audiences = audiences.filter(|audience| !self.have_audience(audience));
                beyond.extend(audiences.map(|audience| format!("audiences: {audience}")));
            }
        }
        let audiences = registration.jwt_svid_audiences.iter();
        let audiences = audiences.filter(|audience| !self.have_audience(audience));
        beyond.extend(audiences.map(|audience| format!("jwt_svid_audiences: {audience}")));
        beyond
    }
}

#[cfg(test)]
#[path = "role_bounds_tests.rs"]
mod tests;
