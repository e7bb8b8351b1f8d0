//! The one way in which a single task ends (P4).

use sundew_core::{Event, KnownTask, Outcome};

use crate::journal::{self, Record};
use crate::ledger::Ledger;
use crate::refusal::Refusal;

/// Ends a task, and answers the one outcome that the task has: `outcome`, or that of an earlier
/// ending. `actor` is who asked; `None` is the broker itself. L7: the view need not be
/// fresh.
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
