//! Counts what a selector matches now, by a walk that changes nothing (AC-43).

use std::collections::HashMap;
use std::sync::Arc;

use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{KnownTask, Selector};
use sundew_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

use super::survey::{Match, Survey, SurveyQuery};
use super::{Responses, Stream, TELL_INTERVAL, selector};
use crate::clock;
use crate::refusal::Refusal;
use crate::role::{Operator, Responder};
use crate::wire::task_message;

/// Most sample tasks in a preview.
const MAX_SAMPLES: usize = 20;
/// Most workloads that a preview names.
const MAX_WORKLOADS: usize = 100;
/// Most workloads that a preview counts one by one (P12).
const MAX_COUNTED_WORKLOADS: usize = 10_000;

/// The counts of a preview so far.
#[derive(Default)]
struct Tally {
    answer: v1::PreviewResponse,
    /// Tasks and tokens by workload.
    by_workload: HashMap<SpiffeId, (u64, u64)>,
    samples: Vec<Arc<KnownTask>>,
}

impl Tally {
    /// Counts a match.
    fn add(&mut self, found: Match) {
        let tasks = u64::from(found.whole);
        let answer = &mut self.answer;
        answer.tasks = answer.tasks.saturating_add(tasks);
        answer.tokens = answer.tokens.saturating_add(found.tokens);
        answer.leases = answer.leases.saturating_add(found.leases);
        let workload = &found.task.workload;
        if self.by_workload.len() < MAX_COUNTED_WORKLOADS || self.by_workload.contains_key(workload)
        {
            let count = self.by_workload.entry(workload.clone()).or_default();
            *count = (
                count.0.saturating_add(tasks),
                count.1.saturating_add(found.tokens),
            );
        } else {
            answer.other_workloads = answer.other_workloads.saturating_add(1);
        }
        if self.samples.len() < MAX_SAMPLES {
            self.samples.push(found.task);
        }
    }

    /// Makes the answer's list of workloads: those with the most tokens first, the rest as a
    /// number.
    fn finish_workloads(&mut self) {
        let mut workloads: Vec<_> = self
            .by_workload
            .drain()
            .map(|(id, (tasks, tokens))| v1::WorkloadCount {
                spiffe_id: id.to_string(),
                tasks,
                tokens,
            })
            .collect();
        workloads.sort_by(|a, b| {
            (b.tokens, b.tasks, &a.spiffe_id).cmp(&(a.tokens, a.tasks, &b.spiffe_id))
        });
        let left_out = workloads.len().saturating_sub(MAX_WORKLOADS);
        self.answer.other_workloads = self
            .answer
            .other_workloads
            .saturating_add(u64::try_from(left_out).unwrap_or(0));
        workloads.truncate(MAX_WORKLOADS);
        self.answer.workloads = workloads;
    }
}

impl Responses {
    /// Streams how much a selector matches now. Changes nothing (AC-43).
    pub(crate) async fn preview(
        self: Arc<Self>,
        operator: Operator<Responder>,
        request: v1::PreviewRequest,
    ) -> Result<Stream<v1::PreviewResponse>, Refusal> {
        let selector = selector::read(request.selector, clock::now_ms())?;
        let _ = self.within(&operator, &selector).await?;
        let permit = Arc::clone(&self.preview_permits)
            .try_acquire_owned()
            .map_err(|_| Refusal::RateLimit)?;
        let (answers, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(refusal) = self.count(selector, &answers).await {
                let status = self
                    .refusals
                    .refuse("Preview", Some(operator.peer()), &refusal);
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(receiver)
    }

    /// Counts what matches, and sends the counts now and then; the last message is marked as done.
    async fn count(
        self: &Arc<Self>,
        selector: Selector,
        answers: &mpsc::Sender<Result<v1::PreviewResponse, Status>>,
    ) -> Result<(), Refusal> {
        let query = SurveyQuery {
            selector: Arc::new(selector),
            killed_by: None,
            at_ms: clock::now_ms(),
            whole: false,
        };
        let mut survey = Survey::new(self, query).await?;
        let mut tally = Tally::default();
        let mut told = clock::monotonic();
        while let Some(matches) = survey.next().await? {
            for found in matches {
                tally.add(found);
            }
            tally.answer.looked_at = survey.looked_at();
            if clock::since(told) >= TELL_INTERVAL {
                told = clock::monotonic();
                if answers.send(Ok(tally.answer.clone())).await.is_err() {
                    return Ok(());
                }
            }
        }
        tally.finish_workloads();
        let mut answer = tally.answer;
        for task in &tally.samples {
            let view = self.ledger.log.view()?;
            answer.samples.push(task_message(&view, task));
        }
        answer.done = true;
        let _ = answers.send(Ok(answer)).await;
        Ok(())
    }
}
