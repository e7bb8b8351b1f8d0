//! `sundew attest kinds`: the kinds of evidence, for people who choose among them.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use sundew_core::client::about::{About, KINDS};

use crate::output::{Output, View};

pub(super) fn kinds(output: &Output) -> Result<ExitCode> {
    output.show(&KindsView { items: &KINDS })?;
    Ok(ExitCode::SUCCESS)
}

/// The kinds of evidence.
#[derive(Serialize)]
pub(super) struct KindsView {
    items: &'static [About],
}

impl View for KindsView {
    const KIND: &'static str = "evidence_kinds";

    fn lines(&self) -> Vec<String> {
        self.items.iter().flat_map(lines).collect()
    }
}

#[cfg(test)]
impl schemars::JsonSchema for KindsView {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KindsView".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let proven = schemars::json_schema!({
            "type": "object",
            "properties": { "against": { "type": "string" }, "what": { "type": "string" } },
            "required": ["against", "what"]
        });
        let item = schemars::json_schema!({
            "type": "object",
            "properties": {
                "kind": { "type": "string" },
                "proves": { "type": "string" },
                "needs": { "type": "string" },
                "proven": { "type": "array", "items": proven }
            },
            "required": ["kind", "proves", "needs", "proven"]
        });
        schemars::json_schema!({
            "description": "The kinds of evidence.",
            "type": "object",
            "properties": { "items": { "type": "array", "items": item } },
            "required": ["items"]
        })
    }
}

fn lines(about: &About) -> Vec<String> {
    let mut lines = vec![
        about.kind.to_owned(),
        format!("  proves  {}", about.proves),
        format!("  needs   {}", about.needs),
    ];
    let proven = about.proven.iter();
    lines
        .extend(proven.map(|p| format!("  {:<11} {}", format!("{}:", p.against.as_str()), p.what)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_says_what_it_was_proven_against() {
        for about in &KINDS {
            let lines = lines(about);
            assert_eq!(lines[0], about.kind);
            assert_eq!(lines.len(), 3 + about.proven.len());
        }
        let json = serde_json::to_value(KINDS).unwrap();
        assert_eq!(json[0]["proven"][0]["against"], "rebuilt");
    }
}
