//! The Debian package, by dpkg: what is in it, with which owners and modes, and what its scripts say.
//! `tests/deployed` installs it, by `./tests/run --long`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sundew_broker::serve::config::Config;

use super::kubernetes::printed;
use super::{deploy, text};

fn run(program: &Path, arguments: &[&Path]) -> Output {
    let output = Command::new(program).args(arguments).output().expect("run");
    assert!(
        output.status.success(),
        "{}: {}",
        program.display(),
        printed(&output)
    );
    output
}

/// The packages with the binary under test.
fn packages(folder: &Path) -> (PathBuf, PathBuf) {
    let built = folder.join("binary");
    run(
        &deploy("package/binary"),
        &[&built, &sundew_tests::sundew()],
    );
    run(&deploy("package/deb"), &[folder, &built]);
    let of = |name: &str| {
        let entries = std::fs::read_dir(folder).expect("folder");
        entries
            .map(|entry| entry.expect("entry").path())
            .find(|path| {
                let file = path
                    .file_name()
                    .expect("name")
                    .to_string_lossy()
                    .into_owned();
                file.starts_with(&format!("{name}_")) && file.ends_with(".deb")
            })
            .expect("package")
    };
    (of("sundew"), of("sundew-dbg"))
}

/// Path to mode and owner of each file of a package.
fn contents(package: &Path) -> BTreeMap<String, String> {
    let output = run(Path::new("dpkg-deb"), &[Path::new("--contents"), package]);
    let listed = String::from_utf8(output.stdout).expect("text");
    listed
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (
                words[5].trim_start_matches('.').to_owned(),
                format!("{} {}", words[0], words[1]),
            )
        })
        .collect()
}

#[test]
fn the_package_has_binary_units_user_configuration_and_documents() {
    let folder = tempfile::tempdir().expect("folder");
    let (package, debug) = packages(folder.path());
    let files = contents(&package);
    for (path, expected) in [
        ("/usr/bin/sundew", "-rwxr-xr-x root/root"),
        (
            "/usr/lib/systemd/system/sundew.service",
            "-rw-r--r-- root/root",
        ),
        (
            "/usr/lib/systemd/system/sundew-node.service",
            "-rw-r--r-- root/root",
        ),
        ("/usr/lib/sysusers.d/sundew.conf", "-rw-r--r-- root/root"),
        ("/etc/sundew/sundew.toml", "-rw-r--r-- root/root"),
        ("/etc/sundew/node.env", "-rw-r--r-- root/root"),
        ("/etc/sundew/secrets/", "drwx------ root/root"),
        (
            "/usr/share/doc/sundew/operations.md",
            "-rw-r--r-- root/root",
        ),
        (
            "/usr/share/bash-completion/completions/sundew",
            "-rw-r--r-- root/root",
        ),
    ] {
        assert_eq!(
            files.get(path).map(String::as_str),
            Some(expected),
            "{path}"
        );
    }
    assert!(
        files.values().all(|entry| entry.ends_with("root/root")),
        "{files:?}"
    );
    assert!(contents(&debug).contains_key("/usr/lib/debug/usr/bin/sundew.debug"));
    // What a unit names is in the package.
    let unit = text("systemd/sundew.service");
    let document = unit
        .lines()
        .find_map(|line| line.strip_prefix("Documentation=file:"));
    assert!(files.contains_key(document.expect("documentation")));
    let field = |name: &str| {
        let arguments = [Path::new("--field"), &package, Path::new(name)];
        let output = run(Path::new("dpkg-deb"), &arguments);
        String::from_utf8(output.stdout)
            .expect("text")
            .trim()
            .to_owned()
    };
    assert_eq!(field("Package"), "sundew");
    assert_eq!(field("Version"), env!("CARGO_PKG_VERSION"));
    assert!(field("Depends").contains("systemd (>= 252)"));
    // Scripts and files of configuration are as dpkg takes them.
    let control = folder.path().join("control");
    run(
        Path::new("dpkg-deb"),
        &[Path::new("--control"), &package, &control],
    );
    let configured = std::fs::read_to_string(control.join("conffiles")).expect("conffiles");
    for path in configured.lines() {
        assert!(files.contains_key(path), "{path}");
    }
    for script in ["postinst", "prerm", "postrm"] {
        run(Path::new("sh"), &[Path::new("-n"), &control.join(script)]);
    }
}

/// The binary of a package has no debug lines; they are in the file beside it, which it names.
#[test]
fn d3_debug_lines_are_in_a_file_beside_the_binary() {
    let folder = tempfile::tempdir().expect("folder");
    run(
        &deploy("package/binary"),
        &[folder.path(), &sundew_tests::sundew()],
    );
    let sections = |name: &str| {
        let path = folder.path().join(name);
        let output = run(
            Path::new("readelf"),
            &[Path::new("--sections"), Path::new("--wide"), &path],
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (binary, debug) = (sections("sundew"), sections("sundew.debug"));
    assert!(
        !binary.contains(".debug_line") && !binary.contains(".symtab"),
        "{binary}"
    );
    assert!(binary.contains(".gnu_debuglink"), "{binary}");
    assert!(debug.contains(".debug_line"), "{debug}");
    let version = run(&folder.path().join("sundew"), &[Path::new("--version")]);
    assert!(printed(&version).starts_with("sundew "));
}

/// The configurations that are installed as they are.
#[test]
fn shipped_configurations_are_valid() {
    for name in [
        "package/sundew.toml",
        "container/sundew.toml",
        "sundew.toml",
    ] {
        let config = Config::parse(&text(name));
        assert!(config.is_ok(), "{name}: {:?}", config.err());
    }
    // The unit puts its credential where the configuration looks for it.
    let config = Config::parse(&text("package/sundew.toml")).expect("valid");
    let unit = text("systemd/sundew.service");
    assert!(unit.contains(&format!(
        "LoadCredential=root.key:{}\n",
        config.root_key_file.display()
    )));
}
