//! Files with registrations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::input::read_text;

/// A registration of a file, as the broker takes it.
pub(super) struct Document {
    pub(super) spiffe_id: String,
    pub(super) json: String,
}

/// Reads all registrations of these files and folders, in their order. The same workload twice is an
/// error, since nobody could say which of the two counts.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Document>> {
    let (mut documents, mut seen) = (Vec::new(), BTreeMap::<String, PathBuf>::new());
    for path in expanded(paths)? {
        let name = || path.display().to_string();
        for workload in parse(&read_text(&path)?).with_context(name)? {
            let spiffe_id = workload.get("spiffe_id").and_then(Value::as_str);
            let spiffe_id = spiffe_id.unwrap_or_default().to_owned();
            // One without an ID is for the broker to refuse.
            if !spiffe_id.is_empty()
                && let Some(other) = seen.insert(spiffe_id.clone(), path.clone())
            {
                bail!(
                    "{spiffe_id} stands in {} and in {}",
                    other.display(),
                    name()
                );
            }
            let json = workload.to_string();
            documents.push(Document { spiffe_id, json });
        }
    }
    Ok(documents)
}

/// The files that paths stand for: of a folder, those in TOML and JSON at any depth, in the order of
/// their names.
fn expanded(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let before = files.len();
        collect(path, &mut files)?;
        if files.len() == before {
            bail!("{}: no *.toml and no *.json in it", path.display());
        }
    }
    Ok(files)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let name = || folder.display().to_string();
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(name)? {
        let entry = entry.with_context(name)?;
        // A link to a folder is not followed, so that no way leads back.
        entries.push((entry.path(), entry.file_type().with_context(name)?.is_dir()));
    }
    entries.sort();
    for (path, is_folder) in entries {
        let is_hidden = path
            .file_name()
            .is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        let extension = path.extension().and_then(|extension| extension.to_str());
        if is_hidden {
            continue;
        } else if is_folder {
            collect(&path, files)?;
        } else if matches!(extension, Some("toml" | "json")) {
            files.push(path);
        }
    }
    Ok(())
}

/// Returns each workload of a file.
///
/// The file is TOML with `[[workload]]`, or JSON: one object, an array, or `{"workload": […]}`, which
/// may have the `kind` of what `sundew` prints.
fn parse(text: &str) -> Result<Vec<Value>> {
    let json = text.trim_start().starts_with(['{', '[']) && !text.trim_start().starts_with("[[");
    let value: Value = if json {
        serde_json::from_str(text)?
    } else {
        toml::from_str(text)?
    };
    let list = match value {
        Value::Array(list) => list,
        Value::Object(mut members) => {
            // What `sundew --json workload show` and `export` print can be applied.
            if members.contains_key("workload") {
                members.retain(|name, _| !matches!(name.as_str(), "kind" | "version"));
            }
            match members.remove("workload") {
                Some(Value::Array(list)) if members.is_empty() => list,
                Some(Value::Object(one)) if json && members.is_empty() => vec![Value::Object(one)],
                Some(_) => bail!("besides `workload`, a list, nothing may stand at the top"),
                None if json => vec![Value::Object(members)],
                None => Vec::new(),
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            bail!("must be a workload or a list of workloads")
        }
    };
    if list.is_empty() {
        bail!("no workload in it: in TOML each begins with [[workload]]");
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn texts(text: &str) -> Vec<String> {
        parse(text)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn workloads_are_read_from_toml_and_from_each_form_of_json() {
        let toml = "[[workload]]\nspiffe_id = \"a\"\n[[workload]]\nspiffe_id = \"b\"\n";
        let both = [r#"{"spiffe_id":"a"}"#, r#"{"spiffe_id":"b"}"#];
        assert_eq!(texts(toml), both);
        let list = format!("[{}]", both.join(","));
        assert_eq!(texts(&list), both);
        assert_eq!(texts(&format!(" {{\"workload\": {list}}}")), both);
        assert_eq!(texts(both[0]), both[..1]);
        let shown = format!(
            r#"{{"kind":"workload","version":"1","workload":{}}}"#,
            both[0]
        );
        assert_eq!(texts(&shown), both[..1]);
    }

    #[test]
    fn a_file_that_is_no_list_of_workloads_is_refused() {
        let none = "no workload in it: in TOML each begins with [[workload]]";
        let beside = "besides `workload`, a list, nothing may stand at the top";
        for (text, reason) in [
            ("", none),
            ("[]", none),
            ("workload = 1", beside),
            ("owner = \"x\"\n[[workload]]", beside),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), reason, "{text}");
        }
    }

    #[test]
    fn c6_a_folder_stands_for_its_files_at_any_depth_and_no_workload_stands_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("b/.git")).unwrap();
        let one = |id: &str| format!("[[workload]]\nspiffe_id = \"{id}\"\n");
        fs::write(path("c.toml"), one("c")).unwrap();
        fs::write(path("b/a.toml"), one("a")).unwrap();
        fs::write(path("b/x.json"), r#"{"spiffe_id":"x"}"#).unwrap();
        fs::write(path("README.md"), "no workload").unwrap();
        fs::write(path("b/.git/g.toml"), "no workload").unwrap();
        let ids = |paths: &[PathBuf]| -> Result<Vec<String>> {
            Ok(read(paths)?.into_iter().map(|d| d.spiffe_id).collect())
        };
        assert_eq!(ids(&[folder.path().to_owned()]).unwrap(), ["a", "x", "c"]);
        let twice = ids(&[path("c.toml"), path("c.toml")]).unwrap_err();
        assert!(twice.to_string().starts_with("c stands in "), "{twice}");
        fs::create_dir(path("empty")).unwrap();
        assert!(ids(&[path("empty")]).is_err());
        let missing = ids(&[path("missing")]).unwrap_err();
        assert!(format!("{missing:#}").contains("missing"), "{missing:#}");
    }
}
