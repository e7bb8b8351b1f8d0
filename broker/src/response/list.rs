//! Lists for responders: tasks, leases, and how far a clean-up is.

use std::sync::Arc;

use sundew_core::TaskId;
use sundew_proto::v1;
use tokio::sync::mpsc;

use super::{Responses, Stream, TELL_INTERVAL, entry_of};
use crate::clock;
use crate::refusal::Refusal;
use crate::role::{Operator, Responder};
use crate::wire::{spiffe_id, task_message};

/// Most tasks or leases in one list.
const MAX_LISTED: usize = 1000;
/// Tasks or leases in a list whose caller names no limit.
const DEFAULT_LISTED: usize = 100;

impl Responses {
    /// Streams how far the clean-up after a revocation is.
    pub(crate) async fn watch_revocation(
        self: Arc<Self>,
        operator: Operator<Responder>,
        request: v1::WatchRevocationRequest,
    ) -> Result<Stream<v1::RevocationStatus>, Refusal> {
        entry_of(&request.revocation_id)?;
        let (first, _) = self
            .action(&request.revocation_id)
            .await?
            .ok_or(Refusal::NotFound("revocation"))?;
        let (answers, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut action = first;
            while answers.send(Ok(action.status())).await.is_ok() && request.follow && !action.done
            {
                tokio::time::sleep(TELL_INTERVAL).await;
                match self.action(&request.revocation_id).await {
                    Ok(Some((now, _))) => action = now,
                    Ok(None) => return,
                    Err(refusal) => {
                        let status = self.refusals.refuse(
                            "WatchRevocation",
                            Some(operator.peer()),
                            &refusal,
                        );
                        let _ = answers.send(Err(status)).await;
                        return;
                    }
                }
            }
        });
        Ok(receiver)
    }

    /// Lists the tasks that have not ended, of one workload or of all.
    pub(crate) async fn list_tasks(
        self: Arc<Self>,
        _: Operator<Responder>,
        request: v1::ListTasksRequest,
    ) -> Result<v1::ListTasksResponse, Refusal> {
        let limit = listed(request.limit)?;
        let workload = if request.spiffe_id.is_empty() {
            None
        } else {
            Some(spiffe_id(&request.spiffe_id)?)
        };
        let mut tasks = Vec::new();
        for id in self
            .ledger
            .records
            .store()
            .tasks(workload.as_ref().map(|id| id.as_str()), limit)
            .await?
        {
            if let Some(task) = self.ledger.records.readable_task(id).await? {
                tasks.push(task_message(&*self.ledger.log.view()?, &task));
            }
        }
        Ok(v1::ListTasksResponse { tasks })
    }

    /// Shows a task, for as long as its record is kept.
    pub(crate) async fn show_task(
        self: Arc<Self>,
        _: Operator<Responder>,
        request: v1::ShowTaskRequest,
    ) -> Result<v1::ShowTaskResponse, Refusal> {
        let id = TaskId::parse(&request.task_id).map_err(|e| Refusal::invalid("task_id", e))?;
        let task = self
            .ledger
            .records
            .task(id)
            .await?
            .ok_or(Refusal::NotFound("task"))?;
        Ok(v1::ShowTaskResponse {
            task: Some(task_message(&*self.ledger.log.view()?, &task)),
        })
    }

    /// Lists the credentials in other systems that are still there, those that are due first.
    pub(crate) async fn list_leases(
        self: Arc<Self>,
        _: Operator<Responder>,
        request: v1::ListLeasesRequest,
    ) -> Result<v1::ListLeasesResponse, Refusal> {
        let limit = listed(request.limit)?;
        let now_ms = clock::now_ms();
        let mut answer = v1::ListLeasesResponse::default();
        self.leases
            .each_lease(|lease| {
                if !request.engine.is_empty() && lease.record.engine != request.engine {
                    return;
                }
                let due = lease.record.is_being_removed(lease.due_ms, now_ms);
                answer.total = answer.total.saturating_add(1);
                answer.total_due = answer.total_due.saturating_add(u64::from(due));
                if answer.leases.len() < limit && (due || !request.due) {
                    answer.leases.push(lease.message());
                }
            })
            .await?;
        answer.leases.sort_by_key(|lease| lease.due_ms);
        Ok(answer)
    }
}

/// Reads the field `limit`; 0 asks for nothing in particular.
fn listed(limit: u32) -> Result<usize, Refusal> {
    match usize::try_from(limit).unwrap_or(usize::MAX) {
        0 => Ok(DEFAULT_LISTED),
        limit if limit <= MAX_LISTED => Ok(limit),
        _ => Err(Refusal::invalid("limit", "at most 1000")),
    }
}
