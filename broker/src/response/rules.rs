//! Rules: putting one in force, lifting a quarantine, and listing those that stand.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{
    Credential, Effect, EntryId, Event, FOR_EVER_MS, LogEntry, Outcome, Position, Selector,
};
use sundew_proto::v1;
use tokio::task::JoinSet;

use super::action::Action;
use super::{Responses, entry_of, name, selector};
use crate::clock;
use crate::journal;
use crate::ledger::Ledger;
use crate::refusal::Refusal;
use crate::role::{Operator, Responder};
use crate::wire::idempotency_key;

/// How long the record of a single task is looked for before the task is ended without it.
const LOOK_AT_TASK: Duration = Duration::from_millis(250);
/// How long a list of rules waits for who put them in force and why.
const LOOK_AT_ACTIONS: Duration = Duration::from_secs(1);
/// Actions that are read together.
const ACTIONS_TOGETHER: usize = 64;
/// The most endings of single tasks that are listed as pending.
const MAX_PENDING_LISTED: usize = 1000;
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
        let within = self.within(&operator, &selector).await?;
        let key = idempotency_key(request.idempotency_key)?;
        let id = self.revocation_name(within.actor(), &key);
        let (event, until_ms) = self.event_for(&selector, effect).await;
        // A retry has the name of the first attempt, and only waits until that is in force. L7: what this broker knows may be old. At worst it puts a rule in force once more.
        let before = self
            .ledger
            .log
            .latest_view()
            .known(&id)
            .map(|(entry, _)| entry.event == event);
        let in_force = match before {
            Some(true) => self.ledger.confirm(id).await,
            Some(false) => return Err(Refusal::Idempotency),
            None => {
                // A credential tells its task, and with it where to look for what it killed.
                let mut looked_for = selector.clone();
                looked_for.task = looked_for.task.or(of_credential);
                let action =
                    Action::new(id, looked_for, effect, within.actor().to_string(), reason);
                let entry = LogEntry {
                    id,
                    event,
                    retain_until_ms: until_ms,
                    document: None,
                };
                self.put_in_force(entry, &selector, &action).await
            }
        };
        let (position, pending) = match in_force {
            Ok(position) => (position.0, false),
            // It has happened, so the caller hears that, and hears too what is missing.
            Err(Refusal::EndingPending(cause)) => {
                let record = journal::record("revocation_pending")
                    .with("actor", within.actor())
                    .with("target", name(&id))
                    .with("reason", cause);
                self.ledger.journal.note(record);
                (0, true)
            }
            Err(other) => return Err(other),
        };
        Ok(v1::RevokeResponse {
            revocation_id: name(&id),
            position,
            pending,
        })
    }

    /// Returns the name of the revocation that an operator asks for with this idempotency key: the
    /// one that an earlier attempt has, under whichever root key, or a new one.
    fn revocation_name(&self, operator: &SpiffeId, key: &str) -> EntryId {
        let parts: [&[u8]; 3] = [b"revoke", operator.as_str().as_bytes(), key.as_bytes()];
        let root = self.ledger.root();
        let names = root.derive_name_each(&parts);
        let view = self.ledger.log.latest_view();
        let mut names = names.into_iter().map(EntryId);
        names
            .find(|name| view.known(name).is_some())
            .unwrap_or_else(|| EntryId(root.derive_name(&parts)))
    }

    /// Returns the entry of the log that a selector and an effect ask for, and until when it is
    /// retained, in milliseconds since the epoch. A single task simply ends, and its record is not
    /// needed for that (L7, L20): the record only says whether the task lives longer than this
    /// broker lets tasks live.
    async fn event_for(&self, selector: &Selector, effect: Effect) -> (Event, i64) {
        let until_ms = self.stands_until_ms(selector);
        if let (Some(task), Effect::Revoke) = (selector.only_task(), effect) {
            let record = async {
                let is_fresh = self.ledger.log.view().is_ok();
                let read = is_fresh.then(|| self.ledger.records.task(task));
                read?.await.ok().flatten()
            };
            let known = tokio::time::timeout(LOOK_AT_TASK, record).await;
            let until_ms = match known.ok().flatten() {
                Some(task) => Ledger::retain_until_ms(&task).max(Ledger::retain_from_now_ms()),
                None => until_ms,
            };
            let outcome = Outcome::Revoked;
            return (Event::Ended { task, outcome }, until_ms);
        }
        let until_ms = if effect.quarantines() {
            FOR_EVER_MS
        } else {
            until_ms
        };
        let selector = Box::new(selector.clone());
        (Event::Rule { selector, effect }, until_ms)
    }

    /// Ends a quarantine (AC-4A).
    pub(crate) async fn lift(
        self: Arc<Self>,
        operator: Operator<Responder>,
        request: v1::LiftRequest,
    ) -> Result<v1::LiftResponse, Refusal> {
        let reason = reason_of(request.reason)?;
        let id = entry_of(&request.revocation_id)?;
        let (stands, was_lifted) = {
            let view = self.ledger.log.view()?;
            let stands = view
                .active_rules()
                .into_iter()
                .any(|(_, entry, effect)| entry.id == id && effect.quarantines());
            (stands, view.is_lifted(&id))
        };
        let action = self.action(&request.revocation_id).await?;
        let noted = action.as_ref().map(|(action, _)| &action.selector);
        let within = self.over_rule(&operator, &id, noted).await?;
        let is_marked = action.as_ref().is_some_and(|(action, _)| action.lifted);
        // L5: a retry finds it lifted, and does every step again that may be missing.
        let known = stands || (was_lifted && !is_marked);
        if !known && !is_marked {
            return Err(Refusal::invalid(
                "revocation_id",
                "is no quarantine that stands: `sundew revoke list` shows those that do",
            ));
        }
        if known {
            let record = journal::record("lifted")
                .with("actor", within.actor())
                .with("reason", reason)
                .with("target", &request.revocation_id);
            self.ledger
                .end(
                    Event::Lifted(id),
                    self.ledger.log.rule_stands_until_ms(),
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

    /// Lists the rules that are in force, and that the operator could have put in force.
    pub(crate) async fn list_rules(
        self: Arc<Self>,
        operator: Operator<Responder>,
        _: v1::ListRulesRequest,
    ) -> Result<v1::ListRulesResponse, Refusal> {
        // L7: whoever asks while the view is stale looks for what is pending, and is told that the
        // list may miss what others have put in force.
        let stale = self.ledger.log.view().is_err();
        let pending = self.ledger.log.pending_entries();
        let is_pending: HashSet<_> = pending.iter().map(|entry| entry.id).collect();
        let mut rules: Vec<_> = {
            let view = self.ledger.log.latest_view();
            let rules = view.active_rules().into_iter();
            let message = |(position, entry, effect): (Position, &LogEntry, Effect)| {
                let until_ms = view.matters_until_ms(entry);
                let pending = is_pending.contains(&entry.id);
                let rule = rule_message(entry, (effect, until_ms), position, pending)?;
                let lifted = view.is_lifted(&entry.id);
                Some((selector_of(&entry.event)?, v1::Rule { lifted, ..rule }))
            };
            rules.filter_map(message).collect()
        };
        let ended = pending
            .iter()
            .filter(|entry| matches!(entry.event, Event::Ended { .. }))
            .take(MAX_PENDING_LISTED)
            .filter_map(|entry| {
                let effect = (Effect::Revoke, entry.retain_until_ms);
                let rule = rule_message(entry, effect, Position(0), true)?;
                Some((selector_of(&entry.event)?, rule))
            });
        rules.extend(ended);
        let mut pending_endings = u64::try_from(pending.len()).unwrap_or(u64::MAX);
        let mut rules = if operator.over_everything().is_ok() {
            rules.into_iter().map(|(_, rule)| rule).collect()
        } else {
            let within = self.rules_within(&operator, rules).await;
            let pending = within.iter().filter(|rule| rule.pending).count();
            pending_endings = u64::try_from(pending).unwrap_or(u64::MAX);
            within
        };
        // Without the store, who and why is missing, and the list is not (L7).
        let told = tokio::time::timeout(LOOK_AT_ACTIONS, self.tell_who_and_why(&mut rules));
        if !matches!(told.await, Ok(Ok(()))) {
            tracing::debug!("rules are listed without who put them in force");
        }
        Ok(v1::ListRulesResponse {
            rules,
            pending_endings,
            stale,
        })
    }
}

impl Responses {
    /// Adds to rules who put them in force, why and when, for those of which that is still known.
    async fn tell_who_and_why(self: &Arc<Self>, rules: &mut [v1::Rule]) -> Result<(), Refusal> {
        for some in rules.chunks_mut(ACTIONS_TOGETHER) {
            let mut looks = JoinSet::new();
            for id in some.iter().map(|rule| rule.revocation_id.clone()) {
                let room = Arc::clone(self);
                looks.spawn(async move { room.action(&id).await });
            }
            for look in looks.join_all().await {
                let Some((action, _)) = look? else { continue };
                let name = action.name();
                if let Some(rule) = some.iter_mut().find(|rule| rule.revocation_id == name) {
                    (rule.actor, rule.reason) = (action.actor, action.reason);
                    rule.at_ms = action.at_ms;
                }
            }
        }
        Ok(())
    }
}

/// Returns what an entry of the log is about, and `None` for one that is no ending of responders.
pub(super) fn selector_of(event: &Event) -> Option<Selector> {
    match event {
        Event::Rule { selector, .. } => Some(selector.as_ref().clone()),
        Event::Ended { task, .. } => Some(Selector {
            task: Some(*task),
            ..Selector::default()
        }),
        Event::Changed(_)
        | Event::Floor
        | Event::Lifted(_)
        | Event::Resumed(_)
        | Event::Suspended(_) => None,
    }
}

/// Returns an entry of the log as responders see it, and `None` for one that is no ending of theirs.
/// C6: `until_ms` is when the entry is forgotten, which for a quarantine that was lifted is known
/// from its lift, in milliseconds since the epoch.
fn rule_message(
    entry: &LogEntry,
    (effect, until_ms): (Effect, i64),
    position: Position,
    pending: bool,
) -> Option<v1::Rule> {
    let selector = selector::message(&selector_of(&entry.event)?);
    Some(v1::Rule {
        revocation_id: name(&entry.id),
        position: if pending { 0 } else { position.0 },
        effect: selector::effect_message(effect).into(),
        selector: Some(selector),
        until_ms: if effect.quarantines() {
            0
        } else {
            until_ms.min(FOR_EVER_MS)
        },
        pending,
        ..v1::Rule::default()
    })
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
