//! `sundew journal`: reading and verifying a journal.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::Value;
use sundew_broker::journal::{Extent, Record, read_all};

use crate::args::JournalCommand;
use crate::output::{Output, View, escape};
use crate::timestamp::format_timestamp;

/// The member of a record that has an entry of the revocation log, for a broker that starts.
const ENTRY: &str = "entry";

pub(crate) fn journal(output: &Output, command: JournalCommand) -> Result<ExitCode> {
    match command {
        JournalCommand::Show { folders } => show(output, &folders),
        JournalCommand::Verify { folders } => verify(output, &folders),
    }
}

fn show(output: &Output, folders: &[PathBuf]) -> Result<ExitCode> {
    let mut failed = None;
    let extent = read_all(folders, |record| {
        if failed.is_none() {
            failed = output.show(&RecordView::from(record)).err();
        }
    })?;
    match failed {
        Some(error) => Err(error),
        None => require_segments(folders, extent).map(|()| ExitCode::SUCCESS),
    }
}

fn verify(output: &Output, folders: &[PathBuf]) -> Result<ExitCode> {
    let extent = read_all(folders, drop)?;
    require_segments(folders, extent)?;
    output.show(&VerifiedView {
        valid: true,
        records: extent.records,
        first_segment: extent.first,
        last_segment: extent.last,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// C6: where there is nothing, nothing was verified.
fn require_segments(folders: &[PathBuf], extent: Extent) -> Result<()> {
    if extent.first > 0 {
        return Ok(());
    }
    let names: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
    bail!(
        "{}: no segment of a journal; the folder is `directory` in [journal] of the broker's \
         configuration",
        names.join(", ")
    );
}

/// A journal of which what there is verifies.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct VerifiedView {
    valid: bool,
    records: u64,
    /// Segments before this one were archived or removed.
    first_segment: u64,
    last_segment: u64,
}

impl View for VerifiedView {
    const KIND: &'static str = "journal_verified";

    fn lines(&self) -> Vec<String> {
        let (records, first, last) = (self.records, self.first_segment, self.last_segment);
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
}

/// One record of a journal.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct RecordView {
    at_ms: i64,
    event: String,
    fields: BTreeMap<String, String>,
    /// The entry of the revocation log that the record is of, if it is of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<Value>,
}

impl From<Record> for RecordView {
    fn from(record: Record) -> Self {
        let mut fields: BTreeMap<_, _> = record
            .fields
            .into_iter()
            .map(|(name, value)| (name.into_owned(), value))
            .collect();
        let entry = fields.remove(ENTRY);
        Self {
            at_ms: record.at_ms,
            event: record.event,
            fields,
            // One that is no JSON was cut, and is shown as text.
            entry: entry.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text))),
        }
    }
}

impl View for RecordView {
    const KIND: &'static str = "record";

    fn lines(&self) -> Vec<String> {
        let mut words: Vec<_> = self
            .fields
            .iter()
            .map(|(name, value)| format!("{}={}", escape(name, 100), escape(value, 100)))
            .collect();
        // C6: of what other brokers ended, the entry says all there is.
        if let Some(entry) = self.entry.as_ref().filter(|_| words.is_empty()) {
            let event = entry.get("event").unwrap_or(entry);
            words.push(escape(&event.to_string(), 400).replace("\\\"", "\""));
        }
        vec![format!(
            "{} {:<14} {}",
            format_timestamp(self.at_ms),
            self.event,
            words.join(" ")
        )]
    }
}

/// Returns one record as one line.
pub(crate) fn record_line(record: &Record) -> String {
    RecordView::from(record.clone()).lines().join(" ")
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<VerifiedView>(),
        crate::shapes::of::<RecordView>(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o1_what_is_missing_at_the_front_is_said() {
        let mut view = VerifiedView {
            valid: true,
            records: 7,
            first_segment: 1,
            last_segment: 3,
        };
        assert_eq!(view.lines(), ["7 records; the chain holds"]);
        view.first_segment = 3;
        let lines = view.lines();
        assert_eq!(
            lines[0],
            "7 records; the chain holds from segment 3 to segment 3"
        );
        assert!(lines[1].contains("segments 1 to 2"), "{lines:?}");
    }

    #[test]
    fn c6_an_empty_folder_is_no_journal_whose_chain_holds() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned()];
        for read in [show, verify] {
            let error = read(&Output::new(false), &folders).unwrap_err().to_string();
            assert!(error.contains("no segment of a journal"), "{error}");
        }
    }

    #[test]
    fn c6_an_ending_that_was_heard_is_shown_and_fields_are_an_object() {
        let entry = r#"{"id":"00","event":{"ended":"task-1"}}"#;
        let record = Record::new("ending_heard", 0).with("entry", entry);
        assert_eq!(
            record_line(&record),
            "1970-01-01T00:00:00Z ending_heard   {\"ended\":\"task-1\"}"
        );
        let record = Record::new("task_ended", 0)
            .with("task", "t")
            .with("entry", entry);
        assert_eq!(
            record_line(&record),
            "1970-01-01T00:00:00Z task_ended     task=t"
        );
        let json = serde_json::to_value(RecordView::from(record)).unwrap();
        assert_eq!(json["fields"], serde_json::json!({ "task": "t" }));
        assert_eq!(json["entry"]["id"], "00");
    }
}
