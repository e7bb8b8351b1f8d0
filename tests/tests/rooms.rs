//! The arrows between the rooms of a crate, by imports: they run one way, and ARCHITECTURE.md draws
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Room to the rooms that it names, with one file that does so.
type Arrows = BTreeMap<String, BTreeMap<String, PathBuf>>;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
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

/// Whether a file is compiled into tests only.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| {
        let part = part.as_os_str().to_string_lossy();
        let part = part.trim_end_matches(".rs");
        part == "testing" || part == "tests" || part.ends_with("_tests")
    })
}

/// The code of a file: without comments, and without what stands in its own module of tests.
fn code(text: &str) -> String {
    let shipped = text.split("#[cfg(test)]\nmod tests {").next();
    let lines = shipped.unwrap_or_default().lines();
    lines
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The modules at the top of the crate that a text names: `crate::name`, and each name in
/// `crate::{…}`.
fn named(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let word = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect()
    };
    for (at, marker) in text.match_indices("crate::") {
        let after = &text[at + marker.len()..];
        match after.strip_prefix('{') {
            None => drop(names.insert(word(after))),
            Some(list) => {
                // Names at the first level of the braces.
                let (mut depth, mut begins) = (0, true);
                for (index, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        c if begins && depth == 0 && !c.is_whitespace() => {
                            names.insert(word(&list[index..]));
                            begins = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

/// The arrows between the modules at the top of a crate. What a crate's root re-exports counts as
/// the module that it comes from only if it is named by that module.
fn arrows(source: &str) -> Arrows {
    let root = repository().join(source);
    let mut rooms = BTreeSet::new();
    for entry in std::fs::read_dir(&root).expect("source") {
        let path = entry.expect("entry").path();
        let name = path
            .file_stem()
            .expect("name")
            .to_string_lossy()
            .into_owned();
        if !["lib", "main", "testing"].contains(&name.as_str()) {
            rooms.insert(name);
        }
    }
    let mut arrows = Arrows::new();
    visit(&root, &mut |path, text| {
        let inside = path.strip_prefix(&root).expect("inside");
        let room = inside.components().next().expect("room");
        let room = room.as_os_str().to_string_lossy();
        let room = room.trim_end_matches(".rs").to_owned();
        if !rooms.contains(&room) || is_test(inside) {
            return;
        }
        let uses = arrows.entry(room.clone()).or_default();
        for name in named(&code(text)) {
            if rooms.contains(&name) && name != room {
                uses.entry(name).or_insert_with(|| inside.to_owned());
            }
        }
    });
    arrows
}

/// A circle, if there is one, with the file that draws each arrow.
fn circle(arrows: &Arrows) -> Option<Vec<String>> {
    fn walk(
        arrows: &Arrows,
        room: &str,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|step| step == room) {
            return Some(path.split_off(start));
        }
        if done.contains(room) {
            return None;
        }
        path.push(room.to_owned());
        for next in arrows.get(room).into_iter().flat_map(BTreeMap::keys) {
            if let Some(found) = walk(arrows, next, path, done) {
                return Some(found);
            }
        }
        path.pop();
        done.insert(room.to_owned());
        None
    }
    let mut done = BTreeSet::new();
    arrows
        .keys()
        .find_map(|room| walk(arrows, room, &mut Vec::new(), &mut done))
}

#[test]
fn no_crate_has_a_circle_of_rooms() {
    for source in [
        "attestation/src",
        "broker/core/src",
        "broker/policy/src",
        "broker/src",
        "broker/cli/src",
        "agent-sdk/src",
        "tests/src",
    ] {
        let arrows = arrows(source);
        assert!(arrows.len() > 2, "{source}: no rooms were found");
        if let Some(rooms) = circle(&arrows) {
            let steps = rooms.iter().zip(rooms.iter().cycle().skip(1));
            let drawn: Vec<_> = steps
                .map(|(from, to)| format!("{from} -> {to} ({})", arrows[from][to].display()))
                .collect();
            panic!("{source}: {}", drawn.join(", "));
        }
    }
}

#[test]
fn a_circle_is_found_where_there_is_one() {
    let arrow = |to: &str| BTreeMap::from([(to.to_owned(), PathBuf::new())]);
    let mut arrows = Arrows::from([
        ("a".to_owned(), arrow("b")),
        ("b".to_owned(), arrow("c")),
        ("c".to_owned(), BTreeMap::new()),
    ]);
    assert_eq!(circle(&arrows), None);
    arrows.insert("c".to_owned(), arrow("b"));
    assert_eq!(circle(&arrows), Some(vec!["b".to_owned(), "c".to_owned()]));
    assert_eq!(
        named("use crate::{\n    a,\n    b::{self, x},\n};\ncrate::c::d()"),
        ["a", "b", "c"].map(str::to_owned).into()
    );
}

/// ARCHITECTURE's drawing of the arrows: `room -> room room …`, continued on indented lines.
fn drawn() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(repository().join("ARCHITECTURE.md")).expect("document");
    let block = text
        .split("<!-- arrows -->")
        .nth(1)
        .and_then(|rest| rest.split("<!-- /arrows -->").next())
        .expect("the drawing of the arrows");
    let mut drawn = BTreeMap::<String, BTreeSet<String>>::new();
    let mut room = String::new();
    for line in block.lines().filter(|line| !line.starts_with("```")) {
        let uses = match line.split_once("->") {
            Some((name, uses)) => {
                room = name.trim().to_owned();
                drawn.entry(room.clone()).or_default();
                uses
            }
            None => line,
        };
        for name in uses.split_whitespace() {
            drawn
                .entry(room.clone())
                .or_default()
                .insert(name.to_owned());
        }
    }
    drawn
}

/// The drawing of these arrows, within 100 columns.
fn drawing(arrows: &BTreeMap<String, BTreeSet<String>>) -> String {
    let mut text = String::new();
    for (room, uses) in arrows {
        let mut line = format!("{room:<16} ->");
        for name in uses {
            if line.len() + name.len() + 1 > 100 {
                text.push_str(&line);
                text.push('\n');
                line = " ".repeat(19);
            }
            line = format!("{line} {name}");
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// The whole list is drawn, the door included, so that a new arrow is a decision.
#[test]
fn architecture_draws_the_arrows_between_the_brokers_rooms() {
    let found: BTreeMap<_, BTreeSet<_>> = arrows("broker/src")
        .into_iter()
        .map(|(room, uses)| (room, uses.into_keys().collect()))
        .collect();
    let drawn = drawn();
    assert!(
        drawn == found,
        "ARCHITECTURE.md draws other arrows; the imports say:\n{}",
        drawing(&found)
    );
}
