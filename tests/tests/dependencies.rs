//! The pictures in ARCHITECTURE.md are what Cargo and the imports say.
//!
//! `rooms.rs` holds the arrows between the modules of each crate.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Package to the packages of this workspace that it depends on; tests may depend on all.
const PICTURE: [(&str, &str, &[&str]); 9] = [
    ("proto", "sundew-proto", &[]),
    ("attestation", "sundew-attestation", &[]),
    ("broker/core", "sundew-core", &["sundew-attestation"]),
    ("broker/policy", "sundew-policy", &[]),
    (
        "broker",
        "sundew-broker",
        &["sundew-attestation", "sundew-core", "sundew-proto"],
    ),
    ("agent-sdk", "sundew-sdk", &["sundew-core", "sundew-proto"]),
    (
        "broker/cli",
        "sundew",
        &["sundew-broker", "sundew-core", "sundew-proto", "sundew-sdk"],
    ),
    (
        "tests",
        "sundew-tests",
        &[
            "sundew-attestation",
            "sundew-broker",
            "sundew-core",
            "sundew-proto",
            "sundew-rebuilt",
            "sundew-sdk",
        ],
    ),
    ("tests/rebuilt", "sundew-rebuilt", &[]),
];

fn manifest(folder: &str) -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder)
        .join("Cargo.toml");
    std::fs::read_to_string(path)
        .expect("manifest")
        .parse()
        .expect("TOML")
}

#[test]
fn each_package_depends_on_what_the_picture_shows() {
    let members = manifest("")["workspace"]["members"]
        .as_array()
        .expect("members")
        .iter()
        .map(|m| m.as_str().expect("path").to_owned())
        .collect::<BTreeSet<_>>();
    assert_eq!(
        members,
        PICTURE
            .iter()
            .map(|(folder, _, _)| (*folder).to_owned())
            .collect()
    );
    for (folder, name, expected) in PICTURE {
        let table = manifest(folder);
        assert_eq!(table["package"]["name"].as_str(), Some(name));
        let found: BTreeSet<_> = table["dependencies"]
            .as_table()
            .expect("dependencies")
            .keys()
            .filter(|d| d.starts_with("sundew"))
            .cloned()
            .collect();
        assert_eq!(
            found,
            expected.iter().map(ToString::to_string).collect(),
            "{name}"
        );
    }
}

/// The domain has no runtime, transport or store; verification has no I/O.
#[test]
fn the_pure_crates_stay_pure() {
    for folder in ["attestation", "broker/core", "broker/policy"] {
        let table = manifest(folder);
        let found: BTreeSet<_> = table["dependencies"]
            .as_table()
            .expect("dependencies")
            .keys()
            .cloned()
            .collect();
        for banned in [
            "tokio", "tonic", "redis", "reqwest", "axum", "hyper", "rustls", "tracing",
        ] {
            assert!(!found.contains(banned), "{folder} depends on {banned}");
        }
    }
}

/// Time is an argument: one place reads the wall clock, and one the monotonic clock. The SDK has a
/// life and a clock of its own.
#[test]
fn one_file_of_the_broker_reads_clocks() {
    let mut offenders = BTreeMap::new();
    for folder in [
        "attestation/src",
        "broker/core/src",
        "broker/policy/src",
        "broker/src",
    ] {
        visit(
            &Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("..")
                .join(folder),
            &mut |path, text| {
                if !path.ends_with("clock.rs")
                    && (text.contains("SystemTime::now") || text.contains("Instant::now()"))
                {
                    offenders.insert(path.to_owned(), ());
                }
            },
        );
    }
    assert!(offenders.is_empty(), "{offenders:?}");
}

fn visit(folder: &Path, look: &mut dyn FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            visit(&path, look);
        } else if path.extension().is_some_and(|e| e == "rs") {
            look(&path, &std::fs::read_to_string(&path).expect("source"));
        }
    }
}

/// Each test that SECURITY.md names is there, so that no claim points at nothing.
#[test]
fn every_test_that_security_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut tests = BTreeSet::new();
    for folder in [
        "tests/tests",
        "agent-sdk/src",
        "attestation/src",
        "attestation/tests",
        "broker/cli/src",
        "broker/core/src",
        "broker/policy/src",
        "broker/src",
        "proto/tests",
    ] {
        visit(&root.join(folder), &mut |_, text| {
            let mut lines = text.lines().peekable();
            while let Some(line) = lines.next() {
                let marked =
                    line.trim_start().starts_with("#[test]") || line.contains("#[tokio::test");
                if let (true, Some(next)) = (marked, lines.peek()) {
                    let name = next
                        .trim_start()
                        .trim_start_matches("async ")
                        .trim_start_matches("fn ")
                        .split('(')
                        .next()
                        .unwrap_or_default();
                    tests.insert(name.to_owned());
                }
            }
        });
    }
    assert!(tests.len() > 80, "{}", tests.len());
    let security = std::fs::read_to_string(root.join("SECURITY.md")).expect("SECURITY.md");
    let mut named = 0;
    for line in security.lines().filter(|l| l.starts_with('|')) {
        let Some(last) = line.trim_end_matches('|').rsplit('|').next() else {
            continue;
        };
        for name in last.split('`').skip(1).step_by(2) {
            let found = match name.strip_suffix('*') {
                Some(prefix) => tests.iter().any(|test| test.starts_with(prefix)),
                None => tests.contains(name),
            };
            assert!(
                found,
                "SECURITY.md names `{name}`, and there is no such test"
            );
            named += 1;
        }
    }
    assert!(named > 30, "{named}");
}
