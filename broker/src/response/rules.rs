//! Rules: putting one in force, lifting a quarantine, and listing those that stand.

use std::sync::Arc;

use sundew_core::{
    Credential, Effect, EntryId, Event, FOR_EVER_MS, LogEntry, Outcome, Position, Selector,
};
use sundew_proto::v1;

use super::action::Action;
use super::{Responses, entry_of, name, selector};
use crate::clock;
use crate::journal;
use crate::ledger::Ledger;
use crate::refusal::Refusal;
use crate::role::{Operator, Responder};
use crate::wire::idempotency_key;

/// Longest reason, in bytes.
const MAX_REASON: usize = 4096;

impl Responses {
    /// Puts a rule in force, also one about names that were never seen (AC-48).
    pub(crate) async fn revoke(
        self: Arc<Self>,
        operator: Operator<Responder>,
        request: v1::RevokeRequest,
    ) -> Result<v1::RevokeResponse, Refusal> {
        let reason = reason_of(request.reason)?;
        let effect = selector::read_effect(request.effect)?;
        let of_credential = request
            .selector
            .as_ref()
            .and_then(|selector| Credential::parse(&selector.token))
            .map(|credential| credential.task());
        let selector = selector::read(request.selector, clock::now_ms())?;
        let key = idempotency_key(request.idempotency_key)?;
        let id = EntryId(self.ledger.root().derive_name(&[
            b"revoke",
            operator.id().as_str().as_bytes(),
            key.as_bytes(),
        ]));
        let (event, until_ms) = self.event_for(&selector, effect).await?;
        // A retry has the name of the first attempt, and only waits until that is in force.
        let before = self
            .ledger
            .log
            .view()?
            .known(&id)
            .map(|(entry, _)| entry.event == event);
        let position = match before {
            Some(true) => self.ledger.log.confirm(id).await?,
            Some(false) => return Err(Refusal::Idempotency),
            None => {
                // A credential tells its task, and with it where to look for what it killed.
                let mut looked_for = selector.clone();
                looked_for.task = looked_for.task.or(of_credential);
                let action = Action::new(id, looked_for, effect, operator.id().to_string(), reason);
                self.put_in_force(
                    LogEntry {
                        id,
                        event,
                        retain_until_ms: until_ms,
                    },
                    &selector,
                    &action,
                )
                .await?
            }
        };
        Ok(v1::RevokeResponse {
            revocation_id: name(&id),
            position: position.0,
        })
    }

    /// Answers the event that a selector and an effect ask for, and until when it is remembered, in
    /// milliseconds since the epoch. The event of a single task is that the task ends.
    async fn event_for(
        &self,
        selector: &Selector,
        effect: Effect,
    ) -> Result<(Event, i64), Refusal> {
        if let (Some(task), Effect::Revoke) = (selector.only_task(), effect) {
            let known = self.ledger.records.task(task).await?;
            let until_ms = known.as_ref().map_or_else(
                || Ledger::retain_rule_until_ms(self.longest_task),
                |task| Ledger::retain_until_ms(task),
            );
            let outcome = Outcome::Revoked;
            return Ok((Event::Ended { task, outcome }, until_ms));
        }
        let until_ms = if effect.quarantines() {
            FOR_EVER_MS
        } else {
            Ledger::retain_rule_until_ms(self.longest_task)
        };
        let selector = Box::new(selector.clone());
        Ok((Event::Rule { selector, effect }, until_ms))
    }

    /// Ends a quarantine (AC-4A).
    pub(crate) async fn lift(
        self: Arc<Self>,
        operator: Operator<Responder>,
        request: v1::LiftRequest,
    ) -> Result<v1::LiftResponse, Refusal> {
        let reason = reason_of(request.reason)?;
        let id = entry_of(&request.revocation_id)?;
        let known = self
            .ledger
            .log
            .view()?
            .active_rules()
            .into_iter()
            .any(|(_, entry, effect)| entry.id == id && effect.quarantines());
        let action = self.action(&request.revocation_id).await?;
        if !known && !action.as_ref().is_some_and(|(action, _)| action.lifted) {
            return Err(Refusal::invalid(
                "revocation_id",
                "is no quarantine that stands: `sundew revoke list` shows those that do",
            ));
        }
        if known {
            let record = journal::record("lifted")
                .with("actor", operator.id())
                .with("reason", reason)
                .with("target", &request.revocation_id);
            self.ledger
                .end(
                    Event::Lifted(id),
                    Ledger::retain_rule_until_ms(self.longest_task),
                    record,
                )
                .await?;
        }
        // Clean-up writes the same document, so the mark is set on whatever it wrote last.
        if let Some((mut action, mut bytes)) = action {
            while !action.lifted {
                action.lifted = true;
                if self.write_action(&action, Some(&bytes)).await?.is_some() {
                    break;
                }
                (action, bytes) = self
                    .action(&request.revocation_id)
                    .await?
                    .ok_or(Refusal::NotFound("action"))?;
            }
        }
        Ok(v1::LiftResponse {})
    }

    /// Lists the rules that are in force.
    pub(crate) async fn list_rules(
        self: Arc<Self>,
        _: Operator<Responder>,
        _: v1::ListRulesRequest,
    ) -> Result<v1::ListRulesResponse, Refusal> {
        let view = self.ledger.log.view()?;
        let rule = |(position, entry, effect): (Position, &LogEntry, Effect)| {
            let Event::Rule { selector, .. } = &entry.event else {
                return None;
            };
            Some(v1::Rule {
                revocation_id: name(&entry.id),
                position: position.0,
                effect: selector::effect_message(effect).into(),
                selector: Some(selector::message(selector)),
                until_ms: if effect.quarantines() {
                    0
                } else {
                    entry.retain_until_ms.min(FOR_EVER_MS)
                },
            })
        };
        Ok(v1::ListRulesResponse {
            rules: view.active_rules().into_iter().filter_map(rule).collect(),
        })
    }
}

/// Reads the field `reason`, which must say something.
fn reason_of(reason: String) -> Result<String, Refusal> {
    if reason.trim().is_empty() || reason.len() > MAX_REASON {
        return Err(Refusal::invalid(
            "reason",
            "is required, and at most 4096 bytes",
        ));
    }
    Ok(reason)
}
