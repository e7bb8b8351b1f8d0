//! The clean-up after a revocation: counting what the revocation killed, taking that off the lists,
//! and seeing the leases go.
//!
//! None of this makes anything dead: the log does, at once. So it may be slow, and it goes on where
//! it was when its broker dies: an action is a document that one broker works on at a time (T55).
//! Counting comes before reaping, so that a count that was broken off can begin again and be right.

use std::sync::Arc;
use std::time::Duration;

use sundew_core::EntryId;

use super::Responses;
use super::action::Action;
use super::survey::{Survey, SurveyQuery};
use crate::clock;
use crate::journal;
use crate::refusal::Refusal;

/// How long a broker has an action to itself without a sign of life, in milliseconds.
const CLAIM_MS: i64 = 5_000;
/// How often actions are looked for that another broker left.
const ACTION_CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl Responses {
    /// Works on actions, for as long as it is polled.
    pub(crate) async fn clean_up(self: Arc<Self>, worker: String) {
        loop {
            if let Err(error) = self.clean_up_once(&worker).await {
                tracing::debug!(%error, "clean-up");
            }
            let _ = tokio::time::timeout(ACTION_CHECK_INTERVAL, self.new_action.notified()).await;
        }
    }

    /// Takes every action that is free as far as it can go now. A6: reads only those that may not be
    /// done.
    pub(super) async fn clean_up_once(self: &Arc<Self>, worker: &str) -> Result<(), Refusal> {
        self.note_pending().await?;
        self.search_actions().await?;
        for id in self.backlog.due() {
            if let Err(error) = self.look_at(id, worker).await {
                tracing::debug!(%error, "clean-up");
                self.backlog.rest(id);
            }
        }
        Ok(())
    }

    /// Takes the action that follows an entry as far as it can go now, unless another broker does.
    async fn look_at(self: &Arc<Self>, id: EntryId, worker: &str) -> Result<(), Refusal> {
        let Some((mut action, bytes)) = self.action(&super::name(&id)).await? else {
            return self.adopt(id).await;
        };
        if action.done {
            self.backlog.remove(id);
            return Ok(());
        }
        self.backlog.rest(id);
        let now_ms = clock::now_ms();
        let is_in_log = self.ledger.log.view()?.is_in_log(&action.entry);
        if !is_in_log && !action.planned_for.is_empty() && self.backlog.is_overdue(id) {
            // L5: whoever planned it has died.
            return self.put_planned_in_force(&action).await;
        }
        // An action whose entry is not in this broker's view yet has killed nothing that this
        // broker could count.
        if (action.worker_until_ms > now_ms && action.worker != worker) || !is_in_log {
            return Ok(());
        }
        (action.worker, action.worker_until_ms) =
            (worker.to_owned(), now_ms.saturating_add(CLAIM_MS));
        match self.write_action(&action, Some(&bytes)).await? {
            Some(bytes) => self.work_on(action, bytes).await,
            None => Ok(()),
        }
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
        if self.progress(&mut action, &mut bytes).await? && action.done {
            self.backlog.remove(action.entry);
        }
        Ok(())
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
            let tasks: Vec<_> = matches.into_iter().map(|found| found.task).collect();
            for task in &tasks {
                let record = journal::record("task_ended")
                    .with("task", task.id)
                    .with("workload", &task.workload)
                    .with("outcome", "revoked")
                    .with("actor", &action.actor)
                    .with("by", action.name());
                self.ledger.journal.note(record);
            }
            self.ledger.release_all(&tasks).await?;
            let reaped = u64::try_from(tasks.len()).unwrap_or(u64::MAX);
            action.reaped_tasks = action.reaped_tasks.saturating_add(reaped).min(action.tasks);
            if !self.still_at(action, bytes).await? {
                return Ok(false);
            }
        }
        (action.reaped, action.reaped_tasks) = (true, action.tasks);
        self.progress(action, bytes).await
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
            let Some(task) = self.ledger.records.look_at_readable_task(task).await? else {
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
