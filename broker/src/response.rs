//! What incident responders do: revoke a token, a task, or everything of a workload, and look at tasks.

use std::sync::Arc;

use sundew_core::{Credential, EntryId, Event, LogEntry, Outcome, Selector, TaskId, TokenId};
use sundew_proto::v1;
use v1::revoke_request::Target;

use crate::broker::{Broker, Role, idempotency_key};
use crate::journal;
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::registry::spiffe_id;

/// Longest reason, in bytes.
const MAX_REASON: usize = 4096;
/// Most tasks in one list.
const MAX_LISTED: usize = 1000;

impl Broker {
    /// Kills what the target says. What was never seen is remembered all the same (AC-48).
    pub(crate) async fn revoke(self: Arc<Self>, peer: Arc<Peer>, request: v1::RevokeRequest) -> Result<v1::RevokeResponse, Refusal> {
        self.require(&peer, Role::Responder)?;
        if request.reason.trim().is_empty() || request.reason.len() > MAX_REASON {
            return Err(Refusal::invalid("reason", "is required, and at most 4096 bytes"));
        }
        let key = idempotency_key(request.idempotency_key)?;
        let mut id = EntryId::default();
        id.0.iter_mut().zip(self.root().derive(&[b"revoke", peer.id().as_str().as_bytes(), key.as_bytes()])).for_each(|(to, from)| *to = from);
        let record = journal::record("revoked").with("actor", peer.id()).with("reason", &request.reason);
        let mut ended = None;
        let (event, until_ms, target, tasks) = match request.target.ok_or(Refusal::invalid("target", "is required"))? {
            Target::Token(text) => {
                let id = match Credential::parse(&text) {
                    Some(credential) => credential.hash().token_id(),
                    None => TokenId::parse(&text).map_err(|_| Refusal::invalid("token", "must be a token, or a token id"))?,
                };
                (Event::Rule(Selector::Token(id)), self.remembered_until(), id.to_string(), 0)
            }
            Target::TaskId(text) => {
                let id = TaskId::parse(&text).map_err(|e| Refusal::invalid("task_id", e))?;
                let known = self.records.task(id).await?;
                let until_ms = known.as_ref().map_or_else(|| self.remembered_until(), |task| Self::until_ms(task));
                let count = u64::from(known.is_some());
                ended = known;
                (Event::Ended { task: id, outcome: Outcome::Revoked }, until_ms, id.to_string(), count)
            }
            Target::Workload(text) => {
                let id = spiffe_id(&text)?;
                let tasks = self.records.store().tasks(Some(id.as_str()), usize::MAX >> 1).await?;
                let tasks = u64::try_from(tasks.len()).unwrap_or(u64::MAX);
                (Event::Rule(Selector::Workload(id.clone())), self.remembered_until(), id.to_string(), tasks)
            }
        };
        let revocation_id = format!("rev-{}", crate::task::hex(&id.0));
        let before = self.keeper.view()?.entry(&id).map(|(position, entry)| (position, entry.event == event));
        let position = match before {
            Some((position, true)) => position,
            Some((_, false)) => return Err(Refusal::Idempotency),
            None => self.end_as(LogEntry { id, event, until_ms }, record.with("target", target)).await?.1,
        };
        if let Some(task) = ended {
            // After its ending holds: a task that lives must stay on the attendance list.
            self.records.store().release_task(task.record.workload.as_str(), task.record.id).await?;
        }
        Ok(v1::RevokeResponse { revocation_id, position: position.0, tasks })
    }

    /// Tasks that are on the lists.
    pub(crate) async fn list_tasks(self: Arc<Self>, peer: Arc<Peer>, request: v1::ListTasksRequest) -> Result<v1::ListTasksResponse, Refusal> {
        self.require(&peer, Role::Responder)?;
        let limit = match usize::try_from(request.limit).unwrap_or(usize::MAX) {
            0 => 100,
            limit if limit <= MAX_LISTED => limit,
            _ => return Err(Refusal::invalid("limit", "at most 1000")),
        };
        let workload = if request.spiffe_id.is_empty() { None } else { Some(spiffe_id(&request.spiffe_id)?) };
        let mut tasks = Vec::new();
        for id in self.records.store().tasks(workload.as_ref().map(|id| id.as_str()), limit).await? {
            if let Some(task) = self.records.task(id).await? {
                tasks.push(self.task_message(&task.record)?);
            }
        }
        Ok(v1::ListTasksResponse { tasks })
    }

    /// One task, for as long as its record is kept.
    pub(crate) async fn show_task(self: Arc<Self>, peer: Arc<Peer>, request: v1::ShowTaskRequest) -> Result<v1::ShowTaskResponse, Refusal> {
        self.require(&peer, Role::Responder)?;
        let id = TaskId::parse(&request.task_id).map_err(|e| Refusal::invalid("task_id", e))?;
        let task = self.records.task(id).await?.ok_or(Refusal::Absent("task"))?;
        Ok(v1::ShowTaskResponse { task: Some(self.task_message(&task.record)?) })
    }
}
