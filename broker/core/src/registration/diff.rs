//! Differences between two JSON documents, for people.

use std::collections::BTreeMap;

use serde_json::Value;

/// Returns the members in which two documents differ: a line `- path: value` for each member that
/// `old` alone has, then a line `+ path: value` for each member that `new` alone has.
pub(super) fn diff(old: &Value, new: &Value) -> Vec<String> {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    leaves("", old, &mut before);
    leaves("", new, &mut after);
    let mut lines = Vec::new();
    for (path, value) in &before {
        if after.get(path) != Some(value) {
            lines.push(format!("- {path}: {value}"));
        }
    }
    for (path, value) in &after {
        if before.get(path) != Some(value) {
            lines.push(format!("+ {path}: {value}"));
        }
    }
    lines
}

/// Adds the path and the value of each member that is no object or array to `out`. `null` counts as
/// absent.
fn leaves(path: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    let join = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match value {
        Value::Object(members) => members
            .iter()
            .for_each(|(name, v)| leaves(&join(name), v, out)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, v)| leaves(&join(&i.to_string()), v, out)),
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            drop(out.insert(path.to_owned(), value.to_string()));
        }
    }
}
