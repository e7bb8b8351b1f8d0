//! What incident responders do: see what a selector matches, kill it, keep it from coming back, and
//! see that it is gone.
//!
//! AC-49: a responder's calls need a line of the configuration and an SVID, never a token or a
//! task, so no rule can lock one out.

mod cleanup;
mod selector;
mod survey;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sundew_attestation::hex;
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{
    Credential, Effect, EntryId, Event, FOR_EVER_MS, LogEntry, Outcome, Position, Selector, TaskId,
};
use sundew_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

use crate::broker::{Broker, Role, idempotency_key};
use crate::clock;
use crate::journal;
use crate::liveness::Keeper;
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::registry::spiffe_id;
use cleanup::Action;
use survey::{Survey, Wanted};

/// Longest reason, in bytes.
const MAX_REASON: usize = 4096;
/// Most tasks or leases in one list.
const MAX_LISTED: usize = 1000;
/// Samples and workloads in a preview.
const SAMPLES: usize = 20;
const WORKLOADS: usize = 100;
/// Workloads counted one by one in a preview (P12).
const COUNTED: usize = 10_000;
/// How often a preview and a watch tell how far they are.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// Previews at a time: each is a walk over everything.
pub(crate) const PREVIEWS: usize = 2;

/// What a caller of a stream hears.
pub(crate) type Stream<T> = mpsc::Receiver<Result<T, Status>>;

fn name(id: &EntryId) -> String {
    format!("rev-{}", hex(&id.0))
}

fn entry_of(name: &str) -> Result<EntryId, Refusal> {
    let digits = name.strip_prefix("rev-").unwrap_or_default();
    let task = TaskId::parse(&format!("task-{digits}"))
        .map_err(|_| Refusal::invalid("revocation_id", "must be rev- and 32 hexadecimal digits"))?;
    Ok(EntryId(*task.as_bytes()))
}

fn reason_of(reason: String) -> Result<String, Refusal> {
    if reason.trim().is_empty() || reason.len() > MAX_REASON {
        return Err(Refusal::invalid(
            "reason",
            "is required, and at most 4096 bytes",
        ));
    }
    Ok(reason)
}

impl Broker {
    /// Puts a rule in force. What was never seen is remembered all the same (AC-48).
    pub(crate) async fn revoke(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::RevokeRequest,
    ) -> Result<v1::RevokeResponse, Refusal> {
        self.require(&peer, Role::Responder)?;
        let reason = reason_of(request.reason)?;
        let effect = selector::read_effect(request.effect)?;
        let of_credential = request
            .selector
            .as_ref()
            .and_then(|selector| Credential::parse(&selector.token))
            .map(|credential| credential.task());
        let selector = selector::read(request.selector, clock::now_ms())?;
        let key = idempotency_key(request.idempotency_key)?;
        let id = EntryId(self.root().derive_name(&[
            b"revoke",
            peer.id().as_str().as_bytes(),
            key.as_bytes(),
        ]));
        let (event, until_ms) = match (selector.only_task(), effect) {
            (Some(task), Effect::Revoke) => {
                let known = self.records.task(task).await?;
                let until_ms = known
                    .as_ref()
                    .map_or_else(|| self.remembered_until(), |task| Self::until_ms(task));
                (
                    Event::Ended {
                        task,
                        outcome: Outcome::Revoked,
                    },
                    until_ms,
                )
            }
            _ => (
                Event::Rule {
                    selector: Box::new(selector.clone()),
                    effect,
                },
                if effect.quarantines() {
                    FOR_EVER_MS
                } else {
                    self.remembered_until()
                },
            ),
        };
        let before = self
            .keeper
            .view()?
            .known(&id)
            .map(|(entry, _)| entry.event == event);
        let position = match before {
            Some(true) => self.keeper.confirm(id).await?,
            Some(false) => return Err(Refusal::Idempotency),
            None => {
                // A credential tells its task, and with it where to look for what it killed.
                let mut looked_for = selector.clone();
                looked_for.task = looked_for.task.or(of_credential);
                let action = Action::new(id, looked_for, effect, peer.id().to_string(), reason);
                self.put_in_force(
                    LogEntry {
                        id,
                        event,
                        until_ms,
                    },
                    &selector,
                    &action,
                )
                .await?
            }
        };
        Ok(v1::RevokeResponse {
            revocation_id: name(&id),
            position: position.0,
        })
    }

    /// Ends a quarantine (AC-4A).
    pub(crate) async fn lift(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::LiftRequest,
    ) -> Result<v1::LiftResponse, Refusal> {
        self.require(&peer, Role::Responder)?;
        let reason = reason_of(request.reason)?;
        let id = entry_of(&request.revocation_id)?;
        let known = self
            .keeper
            .view()?
            .standing()
            .into_iter()
            .any(|(_, entry, effect)| entry.id == id && effect.quarantines());
        let action = self.action(&request.revocation_id).await?;
        if !known && !action.as_ref().is_some_and(|(action, _)| action.lifted) {
            return Err(Refusal::invalid(
                "revocation_id",
                "is no quarantine that stands: `sundew revoke list` shows those that do",
            ));
        }
        if known {
            let record = journal::record("lifted")
                .with("actor", peer.id())
                .with("reason", reason)
                .with("target", &request.revocation_id);
            self.end(Event::Lifted(id), self.remembered_until(), record)
                .await?;
        }
        if let Some((mut action, mut bytes)) = action {
            while !action.lifted {
                action.lifted = true;
                if self.write_action(&action, Some(&bytes)).await?.is_some() {
                    break;
                }
                (action, bytes) = self
                    .action(&request.revocation_id)
                    .await?
                    .ok_or(Refusal::Absent("action"))?;
            }
        }
        Ok(v1::LiftResponse {})
    }

    /// Rules that stand.
    pub(crate) async fn list_rules(
        self: Arc<Self>,
        peer: Arc<Peer>,
        _: v1::ListRulesRequest,
    ) -> Result<v1::ListRulesResponse, Refusal> {
        self.require(&peer, Role::Responder)?;
        let view = self.keeper.view()?;
        let rule = |(position, entry, effect): (Position, &LogEntry, Effect)| {
            let Event::Rule { selector, .. } = &entry.event else {
                return None;
            };
            Some(v1::Rule {
                revocation_id: name(&entry.id),
                position: position.0,
                effect: selector::effect_message(effect).into(),
                selector: Some(selector::message(selector)),
                until_ms: if effect.quarantines() {
                    0
                } else {
                    entry.until_ms.min(FOR_EVER_MS)
                },
            })
        };
        Ok(v1::ListRulesResponse {
            rules: view.standing().into_iter().filter_map(rule).collect(),
        })
    }

    /// Says what a selector matches now. Changes nothing (AC-43).
    pub(crate) async fn preview(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::PreviewRequest,
    ) -> Result<Stream<v1::PreviewResponse>, Refusal> {
        self.require(&peer, Role::Responder)?;
        let selector = selector::read(request.selector, clock::now_ms())?;
        let place = Arc::clone(&self.previews)
            .try_acquire_owned()
            .map_err(|_| Refusal::RateLimit)?;
        let (answers, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let _place = place;
            if let Err(refusal) = self.count(selector, &answers).await {
                let status = self.refuse("Preview", Some(&peer), &refusal);
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(receiver)
    }

    async fn count(
        self: &Arc<Self>,
        selector: Selector,
        answers: &mpsc::Sender<Result<v1::PreviewResponse, Status>>,
    ) -> Result<(), Refusal> {
        let wanted = Wanted {
            selector: Arc::new(selector),
            killed_by: None,
            at_ms: clock::now_ms(),
            whole: false,
        };
        let mut survey = Survey::new(self, wanted).await?;
        let mut counts: HashMap<SpiffeId, (u64, u64)> = HashMap::new();
        let mut so_far = v1::PreviewResponse::default();
        let (mut samples, mut told) = (Vec::new(), clock::monotonic());
        while let Some(hits) = survey.next().await? {
            for hit in hits {
                let tasks = u64::from(hit.whole);
                so_far.tasks = so_far.tasks.saturating_add(tasks);
                so_far.tokens = so_far.tokens.saturating_add(hit.tokens);
                so_far.leases = so_far.leases.saturating_add(hit.leases);
                if counts.len() < COUNTED || counts.contains_key(&hit.task.workload) {
                    let count = counts.entry(hit.task.workload.clone()).or_default();
                    *count = (
                        count.0.saturating_add(tasks),
                        count.1.saturating_add(hit.tokens),
                    );
                } else {
                    so_far.other_workloads = so_far.other_workloads.saturating_add(1);
                }
                if samples.len() < SAMPLES {
                    samples.push(hit.task);
                }
            }
            so_far.looked_at = survey.looked_at();
            if clock::since(told) >= TELL_EVERY {
                told = clock::monotonic();
                if answers.send(Ok(so_far.clone())).await.is_err() {
                    return Ok(());
                }
            }
        }
        let mut workloads: Vec<_> = counts
            .into_iter()
            .map(|(id, (tasks, tokens))| v1::WorkloadCount {
                spiffe_id: id.to_string(),
                tasks,
                tokens,
            })
            .collect();
        workloads.sort_by(|a, b| {
            (b.tokens, b.tasks, &a.spiffe_id).cmp(&(a.tokens, a.tasks, &b.spiffe_id))
        });
        so_far.other_workloads = so_far
            .other_workloads
            .saturating_add(u64::try_from(workloads.len().saturating_sub(WORKLOADS)).unwrap_or(0));
        workloads.truncate(WORKLOADS);
        so_far.workloads = workloads;
        so_far.samples = samples
            .iter()
            .map(|task| self.task_message(task))
            .collect::<Result<_, _>>()?;
        so_far.done = true;
        let _ = answers.send(Ok(so_far)).await;
        Ok(())
    }

    /// How far the clean-up after a revocation is.
    pub(crate) async fn watch_revocation(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::WatchRevocationRequest,
    ) -> Result<Stream<v1::RevocationStatus>, Refusal> {
        self.require(&peer, Role::Responder)?;
        entry_of(&request.revocation_id)?;
        let (first, _) = self
            .action(&request.revocation_id)
            .await?
            .ok_or(Refusal::Absent("revocation"))?;
        let (answers, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut action = first;
            while answers.send(Ok(action.status())).await.is_ok() && request.follow && !action.done
            {
                tokio::time::sleep(TELL_EVERY).await;
                match self.action(&request.revocation_id).await {
                    Ok(Some((now, _))) => action = now,
                    Ok(None) => return,
                    Err(refusal) => {
                        let status = self.refuse("WatchRevocation", Some(&peer), &refusal);
                        let _ = answers.send(Err(status)).await;
                        return;
                    }
                }
            }
        });
        Ok(receiver)
    }

    /// Tasks that are on the lists.
    pub(crate) async fn list_tasks(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::ListTasksRequest,
    ) -> Result<v1::ListTasksResponse, Refusal> {
        self.require(&peer, Role::Responder)?;
        let limit = listed(request.limit)?;
        let workload = if request.spiffe_id.is_empty() {
            None
        } else {
            Some(spiffe_id(&request.spiffe_id)?)
        };
        let mut tasks = Vec::new();
        for id in self
            .records
            .store()
            .tasks(workload.as_ref().map(|id| id.as_str()), limit)
            .await?
        {
            if let Some(task) = self.records.task(id).await? {
                tasks.push(self.task_message(&task)?);
            }
        }
        Ok(v1::ListTasksResponse { tasks })
    }

    /// One task, for as long as its record is kept.
    pub(crate) async fn show_task(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::ShowTaskRequest,
    ) -> Result<v1::ShowTaskResponse, Refusal> {
        self.require(&peer, Role::Responder)?;
        let id = TaskId::parse(&request.task_id).map_err(|e| Refusal::invalid("task_id", e))?;
        let task = self
            .records
            .task(id)
            .await?
            .ok_or(Refusal::Absent("task"))?;
        Ok(v1::ShowTaskResponse {
            task: Some(self.task_message(&task)?),
        })
    }

    /// Credentials in other systems that are still to be removed.
    pub(crate) async fn list_leases(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::ListLeasesRequest,
    ) -> Result<v1::ListLeasesResponse, Refusal> {
        self.require(&peer, Role::Responder)?;
        let limit = listed(request.limit)?;
        let now_ms = clock::now_ms();
        let mut answer = v1::ListLeasesResponse::default();
        self.each_lease(|lease| {
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

    /// A rule that is the consequence of something else, such as the end of a registration. Answers
    /// its name.
    pub(crate) async fn revoke_for(
        &self,
        selector: Selector,
        actor: &SpiffeId,
        reason: &str,
    ) -> Result<String, Refusal> {
        let entry = Keeper::entry(
            Event::Rule {
                selector: Box::new(selector.clone()),
                effect: Effect::Revoke,
            },
            self.remembered_until(),
        )?;
        let action = Action::new(
            entry.id,
            selector.clone(),
            Effect::Revoke,
            actor.to_string(),
            reason.to_owned(),
        );
        let id = name(&entry.id);
        self.put_in_force(entry, &selector, &action).await?;
        Ok(id)
    }

    /// Notes the clean-up, puts the rule on the record, and appends it.
    async fn put_in_force(
        &self,
        entry: LogEntry,
        selector: &Selector,
        action: &Action,
    ) -> Result<Position, Refusal> {
        if let Err(error) = self.write_action(action, None).await {
            // The ending comes first; what follows it is adopted by whoever finds the rule.
            tracing::warn!(%error, "clean-up could not be noted");
        }
        let target = serde_json::to_string(selector).unwrap_or_default();
        let record = journal::record("revoked")
            .with("actor", &action.actor)
            .with("reason", &action.reason);
        let record = record
            .with("effect", action.effect.as_str())
            .with("target", target);
        let (_, position) = self.end_as(entry, record).await?;
        self.new_action.notify_one();
        Ok(position)
    }
}

fn listed(limit: u32) -> Result<usize, Refusal> {
    match usize::try_from(limit).unwrap_or(usize::MAX) {
        0 => Ok(100),
        limit if limit <= MAX_LISTED => Ok(limit),
        _ => Err(Refusal::invalid("limit", "at most 1000")),
    }
}
