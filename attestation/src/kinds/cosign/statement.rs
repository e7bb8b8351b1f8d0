//! in-toto statements (in-toto attestation framework, Statement v0.1 and v1).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{CosignError, MAX_EVIDENCE, is_sha256, malformed};
use crate::claims::{Values, plain_values};
use crate::dsse::{Envelope, VerifyingKey};
use crate::json;
use crate::kinds::manifest::STATEMENT_TYPE;

/// The type of statements that cosign writes: it differs from v1 in its name alone.
const STATEMENT_TYPE_V0: &str = "https://in-toto.io/Statement/v0.1";
/// The largest number of subjects in a statement.
const MAX_SUBJECTS: usize = 64;
/// The largest number of members of a predicate that become claims.
const MAX_MEMBERS: usize = 64;

#[derive(Deserialize)]
struct Statement {
    #[serde(rename = "_type")]
    statement_type: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    #[serde(default)]
    predicate: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Subject {
    digest: BTreeMap<String, String>,
}

/// Verifies a statement; returns the digests of its subjects, the type of its predicate, and as
/// `predicate.<member>` the members of the predicate whose values are plain.
pub(super) fn values(envelope: &Envelope, keys: &[VerifyingKey]) -> Result<Values, CosignError> {
    let payload_type = envelope.payload_type.as_str();
    if !is_in_toto(payload_type) {
        return Err(CosignError::Type);
    }
    let signed = envelope.verify(payload_type, keys, 1)?;
    let statement: Statement = json::read(&signed, MAX_EVIDENCE).map_err(|e| malformed(&e))?;
    if ![STATEMENT_TYPE, STATEMENT_TYPE_V0].contains(&statement.statement_type.as_str()) {
        return Err(CosignError::Type);
    }
    if statement.subject.is_empty() || statement.subject.len() > MAX_SUBJECTS {
        return Err(malformed(&"a statement has 1 to 64 subjects"));
    }
    let mut values = Values::default();
    for subject in &statement.subject {
        let digest = subject.digest.get("sha256").filter(|hash| is_sha256(hash));
        values.text(
            "digest",
            digest.ok_or_else(|| malformed(&"subject without sha256"))?,
        );
    }
    values.text("predicate_type", statement.predicate_type);
    let predicate = statement.predicate.unwrap_or_default();
    if predicate.len() > MAX_MEMBERS {
        return Err(malformed(&"a predicate has at most 64 members"));
    }
    for (name, value) in &predicate {
        for value in plain_values(value).unwrap_or_default() {
            values.text(&format!("predicate.{name}"), value);
        }
    }
    Ok(values)
}

/// Returns whether a payload type is that of a statement: `application/vnd.in-toto+json`, or
/// `application/vnd.in-toto.<predicate>+json`. The type is signed with the payload.
fn is_in_toto(payload_type: &str) -> bool {
    let predicate = payload_type
        .strip_prefix("application/vnd.in-toto")
        .and_then(|rest| rest.strip_suffix("+json"));
    match predicate {
        Some("") => true,
        Some(predicate) => predicate
            .strip_prefix('.')
            .is_some_and(|name| !name.is_empty()),
        None => false,
    }
}
