//! `sundew backup` and `sundew restore`: a store in one file, and back.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;
use sundew_broker::backup::{Backup, Outcome, RestoreMode, Restored};
use sundew_broker::serve::config::Config;
use sundew_broker::serve::open_store_of;
use sundew_core::RootKey;
use sundew_core::store::Store;
use sundew_core::version_text;

use crate::args::Restore;
use crate::output::{Output, View, escape, table};
use crate::timestamp::{format_timestamp, now_ms};

async fn open(path: &Path) -> Result<(Arc<dyn Store>, Arc<RootKey>)> {
    let config =
        Config::load(path).map_err(|e| anyhow!("configuration {}:\n{e}", path.display()))?;
    Ok(open_store_of(&config).await?)
}

/// Writes a backup. The file appears whole or not at all, and only its owner may read it.
pub(crate) async fn backup(output: &Output, config: &Path, file: &Path) -> Result<ExitCode> {
    let (store, root) = open(config).await?;
    let backup = Backup::take(store.as_ref(), &root, now_ms()).await?;
    let fresh = file.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let name = || fresh.display().to_string();
    let mut written = options.open(&fresh).with_context(name)?;
    written
        .write_all(&backup.encode(&root))
        .with_context(name)?;
    written.sync_all().with_context(name)?;
    std::fs::rename(&fresh, file).with_context(|| file.display().to_string())?;
    output.show(&BackupView {
        file: file.to_owned(),
        documents: backup.documents(),
        position: backup.position(),
        created_at_ms: backup.created_at_ms(),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Brings a backup back, or tells what that would do.
pub(crate) async fn restore(output: &Output, command: Restore) -> Result<ExitCode> {
    let (store, root) = open(&command.config).await?;
    let file = std::fs::read(&command.file).with_context(|| command.file.display().to_string())?;
    let backup = Backup::decode(&root, &file)?;
    let mode = match (command.check, command.new_epoch) {
        (true, new_epoch) => RestoreMode::Check { new_epoch },
        (false, true) => RestoreMode::NewEpoch,
        (false, false) => RestoreMode::Fill,
    };
    let told = sundew_broker::backup::restore(&store, &root, &backup, mode, now_ms()).await?;
    output.show(&RestoreView {
        created_at_ms: backup.created_at_ms(),
        checked: command.check,
        items: told.iter().map(RestoredRow::from).collect(),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A backup that was written.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct BackupView {
    file: PathBuf,
    documents: usize,
    /// How far it has the revocation log.
    position: u64,
    created_at_ms: i64,
}

impl View for BackupView {
    const KIND: &'static str = "backup";

    fn lines(&self) -> Vec<String> {
        vec![format!(
            "{}: {} documents, and the revocation log up to {}; its secrets are sealed, and it is \
             of no use without the root key",
            self.file.display(),
            self.documents,
            self.position
        )]
    }
}

/// What became of a backup, or would.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct RestoreView {
    created_at_ms: i64,
    /// Whether nothing was changed.
    checked: bool,
    items: Vec<RestoredRow>,
}

/// What becomes of a document.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct RestoredRow {
    kind: &'static str,
    name: String,
    becomes: &'static str,
    /// The version in the backup, and the newest one that is known; 0 for none.
    saved: u64,
    known: u64,
}

impl From<&Restored> for RestoredRow {
    fn from(told: &Restored) -> Self {
        Self {
            kind: told.kind.as_str(),
            name: told.name.clone(),
            becomes: word(told.outcome),
            saved: told.saved,
            known: told.known,
        }
    }
}

impl View for RestoreView {
    const KIND: &'static str = "restore";

    fn lines(&self) -> Vec<String> {
        let made = format_timestamp(self.created_at_ms);
        let done = if self.checked {
            "would become"
        } else {
            "became"
        };
        let mut lines = vec![format!("backup of {made}; this {done} of the documents:")];
        let version = |version: u64| match version {
            0 => String::new(),
            known => version_text(known),
        };
        let row = |told: &RestoredRow| {
            vec![
                told.kind.to_owned(),
                escape(&told.name, 256),
                told.becomes.to_owned(),
                version(told.saved),
                version(told.known),
            ]
        };
        let rows: Vec<_> = self.items.iter().map(row).collect();
        lines.extend(table(&["KIND", "NAME", "BECOMES", "SAVED", "KNOWN"], &rows));
        lines
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Fell => "falls back to the backup",
        Outcome::Deleted => "stays deleted",
        Outcome::Kept => "stays as it is",
        Outcome::Lost => "left out: a later version was lost; apply it, or restore --new-epoch",
        Outcome::Missing => "missing here and in the backup",
        Outcome::Unreadable => "left out: does not open",
        Outcome::Unchanged => "is there already",
        Outcome::Withdrawn => "counts as deleted",
        Outcome::Written => "written",
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<BackupView>(),
        crate::shapes::of::<RestoreView>(),
    ]
}
