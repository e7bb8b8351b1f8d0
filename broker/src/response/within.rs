//! Selectors and rules within the bounds of a responder's role (O4).
//!
//! A selector is within bounds by a criterion that says so, or because it names a task that is. It is
//! never narrowed for the operator, because a rule that hits less than was asked for looks like one
//! that hits all: the refusal says which criterion to add.

use sundew_core::{EntryId, Selector};
use sundew_proto::v1;

use super::Responses;
use super::rules::selector_of;
use crate::refusal::Refusal;
use crate::role::{Operator, Responder, Within};

impl Responses {
    /// The proof that a selector matches nothing beyond the bounds. Who has none is not looked for in
    /// the store (L7); a task that is named is, for who has some.
    pub(super) async fn within<'a>(
        &self,
        operator: &'a Operator<Responder>,
        selector: &Selector,
    ) -> Result<Within<'a>, Refusal> {
        let refusal = match operator.selecting(selector) {
            Ok(within) => return Ok(within),
            Err(refusal) => refusal,
        };
        let Some(id) = selector.task.or(selector.task_tree) else {
            return Err(refusal);
        };
        let task = self.ledger.records.look_at_readable_task(id).await?;
        operator.over_task(&*task.ok_or(Refusal::NotFound("task"))?)
    }

    /// The proof that what a rule is about is within the bounds. `noted` is what its action says, if
    /// there is one.
    pub(super) async fn over_rule<'a>(
        &self,
        operator: &'a Operator<Responder>,
        id: &EntryId,
        noted: Option<&Selector>,
    ) -> Result<Within<'a>, Refusal> {
        let in_log = {
            let view = self.ledger.log.latest_view();
            let known = view.known(id);
            known.and_then(|(entry, _)| selector_of(&entry.event))
        };
        let within = match in_log.as_ref().or(noted) {
            Some(selector) => self.within(operator, selector).await,
            None => operator.over_everything(),
        };
        within.map_err(|refusal| refusal.out_of_sight("revocation"))
    }

    /// Those of these rules that are within the bounds. A task of which the store says nothing now is
    /// not known to be.
    pub(super) async fn rules_within(
        &self,
        operator: &Operator<Responder>,
        rules: Vec<(Selector, v1::Rule)>,
    ) -> Vec<v1::Rule> {
        let mut within = Vec::new();
        for (selector, rule) in rules {
            if self.within(operator, &selector).await.is_ok() {
                within.push(rule);
            }
        }
        within
    }
}
