//! `sundew journal`: reading and verifying a journal.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use sundew_broker::journal::{Record, read};

use crate::args::JournalCommand;
use crate::output::{Output, escape};
use crate::timestamp::format_timestamp;

pub(crate) fn journal(output: &Output, command: JournalCommand) -> Result<ExitCode> {
    match command {
        JournalCommand::Show { journal } => show(output, &journal),
        JournalCommand::Verify { journal } => verify(output, &journal),
    }
}

fn show(output: &Output, folder: &Path) -> Result<ExitCode> {
    read(folder, |record| {
        output.result(&record, || vec![record_line(&record)]);
    })?;
    Ok(ExitCode::SUCCESS)
}

fn verify(output: &Output, folder: &Path) -> Result<ExitCode> {
    let mut count = 0_u64;
    read(folder, |_| count = count.saturating_add(1))?;
    output.result(&json!({ "valid": true, "records": count }), || {
        vec![format!("{count} records; the chain holds")]
    });
    Ok(ExitCode::SUCCESS)
}

/// Returns one record as one line.
pub(crate) fn record_line(record: &Record) -> String {
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
