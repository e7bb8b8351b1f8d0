//! Tasks as responders see them: lists of those that match, and one with all that belongs to it.

use std::sync::Arc;

use sundew_core::{KnownTask, KnownToken, Liveness, Outcome, Selector, TaskId, TokenBinding, View};
use sundew_proto::v1;
use tokio::task::JoinSet;

use super::list::listed;
use super::{Responses, selector};
use crate::clock;
use crate::refusal::Refusal;
use crate::role::{Operator, Responder};
use crate::wire::{outcome_message, spiffe_id, task_message};

/// Tasks that are looked at together.
const TASKS_TOGETHER: usize = 64;
/// Most tokens, leases or children of one task that are shown.
const MAX_SHOWN: usize = 100;

/// What a list of tasks is about.
struct Wanted {
    operator: Operator<Responder>,
    selector: Option<Selector>,
    state: v1::TaskState,
    begun_from_ms: i64,
}

impl Wanted {
    /// Says whether a task is to be listed, by its record and by how it is now.
    fn has(&self, view: &View, task: &KnownTask) -> bool {
        let is_alive = view.task_liveness(task, clock::now_ms()) == Liveness::Alive;
        let is_suspended = is_alive && view.is_suspended(task);
        let is_in_state = match self.state {
            v1::TaskState::Unspecified => is_alive,
            v1::TaskState::Alive => is_alive && !is_suspended,
            v1::TaskState::Suspended => is_suspended,
            v1::TaskState::Ended => !is_alive,
            v1::TaskState::Any => true,
        };
        is_in_state
            && task.created_at_ms >= self.begun_from_ms
            && self.operator.reaches_task(task)
            && self.selects(task)
    }

    fn selects(&self, task: &KnownTask) -> bool {
        let Some(selector) = &self.selector else {
            return true;
        };
        if selector.task_tree.is_some() {
            return task.chain().any(|each| selector.matches(&each.subject()));
        }
        selector.matches(&task.subject())
    }

    fn has_ended_ones(&self) -> bool {
        matches!(self.state, v1::TaskState::Any | v1::TaskState::Ended)
    }

    /// Says whether a task of which only its end is known is to be listed.
    fn has_mere_endings(&self) -> bool {
        self.has_ended_ones()
            && self.selector.is_none()
            && self.begun_from_ms == 0
            && self.operator.over_everything().is_ok()
    }
}

impl Responses {
    /// Lists tasks that match: those that have not ended, or also ended ones for as long as brokers
    /// know of them.
    pub(crate) async fn list_tasks(
        self: Arc<Self>,
        operator: Operator<Responder>,
        request: v1::ListTasksRequest,
    ) -> Result<v1::ListTasksResponse, Refusal> {
        let limit = listed(request.limit)?;
        let workload = match request.spiffe_id.as_str() {
            "" => None,
            id => Some(spiffe_id(id)?),
        };
        let state = v1::TaskState::try_from(request.state)
            .map_err(|_| Refusal::invalid("state", "is not one that this broker knows"))?;
        let selector = match request.selector {
            None => None,
            some => Some(selector::read(some, clock::now_ms())?),
        };
        let wanted = Wanted {
            operator,
            selector,
            state,
            begun_from_ms: request.begun_from_ms,
        };
        let mut tasks = Vec::new();
        let workload = workload.as_ref().map(|id| id.as_str());
        self.list_on_lists(workload, &wanted, limit, &mut tasks)
            .await?;
        if wanted.has_ended_ones() {
            self.list_ended(workload, &wanted, limit, &mut tasks)
                .await?;
        }
        let more = tasks.len() > limit;
        tasks.truncate(limit);
        Ok(v1::ListTasksResponse { tasks, more })
    }

    /// Adds tasks of the store's lists until there are more than `limit`.
    async fn list_on_lists(
        self: &Arc<Self>,
        workload: Option<&str>,
        wanted: &Wanted,
        limit: usize,
        tasks: &mut Vec<v1::Task>,
    ) -> Result<(), Refusal> {
        let store = self.ledger.records.store();
        if workload.is_some() {
            let all = store.tasks(workload, usize::MAX >> 1).await?;
            return self.add(&all, wanted, limit, tasks).await;
        }
        let mut from = 0;
        loop {
            let page = store.scan_tasks(from).await?;
            // A task may be on several pages.
            let is_new = |id: &&TaskId| !tasks.iter().any(|task| task.task_id == id.to_string());
            let new: Vec<_> = page.tasks.iter().filter(is_new).copied().collect();
            self.add(&new, wanted, limit, tasks).await?;
            from = page.next;
            if from == 0 || tasks.len() > limit {
                return Ok(());
            }
        }
    }

    /// Adds those of these tasks that are wanted, until there are more than `limit`.
    async fn add(
        self: &Arc<Self>,
        ids: &[TaskId],
        wanted: &Wanted,
        limit: usize,
        tasks: &mut Vec<v1::Task>,
    ) -> Result<(), Refusal> {
        for some in ids.chunks(TASKS_TOGETHER) {
            for task in self.look_at_each(some).await? {
                let view = self.ledger.log.view()?;
                if wanted.has(&view, &task) {
                    tasks.push(task_message(&view, &task));
                }
            }
            if tasks.len() > limit {
                break;
            }
        }
        Ok(())
    }

    /// Reads tasks together; those that are gone or do not open are left out.
    async fn look_at_each(
        self: &Arc<Self>,
        ids: &[TaskId],
    ) -> Result<Vec<Arc<KnownTask>>, Refusal> {
        let mut looks = JoinSet::new();
        for id in ids.iter().copied() {
            let records = Arc::clone(&self.ledger.records);
            looks.spawn(async move { records.look_at_readable_task(id).await });
        }
        let mut tasks = Vec::new();
        for look in looks.join_all().await {
            tasks.extend(look?);
        }
        Ok(tasks)
    }

    /// Adds tasks whose ending the log still has, and that are on no list any more.
    async fn list_ended(
        self: &Arc<Self>,
        workload: Option<&str>,
        wanted: &Wanted,
        limit: usize,
        tasks: &mut Vec<v1::Task>,
    ) -> Result<(), Refusal> {
        let ended: Vec<_> = self.ledger.log.view()?.ended_tasks().collect();
        for some in ended.chunks(TASKS_TOGETHER) {
            let ids: Vec<_> = some.iter().map(|(id, _)| *id).collect();
            let known = self.look_at_each(&ids).await?;
            for (id, outcome) in some {
                if tasks.iter().any(|task| task.task_id == id.to_string()) {
                    continue;
                }
                match known.iter().find(|task| task.id == *id) {
                    Some(task) => {
                        let of_it = workload.is_none_or(|only| task.workload.as_str() == only);
                        let view = self.ledger.log.view()?;
                        if of_it && wanted.has(&view, task) {
                            tasks.push(task_message(&view, task));
                        }
                    }
                    None if workload.is_none() && wanted.has_mere_endings() => {
                        tasks.push(mere_ending(*id, *outcome));
                    }
                    None => {}
                }
            }
            if tasks.len() > limit {
                break;
            }
        }
        Ok(())
    }

    /// Shows a task with what belongs to it, for as long as anything is known of it.
    pub(crate) async fn show_task(
        self: Arc<Self>,
        operator: Operator<Responder>,
        request: v1::ShowTaskRequest,
    ) -> Result<v1::ShowTaskResponse, Refusal> {
        let id = TaskId::parse(&request.task_id).map_err(|e| Refusal::invalid("task_id", e))?;
        let records = &self.ledger.records;
        let Some(task) = records.look_at_task(id).await? else {
            let outcome = self.ledger.log.view()?.outcome(id);
            let outcome = outcome.ok_or(Refusal::NotFound("task"))?;
            // Nobody knows any more of whom it was.
            let within = operator.over_everything();
            let _ = within.map_err(|refusal| refusal.out_of_sight("task"))?;
            return Ok(v1::ShowTaskResponse {
                task: Some(mere_ending(id, outcome)),
                ..v1::ShowTaskResponse::default()
            });
        };
        let _ = operator.over_task(&task)?;
        let mut leases = Vec::new();
        self.leases
            .each_lease(|lease| {
                if lease.record.task == id && leases.len() < MAX_SHOWN {
                    leases.push(lease.message());
                }
            })
            .await?;
        let store = records.store();
        let below = store.tasks(Some(&id.to_string()), MAX_SHOWN).await?;
        let below = self.look_at_each(&below).await?;
        let leases_had = store.leases_had(id).await?;
        let tokens = self.tokens_of(&task).await?;
        let view = self.ledger.log.view()?;
        Ok(v1::ShowTaskResponse {
            task: Some(task_message(&view, &task)),
            claims: task.claims.clone(),
            evidence: task.evidence.clone(),
            svid_serial: sundew_attestation::hex(&task.svid_serial),
            certificate_sha256: sundew_attestation::hex(&task.certificate),
            tokens: tokens.iter().map(|token| info(&view, token)).collect(),
            leases,
            leases_had,
            children: below.iter().map(|task| task_message(&view, task)).collect(),
        })
    }

    /// Returns some of the tokens of a task; those that do not open are left out.
    async fn tokens_of(&self, task: &Arc<KnownTask>) -> Result<Vec<KnownToken>, Refusal> {
        let records = &self.ledger.records;
        let (mut tokens, mut from) = (Vec::new(), 0);
        loop {
            let page = records.store().tokens(task.id, from).await?;
            for (id, bytes) in page.tokens {
                let token = records.open_token(Arc::clone(task), id, &bytes);
                tokens.extend(records.readable(task.id, token.map(Some))?);
            }
            from = page.next;
            if from == 0 || tokens.len() >= MAX_SHOWN {
                tokens.truncate(MAX_SHOWN);
                return Ok(tokens);
            }
        }
    }
}

/// A task of which only its end is known.
fn mere_ending(id: TaskId, outcome: Outcome) -> v1::Task {
    v1::Task {
        task_id: id.to_string(),
        outcome: outcome_message(outcome).into(),
        ..v1::Task::default()
    }
}

fn info(view: &View, token: &KnownToken) -> v1::TokenInfo {
    let liveness = view.token_liveness(token, clock::now_ms());
    v1::TokenInfo {
        token_id: token.id().to_string(),
        scopes: token.scopes.to_strings(),
        audience: token.audience.clone(),
        expires_at_ms: token.expires_at_ms,
        bearer: token.binding == TokenBinding::Bearer,
        active: liveness == Liveness::Alive,
    }
}
