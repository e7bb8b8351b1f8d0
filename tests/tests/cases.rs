//! Every case that the repository cites by its code is defined in `tests/CASES.md`, once, and no
//! comment or document points to a document that its reader does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Words that look like codes and are none: the file, the word, and the reason.
const NO_CODES: &[(&str, &str, &str)] = &[];

/// Titles of documents that are no part of the repository.
const ELSEWHERE: [&str; 6] = [
    "DESIGN",
    "STYLE",
    "HOUSE",
    "FIELD",
    "ACCEPTANCE",
    "NEGATIVE",
];

/// This file, which has to name the titles that no other file may name.
const OWN: &str = "tests/tests/cases.rs";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns path and text of each tracked file that may cite a case.
fn files() -> Vec<(String, String)> {
    let listed = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "--"])
        .args(["*.rs", "*.proto", "*.md", "*.toml", "*.sh"])
        .current_dir(root())
        .output()
        .expect("git is installed");
    assert!(
        listed.status.success(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
    String::from_utf8(listed.stdout)
        .expect("paths")
        .lines()
        // A file that was removed is listed until the removal is committed.
        .filter_map(|path| {
            Some((
                path.to_owned(),
                std::fs::read_to_string(root().join(path)).ok()?,
            ))
        })
        .collect()
}

/// Returns each definition of `CASES.md`: the bold word at the beginning of an entry.
fn definitions() -> Vec<String> {
    std::fs::read_to_string(root().join("tests/CASES.md"))
        .expect("CASES.md")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("- **")?.split_once("**")?.0.to_owned()))
        .collect()
}

/// Tells whether a word of a text has the form of a code, such as the ones for promises (a letter
/// and a number up to 12) or for what the field showed (a letter, a number, perhaps a letter).
fn is_code(word: &str) -> bool {
    let Some(family) = word.chars().next() else {
        return false;
    };
    let rest = &word[family.len_utf8()..];
    let digits = rest.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let (count, suffix) = (digits.len(), rest.len() - digits.len());
    let numbered = count > 0 && digits.bytes().all(|byte| byte.is_ascii_digit());
    numbered
        && match family {
            'P' => suffix == 0 && digits.parse::<u32>().is_ok_and(|n| (1..=12).contains(&n)),
            'T' => suffix == 0 && count <= 3,
            'A' | 'C' | 'D' | 'E' | 'I' | 'L' | 'O' | 'R' | 'S' => suffix <= 1 && count <= 2,
            _ => false,
        }
}

/// Returns the codes that a line cites in its text. Acceptance cases are two words with a hyphen
/// between them, all others are one word.
fn cited_in_text(line: &str) -> Vec<String> {
    let mut codes = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find(|c: char| c.is_alphanumeric()) {
        let (word, after) = word(&rest[at..]);
        rest = after;
        if word == "AC"
            && let Some(hyphened) = after.strip_prefix('-')
        {
            let (number, after) = self::word(hyphened);
            // In a placeholder such as AC-nn there is no number.
            if !number.is_empty()
                && number
                    .chars()
                    .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
            {
                codes.push(format!("AC-{number}"));
            }
            rest = after;
        } else if is_code(word) {
            codes.push(word.to_owned());
        }
    }
    codes
}

/// Splits a text after its first word.
fn word(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Returns the codes at the head of the name of a function: `fn ac_05_t27_t28_…` cites three.
fn cited_in_name(line: &str) -> Vec<String> {
    let Some((_, name)) = line.split_once("fn ") else {
        return Vec::new();
    };
    let mut codes = Vec::new();
    let mut segments = word(name).0.split('_');
    while let Some(segment) = segments.next() {
        let upper = |text: &str| text.to_ascii_uppercase();
        if segment == "ac" {
            codes.push(format!("AC-{}", upper(segments.next().unwrap_or_default())));
        } else if let Some(first) = segment.get(..1)
            && is_code(&(upper(first) + &segment[1..]))
        {
            codes.push(upper(first) + &segment[1..]);
        } else if codes.is_empty() || !matches!(segment, "and" | "to") {
            break;
        }
    }
    codes
}

/// Returns the part of a line that is prose: all of a document, the comment of a source.
fn prose<'a>(path: &str, line: &'a str) -> &'a str {
    let mark = match Path::new(path).extension().and_then(|e| e.to_str()) {
        Some("md") => return line,
        Some("rs" | "proto") => "//",
        _ => "#",
    };
    line.find(mark).map_or("", |at| &line[at..])
}

#[test]
fn every_code_that_is_cited_is_defined() {
    let defined: BTreeSet<_> = definitions().into_iter().collect();
    let mut unused: BTreeSet<_> = NO_CODES
        .iter()
        .map(|(path, word, _)| (*path, *word))
        .collect();
    let mut undefined = Vec::new();
    for (path, text) in files() {
        for (number, line) in (1..).zip(text.lines()) {
            let mut codes = cited_in_text(line);
            if path.ends_with(".rs") {
                codes.extend(cited_in_name(line));
            }
            codes.retain(|code| !defined.contains(code));
            for code in codes {
                if NO_CODES.iter().any(|(p, w, _)| *p == path && *w == code) {
                    unused.retain(|(p, w)| *p != path || *w != code);
                } else {
                    undefined.push(format!("{path}:{number}: {code}"));
                }
            }
        }
    }
    assert!(
        undefined.is_empty(),
        "not defined in tests/CASES.md:\n{}",
        undefined.join("\n")
    );
    assert!(unused.is_empty(), "exceptions without need: {unused:?}");
}

#[test]
fn no_code_is_defined_twice() {
    let mut counts = BTreeMap::<_, usize>::new();
    for code in definitions() {
        *counts.entry(code).or_default() += 1;
    }
    counts.retain(|_, count| *count > 1);
    assert!(counts.is_empty(), "{counts:?}");
}

#[test]
fn every_definition_has_the_form_of_a_code() {
    for code in definitions() {
        assert_eq!(
            cited_in_text(&code),
            std::slice::from_ref(&code),
            "never found when cited"
        );
    }
}

#[test]
fn nothing_refers_to_a_document_that_a_reader_does_not_have() {
    let mut found = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| path != OWN) {
        for (number, line) in (1..).zip(text.lines()) {
            let named = prose(&path, line)
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| ELSEWHERE.contains(&word));
            if named {
                found.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn codes_are_told_from_other_words() {
    assert_eq!(
        cited_in_text("// P4, AC-4A (L13a): T01–T12, see AC-nn."),
        ["P4", "AC-4A", "L13a", "T01", "T12"]
    );
    let others = "P-256 P13 P256 ES256 S3Bucket Vec<T> I/O E2E C2SP 26T10 L_1 T1_000 u8 AC";
    assert_eq!(cited_in_text(others), [""; 0]);
    assert_eq!(
        cited_in_name("    async fn ac_05_t27_t28_documents_of_p1() {"),
        ["AC-05", "T27", "T28"]
    );
    assert_eq!(cited_in_name("fn t12_to_t21_every_token()"), ["T12", "T21"]);
    assert_eq!(cited_in_name("pub fn a_key_on_p256()"), [""; 0]);
}
