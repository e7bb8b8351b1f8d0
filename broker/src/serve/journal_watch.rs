//! Looks after the journal: the alarms about its disk and its upkeep, and the counts of refusals.

use std::sync::Arc;
use std::time::Duration;

use super::gate::Gate;
use super::operations::{journal_line, upkeep_line};
use crate::clock;
use crate::journal::Journal;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// An alarm that goes on is repeated after so many looks.
const REPEAT_AFTER: u32 = 60;

/// An alarm in the broker's log.
struct Alarm {
    name: &'static str,
    /// What is said when it is over.
    over: &'static str,
    /// For how many looks it has gone on.
    looks: u32,
}

impl Alarm {
    fn look(&mut self, problem: Option<String>) {
        let Self { name, over, looks } = self;
        match problem {
            Some(problem) => {
                if looks.is_multiple_of(REPEAT_AFTER) {
                    tracing::error!(alarm = name, "{problem}");
                }
                *looks = looks.saturating_add(1);
            }
            None if *looks > 0 => {
                *looks = 0;
                tracing::info!(alarm = name, "{over}");
            }
            None => {}
        }
    }
}

/// Writes the counts of refusals when their window has ended, and says in the log when the journal
/// cannot take every record, or cannot end or archive its segments, and when it can again.
pub(super) async fn watch_journal(journal: Arc<Journal>, gate: Arc<Gate>) {
    let mut disk = Alarm {
        name: "journal",
        over: "journal: every record is written again",
        looks: 0,
    };
    let mut upkeep = Alarm {
        name: "journal_upkeep",
        over: "journal: segments end and go as they should again",
        looks: 0,
    };
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        gate.refusals.counts().write_ended(clock::now_ms());
        disk.look(journal_line(&journal));
        upkeep.look(upkeep_line(&journal));
    }
}
