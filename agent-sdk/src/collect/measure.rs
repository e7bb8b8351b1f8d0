//! Measuring the parts of an agent: files, and folders as a whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use ring::digest;
use sundew_core::client::manifest::folder_digest;

use super::hex;

/// The largest number of files below a folder.
const MAX_FILES: usize = 100_000;

/// Measures a part of an agent: returns its SHA-256 in lower-case hexadecimal.
///
/// A folder is measured by its files, as [`folder_digest`] says: a link counts as the file that it
/// leads to, and what is neither a file nor a folder is an error, because nothing would be measured
/// of it. So is a link to a folder, and a name with a line feed, a backslash or bytes that are not
/// UTF-8.
///
/// # Errors
/// Names the file or folder that could not be measured.
pub fn measure(path: &Path) -> io::Result<String> {
    if !fs::metadata(path).map_err(naming(path))?.is_dir() {
        return file(path);
    }
    let mut files = BTreeMap::new();
    walk(path, "", &mut files)?;
    Ok(folder_digest(&files))
}

fn walk(folder: &Path, below: &str, files: &mut BTreeMap<String, String>) -> io::Result<()> {
    for entry in fs::read_dir(folder).map_err(naming(folder))? {
        let entry = entry.map_err(naming(folder))?;
        let path = entry.path();
        let refuse =
            |problem: &str| Err(io::Error::other(format!("{}: {problem}", path.display())));
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.contains(['\n', '\\'])) else {
            return refuse("a name with a line feed, a backslash or bytes that are not UTF-8");
        };
        let name = format!("{below}{name}");
        let is_link = entry.file_type().map_err(naming(&path))?.is_symlink();
        let kind = fs::metadata(&path).map_err(naming(&path))?.file_type();
        if kind.is_dir() && is_link {
            return refuse("a link to a folder; put the folder itself there");
        }
        if kind.is_dir() {
            walk(&path, &format!("{name}/"), files)?;
        } else if kind.is_file() && files.len() < MAX_FILES {
            files.insert(name, file(&path)?);
        } else {
            return refuse("neither a file nor a folder, or one file more than 100000");
        }
    }
    Ok(())
}

fn file(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path).map_err(naming(path))?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece).map_err(naming(path))? {
            0 => return Ok(hex(context.finish().as_ref())),
            count => context.update(piece.get(..count).unwrap_or_default()),
        }
    }
}

fn naming(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What `deploy/manifest.md` says for who has no Sundew at hand.
    const BY_HAND: &str = "cd \"$0\" && find . -type f -printf '%P\\0' | LC_ALL=C sort -z | \
                           xargs -0 sha256sum | sha256sum | cut -c1-64";

    fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn d6_a_folder_is_measured_as_common_tools_measure_it() {
        let folder = written(&[
            ("agent.py", "print()"),
            ("a-b/x", "1"),
            ("a/x y", ""),
            ("a.x", "3"),
            ("ä", "4"),
            ("a/b/c", "5"),
        ]);
        let mut command = Command::new("sh");
        let by_hand = command.args(["-c", BY_HAND]).arg(folder.path());
        let by_hand = String::from_utf8(by_hand.output().unwrap().stdout).unwrap();
        assert_eq!(measure(folder.path()).unwrap(), by_hand.trim());
        let one = measure(&folder.path().join("agent.py")).unwrap();
        assert_eq!(
            one,
            hex(digest::digest(&digest::SHA256, b"print()").as_ref())
        );
    }

    #[test]
    fn d6_whatever_changes_below_a_folder_changes_its_measurement() {
        let files = [("a", "1"), ("b/c", "2")];
        let before = measure(written(&files).path()).unwrap();
        for changed in [
            &[("a", "1")][..],
            &[("a", "1"), ("b/c", "3")],
            &[("a", "1"), ("b/d", "2")],
            &[("a", "1"), ("b/c", "2"), ("e", "")],
            &[("a", "2"), ("b/c", "1")],
            &[("a", "1"), ("c", "2")],
        ] {
            assert_ne!(
                measure(written(changed).path()).unwrap(),
                before,
                "{changed:?}"
            );
        }
        assert_eq!(measure(written(&files).path()).unwrap(), before);
    }

    #[test]
    fn d6_what_would_not_be_measured_is_an_error_that_names_it() {
        use std::os::unix::fs::symlink;
        let link = |to: &str| {
            let folder = written(&[("a", "1"), ("b/c", "2")]);
            symlink(to, folder.path().join("link")).unwrap();
            let measured = measure(folder.path()).map_err(|error| error.to_string());
            (
                measured,
                measure(written(&[("a", "1"), ("b/c", "2"), ("link", "1")]).path()),
            )
        };
        let (to_file, copied) = link("a");
        assert_eq!(
            to_file.unwrap(),
            copied.unwrap(),
            "a link counts as its file"
        );
        for to in ["b", "nowhere", "/dev/null"] {
            assert!(link(to).0.unwrap_err().contains("link"), "{to}");
        }
        let odd = written(&[("a\nb", "1")]);
        assert!(measure(odd.path()).is_err());
        assert!(
            measure(&odd.path().join("none"))
                .unwrap_err()
                .to_string()
                .contains("none")
        );
    }
}
