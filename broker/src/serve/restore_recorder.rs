//! Puts on the record what a restore brought back.

use std::sync::Arc;

use sundew_core::{DocumentVersion, Event, first_version_of_epoch, version_text};

use crate::clock;
use crate::journal::{self, Journal};
use crate::liveness::Subscriber;

/// A restore of longer ago is on the record already: this broker has started since, and reads the
/// whole log. In milliseconds.
const RECENT_MS: i64 = 300_000;

/// Hears of documents whose content is that of a backup (L21).
pub(super) struct RestoreRecorder(pub(super) Arc<Journal>);

impl Subscriber for RestoreRecorder {
    fn on_document(self: Arc<Self>, statement: &DocumentVersion) {
        let Some(content_of) = statement.content_of else {
            return;
        };
        let recent = first_version_of_epoch(clock::now_ms().saturating_sub(RECENT_MS));
        if statement.version < recent {
            return;
        }
        let (kind, name) = (statement.kind.as_str(), &statement.name);
        let (version, content_of) = (version_text(statement.version), version_text(content_of));
        tracing::warn!(
            kind,
            name,
            version,
            content_of,
            "a restore brought the content of a backup back"
        );
        let record = journal::record("document_restored")
            .with("kind", kind)
            .with("name", name)
            .with("version", version)
            .with("content_of", content_of);
        self.0.note(record);
    }

    fn on_event(self: Arc<Self>, _: &Event) {}
}
