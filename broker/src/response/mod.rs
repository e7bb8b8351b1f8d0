//! The use cases of incident responders: to see what a selector matches, to kill it, to keep it
//! from coming back, and to see that it is gone.
//!
//! AC-49: a responder's calls need a line of the configuration and an SVID, never a token or a
//! task, so no rule can lock one out.

mod action;
mod backlog;
mod cleanup;
mod list;
mod plan;
mod preview;
mod rules;
mod selector;
mod survey;
mod tasks;
#[cfg(test)]
mod tests;
mod within;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{Effect, EntryId, Event, LogEntry, Position, Selector};
use tokio::sync::{Notify, Semaphore, mpsc};
use tonic::Status;

use crate::clock;
use crate::journal;
use crate::lease::Leases;
use crate::ledger::Ledger;
use crate::liveness::{RevocationLog, Subscriber};
use crate::refusal::Refusal;
use crate::refusal_recorder::RefusalRecorder;
use action::Action;
use backlog::Backlog;
pub(crate) use plan::Plan;

/// How often a preview and a watch send how far they are.
const TELL_INTERVAL: Duration = Duration::from_millis(250);
/// Longest life of an SVID of the embedded CA, in milliseconds: the longest `identity.svid_ttl`.
const LONGEST_SVID_MS: i64 = 366 * 24 * 3_600_000;
/// Most previews at a time: each is a walk over everything.
const MAX_PREVIEWS: usize = 2;

/// The messages of a stream, the last of which may be a status that says why the stream ended.
pub(crate) type Stream<T> = mpsc::Receiver<Result<T, Status>>;

/// The room of responders.
pub(crate) struct Responses {
    ledger: Ledger,
    leases: Arc<Leases>,
    /// The clean-ups that may not be done yet.
    backlog: Backlog,
    /// Notified when there is a clean-up to do.
    new_action: Notify,
    /// Actions that the store could not take yet.
    unnoted: Mutex<Vec<Action>>,
    preview_permits: Arc<Semaphore>,
    refusals: RefusalRecorder,
}

impl Responses {
    /// A room that ends tasks, and watches the leases go.
    pub(crate) fn new(ledger: Ledger, leases: Arc<Leases>, refusals: RefusalRecorder) -> Self {
        Self {
            ledger,
            leases,
            backlog: Backlog::default(),
            new_action: Notify::new(),
            unnoted: Mutex::default(),
            preview_permits: Arc::new(Semaphore::new(MAX_PREVIEWS)),
            refusals,
        }
    }

    /// The clean-ups that may not be done yet, and for how long the oldest of them has been known.
    pub(crate) fn open_cleanups(&self) -> (usize, Duration) {
        self.backlog.open()
    }

    /// Revokes as the consequence of something else, such as the end of a registration. Answers the
    /// name of the revocation.
    pub(crate) async fn revoke_for(
        &self,
        selector: Selector,
        actor: &SpiffeId,
        reason: &str,
    ) -> Result<String, Refusal> {
        let entry = RevocationLog::entry(
            Event::Rule {
                selector: Box::new(selector.clone()),
                effect: Effect::Revoke,
            },
            self.stands_until_ms(&selector),
        )?;
        let action = Action::new(
            entry.id,
            selector.clone(),
            Effect::Revoke,
            actor.to_string(),
            reason.to_owned(),
        );
        let id = name(&entry.id);
        self.put_in_force(entry, &selector, &action).await?;
        Ok(id)
    }

    /// Until when a revocation by this selector matters, in milliseconds since the epoch: as long as
    /// what it kills, an SVID longer than a task.
    fn stands_until_ms(&self, selector: &Selector) -> i64 {
        let until_ms = self.ledger.log.rule_stands_until_ms();
        if selector.is_about_svids() {
            until_ms.max(clock::now_ms().saturating_add(LONGEST_SVID_MS))
        } else {
            until_ms
        }
    }

    /// Puts the rule on the record and appends it, and notes the clean-up.
    async fn put_in_force(
        &self,
        entry: LogEntry,
        selector: &Selector,
        action: &Action,
    ) -> Result<Position, Refusal> {
        let target = serde_json::to_string(selector).unwrap_or_default();
        let record = journal::record("revoked")
            .with("actor", &action.actor)
            .with("reason", &action.reason);
        let record = record
            .with("effect", action.effect.as_str())
            .with("target", target);
        // L7: the ending waits for nothing. What follows it is noted later where the store is away.
        let (noted, ended) = tokio::join!(
            self.write_action(action, None),
            self.ledger.end_as(entry, record)
        );
        if let Err(error) = noted {
            let holds = matches!(ended, Ok(_) | Err(Refusal::EndingPending(_)));
            if holds && self.note_later(action.clone()) {
                tracing::warn!(%error, "clean-ups are noted once the store takes them");
            }
        }
        self.new_action.notify_one();
        ended
    }
}

impl Subscriber for Responses {
    fn on_entry(self: Arc<Self>, id: EntryId, event: &Event) {
        self.backlog.hear(id, event);
    }
}

/// The name of a revocation, as callers see it: `rev-` and 32 lower-case hexadecimal digits.
fn name(id: &EntryId) -> String {
    format!("rev-{}", hex::encode(id.0))
}

/// Reads the field `revocation_id`: `rev-` and 32 lower-case hexadecimal digits.
fn entry_of(name: &str) -> Result<EntryId, Refusal> {
    let digits = name.strip_prefix("rev-").unwrap_or_default();
    let mut bytes = [0; 16];
    // A revocation has one name, so upper-case digits are none.
    let is_read = hex::decode_to_slice(digits, &mut bytes).is_ok()
        && !digits.bytes().any(|digit| digit.is_ascii_uppercase());
    if is_read {
        Ok(EntryId(bytes))
    } else {
        Err(Refusal::invalid(
            "revocation_id",
            "must be rev- and 32 hexadecimal digits",
        ))
    }
}

#[cfg(test)]
mod name_tests {
    use super::*;

    #[test]
    fn a_revocation_has_exactly_one_name() {
        let id = EntryId(*b"\0\x01\x0a\x0f\xa0\xff0123456789");
        assert_eq!(name(&id), "rev-00010a0fa0ff30313233343536373839");
        assert_eq!(entry_of(&name(&id)).ok(), Some(id));
        for wrong in [
            "",
            "rev-",
            "00010a0fa0ff30313233343536373839",
            "task-00010a0fa0ff30313233343536373839",
            "rev-00010A0FA0FF30313233343536373839",
            "rev-00010a0fa0ff303132333435363738",
            "rev-00010a0fa0ff3031323334353637383939",
            "rev-00010a0fa0ff3031323334353637383g",
        ] {
            assert!(entry_of(wrong).is_err(), "{wrong}");
        }
    }
}
