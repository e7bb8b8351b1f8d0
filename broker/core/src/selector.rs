//! Selectors: what a responder's rule is about, and the attributes by which it finds it.
//!
//! A selector is a conjunction. Each criterion is one of a few attributes that a subject (a task,
//! or a token within its task) must have, so a rule is found by hash look-ups however many rules
//! stand and however many tokens live.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sundew_attestation::spiffe::{SpiffeId, TrustDomain};

use crate::id::{TaskId, TokenId};
use crate::log::Position;
use crate::scope::Scope;

/// Most claims that one selector names.
const MAX_CLAIMS: usize = 8;
/// Longest free text in a selector, in bytes.
const MAX_TEXT: usize = 2048;

/// What a rule or a quarantine matches: everything that is set must hold. Nothing set matches
/// nothing, unless `everything` is.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selector {
    /// One token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// One task, and not what was delegated from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// A task and everything that descends from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_tree: Option<TaskId>,
    /// One SPIFFE ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<SpiffeId>,
    /// A SPIFFE ID and all below it: whole path segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<SpiffeId>,
    /// A trust domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<TrustDomain>,
    /// Tokens meant for this audience.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Whoever may do something that this scope allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Verified claims, `kind.name=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
    /// Lower-case hexadecimal serial number of the SVID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub svid_serial: Option<String>,
    /// Version of the registration that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration: Option<String>,
    /// Issued before this instant, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_before_ms: Option<i64>,
    /// Everything; goes with no other criterion.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub everything: bool,
}

/// Why a selector cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// A claim is not `kind.name=value`.
    #[error("a claim is `kind.name=value`, such as `manifest.digest=…`")]
    Claim,
    /// Nothing is selected (AC-42).
    #[error("at least one criterion is needed; `everything` must be said")]
    Empty,
    /// `everything` with another criterion.
    #[error("`everything` goes with no other criterion")]
    Everything,
    /// Not lower-case hexadecimal.
    #[error("a serial number is lower-case hexadecimal")]
    Serial,
    /// Blank, too long, or not printable.
    #[error("a criterion is blank, longer than 2048 bytes, or has characters that do not print")]
    Text,
}

impl Selector {
    /// Of one token.
    #[must_use]
    pub fn token(id: TokenId) -> Self {
        Self {
            token: Some(id),
            ..Self::default()
        }
    }

    /// Of everything of one workload.
    #[must_use]
    pub fn workload(id: SpiffeId) -> Self {
        Self {
            workload: Some(id),
            ..Self::default()
        }
    }

    /// The task, if this selects one task and nothing else is said.
    #[must_use]
    pub fn only_task(&self) -> Option<TaskId> {
        let task = self.task.or(self.task_tree)?;
        let rest = Self {
            task: None,
            task_tree: None,
            ..self.clone()
        };
        (rest == Self::default() && (self.task.is_none() || self.task_tree.is_none()))
            .then_some(task)
    }

    /// Whether a token may match whose task does not.
    #[must_use]
    pub fn is_about_tokens(&self) -> bool {
        self.token.is_some()
            || self.audience.is_some()
            || self.svid_serial.is_some()
            || self.registration.is_some()
    }

    /// AC-42: refuses what selects nothing, and what may have been meant otherwise.
    pub fn check(&self) -> Result<(), SelectorError> {
        if *self == Self::default() {
            return Err(SelectorError::Empty);
        }
        if self.everything
            && (Self {
                everything: false,
                ..self.clone()
            } != Self::default())
        {
            return Err(SelectorError::Everything);
        }
        let texts = self
            .audience
            .iter()
            .chain(&self.registration)
            .chain(&self.svid_serial)
            .chain(&self.claims);
        for text in texts {
            if text.trim().is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control)
            {
                return Err(SelectorError::Text);
            }
        }
        let is_claim = |text: &String| {
            text.split_once('=')
                .is_some_and(|(name, value)| name.contains('.') && !value.is_empty())
        };
        if self.claims.len() > MAX_CLAIMS || !self.claims.iter().all(is_claim) {
            return Err(SelectorError::Claim);
        }
        if self.svid_serial.as_ref().is_some_and(|serial| {
            !serial
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        }) {
            return Err(SelectorError::Serial);
        }
        Ok(())
    }

    /// The criteria, the most selective first: a subject must have one attribute of each.
    #[must_use]
    pub(crate) fn criteria(&self) -> Vec<Vec<Attribute>> {
        let mut all = Vec::new();
        all.extend(self.token.map(|id| vec![Attribute::Token(id)]));
        all.extend(self.task.map(|id| vec![Attribute::Task(id)]));
        all.extend(self.task_tree.map(|id| vec![Attribute::Tree(id)]));
        all.extend(
            self.svid_serial
                .as_deref()
                .map(|serial| vec![Attribute::Serial(serial.into())]),
        );
        all.extend(
            self.workload
                .clone()
                .map(|id| vec![Attribute::Workload(id)]),
        );
        all.extend(
            self.claims
                .iter()
                .map(|claim| vec![Attribute::Claim(claim.as_str().into())]),
        );
        all.extend(self.scope.as_ref().map(overlapping));
        all.extend(
            self.registration
                .as_deref()
                .map(|version| vec![Attribute::Registration(version.into())]),
        );
        all.extend(
            self.path_prefix
                .as_ref()
                .map(|prefix| vec![Attribute::Prefix(prefix.as_str().into())]),
        );
        all.extend(
            self.audience
                .as_deref()
                .map(|audience| vec![Attribute::Audience(audience.into())]),
        );
        all.extend(
            self.trust_domain
                .clone()
                .map(|domain| vec![Attribute::TrustDomain(domain)]),
        );
        all
    }

    /// Whether it matches a subject, whatever the subject's position.
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        (self.everything || *self != Self::default())
            && self
                .issued_before_ms
                .is_none_or(|before| subject.issued_at_ms < before)
            && self
                .criteria()
                .iter()
                .all(|any| any.iter().any(|attribute| subject.has(attribute)))
    }
}

/// Something by which a subject is found.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Attribute {
    /// The token.
    Token(TokenId),
    /// The task.
    Task(TaskId),
    /// The task or one that it descends from.
    Tree(TaskId),
    /// The owner.
    Workload(SpiffeId),
    /// The owner's SPIFFE ID cut after some segment.
    Prefix(Arc<str>),
    /// The owner's trust domain.
    TrustDomain(TrustDomain),
    /// One audience.
    Audience(Arc<str>),
    /// A scope that it holds, as written.
    Scope(Arc<str>),
    /// A wildcard that a held scope is below.
    Below(Arc<str>),
    /// `kind.name=value`.
    Claim(Arc<str>),
    /// Serial number of the SVID.
    Serial(Arc<str>),
    /// Version of the registration.
    Registration(Arc<str>),
}

/// A held scope overlaps with a selected one if either covers the other.
fn overlapping(scope: &Scope) -> Vec<Attribute> {
    let mut any = vec![Attribute::Scope(scope.as_str().into())];
    if scope.is_wildcard() {
        any.push(Attribute::Below(scope.as_str().into()));
    }
    any.extend(wildcards_above(scope).map(|wildcard| Attribute::Scope(wildcard.into())));
    any
}

/// `kind:*`, `kind:a/*`, … that cover a scope, itself left out.
fn wildcards_above(scope: &Scope) -> impl Iterator<Item = String> {
    let text = scope.as_str();
    let body = text
        .strip_suffix("/*")
        .or_else(|| text.strip_suffix('*'))
        .unwrap_or(text);
    let cuts: Vec<usize> = body.match_indices([':', '/']).map(|(at, _)| at).collect();
    // Only the first `:` separates; later ones are part of a segment.
    let first = cuts.first().copied();
    let whole = text.to_owned();
    let prefixes: Vec<String> = cuts
        .into_iter()
        .filter(|at| Some(*at) == first || text.get(*at..=*at) == Some("/"))
        .filter_map(|at| Some(format!("{}*", text.get(..=at)?)))
        .collect();
    prefixes.into_iter().filter(move |prefix| *prefix != whole)
}

/// The attributes of a set of scopes.
pub(crate) fn scope_attributes<'a>(scopes: impl Iterator<Item = &'a Scope>) -> Vec<Attribute> {
    let mut all = Vec::new();
    for scope in scopes {
        all.push(Attribute::Scope(scope.as_str().into()));
        all.extend(wildcards_above(scope).map(|wildcard| Attribute::Below(wildcard.into())));
    }
    all
}

/// The attributes of a SPIFFE ID: itself, each prefix of whole segments, and its trust domain.
pub(crate) fn workload_attributes(id: &SpiffeId) -> Vec<Attribute> {
    let text = id.as_str();
    let path = "spiffe://"
        .len()
        .saturating_add(id.trust_domain().as_str().len())
        .saturating_add(1);
    let ends = text
        .match_indices('/')
        .map(|(at, _)| at)
        .filter(|at| *at >= path)
        .chain([text.len()]);
    let mut all = vec![
        Attribute::Workload(id.clone()),
        Attribute::TrustDomain(id.trust_domain().clone()),
    ];
    all.extend(
        ends.filter_map(|end| text.get(..end))
            .map(|prefix| Attribute::Prefix(prefix.into())),
    );
    all
}

pub(crate) fn audience_attributes(audience: &[String]) -> Vec<Attribute> {
    audience
        .iter()
        .map(|audience| Attribute::Audience(audience.as_str().into()))
        .collect()
}

/// What a rule is held against: a task, or a token within its task.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The log position that the broker had applied when it decided.
    pub position: Position,
    /// When it was issued, in milliseconds since the epoch.
    pub issued_at_ms: i64,
    /// Attributes of the task.
    pub task: &'a [Attribute],
    /// Attributes of its own.
    pub own: &'a [Attribute],
}

impl Subject<'_> {
    fn has(&self, attribute: &Attribute) -> bool {
        self.task.contains(attribute) || self.own.contains(attribute)
    }

    /// All attributes.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = &Attribute> {
        self.task.iter().chain(self.own)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            prop_assert_eq!(matches(&selector, &scope_attributes(std::iter::once(&held))), expected, "{} {}", selected, held);
        }
    }
}
