//! Reading and verifying a journal.

use anyhow::Result;
use sundew_broker::journal::{Record, read};

use crate::args::JournalCommand;
use crate::output::{Output, escape};
use crate::timestamp::format_timestamp;

pub(crate) fn journal(output: &Output, command: JournalCommand) -> Result<()> {
    match command {
        JournalCommand::Show { journal } => Ok(read(&journal, |record| {
            output.result(&record, || vec![line(&record)])
        })?),
        JournalCommand::Verify { journal } => {
            let mut count = 0_u64;
            read(&journal, |_| count = count.saturating_add(1))?;
            output.result(
                &serde_json::json!({ "valid": true, "records": count }),
                || vec![format!("{count} records; the chain holds")],
            );
            Ok(())
        }
    }
}

/// One record as one line.
pub(crate) fn line(record: &Record) -> String {
    let fields: Vec<_> = record
        .fields
        .iter()
        .filter(|(name, _)| name != "entry")
        .map(|(name, value)| format!("{name}={}", escape(value, 100)))
        .collect();
    format!(
        "{} {:<14} {}",
        format_timestamp(record.at_ms),
        record.event,
        fields.join(" ")
    )
}
