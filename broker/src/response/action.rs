//! An action of a responder, as the store has it.

use std::sync::PoisonError;

use serde::{Deserialize, Serialize};
use sundew_core::store::DocumentKind;
use sundew_core::{Effect, EntryId, Selector};
use sundew_proto::v1;

use super::{Responses, selector};
use crate::clock;
use crate::refusal::Refusal;

/// The most actions that are kept for a store that cannot take them.
const MAX_UNNOTED: usize = 1024;

/// An action of a responder, and how far its clean-up is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Action {
    pub(super) entry: EntryId,
    pub(super) selector: Selector,
    pub(super) effect: Effect,
    pub(super) actor: String,
    pub(super) reason: String,
    pub(super) at_ms: i64,
    /// The change that the action follows, if it was noted before it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) planned_for: String,
    #[serde(default)]
    pub(super) tasks: u64,
    #[serde(default)]
    pub(super) tokens: u64,
    #[serde(default)]
    pub(super) leases: u64,
    #[serde(default)]
    pub(super) counted: bool,
    #[serde(default)]
    pub(super) reaped_tasks: u64,
    #[serde(default)]
    pub(super) reaped: bool,
    #[serde(default)]
    pub(super) leases_left: u64,
    #[serde(default)]
    pub(super) lease_problem: String,
    #[serde(default)]
    pub(super) done: bool,
    #[serde(default)]
    pub(super) lifted: bool,
    /// The name of the broker that works on the action.
    #[serde(default)]
    pub(super) worker: String,
    /// Until then nobody else works on the action, in milliseconds since the epoch.
    #[serde(default)]
    pub(super) worker_until_ms: i64,
}

impl Action {
    /// An action of this moment, whose clean-up has not begun.
    pub(super) fn new(
        entry: EntryId,
        selector: Selector,
        effect: Effect,
        actor: String,
        reason: String,
    ) -> Self {
        Self {
            entry,
            selector,
            effect,
            actor,
            reason,
            at_ms: clock::now_ms(),
            planned_for: String::new(),
            tasks: 0,
            tokens: 0,
            leases: 0,
            counted: false,
            reaped_tasks: 0,
            reaped: false,
            leases_left: 0,
            lease_problem: String::new(),
            // What kills nothing needs no clean-up.
            done: !effect.revokes(),
            lifted: false,
            worker: String::new(),
            worker_until_ms: 0,
        }
    }

    /// The name of the revocation, as callers see it.
    pub(super) fn name(&self) -> String {
        super::name(&self.entry)
    }

    /// The action as a message.
    pub(super) fn status(&self) -> v1::RevocationStatus {
        v1::RevocationStatus {
            revocation_id: self.name(),
            selector: Some(selector::message(&self.selector)),
            effect: selector::effect_message(self.effect).into(),
            actor: self.actor.clone(),
            reason: self.reason.clone(),
            at_ms: self.at_ms,
            tasks: self.tasks,
            tokens: self.tokens,
            counted: self.counted || !self.effect.revokes(),
            reaped_tasks: self.reaped_tasks,
            leases: self.leases,
            leases_left: self.leases_left,
            lease_problem: self.lease_problem.clone(),
            done: self.done,
            lifted: self.lifted,
        }
    }
}

impl Responses {
    /// Opens an action that the store has under this name; refuses one that was changed there.
    pub(super) fn open_action(&self, name: &str, bytes: &[u8]) -> Result<Action, Refusal> {
        self.ledger.records.open(
            "action",
            &[b"response", name.as_bytes()],
            bytes,
            serde_json::from_slice,
        )
    }

    /// Reads an action; answers it with the stored bytes, which are needed to replace it.
    pub(super) async fn action(&self, name: &str) -> Result<Option<(Action, Vec<u8>)>, Refusal> {
        let Some(bytes) = self
            .ledger
            .records
            .store()
            .document(DocumentKind::Response, name)
            .await?
        else {
            return Ok(None);
        };
        Ok(Some((self.open_action(name, &bytes)?, bytes)))
    }

    /// Keeps an action until the store can take it. Beyond [`MAX_UNNOTED`] actions, whoever finds
    /// the rule adopts it, without its reason. Says whether it is the first that is kept.
    pub(super) fn note_later(&self, action: Action) -> bool {
        let mut unnoted = self.unnoted.lock().unwrap_or_else(PoisonError::into_inner);
        if unnoted.len() < MAX_UNNOTED {
            unnoted.push(action);
        }
        unnoted.len() == 1
    }

    /// Writes the actions that the store could not take before.
    pub(super) async fn note_pending(&self) -> Result<(), Refusal> {
        loop {
            let next = {
                let unnoted = self.unnoted.lock().unwrap_or_else(PoisonError::into_inner);
                unnoted.first().cloned()
            };
            let Some(action) = next else { return Ok(()) };
            self.write_action(&action, None).await?;
            self.backlog.add(action.entry);
            self.unnoted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|other| other.entry != action.entry);
        }
    }

    /// Writes an action if the store still has `before`; answers the new bytes, or `None` if
    /// somebody else wrote meanwhile.
    pub(super) async fn write_action(
        &self,
        action: &Action,
        before: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let name = action.name();
        let bytes = self.ledger.root().tag(
            &[b"response", name.as_bytes()],
            serde_json::to_vec(action).unwrap_or_default(),
        );
        let written = self
            .ledger
            .records
            .store()
            .replace_document(DocumentKind::Response, &name, before, Some(&bytes))
            .await?;
        Ok(written.then_some(bytes))
    }
}
