//! The clean-up after a revocation: counting what the revocation killed, taking that off the lists,
//! and seeing the leases go.
//!
//! None of this makes anything dead: the log does, at once. So it may be slow, and it goes on where
//! it was when its broker dies: an action is a document that one broker works on at a time (T55).
//! Counting comes before reaping, so that a count that was broken off can begin again and be right.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sundew_core::store::DocumentKind;
use sundew_core::{EntryId, Event, KnownTask, LogEntry, Selector};
use tokio::task::JoinSet;

use super::Responses;
use super::action::Action;
use super::survey::{Match, Survey, SurveyQuery};
use crate::clock;
use crate::journal;
use crate::refusal::Refusal;

/// How long a broker has an action to itself without a sign of life, in milliseconds.
const CLAIM_MS: i64 = 5_000;
/// How often actions are looked for that another broker left.
const ACTION_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Rules without an action that are taken up at a time.
const ADOPTED_TOGETHER: usize = 100;
/// How often rules are looked for that have no action.
const ADOPT_INTERVAL: Duration = Duration::from_secs(60);
/// Tasks reaped at a time: few, since calls are answered meanwhile.
const REAPED_TOGETHER: usize = 4;
/// Actions are kept this long after everything is done, in milliseconds.
const RETAIN_ACTION_MS: i64 = 24 * 3_600_000;

impl Responses {
    /// Works on actions, for as long as it is polled.
    pub(crate) async fn clean_up(self: Arc<Self>, worker: String) {
        let mut adopted: Option<Instant> = None;
        loop {
            let adopt = adopted.is_none_or(|at| clock::since(at) >= ADOPT_INTERVAL);
            match self.clean_up_once(&worker, adopt).await {
                Ok(()) if adopt => adopted = Some(clock::monotonic()),
                Ok(()) => {}
                Err(error) => tracing::debug!(%error, "clean-up"),
            }
            let _ = tokio::time::timeout(ACTION_CHECK_INTERVAL, self.new_action.notified()).await;
        }
    }

    /// Takes every action that is free as far as it can go now; with `adopt`, makes actions for
    /// rules that have none.
    async fn clean_up_once(self: &Arc<Self>, worker: &str, adopt: bool) -> Result<(), Refusal> {
        self.note_pending().await?;
        let now_ms = clock::now_ms();
        let mut known = HashSet::new();
        for (name, bytes) in self
            .ledger
            .records
            .store()
            .documents(DocumentKind::Response)
            .await?
        {
            let mut action = self.open_action(&name, &bytes)?;
            known.insert(action.entry);
            let stands = action.effect.quarantines() && !action.lifted;
            if action.done && !stands && action.at_ms.saturating_add(RETAIN_ACTION_MS) < now_ms {
                self.ledger
                    .records
                    .store()
                    .replace_document(DocumentKind::Response, &name, Some(&bytes), None)
                    .await?;
            }
            // An action whose entry is not in this broker's view yet has killed nothing that this
            // broker could count.
            if action.done
                || (action.worker_until_ms > now_ms && action.worker != worker)
                || !self.ledger.log.view()?.is_in_log(&action.entry)
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

    /// Makes actions for rules that have none: the broker that appended the rule died, or could not
    /// reach the store, just then.
    async fn adopt(&self, known: &HashSet<EntryId>) -> Result<(), Refusal> {
        let orphans: Vec<_> = {
            let view = self.ledger.log.view()?;
            let standing = view.active_rules();
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

    /// Takes an action as far as it can go now. Another broker may take it over at any step.
    async fn work_on(
        self: &Arc<Self>,
        mut action: Action,
        mut bytes: Vec<u8>,
    ) -> Result<(), Refusal> {
        let query = SurveyQuery {
            selector: Arc::new(action.selector.clone()),
            killed_by: Some(action.entry),
            at_ms: action.at_ms,
            whole: false,
        };
        let one_token = action.selector.token.is_some();
        if !action.counted && !self.count_killed(&mut action, &mut bytes, &query).await? {
            return Ok(());
        }
        if !action.reaped
            && !one_token
            && !self.reap_killed(&mut action, &mut bytes, &query).await?
        {
            return Ok(());
        }
        if action.leases_left > 0 {
            (action.leases_left, action.lease_problem) = self.leases_killed_by(&query).await?;
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

    /// Counts what the action's entry killed; answers whether the action is still this broker's.
    async fn count_killed(
        self: &Arc<Self>,
        action: &mut Action,
        bytes: &mut Vec<u8>,
        query: &SurveyQuery,
    ) -> Result<bool, Refusal> {
        let mut survey = Survey::new(self, query.clone()).await?;
        let (mut tasks, mut tokens, mut leases) = (0_u64, 0_u64, 0_u64);
        while let Some(matches) = survey.next().await? {
            for found in matches {
                tasks = tasks.saturating_add(u64::from(found.whole));
                tokens = tokens.saturating_add(found.tokens);
                leases = leases.saturating_add(found.leases);
            }
            // There is one token of a name.
            if action.selector.token.is_some() && tokens > 0 {
                break;
            }
            if !self.still_at(action, bytes).await? {
                return Ok(false);
            }
        }
        (action.tasks, action.tokens, action.counted) = (tasks, tokens, true);
        (action.leases, action.leases_left) = (leases, leases);
        self.progress(action, bytes).await
    }

    /// Takes the tasks that the action's entry killed off the lists; answers whether the action is
    /// still this broker's.
    async fn reap_killed(
        self: &Arc<Self>,
        action: &mut Action,
        bytes: &mut Vec<u8>,
        query: &SurveyQuery,
    ) -> Result<bool, Refusal> {
        let query = SurveyQuery {
            whole: true,
            ..query.clone()
        };
        let mut survey = Survey::new(self, query).await?;
        while let Some(matches) = survey.next().await? {
            let mut reaps = JoinSet::new();
            for Match { task, .. } in matches {
                let record = journal::record("task_ended")
                    .with("task", task.id)
                    .with("workload", &task.workload)
                    .with("outcome", "revoked")
                    .with("actor", &action.actor)
                    .with("by", action.name());
                self.ledger.journal.note(record);
                reaps.spawn(Arc::clone(self).reap(task));
                if reaps.len() >= REAPED_TOGETHER {
                    action.reaped(&mut reaps).await?;
                }
            }
            while action.reaped(&mut reaps).await? {}
            if !self.still_at(action, bytes).await? {
                return Ok(false);
            }
        }
        (action.reaped, action.reaped_tasks) = (true, action.tasks);
        self.progress(action, bytes).await
    }

    /// Removes a dead task's tokens, and then takes it off the lists: a clean-up that begins again
    /// looks there for what is left.
    async fn reap(self: Arc<Self>, task: Arc<KnownTask>) -> Result<(), Refusal> {
        self.ledger.records.store().reap_tokens(task.id).await?;
        self.ledger.release(&task).await
    }

    /// Renews the claim on the action when half of it is over; answers whether the action is still
    /// this broker's.
    async fn still_at(&self, action: &mut Action, bytes: &mut Vec<u8>) -> Result<bool, Refusal> {
        if action.worker_until_ms.saturating_sub(clock::now_ms()) > CLAIM_MS / 2 {
            return Ok(true);
        }
        self.progress(action, bytes).await
    }

    /// Writes how far the action is, and renews the claim on it; answers whether the action is
    /// still this broker's.
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

    /// Answers how many leases of killed tasks are still there, and why the last of them could not
    /// be removed.
    async fn leases_killed_by(&self, query: &SurveyQuery) -> Result<(u64, String), Refusal> {
        let mut left = Vec::new();
        self.leases
            .each_lease(|lease| left.push((lease.record.task, lease.record.problem)))
            .await?;
        let (mut count, mut problem) = (0_u64, String::new());
        for (task, why) in left {
            let Some(task) = self.ledger.records.look_at_task(task).await? else {
                continue;
            };
            let (killed, _) = query.task(&*self.ledger.log.view()?, &task);
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
