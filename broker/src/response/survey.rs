//! A walk over live tasks and tokens, in small steps: what a preview counts and what a clean-up
//! works through. Over all of them, or where the selector names a workload or a task, over those
//! and what was delegated from them.
//!
//! P12: one walk holds the names of the tasks it has seen (16 bytes each, since a page may repeat
//! some) and a bounded table of counts.

use std::collections::HashSet;
use std::sync::Arc;

use sundew_core::{EntryId, KnownTask, KnownToken, Liveness, Selector, TaskId, View};
use tokio::task::JoinSet;

use super::Responses;
use crate::refusal::Refusal;

/// Tasks looked at together.
const TOGETHER: usize = 16;

/// What is looked for: what matches the selector, alive, or killed by this entry: dead, and alive
/// if it were not for it.
#[derive(Clone)]
pub(super) struct SurveyQuery {
    pub(super) selector: Arc<Selector>,
    pub(super) killed_by: Option<EntryId>,
    /// Times are looked at as of then, in milliseconds since the epoch.
    pub(super) at_ms: i64,
    /// Only tasks that are query as a whole, and nothing that is in them is counted.
    pub(super) whole: bool,
}

/// A task of which something is query.
pub(super) struct Match {
    pub(super) task: Arc<KnownTask>,
    /// Whether the task itself is, and so everything in it.
    pub(super) whole: bool,
    /// How many of its live tokens are.
    pub(super) tokens: u64,
    /// How many credentials in other systems it has had.
    pub(super) leases: u64,
}

/// The walk.
pub(super) struct Survey {
    room: Arc<Responses>,
    query: SurveyQuery,
    /// Whether there are pages of all tasks to come, and from where.
    from: u64,
    left: Vec<TaskId>,
    /// What was delegated from a hit is looked at too; a walk over everything comes to it by
    /// itself.
    follow: bool,
    seen: HashSet<TaskId>,
    ended: bool,
}

impl Survey {
    /// From the beginning.
    pub(super) async fn new(room: &Arc<Responses>, query: SurveyQuery) -> Result<Self, Refusal> {
        let (store, selector) = (room.ledger.records.store(), &query.selector);
        let some = match (selector.task.or(selector.task_tree), &selector.workload) {
            (Some(task), _) => Some(vec![task]),
            (None, Some(workload)) => Some(
                store
                    .tasks(Some(workload.as_str()), usize::MAX >> 1)
                    .await?,
            ),
            (None, None) => None,
        };
        let follow = some.is_some();
        let left = some.unwrap_or_default();
        let seen = left.iter().copied().collect();
        Ok(Self {
            room: Arc::clone(room),
            query,
            from: 0,
            left,
            follow,
            seen,
            ended: follow,
        })
    }

    /// How many tasks were looked at.
    pub(super) fn looked_at(&self) -> u64 {
        u64::try_from(self.seen.len().saturating_sub(self.left.len())).unwrap_or(u64::MAX)
    }

    /// The next few matches; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Match>>, Refusal> {
        while self.left.is_empty() {
            if self.ended {
                return Ok(None);
            }
            let page = self
                .room
                .ledger
                .records
                .store()
                .scan_tasks(self.from)
                .await?;
            (self.from, self.ended) = (page.next, page.next == 0);
            self.left.extend(
                page.tasks
                    .into_iter()
                    .filter(|task| self.seen.insert(*task)),
            );
        }
        let some = self
            .left
            .split_off(self.left.len().saturating_sub(TOGETHER));
        let mut looks = JoinSet::new();
        for task in some {
            looks.spawn(look(Arc::clone(&self.room), self.query.clone(), task));
        }
        let mut matches = Vec::new();
        while let Some(look) = looks.join_next().await {
            matches.extend(look.map_err(|_| Refusal::Internal("a survey panicked"))??);
        }
        if self.follow {
            for found in matches.iter().filter(|found| found.whole) {
                let children = self
                    .room
                    .ledger
                    .records
                    .store()
                    .tasks(Some(&found.task.id.to_string()), usize::MAX >> 1)
                    .await?;
                self.left
                    .extend(children.into_iter().filter(|task| self.seen.insert(*task)));
            }
        }
        Ok(Some(matches))
    }
}

impl SurveyQuery {
    /// Whether a task as a whole is query, and whether tokens in it may be.
    pub(super) fn task(&self, view: &View, task: &KnownTask) -> (bool, bool) {
        if view.task_liveness_without(task, self.at_ms, self.killed_by) != Liveness::Alive {
            return (false, false);
        }
        let whole = match self.killed_by {
            None => task
                .chain()
                .any(|each| self.selector.matches(&each.subject())),
            Some(_) => view.task_liveness(task, self.at_ms) != Liveness::Alive,
        };
        // A token whose task lives is killed by what is about tokens only.
        (whole, whole || self.selector.is_about_tokens())
    }

    fn token(&self, view: &View, token: &KnownToken, whole: bool) -> bool {
        view.token_liveness_without(token, self.at_ms, self.killed_by) == Liveness::Alive
            && match self.killed_by {
                None => whole || self.selector.matches(&token.subject()),
                Some(_) => view.token_liveness(token, self.at_ms) != Liveness::Alive,
            }
    }
}

async fn look(
    room: Arc<Responses>,
    query: SurveyQuery,
    id: TaskId,
) -> Result<Option<Match>, Refusal> {
    let Some(task) = room.ledger.records.look_at_task(id).await? else {
        return Ok(None);
    };
    let (whole, inside) = query.task(&*room.ledger.log.view()?, &task);
    if !inside {
        return Ok(None);
    }
    if query.whole {
        return Ok(whole.then_some(Match {
            task,
            whole,
            tokens: 0,
            leases: 0,
        }));
    }
    let (mut tokens, mut from, mut seen) = (0_u64, 0, HashSet::new());
    loop {
        let page = room.ledger.records.store().tokens(id, from).await?;
        for (name, bytes) in page
            .tokens
            .into_iter()
            .filter(|(name, _)| seen.insert(*name))
        {
            let token = room
                .ledger
                .records
                .open_token(Arc::clone(&task), name, &bytes)?;
            let matched = query.token(&*room.ledger.log.view()?, &token, whole);
            tokens = tokens.saturating_add(u64::from(matched));
        }
        from = page.next;
        if from == 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    let leases = if whole && !room.leases.engines().is_empty() {
        room.ledger.records.store().leases_had(id).await?
    } else {
        0
    };
    Ok((whole || tokens > 0).then_some(Match {
        task,
        whole,
        tokens,
        leases,
    }))
}
