//! Which file a command runs: that one is the agent's code, and not the interpreter that runs it or
//! the `sundew` that starts it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::Result;
use sundew_sdk::{ManifestCollector, Settings};

/// Lets an agent show a manifest, and lets the manifest be held against what the command runs, unless
/// the settings say where the code is. Without a manifest, the settings stay as they are.
pub(crate) fn with_manifest(
    mut settings: Settings,
    manifest: Option<&Path>,
    command: &[String],
) -> Result<Settings> {
    if let Some(manifest) = manifest {
        settings.manifest = Some(manifest.to_owned());
    }
    if let (Some(manifest), None) = (&settings.manifest, &settings.code) {
        let signed = ManifestCollector::open(manifest)?.place("code");
        settings.code = code_of(command, signed.as_deref(), &search_path());
    }
    Ok(settings)
}

/// Returns the program of a command, if it is there.
pub(crate) fn program_of(command: &[String]) -> Option<PathBuf> {
    code_of(command, None, &search_path())
}

#[expect(clippy::disallowed_methods, reason = "commands are found by PATH")]
fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// Returns the code that a command runs: what the manifest calls code, if the command names it or
/// something in it; else its program.
fn code_of(command: &[String], signed: Option<&Path>, search: &OsStr) -> Option<PathBuf> {
    let (program, arguments) = command.split_first()?;
    let program = find(program, search);
    let words = program.iter().map(PathBuf::as_path);
    let mut words = words.chain(arguments.iter().map(Path::new));
    let signed = signed.and_then(|path| path.canonicalize().ok());
    match signed {
        Some(signed) if words.any(|word| is_within(word, &signed)) => Some(signed),
        _ => program,
    }
}

fn is_within(word: &Path, code: &Path) -> bool {
    word.canonicalize().is_ok_and(|word| word.starts_with(code))
}

/// Finds a program as a shell does.
fn find(program: &str, search: &OsStr) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program));
    }
    let mut folders = std::env::split_paths(search).map(|folder| folder.join(program));
    folders.find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn d6_the_code_of_a_script_is_the_script_and_not_what_runs_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().canonicalize().unwrap().join(name);
        fs::create_dir(path("bin")).unwrap();
        fs::create_dir(path("agent")).unwrap();
        for name in ["bin/python3", "agent.py", "agent/main.py", "other.py"] {
            fs::write(path(name), "").unwrap();
        }
        let word = |name: &str| path(name).display().to_string();
        let search = path("bin").into_os_string();
        let code = |command: &[&str], signed: Option<&str>| {
            let command: Vec<_> = command.iter().map(ToString::to_string).collect();
            code_of(&command, signed.map(path).as_deref(), &search)
        };
        let (agent, main, other) = (word("agent.py"), word("agent/main.py"), word("other.py"));
        let python = Some(path("bin/python3"));
        for (command, signed, expected) in [
            (
                vec![agent.as_str()],
                Some("agent.py"),
                Some(path("agent.py")),
            ),
            (
                vec!["python3", &agent],
                Some("agent.py"),
                Some(path("agent.py")),
            ),
            (
                vec!["python3", "-u", &main],
                Some("agent"),
                Some(path("agent")),
            ),
            // What is signed is not what the command runs.
            (vec!["python3", &other], Some("agent.py"), python.clone()),
            (
                vec![other.as_str()],
                Some("agent.py"),
                Some(path("other.py")),
            ),
            (vec!["python3", &agent], None, python),
            (vec![agent.as_str()], None, Some(path("agent.py"))),
            (vec!["nowhere"], None, None),
        ] {
            assert_eq!(code(&command, signed), expected, "{command:?}");
        }
    }
}
