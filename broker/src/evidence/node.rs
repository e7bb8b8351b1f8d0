//! Nodes: workloads whose task lets them speak for the processes of their machine.

use sundew_core::{Denial, KnownTask, Scope};

use crate::ledger::Ledger;
use crate::refusal::Refusal;

/// The scope that a node's task must have.
const SERVE: &str = "node:serve";

/// Refuses unless the task is that of a node, usable, and covered by no quarantine.
pub(crate) fn require_serves(ledger: &Ledger, task: &KnownTask) -> Result<(), Refusal> {
    let scope = Scope::parse(SERVE).map_err(|e| Refusal::invalid("scopes", e))?;
    if !task.scopes.covers(&scope) {
        return Err(Denial::Scope.into());
    }
    ledger.require_issuable(task)
}
