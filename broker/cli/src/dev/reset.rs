//! Forgetting the state of a broker for development.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// What is in the folder of a broker for development.
const ENTRIES: [&str; 6] = [
    "env",
    "journal",
    "operator",
    "root.key",
    "store.log",
    "workload.sock",
];

/// Removes the state in a folder, and nothing else. A folder that is not there has none.
pub(super) fn reset(folder: &Path) -> Result<()> {
    let name = || folder.display().to_string();
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(name),
        Ok(mut entries) => {
            if entries.next().is_none() {
                return Ok(());
            }
        }
    }
    if !folder.join("root.key").is_file() {
        bail!(
            "{}: is no folder of `sundew dev`, and nothing in it is removed",
            name()
        );
    }
    let store = folder.join("store.log");
    if let Ok(store) = File::open(&store)
        && store.try_lock().is_err()
    {
        bail!(
            "{}: a `sundew dev` runs with it; end that one first",
            name()
        );
    }
    for entry in ENTRIES {
        let path = folder.join(entry);
        let removed = match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.with_context(|| path.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d7_a_reset_removes_the_state_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        reset(&path("nowhere")).unwrap();
        fs::write(path("thesis.txt"), "years").unwrap();
        let error = reset(folder.path()).unwrap_err().to_string();
        assert!(error.contains("no folder of `sundew dev`"), "{error}");
        fs::create_dir(path("journal")).unwrap();
        for name in ["journal/0.log", "root.key", "store.log", "env"] {
            fs::write(path(name), "x").unwrap();
        }
        reset(folder.path()).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn d7_state_that_is_in_use_stays() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("root.key"), "x").unwrap();
        let store = File::create(folder.path().join("store.log")).unwrap();
        store.lock().unwrap();
        let error = reset(folder.path()).unwrap_err().to_string();
        assert!(error.contains("end that one first"), "{error}");
        assert!(folder.path().join("root.key").exists());
    }
}
