//! `sundew trust`: material that verifiers of evidence trust.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use sundew_proto::v1::{
    AddTrustRequest, ListTrustRequest, RemoveTrustRequest, TrustItem, TrustRevocation,
};
use sundew_sdk::Ttl;

use crate::args::{Connect, TrustCommand};
use crate::client::{registry, status_error};
use crate::input::read_bytes;
use crate::output::{List, Output, Row, View, deletion, escape, success_if, table};
use crate::timestamp::{format_timestamp, now_ms};

pub(crate) async fn trust(
    connect: &Connect,
    output: &Output,
    command: TrustCommand,
) -> Result<ExitCode> {
    match command {
        TrustCommand::Add {
            kind,
            name,
            file,
            remark,
        } => {
            let content = content(file, remark)?;
            add(connect, output, kind, name, content).await
        }
        TrustCommand::List { page } => {
            let items = list_items(connect).await?;
            let name = |row: &ItemRow| format!("{} {}", row.kind, row.name);
            output.show(&List::after(
                items,
                name,
                (page.after.as_deref(), page.limit),
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        TrustCommand::Remove { kind, name, reason } => {
            remove(connect, output, kind, name, reason).await
        }
        TrustCommand::Status { within } => status(connect, output, within).await,
    }
}

/// Returns the content of a new item: a file's, or the remark on a reference value.
fn content(file: Option<PathBuf>, remark: Option<String>) -> Result<Vec<u8>> {
    match file {
        Some(path) => read_bytes(&path),
        None => Ok(remark.unwrap_or_default().into_bytes()),
    }
}

async fn add(
    connect: &Connect,
    output: &Output,
    kind: String,
    name: String,
    content: Vec<u8>,
) -> Result<ExitCode> {
    let request = AddTrustRequest {
        kind: kind.clone(),
        name: name.clone(),
        content,
    };
    let answer = registry(connect)
        .await?
        .add_trust(request)
        .await
        .map_err(status_error)?
        .into_inner();
    output.show(&ChangedView {
        kind_of_item: kind,
        name,
        action: answer.action,
        revocations: answer.revocations.into_iter().map(Into::into).collect(),
        is_removal: false,
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn remove(
    connect: &Connect,
    output: &Output,
    kind: String,
    name: String,
    reason: String,
) -> Result<ExitCode> {
    let request = RemoveTrustRequest {
        kind: kind.clone(),
        name: name.clone(),
        reason,
    };
    let answer = registry(connect)
        .await?
        .remove_trust(request)
        .await
        .map_err(status_error)?
        .into_inner();
    output.show(&ChangedView {
        kind_of_item: kind,
        name,
        action: answer.action,
        revocations: answer.revocations.into_iter().map(Into::into).collect(),
        is_removal: true,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Shows the items that do not work, and those that end within a time from now. Fails if there are
/// any.
async fn status(connect: &Connect, output: &Output, within: Ttl) -> Result<ExitCode> {
    let soon_ms = now_ms().saturating_add(within.as_ms());
    let mut items = list_items(connect).await?;
    let total = items.len();
    items.retain(|item| item.needs_attention(soon_ms));
    let view = StatusView { total, items };
    output.show(&view)?;
    Ok(success_if(view.items.is_empty()))
}

async fn list_items(connect: &Connect) -> Result<Vec<ItemRow>> {
    let items = registry(connect)
        .await?
        .list_trust(ListTrustRequest {})
        .await
        .map_err(status_error)?
        .into_inner()
        .items;
    Ok(items.into_iter().map(ItemRow::from).collect())
}

/// Something that verifiers trust.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ItemRow {
    kind: String,
    name: String,
    digest: String,
    /// When it ends; absent for one that does not end.
    not_after_ms: Option<i64>,
    source: String,
    problem: String,
}

impl From<TrustItem> for ItemRow {
    fn from(item: TrustItem) -> Self {
        Self {
            kind: item.kind,
            name: item.name,
            digest: item.digest,
            not_after_ms: (item.not_after_ms != 0).then_some(item.not_after_ms),
            source: item.source,
            problem: item.problem,
        }
    }
}

impl ItemRow {
    fn needs_attention(&self, soon_ms: i64) -> bool {
        !self.problem.is_empty() || self.not_after_ms.is_some_and(|end_ms| end_ms <= soon_ms)
    }
}

impl Row for ItemRow {
    const KIND: &'static str = "trust_items";
    const HEADING: &'static [&'static str] = &["KIND", "NAME", "ENDS", "SOURCE", "PROBLEM"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.kind.clone(),
            escape(&self.name, 100),
            self.not_after_ms
                .map_or_else(|| "-".to_owned(), format_timestamp),
            escape(&self.source, 60),
            escape(&self.problem, 100),
        ]
    }
}

/// What of the trusted items needs attention.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct StatusView {
    /// The number of all items.
    total: usize,
    items: Vec<ItemRow>,
}

impl View for StatusView {
    const KIND: &'static str = "trust_status";

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} items are trusted, {} need attention",
            self.total,
            self.items.len()
        )];
        if !self.items.is_empty() {
            let rows: Vec<_> = self.items.iter().map(Row::cells).collect();
            lines.extend(table(ItemRow::HEADING, &rows));
        }
        lines
    }
}

/// An item that was added or removed, and what ended with that.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ChangedView {
    kind_of_item: String,
    name: String,
    action: String,
    revocations: Vec<RevocationView>,
    #[serde(skip)]
    is_removal: bool,
}

/// The end of what rested on an item.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct RevocationView {
    spiffe_id: String,
    revocation_id: String,
}

impl From<TrustRevocation> for RevocationView {
    fn from(revocation: TrustRevocation) -> Self {
        Self {
            spiffe_id: revocation.spiffe_id,
            revocation_id: revocation.revocation_id,
        }
    }
}

impl View for ChangedView {
    const KIND: &'static str = "trust_changed";

    fn lines(&self) -> Vec<String> {
        let (kind, name) = (&self.kind_of_item, escape(&self.name, 256));
        let mut lines = vec![if self.is_removal {
            format!(
                "{kind} {name} {}: it is trusted no more, and no new task rests on it",
                deletion(&self.action)
            )
        } else {
            format!("{kind} {name} {}", self.action)
        }];
        lines.extend(self.revocations.iter().map(|r| {
            format!(
                "  tasks of {} that rested on it are dead ({})",
                r.spiffe_id, r.revocation_id
            )
        }));
        lines
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<List<ItemRow>>(),
        crate::shapes::of::<StatusView>(),
        crate::shapes::of::<ChangedView>(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(not_after_ms: i64) -> ItemRow {
        TrustItem {
            kind: "nitro".to_owned(),
            name: "root".to_owned(),
            not_after_ms,
            ..TrustItem::default()
        }
        .into()
    }

    #[test]
    fn what_ends_soon_or_does_not_work_needs_attention() {
        assert!(!ending(0).needs_attention(1000));
        assert!(ending(1000).needs_attention(1000));
        assert!(!ending(1001).needs_attention(1000));
        let mut broken = ending(0);
        broken.problem = "cannot be parsed".to_owned();
        assert!(broken.needs_attention(1000));
    }

    #[test]
    fn an_item_without_an_end_has_none_in_either_form() {
        let json = serde_json::to_value(ending(0)).unwrap();
        assert!(json["not_after_ms"].is_null());
        let list = List::whole(vec![ending(0), ending(951_782_400_000)]);
        assert_eq!(
            list.lines(),
            [
                "KIND   NAME  ENDS                  SOURCE  PROBLEM",
                "nitro  root  -",
                "nitro  root  2000-02-29T00:00:00Z",
            ]
        );
    }
}
