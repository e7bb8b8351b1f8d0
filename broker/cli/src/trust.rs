//! `sundew trust`: material that verifiers of evidence trust.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use sundew_proto::v1::{
    AddTrustRequest, ListTrustRequest, RemoveTrustRequest, RemoveTrustResponse, TrustItem,
    TrustRevocation,
};
use sundew_sdk::Ttl;

use crate::args::{Connect, TrustCommand};
use crate::client::{registry, status_error};
use crate::input::read_bytes;
use crate::output::{Output, deletion, escape, success_if, table};
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
        TrustCommand::List => {
            let items = list_items(connect).await?;
            let value: Vec<_> = items.iter().map(item_json).collect();
            output.result(&value, || item_table(&items));
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
    let value = json!({
        "kind": kind, "name": name, "action": answer.action,
        "revocations": revocations_json(&answer.revocations),
    });
    output.result(&value, || {
        let mut lines = vec![format!("{kind} {} {}", escape(&name, 256), answer.action)];
        lines.extend(revocation_lines(&answer.revocations));
        lines
    });
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
    output.result(&removal_json(&kind, &name, &answer), || {
        removal_lines(&kind, &name, &answer)
    });
    Ok(ExitCode::SUCCESS)
}

/// Shows the items that do not work, and those that end within a time from now. Fails if there are
/// any.
async fn status(connect: &Connect, output: &Output, within: Ttl) -> Result<ExitCode> {
    let soon_ms = now_ms().saturating_add(within.as_ms());
    let mut items = list_items(connect).await?;
    let total = items.len();
    items.retain(|item| needs_attention(item, soon_ms));
    let value = json!({
        "items": total, "need_attention": items.iter().map(item_json).collect::<Vec<_>>(),
    });
    output.result(&value, || {
        let mut lines = vec![format!(
            "{total} items are trusted, {} need attention",
            items.len()
        )];
        if !items.is_empty() {
            lines.extend(item_table(&items));
        }
        lines
    });
    Ok(success_if(items.is_empty()))
}

async fn list_items(connect: &Connect) -> Result<Vec<TrustItem>> {
    Ok(registry(connect)
        .await?
        .list_trust(ListTrustRequest {})
        .await
        .map_err(status_error)?
        .into_inner()
        .items)
}

/// Returns when an item ends, in milliseconds since the epoch, or `None` for one that does not end.
fn not_after_ms(item: &TrustItem) -> Option<i64> {
    (item.not_after_ms != 0).then_some(item.not_after_ms)
}

fn needs_attention(item: &TrustItem, soon_ms: i64) -> bool {
    !item.problem.is_empty() || not_after_ms(item).is_some_and(|end_ms| end_ms <= soon_ms)
}

fn item_json(item: &TrustItem) -> Value {
    json!({
        "kind": item.kind, "name": item.name, "digest": item.digest,
        "not_after_ms": not_after_ms(item), "source": item.source, "problem": item.problem,
    })
}

fn item_table(items: &[TrustItem]) -> Vec<String> {
    let row = |item: &TrustItem| {
        vec![
            item.kind.clone(),
            escape(&item.name, 100),
            not_after_ms(item).map_or_else(|| "-".to_owned(), format_timestamp),
            escape(&item.source, 60),
            escape(&item.problem, 100),
        ]
    };
    table(
        &["KIND", "NAME", "ENDS", "SOURCE", "PROBLEM"],
        &items.iter().map(row).collect::<Vec<_>>(),
    )
}

fn removal_json(kind: &str, name: &str, answer: &RemoveTrustResponse) -> Value {
    let revocations = revocations_json(&answer.revocations);
    json!({ "kind": kind, "name": name, "action": answer.action, "revocations": revocations })
}

fn removal_lines(kind: &str, name: &str, answer: &RemoveTrustResponse) -> Vec<String> {
    let mut lines = vec![format!(
        "{kind} {} {}: it is trusted no more, and no new task rests on it",
        escape(name, 256),
        deletion(&answer.action)
    )];
    lines.extend(revocation_lines(&answer.revocations));
    lines
}

fn revocations_json(revocations: &[TrustRevocation]) -> Vec<Value> {
    let one =
        |r: &TrustRevocation| json!({ "spiffe_id": r.spiffe_id, "revocation_id": r.revocation_id });
    revocations.iter().map(one).collect()
}

fn revocation_lines(revocations: &[TrustRevocation]) -> impl Iterator<Item = String> {
    revocations.iter().map(|r| {
        format!(
            "  tasks of {} that rested on it are dead ({})",
            r.spiffe_id, r.revocation_id
        )
    })
}

#[cfg(test)]
mod tests {
    use sundew_proto::v1::TrustItem;

    use super::{item_json, item_table, needs_attention};

    fn ending(not_after_ms: i64) -> TrustItem {
        TrustItem {
            kind: "nitro".to_owned(),
            name: "root".to_owned(),
            not_after_ms,
            ..TrustItem::default()
        }
    }

    #[test]
    fn what_ends_soon_or_does_not_work_needs_attention() {
        assert!(!needs_attention(&ending(0), 1000));
        assert!(needs_attention(&ending(1000), 1000));
        assert!(!needs_attention(&ending(1001), 1000));
        let mut broken = ending(0);
        broken.problem = "cannot be parsed".to_owned();
        assert!(needs_attention(&broken, 1000));
    }

    #[test]
    fn an_item_without_an_end_has_none_in_either_form() {
        assert!(item_json(&ending(0))["not_after_ms"].is_null());
        assert_eq!(
            item_table(&[ending(0), ending(951_782_400_000)]),
            [
                "KIND   NAME  ENDS                  SOURCE  PROBLEM",
                "nitro  root  -",
                "nitro  root  2000-02-29T00:00:00Z",
            ]
        );
    }
}
