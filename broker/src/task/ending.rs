//! The one way in which tasks end (P4): one at a time, or many together.

use std::sync::Arc;

use sundew_core::{Event, KnownTask, Outcome};

use crate::journal::{self, Record};
use crate::ledger::Ledger;
use crate::refusal::Refusal;

/// The most endings that wait together for one acknowledgement.
const ENDED_TOGETHER: usize = 4096;
/// The most ended tasks that are taken off the lists at a time.
const RELEASED_TOGETHER: usize = 64;

/// Ends a task, and answers the one outcome that the task has: `outcome`, or that of an earlier
/// ending. `actor` is who asked; `None` is the broker itself. L7: the view
/// need not be fresh.
pub(super) async fn end_task(
    ledger: &Ledger,
    task: &KnownTask,
    outcome: Outcome,
    actor: Option<&str>,
) -> Result<Outcome, Refusal> {
    let known = {
        let view = ledger.log.latest_view();
        view.outcome(task.id).zip(view.ended_by(task))
    };
    if let Some((ended, by)) = known {
        ledger.confirm(by).await?;
        return Ok(ended);
    }
    let (event, until_ms, record) = ending(task, outcome, actor);
    ledger.end(event, until_ms, record).await?;
    let ended = ledger.log.latest_view().outcome(task.id);
    if let Err(error) = ledger.release(task).await {
        tracing::debug!(%error, "an ended task stays on the lists until its deadline");
    }
    Ok(ended.unwrap_or(outcome))
}

/// L16: ends tasks as the broker itself, so that all of them wait together, and takes them off the
/// lists. A task that has ended before is only taken off the lists. An error says that some may not
/// have ended everywhere yet; to try again is harmless.
pub(super) async fn end_many(
    ledger: &Ledger,
    tasks: Vec<(Arc<KnownTask>, Outcome)>,
) -> Result<(), Refusal> {
    for some in tasks.chunks(ENDED_TOGETHER) {
        let endings: Vec<_> = {
            let view = ledger.log.latest_view();
            let alive = some
                .iter()
                .filter(|(task, _)| view.outcome(task.id).is_none());
            alive
                .map(|(task, outcome)| ending(task, *outcome, None))
                .collect()
        };
        ledger.end_all(endings).await?;
        for released in some.chunks(RELEASED_TOGETHER) {
            let released: Vec<_> = released.iter().map(|(task, _)| Arc::clone(task)).collect();
            if let Err(error) = ledger.release_all(&released).await {
                tracing::debug!(%error, "ended tasks stay on the lists until their deadline");
            }
        }
    }
    Ok(())
}

/// The ending of a task as the log has it, until when it is retained there, and its record.
fn ending(task: &KnownTask, outcome: Outcome, actor: Option<&str>) -> (Event, i64, Record) {
    let record = journal::record("task_ended")
        .with("task", task.id)
        .with("workload", &task.workload)
        .with("outcome", outcome.as_str())
        .with("actor", actor.unwrap_or("broker"));
    // A task may be ended after its deadline; brokers whose clocks are behind still know it then.
    let until_ms = Ledger::retain_until_ms(task).max(Ledger::retain_from_now_ms());
    let event = Event::Ended {
        task: task.id,
        outcome,
    };
    (event, until_ms, record)
}
