//! What follows a revocation: counting what it killed, taking that off the lists, and seeing its
//! leases go.
//!
//! None of this makes anything dead: the log does, at once. So it may be slow, and it goes on where
//! it was when its broker dies: an action is a document that one broker works on at a time (T55).
//! Counting comes before reaping, so that a count that was broken off can begin again and be right.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sundew_core::store::DocumentKind;
use sundew_core::{Effect, EntryId, Event, KnownTask, LogEntry, Selector};
use sundew_proto::v1;
use tokio::task::JoinSet;

use super::selector;
use super::survey::{Hit, Survey, Wanted};
use crate::broker::Broker;
use crate::clock;
use crate::journal;
use crate::refusal::Refusal;

/// How long a broker has an action to itself without saying that it is still at it.
const CLAIM_MS: i64 = 5_000;
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often rules are looked for that have no action, and how many of them are taken at a time.
const ADOPTED_TOGETHER: usize = 100;
const ADOPT_EVERY: Duration = Duration::from_secs(60);
/// Tasks reaped at a time: few, since calls are answered meanwhile.
const REAPED_TOGETHER: usize = 4;
/// Actions are kept this long after everything is done, in milliseconds.
const KEEP_MS: i64 = 24 * 3_600_000;

/// An action of a responder, and how far its clean-up is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Action {
    pub(super) entry: EntryId,
    pub(super) selector: Selector,
    pub(super) effect: Effect,
    pub(super) actor: String,
    pub(super) reason: String,
    pub(super) at_ms: i64,
    #[serde(default)]
    tasks: u64,
    #[serde(default)]
    tokens: u64,
    #[serde(default)]
    leases: u64,
    #[serde(default)]
    counted: bool,
    #[serde(default)]
    reaped_tasks: u64,
    #[serde(default)]
    reaped: bool,
    #[serde(default)]
    leases_left: u64,
    #[serde(default)]
    lease_problem: String,
    #[serde(default)]
    pub(super) done: bool,
    #[serde(default)]
    pub(super) lifted: bool,
    /// Who works on it, and until when nobody else does.
    #[serde(default)]
    worker: String,
    #[serde(default)]
    worker_until_ms: i64,
}

impl Action {
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

    pub(super) fn name(&self) -> String {
        super::name(&self.entry)
    }

    /// Waits for one of these reaps; says whether there was one.
    async fn reaped(&mut self, reaps: &mut JoinSet<Result<(), Refusal>>) -> Result<bool, Refusal> {
        let Some(reaped) = reaps.join_next().await else {
            return Ok(false);
        };
        reaped.map_err(|_| Refusal::Unsupported("a clean-up that panicked"))??;
        self.reaped_tasks = self.reaped_tasks.saturating_add(1).min(self.tasks);
        Ok(true)
    }

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

impl Broker {
    fn open_action(&self, name: &str, bytes: &[u8]) -> Result<Action, Refusal> {
        self.records.open(
            "action",
            &[b"response", name.as_bytes()],
            bytes,
            serde_json::from_slice,
        )
    }

    /// An action with its bytes, for replacing it.
    pub(super) async fn action(&self, name: &str) -> Result<Option<(Action, Vec<u8>)>, Refusal> {
        let Some(bytes) = self
            .records
            .store()
            .document(DocumentKind::Response, name)
            .await?
        else {
            return Ok(None);
        };
        Ok(Some((self.open_action(name, &bytes)?, bytes)))
    }

    /// Writes an action if nobody else did meanwhile; answers its bytes.
    pub(super) async fn write_action(
        &self,
        action: &Action,
        before: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let name = action.name();
        let bytes = self.root().tag(
            &[b"response", name.as_bytes()],
            serde_json::to_vec(action).unwrap_or_default(),
        );
        let written = self
            .records
            .store()
            .replace_document(DocumentKind::Response, &name, before, Some(&bytes))
            .await?;
        Ok(written.then_some(bytes))
    }

    /// Works on actions, for as long as it is polled.
    pub(crate) async fn clean_up(self: Arc<Self>, worker: String) {
        let mut adopted: Option<Instant> = None;
        loop {
            let adopt = adopted.is_none_or(|at| clock::since(at) >= ADOPT_EVERY);
            match self.clean_up_once(&worker, adopt).await {
                Ok(()) if adopt => adopted = Some(clock::monotonic()),
                Ok(()) => {}
                Err(error) => tracing::debug!(%error, "clean-up"),
            }
            let _ = tokio::time::timeout(LOOK_EVERY, self.new_action.notified()).await;
        }
    }

    async fn clean_up_once(self: &Arc<Self>, worker: &str, adopt: bool) -> Result<(), Refusal> {
        let now_ms = clock::now_ms();
        let mut known = HashSet::new();
        for (name, bytes) in self
            .records
            .store()
            .documents(DocumentKind::Response)
            .await?
        {
            let mut action = self.open_action(&name, &bytes)?;
            known.insert(action.entry);
            let stands = action.effect.quarantines() && !action.lifted;
            if action.done && !stands && action.at_ms.saturating_add(KEEP_MS) < now_ms {
                self.records
                    .store()
                    .replace_document(DocumentKind::Response, &name, Some(&bytes), None)
                    .await?;
            }
            if action.done
                || (action.worker_until_ms > now_ms && action.worker != worker)
                || !self.keeper.view()?.is_in_log(&action.entry)
            {
                continue;
            }
            (action.worker, action.worker_until_ms) =
                (worker.to_owned(), now_ms.saturating_add(CLAIM_MS));
            if let Some(bytes) = self.write_action(&action, Some(&bytes)).await? {
                self.work_on(action, bytes).await?;
            }
        }
        if adopt {
            self.adopt(&known).await
        } else {
            Ok(())
        }
    }

    /// Rules without an action: their broker died, or could not reach the store, just then.
    async fn adopt(&self, known: &HashSet<EntryId>) -> Result<(), Refusal> {
        let orphans: Vec<_> = {
            let view = self.keeper.view()?;
            let standing = view.standing();
            let orphans = standing
                .into_iter()
                .filter(|(_, entry, effect)| effect.revokes() && !known.contains(&entry.id));
            let rule = |(_, entry, effect): (_, &LogEntry, _)| match &entry.event {
                // One-token rules need no clean-up and may be many.
                Event::Rule { selector, .. } if selector.token.is_none() => {
                    Some((entry.id, Selector::clone(selector), effect))
                }
                Event::Rule { .. }
                | Event::Ended { .. }
                | Event::Lifted(_)
                | Event::Suspended(_)
                | Event::Resumed(_)
                | Event::Changed(_)
                | Event::Floor => None,
            };
            orphans.filter_map(rule).take(ADOPTED_TOGETHER).collect()
        };
        for (id, selector, effect) in orphans {
            let action = Action::new(
                id,
                selector,
                effect,
                String::new(),
                "the journal of the broker that was asked has the reason".to_owned(),
            );
            self.write_action(&action, None).await?;
        }
        Ok(())
    }

    async fn work_on(
        self: &Arc<Self>,
        mut action: Action,
        mut bytes: Vec<u8>,
    ) -> Result<(), Refusal> {
        let wanted = Wanted {
            selector: Arc::new(action.selector.clone()),
            killed_by: Some(action.entry),
            at_ms: action.at_ms,
            whole: false,
        };
        let one_token = action.selector.token.is_some();
        if !action.counted {
            let mut survey = Survey::new(self, wanted.clone()).await?;
            let (mut tasks, mut tokens, mut due) = (0_u64, 0_u64, 0_u64);
            while let Some(hits) = survey.next().await? {
                for hit in hits {
                    tasks = tasks.saturating_add(u64::from(hit.whole));
                    tokens = tokens.saturating_add(hit.tokens);
                    due = due.saturating_add(hit.leases);
                }
                // There is one token of a name.
                if one_token && tokens > 0 {
                    break;
                }
                if !self.still_at(&mut action, &mut bytes).await? {
                    return Ok(());
                }
            }
            (
                action.tasks,
                action.tokens,
                action.leases,
                action.leases_left,
                action.counted,
            ) = (tasks, tokens, due, due, true);
            if !self.progress(&mut action, &mut bytes).await? {
                return Ok(());
            }
        }
        if !action.reaped && !one_token {
            let mut survey = Survey::new(
                self,
                Wanted {
                    whole: true,
                    ..wanted.clone()
                },
            )
            .await?;
            while let Some(hits) = survey.next().await? {
                let mut reaps = JoinSet::new();
                for Hit { task, .. } in hits {
                    let record = journal::record("task_ended")
                        .with("task", task.id)
                        .with("workload", &task.workload)
                        .with("outcome", "revoked");
                    self.journal.note(
                        record
                            .with("actor", &action.actor)
                            .with("by", action.name()),
                    );
                    reaps.spawn(Arc::clone(self).reap(task));
                    if reaps.len() >= REAPED_TOGETHER {
                        action.reaped(&mut reaps).await?;
                    }
                }
                while action.reaped(&mut reaps).await? {}
                if !self.still_at(&mut action, &mut bytes).await? {
                    return Ok(());
                }
            }
            (action.reaped, action.reaped_tasks) = (true, action.tasks);
            if !self.progress(&mut action, &mut bytes).await? {
                return Ok(());
            }
        }
        if action.leases_left > 0 {
            (action.leases_left, action.lease_problem) = self.leases_killed_by(&wanted).await?;
        }
        action.done = action.leases_left == 0;
        if action.done {
            tracing::info!(
                revocation = action.name(),
                tasks = action.tasks,
                tokens = action.tokens,
                leases = action.leases,
                "revocation is cleaned up"
            );
        }
        self.progress(&mut action, &mut bytes).await.map(drop)
    }

    /// Removes a dead task's tokens, and then takes it off the lists: a clean-up that begins again
    /// looks there for what is left.
    async fn reap(self: Arc<Self>, task: Arc<KnownTask>) -> Result<(), Refusal> {
        self.records.store().reap_tokens(task.id).await?;
        self.release(&task).await
    }

    /// Says that it is still being worked on, if that was not said lately; answers whether it is
    /// still ours.
    async fn still_at(&self, action: &mut Action, bytes: &mut Vec<u8>) -> Result<bool, Refusal> {
        if action.worker_until_ms.saturating_sub(clock::now_ms()) > CLAIM_MS / 2 {
            return Ok(true);
        }
        self.progress(action, bytes).await
    }

    async fn progress(&self, action: &mut Action, bytes: &mut Vec<u8>) -> Result<bool, Refusal> {
        action.worker_until_ms = clock::now_ms().saturating_add(CLAIM_MS);
        // A lift is the one thing that somebody else changes meanwhile.
        for _ in 0..3 {
            if let Some(written) = self.write_action(action, Some(bytes)).await? {
                *bytes = written;
                return Ok(true);
            }
            match self.action(&action.name()).await? {
                Some((current, now)) if current.worker == action.worker => {
                    (action.lifted, *bytes) = (current.lifted, now)
                }
                Some(_) | None => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Leases whose task was killed and that are still there, and why the last one that failed did.
    async fn leases_killed_by(&self, wanted: &Wanted) -> Result<(u64, String), Refusal> {
        let mut left = Vec::new();
        self.each_lease(|lease| left.push((lease.record.task, lease.record.problem)))
            .await?;
        let (mut count, mut problem) = (0_u64, String::new());
        for (task, why) in left {
            let Some(task) = self.records.look_at_task(task).await? else {
                continue;
            };
            let (killed, _) = wanted.task(&*self.keeper.view()?, &task);
            if killed {
                count = count.saturating_add(1);
                if !why.is_empty() {
                    problem = why;
                }
            }
        }
        Ok((count, problem))
    }
}
