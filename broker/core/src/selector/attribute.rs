//! Attributes: the properties by which rules find tasks and tokens.

use std::sync::Arc;

use sundew_attestation::spiffe::{SpiffeId, TrustDomain};

use crate::id::{OrderId, TaskId, TokenId};
use crate::position::Position;
use crate::scope::Scope;

use super::serial::Renewals;

/// A property by which a subject is found.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Attribute {
    /// The token is meant for this audience.
    Audience(Arc<str>),
    /// The subject holds a scope that this wildcard covers.
    Below(Arc<str>),
    /// The claim, written as `kind.name=value`, was verified.
    Claim(Arc<str>),
    /// The subject is an order of this dispatcher that nobody has claimed.
    Dispatcher(SpiffeId),
    /// The subject is this order, or the task that came of it.
    FromOrder(OrderId),
    /// The subject is this order, and nobody has claimed it.
    Order(OrderId),
    /// The subject is an order of this dispatcher, or a task that came of one.
    OrderedBy(SpiffeId),
    /// The owner's SPIFFE ID, cut after some path segment, is this text.
    Prefix(Arc<str>),
    /// The version of the registration that allowed the subject is this one.
    Registration(Arc<str>),
    /// The serial number of the SVID is one of these renewals.
    Renewals(Renewals),
    /// The subject holds this scope, as written.
    Scope(Arc<str>),
    /// The subject is this task or a token of it.
    Task(TaskId),
    /// The subject is this token.
    Token(TokenId),
    /// The subject is this task, descends from it, or is a token of such a task.
    Tree(TaskId),
    /// The owner belongs to this trust domain.
    TrustDomain(TrustDomain),
    /// The owner has this SPIFFE ID.
    Workload(SpiffeId),
}

/// Returns the attributes of a scope as a criterion: a held scope overlaps with the selected scope
/// if either of them covers the other.
pub(super) fn overlapping(scope: &Scope) -> Vec<Attribute> {
    let mut any = vec![Attribute::Scope(scope.as_str().into())];
    if scope.is_wildcard() {
        any.push(Attribute::Below(scope.as_str().into()));
    }
    any.extend(wildcards_above(scope).map(|wildcard| Attribute::Scope(wildcard.into())));
    any
}

/// Returns the wildcards `kind:*`, `kind:a/*`, … that cover a scope, without the scope itself.
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

/// Returns the attributes of a subject that holds these scopes.
pub(crate) fn scope_attributes<'a>(scopes: impl Iterator<Item = &'a Scope>) -> Vec<Attribute> {
    let mut all = Vec::new();
    for scope in scopes {
        all.push(Attribute::Scope(scope.as_str().into()));
        all.extend(wildcards_above(scope).map(|wildcard| Attribute::Below(wildcard.into())));
    }
    all
}

/// Returns the attributes of a subject whose owner has this SPIFFE ID: the ID, each prefix of whole
/// path segments, and the trust domain.
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

/// Returns the attributes of a token that is meant for these audiences.
pub(crate) fn audience_attributes(audience: &[String]) -> Vec<Attribute> {
    audience
        .iter()
        .map(|audience| Attribute::Audience(audience.as_str().into()))
        .collect()
}

/// A task, or a token within its task, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The log position that the broker had applied when it decided on the subject.
    pub position: Position,
    /// The time at which the subject was issued, in milliseconds since the epoch.
    pub issued_at_ms: i64,
    /// The attributes of the task.
    pub task: &'a [Attribute],
    /// The attributes that the subject has beside those of the task.
    pub own: &'a [Attribute],
}

impl Subject<'_> {
    /// Returns whether the subject has an attribute.
    pub(super) fn has(&self, attribute: &Attribute) -> bool {
        self.task.contains(attribute) || self.own.contains(attribute)
    }

    /// Returns all attributes of the subject.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = &Attribute> {
        self.task.iter().chain(self.own)
    }
}
