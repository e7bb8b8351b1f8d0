//! `sundew journal`: reading and verifying a journal.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use sundew_broker::journal::{Extent, Record, read_all};

use crate::args::JournalCommand;
use crate::output::{Output, escape};
use crate::timestamp::format_timestamp;

pub(crate) fn journal(output: &Output, command: JournalCommand) -> Result<ExitCode> {
    match command {
        JournalCommand::Show { folders } => show(output, &folders),
        JournalCommand::Verify { folders } => verify(output, &folders),
    }
}

fn show(output: &Output, folders: &[PathBuf]) -> Result<ExitCode> {
    read_all(folders, |record| {
        output.result(&record, || vec![record_line(&record)]);
    })?;
    Ok(ExitCode::SUCCESS)
}

fn verify(output: &Output, folders: &[PathBuf]) -> Result<ExitCode> {
    let extent = read_all(folders, drop)?;
    let Extent {
        records,
        first,
        last,
    } = extent;
    let answer = json!({
        "valid": true,
        "records": records,
        "first_segment": first,
        "last_segment": last,
    });
    output.result(&answer, || verified_lines(extent));
    Ok(ExitCode::SUCCESS)
}

/// Returns what was verified as lines.
fn verified_lines(extent: Extent) -> Vec<String> {
    let Extent {
        records,
        first,
        last,
    } = extent;
    let whole = format!("{records} records; the chain holds");
    match first.saturating_sub(1) {
        0 => vec![whole],
        before => vec![
            format!("{whole} from segment {first} to segment {last}"),
            format!(
                "not verified: segments 1 to {before}, which were archived or removed; name the folder that has them too"
            ),
        ],
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o1_what_is_missing_at_the_front_is_said() {
        let mut extent = Extent {
            records: 7,
            first: 1,
            last: 3,
        };
        assert_eq!(verified_lines(extent), ["7 records; the chain holds"]);
        extent.first = 3;
        let lines = verified_lines(extent);
        assert_eq!(
            lines[0],
            "7 records; the chain holds from segment 3 to segment 3"
        );
        assert!(lines[1].contains("segments 1 to 2"), "{lines:?}");
    }
}
