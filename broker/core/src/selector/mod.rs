//! Selectors: the tasks and tokens that a responder's rule is about.
//!
//! A selector is a conjunction of criteria. A subject, which is a task or a token within its task,
//! satisfies a criterion if it has one of the criterion's attributes. Therefore a rule is found by
//! hash look-ups, however many rules are in force and however many tokens live.

mod attribute;
mod grounds;
mod serial;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use sundew_attestation::spiffe::{SpiffeId, TrustDomain};

use crate::id::{OrderId, TaskId, TokenId};
use crate::scope::Scope;

pub use attribute::{Attribute, Subject};
pub(crate) use attribute::{audience_attributes, scope_attributes, workload_attributes};
pub use grounds::{GivenFor, Grounds, svid_claim, svid_marks};
pub(crate) use serial::serial_attribute;
pub use serial::{Renewals, svid_serial};

/// The number of claims that one selector may name.
const MAX_CLAIMS: usize = 8;
/// The longest free text in a selector, in bytes.
const MAX_TEXT: usize = 2048;

/// The criteria of a rule. A subject matches if every criterion that is set holds. A selector
/// without criteria matches nothing, unless `everything` is set.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selector {
    /// The subject is this token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// The subject is this task or a token of it. Tasks delegated from it do not match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The subject is this task, a task that descends from it, or a token of these tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_tree: Option<TaskId>,
    /// The owner has this SPIFFE ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<SpiffeId>,
    /// The owner has this SPIFFE ID, or one that continues it by whole path segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<SpiffeId>,
    /// The owner belongs to this trust domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<TrustDomain>,
    /// The subject is a token that is meant for this audience.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The subject may do something that this scope allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// All of these claims were verified, each written as `kind.name=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
    /// The SVID had this serial number, in lower-case hexadecimal, or that of another SVID in one
    /// chain of renewals with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub svid_serial: Option<String>,
    /// The version of the registration that allowed the subject was this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration: Option<String>,
    /// The subject was issued before this time, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_before_ms: Option<i64>,
    /// The subject is an order of this dispatcher that nobody has claimed; with `ordered_tasks`, a
    /// task that came of one, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dispatcher: Option<SpiffeId>,
    /// The subject is this order, and nobody has claimed it; with `ordered_tasks`, the task that came
    /// of it, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderId>,
    /// Tasks match that came of the orders that the selector names. This is no criterion by itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ordered_tasks: bool,
    /// Every subject matches. No other criterion may be set beside this one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub everything: bool,
}

/// The reason why a selector cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// A claim is not written as `kind.name=value`, or there are too many claims.
    #[error("a claim is `kind.name=value`, such as `manifest.digest=…`")]
    Claim,
    /// No criterion is set (AC-42).
    #[error("at least one criterion is needed; `everything` must be said")]
    Empty,
    /// `everything` is set beside another criterion.
    #[error("`everything` goes with no other criterion")]
    Everything,
    /// The serial number is not lower-case hexadecimal.
    #[error("a serial number is lower-case hexadecimal")]
    Serial,
    /// Tasks that were ordered are meant, and no order is named.
    #[error("tasks that were ordered are named by a dispatcher or an order")]
    OrderedTasks,
    /// A text is blank, longer than 2048 bytes, or not printable.
    #[error("a criterion is blank, longer than 2048 bytes, or has characters that do not print")]
    Text,
}

impl Selector {
    /// Returns the selector of one token.
    #[must_use]
    pub fn token(id: TokenId) -> Self {
        Self {
            token: Some(id),
            ..Self::default()
        }
    }

    /// Returns the selector of all tasks and tokens of one workload.
    #[must_use]
    pub fn workload(id: SpiffeId) -> Self {
        Self {
            workload: Some(id),
            ..Self::default()
        }
    }

    /// Returns the task if the selector names one task, or one task and its descendants, and has no
    /// other criterion.
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

    /// Returns whether a token can match although its task does not.
    #[must_use]
    pub fn is_about_tokens(&self) -> bool {
        self.token.is_some()
            || self.audience.is_some()
            || self.svid_serial.is_some()
            || self.registration.is_some()
    }

    /// Refuses a selector that selects nothing, and one that may have been meant otherwise (AC-42).
    ///
    /// # Errors
    ///
    /// The first [`SelectorError`] that applies.
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
        if self.ordered_tasks && self.dispatcher.is_none() && self.order.is_none() {
            return Err(SelectorError::OrderedTasks);
        }
        // A blank criterion is a variable of a script that was not set: the rule would not hit
        // what the responder has in mind.
        let mut texts = self
            .audience
            .iter()
            .chain(&self.registration)
            .chain(&self.svid_serial)
            .chain(&self.claims);
        if !texts.all(|text| is_text(text)) {
            return Err(SelectorError::Text);
        }
        if self.claims.len() > MAX_CLAIMS || !self.claims.iter().all(|claim| is_claim(claim)) {
            return Err(SelectorError::Claim);
        }
        if !self.svid_serial.iter().all(|serial| is_serial(serial)) {
            return Err(SelectorError::Serial);
        }
        Ok(())
    }

    /// Returns the criteria, the most selective one first. Each criterion is a list of attributes,
    /// of which a matching subject has at least one.
    #[must_use]
    pub(crate) fn criteria(&self) -> Vec<Vec<Attribute>> {
        let mut all = Vec::new();
        all.extend(self.token.map(|id| vec![Attribute::Token(id)]));
        all.extend(self.task.map(|id| vec![Attribute::Task(id)]));
        all.extend(self.task_tree.map(|id| vec![Attribute::Tree(id)]));
        let with_tasks = self.ordered_tasks;
        all.extend(self.order.map(|id| match with_tasks {
            true => vec![Attribute::FromOrder(id)],
            false => vec![Attribute::Order(id)],
        }));
        all.extend(
            self.svid_serial
                .as_deref()
                .map(|serial| vec![serial::attribute_of_text(serial)]),
        );
        all.extend(
            self.workload
                .clone()
                .map(|id| vec![Attribute::Workload(id)]),
        );
        all.extend(self.dispatcher.clone().map(|id| match with_tasks {
            true => vec![Attribute::OrderedBy(id)],
            false => vec![Attribute::Dispatcher(id)],
        }));
        all.extend(
            self.claims
                .iter()
                .map(|claim| vec![Attribute::Claim(claim.as_str().into())]),
        );
        all.extend(self.scope.as_ref().map(attribute::overlapping));
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

    /// Returns the criteria like [`Selector::criteria`], and lets the mark of an SVID stand for each
    /// claim: what they match rests on the claims, by its own evidence or by that of its SVID.
    #[must_use]
    pub(crate) fn criteria_of_what_rests(&self) -> Vec<Vec<Attribute>> {
        let mut all = self.criteria();
        for any in &mut all {
            if let [Attribute::Claim(claim)] = any.as_slice() {
                let marks = grounds::marks_of_claim(claim).into_iter();
                any.extend(marks.map(|mark| Attribute::Claim(mark.into())));
            }
        }
        all
    }

    /// Returns whether the selector matches a subject. The subject's log position does not count.
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

fn is_text(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

fn is_claim(text: &str) -> bool {
    text.split_once('=')
        .is_some_and(|(name, value)| name.contains('.') && !value.is_empty())
}

fn is_serial(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
