//! The one way in which a single task ends (P4).

use sundew_core::{Event, KnownTask, Outcome};

use crate::journal;
use crate::ledger::Ledger;
use crate::refusal::Refusal;

/// Ends a task, and answers the one outcome that the task has: `outcome`, or that of an earlier
/// ending. `actor` is who asked; `None` is the broker itself.
pub(super) async fn end_task(
    ledger: &Ledger,
    task: &KnownTask,
    outcome: Outcome,
    actor: Option<&str>,
) -> Result<Outcome, Refusal> {
    let known = {
        let view = ledger.log.view()?;
        view.outcome(task.id).zip(view.ended_by(task))
    };
    if let Some((ended, by)) = known {
        ledger.log.confirm(by).await?;
        return Ok(ended);
    }
    let audit = journal::record("task_ended")
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
    ledger.end(event, until_ms, audit).await?;
    let ended = ledger.log.view()?.outcome(task.id).unwrap_or(outcome);
    if let Err(error) = ledger.release(task).await {
        tracing::debug!(%error, "an ended task stays on the lists until its deadline");
    }
    Ok(ended)
}
