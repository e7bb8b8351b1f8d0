//! Looks after the journal: the alarm about its disk, and the counts of refusals.

use std::sync::Arc;
use std::time::Duration;

use super::gate::Gate;
use super::operations::journal_line;
use crate::clock;
use crate::journal::Journal;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// An alarm that goes on is repeated after so many looks.
const REPEAT_AFTER: u32 = 60;

/// Writes the counts of refusals when their window has ended, and says in the log when the journal
/// cannot take every record, and when it can again.
pub(super) async fn watch_journal(journal: Arc<Journal>, gate: Arc<Gate>) {
    let mut looks = 0_u32;
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        gate.refusals.counts().write_ended(clock::now_ms());
        match journal_line(&journal) {
            Some(problem) => {
                if looks.is_multiple_of(REPEAT_AFTER) {
                    tracing::error!(alarm = "journal", "{problem}");
                }
                looks = looks.saturating_add(1);
            }
            None if looks > 0 => {
                looks = 0;
                tracing::info!(alarm = "journal", "journal: every record is written again");
            }
            None => {}
        }
    }
}
