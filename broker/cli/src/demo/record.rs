//! The end of the story: what the broker wrote down.

use std::path::{Path, PathBuf};

use anyhow::Result;
use sundew_broker::journal::read;

use super::story::Story;
use crate::journal::record_line;

/// Shows the journal's lines, and that the secret is in no file that was written.
pub(super) fn tell(
    story: &mut Story<'_>,
    journal: &Path,
    folder: &Path,
    secret: &str,
) -> Result<()> {
    let mut lines = Vec::new();
    read(journal, |record| lines.push(record_line(&record)))?;
    story.tell(
        "journal",
        lines.len() > 5,
        format!(
            "{} records, each written before its effect; the chain holds",
            lines.len()
        ),
        "who, what, on whose instruction, on which evidence, and how it ended (P10)",
    );
    if !story.output.is_json() {
        lines.iter().for_each(|line| println!("    {line}"));
    }
    let leaks = files_with(folder, secret.as_bytes())?;
    story.tell(
        "nothing leaked",
        leaks.is_empty(),
        format!(
            "the secret is in the clear in {} files of the broker's state and journal",
            leaks.len()
        ),
        "secrets are sealed, tokens are kept as hashes (P8, P9)",
    );
    Ok(())
}

/// Returns the files below a folder that have the bytes of `needle` in them.
fn files_with(folder: &Path, needle: &[u8]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_with(&path, needle)?);
        } else if path.is_file()
            && std::fs::read(&path)?
                .windows(needle.len())
                .any(|window| window == needle)
        {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::files_with;

    #[test]
    fn a_leak_is_found_in_any_folder_below() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(folder.path().join("clean"), "nothing").unwrap();
        std::fs::write(below.join("leak"), "..canary-1..").unwrap();
        assert_eq!(
            files_with(folder.path(), b"canary-1").unwrap(),
            [below.join("leak")]
        );
        assert!(files_with(folder.path(), b"canary-2").unwrap().is_empty());
    }
}
