//! A walk over tasks and tokens, in small steps: a preview counts what it finds, and a clean-up
//! works through it. The walk is over all tasks; where the selector names a workload or a task, it
//! is over the named tasks and those that were delegated from them.
//!
//! P12: one walk holds the names of the tasks it has seen (16 bytes each, since a page may repeat
//! some) and a bounded table of counts.

use std::collections::HashSet;
use std::sync::Arc;

use sundew_core::{EntryId, KnownTask, KnownToken, Liveness, Selector, TaskId, View};
use tokio::task::JoinSet;

use super::Responses;
use crate::refusal::Refusal;

/// Tasks that are looked at together.
const TASKS_TOGETHER: usize = 16;

/// The question that a survey answers. Without `killed_by`, it finds the tasks and tokens that are
/// alive and match the selector. With `killed_by`, it finds those that are dead and would be alive
/// without that entry of the log.
#[derive(Clone)]
pub(super) struct SurveyQuery {
    pub(super) selector: Arc<Selector>,
    pub(super) killed_by: Option<EntryId>,
    /// The time at which expiry is judged, in milliseconds since the epoch.
    pub(super) at_ms: i64,
    /// Whether only tasks are looked for that match as a whole; their tokens and leases are not
    /// counted then.
    pub(super) whole: bool,
}

/// A task that matches, as a whole or by some of its tokens.
pub(super) struct Match {
    pub(super) task: Arc<KnownTask>,
    /// Whether the task itself matches, and so everything in it.
    pub(super) whole: bool,
    /// The number of tokens of the task that match.
    pub(super) tokens: u64,
    /// The number of leases that the task has had.
    pub(super) leases: u64,
}

/// A walk that is under way.
pub(super) struct Survey {
    room: Arc<Responses>,
    query: SurveyQuery,
    /// The cursor of the next page of all tasks.
    from: u64,
    /// Tasks that were found and not looked at yet.
    left: Vec<TaskId>,
    /// Whether tasks that were delegated from a match are looked at too; a walk over everything
    /// comes to them by itself.
    follow: bool,
    seen: HashSet<TaskId>,
    /// Whether there are no more pages of tasks.
    ended: bool,
}

impl Survey {
    /// A walk at its beginning.
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

    /// The number of tasks that were looked at.
    pub(super) fn looked_at(&self) -> u64 {
        u64::try_from(self.seen.len().saturating_sub(self.left.len())).unwrap_or(u64::MAX)
    }

    /// Goes on with the walk. Answers the next few matches, which may be none; `None` is the end.
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
            .split_off(self.left.len().saturating_sub(TASKS_TOGETHER));
        let mut looks = JoinSet::new();
        for task in some {
            looks.spawn(look(Arc::clone(&self.room), self.query.clone(), task));
        }
        let mut matches = Vec::new();
        while let Some(look) = looks.join_next().await {
            matches.extend(look.map_err(|_| Refusal::Internal("a survey panicked"))??);
        }
        // What was delegated from a task ends with it, whatever workload it is of.
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
    /// Says whether a task matches as a whole, and whether tokens in it may match.
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

    /// Says whether a token matches; `whole` is whether its task does.
    fn token(&self, view: &View, token: &KnownToken, whole: bool) -> bool {
        view.token_liveness_without(token, self.at_ms, self.killed_by) == Liveness::Alive
            && match self.killed_by {
                None => whole || self.selector.matches(&token.subject()),
                Some(_) => view.token_liveness(token, self.at_ms) != Liveness::Alive,
            }
    }
}

/// Looks at one task and its tokens. Answers nothing if nothing matches, or if the task is
/// forgotten.
async fn look(
    room: Arc<Responses>,
    query: SurveyQuery,
    id: TaskId,
) -> Result<Option<Match>, Refusal> {
    let Some(task) = room.ledger.records.look_at_readable_task(id).await? else {
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
    // A page may repeat tokens of the page before, so names are counted once.
    let (mut tokens, mut from, mut seen) = (0_u64, 0, HashSet::new());
    loop {
        let page = room.ledger.records.store().tokens(id, from).await?;
        for (name, bytes) in page
            .tokens
            .into_iter()
            .filter(|(name, _)| seen.insert(*name))
        {
            let records = &room.ledger.records;
            let token = records.open_token(Arc::clone(&task), name, &bytes);
            let Some(token) = records.readable(id, token.map(Some))? else {
                continue;
            };
            let matched = query.token(&*room.ledger.log.view()?, &token, whole);
            tokens = tokens.saturating_add(u64::from(matched));
        }
        from = page.next;
        if from == 0 {
            break;
        }
        // A task with very many tokens must not hold up calls.
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
