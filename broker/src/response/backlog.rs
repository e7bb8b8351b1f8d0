//! The clean-ups that may not be done yet: the only ones that are looked at again and again (A6).
//!
//! A broker hears of a clean-up from the revocation log, where its rule or its ending stands. So a
//! clean-up that is done costs nothing, however many of them are kept for responders to see. What
//! nobody could hear of, because a broker died or the store lost something, is found by a search
//! through all actions at the start, after a gap in the log, and rarely.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sundew_core::store::DocumentKind;
use sundew_core::{EntryId, Event, LogEntry, Outcome, Selector};

use super::Responses;
use super::action::Action;
use crate::clock;
use crate::ledger::FullLook;
use crate::refusal::Refusal;

/// How long a clean-up that cannot go on rests at least.
const SHORTEST_REST: Duration = Duration::from_secs(1);
/// How long a clean-up that cannot go on rests at most.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// How long the action of an entry is waited for. After that, its rule has none: the broker that
/// appended the rule died, or could not reach the store, just then.
const ACTION_WITHIN: Duration = Duration::from_secs(60);
/// How often all actions are searched for what nobody could hear of.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1800);
/// Actions are kept this long after everything is done, in milliseconds.
const RETAIN_ACTION_MS: i64 = 24 * 3_600_000;

/// The clean-ups that may not be done yet, by the entries of the log that they follow.
pub(super) struct Backlog {
    open: Mutex<HashMap<EntryId, Open>>,
    /// The search through all actions.
    search: FullLook,
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            search: FullLook::new(SEARCH_INTERVAL),
        }
    }
}

/// A clean-up that may not be done yet.
#[derive(Clone, Copy)]
struct Open {
    /// When this broker heard of it.
    since: Instant,
    /// When it is looked at again.
    due: Instant,
}

impl Backlog {
    /// Notes the clean-up that follows an entry of the log, if one does.
    pub(super) fn hear(&self, id: EntryId, event: &Event) {
        let is_followed = match event {
            Event::Ended { outcome, .. } => *outcome == Outcome::Revoked,
            Event::Rule { effect, .. } => effect.revokes(),
            Event::Changed(_)
            | Event::Floor
            | Event::Lifted(_)
            | Event::Resumed(_)
            | Event::Suspended(_) => false,
        };
        if is_followed {
            self.add(id);
        }
    }

    /// Notes a clean-up that is to be done.
    pub(super) fn add(&self, id: EntryId) {
        let now = clock::monotonic();
        let open = Open {
            since: now,
            due: now,
        };
        self.lock().entry(id).or_insert(open);
    }

    /// Returns the clean-ups that are to be looked at now.
    pub(super) fn due(&self) -> Vec<EntryId> {
        let now = clock::monotonic();
        let open = self.lock();
        let due = open.iter().filter(|(_, open)| open.due <= now);
        due.map(|(id, _)| *id).collect()
    }

    /// Lets a clean-up rest that cannot go on: the longer, the older it is.
    pub(super) fn rest(&self, id: EntryId) {
        if let Some(open) = self.lock().get_mut(&id) {
            let rest = clock::since(open.since) / 4;
            open.due = clock::monotonic() + rest.clamp(SHORTEST_REST, LONGEST_REST);
        }
    }

    /// Whether an action would be there by now, if the entry had one.
    pub(super) fn is_overdue(&self, id: EntryId) -> bool {
        let open = self.lock().get(&id).copied();
        open.is_none_or(|open| clock::since(open.since) >= ACTION_WITHIN)
    }

    /// Notes that a clean-up is done, or that there is none.
    pub(super) fn remove(&self, id: EntryId) {
        self.lock().remove(&id);
    }

    /// The number of clean-ups that may not be done yet, and for how long the oldest of them has been
    /// known.
    pub(super) fn open(&self) -> (usize, Duration) {
        let open = self.lock();
        let oldest = open.values().map(|open| clock::since(open.since)).max();
        (open.len(), oldest.unwrap_or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EntryId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of clean-ups that may not be done yet.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}

impl Responses {
    /// Searches all actions, if that is due, for clean-ups of which this broker could not hear, and
    /// for actions that may be forgotten.
    pub(super) async fn search_actions(&self) -> Result<(), Refusal> {
        let Some(gaps) = self.backlog.search.is_due(&self.ledger) else {
            return Ok(());
        };
        let known = self.read_all_actions().await?;
        for (_, entry, effect) in self.ledger.log.view()?.active_rules() {
            if effect.revokes() && !known.contains(&entry.id) && adoptable(entry).is_some() {
                self.backlog.add(entry.id);
            }
        }
        self.backlog.search.taken(gaps);
        Ok(())
    }

    /// Notes the actions that are not done, and forgets those that nobody needs any more. Returns
    /// the entries that have an action.
    async fn read_all_actions(&self) -> Result<HashSet<EntryId>, Refusal> {
        let store = self.ledger.records.store();
        let now_ms = clock::now_ms();
        let mut known = HashSet::new();
        for (name, bytes) in store.documents(DocumentKind::Response).await? {
            let action = match self.open_action(&name, &bytes) {
                Ok(action) => action,
                // One that was altered must not keep the others from being cleaned up.
                Err(error) => {
                    tracing::error!(name, %error, "an action cannot be read");
                    continue;
                }
            };
            known.insert(action.entry);
            let stands = action.effect.quarantines() && !action.lifted;
            if !action.done {
                self.backlog.add(action.entry);
            } else if !stands && action.at_ms.saturating_add(RETAIN_ACTION_MS) < now_ms {
                let forgotten =
                    store.replace_document(DocumentKind::Response, &name, Some(&bytes), None);
                forgotten.await?;
            }
        }
        Ok(known)
    }

    /// Makes an action for an entry that has none although it should have one by now.
    pub(super) async fn adopt(&self, id: EntryId) -> Result<(), Refusal> {
        if !self.backlog.is_overdue(id) {
            self.backlog.rest(id);
            return Ok(());
        }
        let orphan = {
            let view = self.ledger.log.view()?;
            let rules = view.active_rules();
            let standing = rules.iter().find(|(_, entry, _)| entry.id == id);
            standing.and_then(|(_, entry, effect)| adoptable(entry).map(|rule| (rule, *effect)))
        };
        let Some((selector, effect)) = orphan else {
            self.backlog.remove(id);
            return Ok(());
        };
        let reason = "the journal of the broker that was asked has the reason".to_owned();
        let action = Action::new(id, selector, effect, String::new(), reason);
        self.write_action(&action, None).await.map(drop)
    }
}

/// Returns the selector of a rule that needs a clean-up. One-token rules need none and may be many.
fn adoptable(entry: &LogEntry) -> Option<Selector> {
    match &entry.event {
        Event::Rule { selector, .. } if selector.token.is_none() => Some(Selector::clone(selector)),
        Event::Rule { .. }
        | Event::Ended { .. }
        | Event::Lifted(_)
        | Event::Suspended(_)
        | Event::Resumed(_)
        | Event::Changed(_)
        | Event::Floor => None,
    }
}
