//! The shapes of what commands print with `--json`, as files for whoever reads that: `schema/KIND.json`.
//! `SUNDEW_BLESS=1 cargo test -p sundew shapes` writes them anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use crate::output::View;

/// The schema of a view, by its kind.
pub(crate) type Shape = (&'static str, Value);

/// The shape of a view.
pub(crate) fn of<V: View + JsonSchema>() -> Shape {
    (V::KIND, with_kind(V::KIND, schemars::schema_for!(V)))
}

/// The schema of an object with its kind.
pub(crate) fn with_kind(kind: &str, schema: Schema) -> Value {
    let mut schema = Value::from(schema);
    let object = schema.as_object_mut().unwrap();
    object.insert("title".to_owned(), json!(kind));
    let properties = object.entry("properties").or_insert_with(|| json!({}));
    let properties = properties.as_object_mut().unwrap();
    properties.insert("kind".to_owned(), json!({ "const": kind }));
    let required = object.entry("required").or_insert_with(|| json!([]));
    let required = required.as_array_mut().unwrap();
    if !required.contains(&json!("kind")) {
        required.insert(0, json!("kind"));
    }
    schema
}

fn all() -> BTreeMap<&'static str, Value> {
    let rooms = [
        crate::attest::shapes(),
        crate::backup::shapes(),
        crate::bounds::shapes(),
        crate::ca::shapes(),
        crate::dev::shapes(),
        crate::doctor::shapes(),
        crate::enclosing::shapes(),
        crate::engine::shapes(),
        crate::failure::shapes(),
        crate::health::shapes(),
        crate::journal::shapes(),
        crate::lease::shapes(),
        crate::manifest::shapes(),
        crate::operator::shapes(),
        crate::order::shapes(),
        crate::respond::shapes(),
        crate::root_key::shapes(),
        crate::secret::shapes(),
        crate::serve::shapes(),
        crate::svid::shapes(),
        crate::task::shapes(),
        crate::token::shapes(),
        crate::trust::shapes(),
        crate::workload::shapes(),
    ];
    let mut all = BTreeMap::new();
    for (kind, schema) in rooms.concat() {
        assert!(
            all.insert(kind, schema).is_none(),
            "{kind}: two shapes of one name"
        );
    }
    all
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schema")
}

fn is_blessed() -> bool {
    std::env::var_os("SUNDEW_BLESS").is_some()
}

#[test]
fn c6_the_schema_files_are_the_shapes_of_what_is_printed() {
    let all = all();
    for (kind, schema) in &all {
        let text = serde_json::to_string_pretty(schema).unwrap() + "\n";
        let path = folder().join(format!("{kind}.json"));
        if is_blessed() {
            std::fs::create_dir_all(folder()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let known = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(known == text, "{}: run with SUNDEW_BLESS=1", path.display());
    }
    let files: BTreeSet<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    let kinds: BTreeSet<_> = all.keys().map(ToString::to_string).collect();
    assert_eq!(files, kinds, "a file without a shape");
}

/// Whoever adds a view adds its shape.
#[test]
fn c6_every_kind_has_its_shape() {
    fn visit(folder: &Path, kinds: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, kinds);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let marker = "const KIND: &'static str = \"";
            let found = text
                .split(marker)
                .skip(1)
                .map(|rest| rest.split('"').next().unwrap());
            let is_test = path.ends_with("output_tests.rs") || path.ends_with("shapes_tests.rs");
            kinds.extend(found.filter(|_| !is_test).map(str::to_owned));
        }
    }
    let mut kinds = BTreeSet::from(["error".to_owned()]);
    visit(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut kinds,
    );
    assert_eq!(kinds, all().keys().map(ToString::to_string).collect());
}

/// What `--help` says, of every command.
#[test]
fn c6_the_help_of_every_command_is_the_one_that_was_blessed() {
    use clap::CommandFactory as _;
    fn visit(command: &mut clap::Command, path: &str, all: &mut String) {
        let mut help = command.render_long_help().to_string();
        // How to connect is told once.
        if path.contains(' ')
            && let Some(from) = help.find("\nConnection:\n")
        {
            let after = help.get(from + 1..).unwrap_or_default();
            let lines = after.split_inclusive('\n').skip(1);
            let inside = lines.take_while(|line| line.starts_with(' ') || line.trim().is_empty());
            let length: usize = inside.map(str::len).sum();
            help.replace_range(from..from + 1 + "Connection:\n".len() + length, "\n");
        }
        all.push_str(&format!("== {path}\n{}\n", help.trim_end()));
        for below in command
            .get_subcommands_mut()
            .filter(|below| below.get_name() != "help")
        {
            let path = format!("{path} {}", below.get_name());
            visit(below, &path, all);
        }
    }
    let mut command = crate::args::Cli::command().term_width(100);
    command.build();
    let mut text = String::new();
    visit(&mut command, "sundew", &mut text);
    // Values of the environment of whoever runs the test.
    let text: String = text
        .lines()
        .map(|line| without_values(line) + "\n")
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("help.txt");
    if is_blessed() {
        std::fs::write(&path, &text).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    for (known, now) in known.lines().zip(text.lines()) {
        assert_eq!(known, now, "run with SUNDEW_BLESS=1");
    }
    assert_eq!(known.lines().count(), text.lines().count());
}

/// A line of help whose `[env: NAME=value]` has no value.
fn without_values(line: &str) -> String {
    let Some((before, rest)) = line.split_once("[env: ") else {
        return line.trim_end().to_owned();
    };
    let (inside, after) = rest.split_once(']').unwrap_or((rest, ""));
    let name = inside.split('=').next().unwrap();
    format!("{before}[env: {name}=]{after}")
        .trim_end()
        .to_owned()
}
