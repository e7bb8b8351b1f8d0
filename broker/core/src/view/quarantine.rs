//! The part of the view that says what a quarantine forbids.

use sundew_attestation::spiffe::SpiffeId;

use super::View;
use crate::selector::{Subject, audience_attributes, workload_attributes};
use crate::subject::{KnownTask, KnownToken};

impl View {
    /// Returns whether a quarantine forbids to begin this task or to issue anything in it. A
    /// quarantine of a task that it was delegated from counts too.
    #[must_use]
    pub fn is_quarantined(&self, task: &KnownTask) -> bool {
        self.rules.any_quarantine()
            && task
                .chain()
                .any(|each| self.rules.is_quarantined(&each.subject()))
    }

    /// Returns whether a quarantine forbids to mint this token.
    #[must_use]
    pub fn is_token_quarantined(&self, token: &KnownToken) -> bool {
        self.rules.any_quarantine()
            && (self.rules.is_quarantined(&token.subject()) || self.is_quarantined(token.task()))
    }

    /// Returns whether a quarantine forbids to issue a credential for these audiences to a workload
    /// outside any task. The credential would be issued at `now_ms`, in milliseconds since the
    /// epoch.
    #[must_use]
    pub fn is_workload_quarantined(
        &self,
        workload: &SpiffeId,
        audience: &[String],
        now_ms: i64,
    ) -> bool {
        self.rules.any_quarantine() && {
            let (task, own) = (workload_attributes(workload), audience_attributes(audience));
            self.rules.is_quarantined(&Subject {
                position: self.applied,
                issued_at_ms: now_ms,
                task: &task,
                own: &own,
            })
        }
    }
}
