//! Endings that follow a change of something that is no ending itself: what trust material loses,
//! and what a registration allows no more.
//!
//! L5: the rules are noted before the change and put in force after it, so that nothing that was
//! decided before the change outlives them. Whoever repeats a change that broke off in between puts
//! them in force, and after a while any broker does that finds them.

use sundew_core::store::DocumentKind;
use sundew_core::{Effect, Event, Selector};

use super::action::Action;
use super::{Responses, name};
use crate::liveness::RevocationLog;
use crate::refusal::Refusal;

/// The rules that follow one change, noted and not yet in force.
#[derive(Default)]
#[must_use]
pub(crate) struct Plan(Vec<(Action, Vec<u8>)>);

impl Responses {
    /// Notes the rules that a change of this name is going to need.
    pub(crate) async fn plan(
        &self,
        change: &str,
        selectors: Vec<Selector>,
        actor: &str,
        reason: &str,
    ) -> Result<Plan, Refusal> {
        let mut plan = Plan(Vec::new());
        for selector in selectors {
            let event = Event::Rule {
                selector: Box::new(selector.clone()),
                effect: Effect::Revoke,
            };
            let entry = RevocationLog::entry(event, self.stands_until_ms(&selector))?;
            let (actor, reason) = (actor.to_owned(), reason.to_owned());
            let mut action = Action::new(entry.id, selector, Effect::Revoke, actor, reason);
            action.planned_for = change.to_owned();
            if let Some(bytes) = self.write_action(&action, None).await? {
                plan.0.push((action, bytes));
            }
        }
        Ok(plan)
    }

    /// Puts the rules of a plan in force, once every broker has heard of the change. Returns the
    /// selector and the name of each.
    pub(crate) async fn carry_out(&self, plan: Plan) -> Result<Vec<(Selector, String)>, Refusal> {
        let mut done = Vec::new();
        for (action, _) in plan.0 {
            self.put_planned_in_force(&action).await?;
            done.push((action.selector, name(&action.entry)));
        }
        Ok(done)
    }

    /// Forgets a plan whose change did not come about.
    pub(crate) async fn give_up(&self, plan: Plan) -> Result<(), Refusal> {
        let store = self.ledger.records.store();
        for (action, bytes) in plan.0 {
            store
                .replace_document(DocumentKind::Response, &action.name(), Some(&bytes), None)
                .await?;
        }
        Ok(())
    }

    /// Returns what is left of the plan for the change of this name, which broke off.
    pub(crate) async fn left_of_plan(&self, change: &str) -> Result<Plan, Refusal> {
        let mut plan = Plan(Vec::new());
        let store = self.ledger.records.store();
        for (name, bytes) in store.documents(DocumentKind::Response).await? {
            let Ok(action) = self.open_action(&name, &bytes) else {
                continue;
            };
            let is_in_force = self.ledger.log.latest_view().is_in_log(&action.entry);
            if action.planned_for == change && !action.done && !is_in_force {
                plan.0.push((action, bytes));
            }
        }
        Ok(plan)
    }

    /// Puts the rule of a planned action in force, which may have been done before.
    pub(super) async fn put_planned_in_force(&self, action: &Action) -> Result<(), Refusal> {
        let event = Event::Rule {
            selector: Box::new(action.selector.clone()),
            effect: action.effect,
        };
        let mut entry = RevocationLog::entry(event, self.stands_until_ms(&action.selector))?;
        entry.id = action.entry;
        self.put_in_force(entry, &action.selector, action)
            .await
            .map(drop)
    }
}
