//! C6: what commands print, as text and as JSON, against what was blessed, and against the schemas.
//! `SUNDEW_BLESS=1 cargo test -p sundew-tests --test e2e c6_what_commands` writes it anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Value, json};
use sundew_tests::broker::Broker;
use sundew_tests::world::World;

use super::run_as;

/// The schema of each kind.
pub(crate) fn schemas() -> BTreeMap<String, Validator> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker/cli/schema");
    let files = std::fs::read_dir(folder).expect("schemas");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("schema");
        let schema: Value = serde_json::from_str(&text).expect("JSON");
        let kind = path
            .file_stem()
            .expect("name")
            .to_string_lossy()
            .into_owned();
        (kind, jsonschema::validator_for(&schema).expect("a schema"))
    };
    files
        .map(|entry| read(entry.expect("entry").path()))
        .collect()
}

/// Each line is an object of a known kind, which fits the schema of that kind.
pub(crate) fn assert_fits(schemas: &BTreeMap<String, Validator>, lines: &str) {
    for line in lines.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let kind = value["kind"]
            .as_str()
            .unwrap_or_else(|| panic!("no kind: {line}"));
        let schema = schemas
            .get(kind)
            .unwrap_or_else(|| panic!("no schema of {kind}"));
        if let Err(error) = schema.validate(&value) {
            panic!("{kind}: {error}: {line}");
        }
    }
}

/// What stands before and after something random that has no form of its own.
const BLANKED: [(&str, char); 9] = [
    // Brokers append entries of their own, too.
    ("\"position\":", ','),
    ("correlation id ", ')'),
    ("\"correlation_id\":\"", '"'),
    ("exp = ", '\n'),
    ("iat = ", '\n'),
    ("jti = ", '\n'),
    ("\"exp\":[\"", '"'),
    ("\"iat\":[\"", '"'),
    ("\"jti\":[\"", '"'),
];

/// A text that has `X` for whatever stands between these.
fn blanked(text: &str, before: &str, after: char) -> String {
    let mut parts = text.split(before);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(after).unwrap_or(part.len());
        out += &format!("{before}X{}", &part[end..]);
    }
    out
}

/// A text without what is another at each run: names, times, ports and digests.
fn steady(text: &str, broker: &Broker, world: &World) -> String {
    let text = text
        .replace(&broker.folder().display().to_string(), "BROKER")
        .replace(&world.folder().display().to_string(), "WORLD")
        .replace(&broker.address(), "ADDRESS");
    let text = BLANKED
        .into_iter()
        .fold(text, |text, (before, after)| blanked(&text, before, after));
    let mut out = String::new();
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_:.=+/".contains(c);
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (word, after) = rest.split_at(length);
        out.push_str(&steady_word(word));
        rest = after;
    }
    // Columns are as wide as what stands in them.
    let squeeze = |line: &str| {
        let words: Vec<_> = line
            .split("  ")
            .map(str::trim)
            .filter(|w| !w.is_empty())
            .collect();
        words.join("  ")
    };
    out.lines().map(|line| squeeze(line) + "\n").collect()
}

fn steady_word(word: &str) -> String {
    if let Some(value) = word.strip_prefix(':') {
        return format!(":{}", steady_word(value));
    }
    let (name, value) = word
        .split_once('=')
        .map_or(("", word), |(name, value)| (name, value));
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).count();
    let is_hex = |text: &str| text.len() >= 16 && text.chars().all(|c| c.is_ascii_hexdigit());
    let kind = if ["task-", "tok-", "rev-", "lease-", "sdw_", "sdg_"]
        .iter()
        .any(|p| value.starts_with(p))
    {
        "NAME"
    } else if value.len() == 20 && value.ends_with('Z') && digits(value) == 14 {
        "TIME"
    } else if value.len() == 13 && digits(value) == 13 {
        "MS"
    } else if is_hex(value)
        || value.split(':').all(|part| is_hex(part) || part.len() < 6) && digits(value) > 8
    {
        "HEX"
    } else if value.len() > 40 && !value.contains('/') {
        "LONG"
    } else {
        return word.to_owned();
    };
    match name {
        "" => kind.to_owned(),
        name => format!("{name}={kind}"),
    }
}

const WORKLOADS: &str = "[[workload]]
spiffe_id = \"spiffe://test.example/two\"
owner = \"team\"
begin = \"self\"
scopes = [\"exec:git\"]
[[workload.evidence]]
kind = \"oidc\"
issuer = \"https://issuer.test\"
claims = { sub = [\"/two\"] }
";

/// One session of operators and an agent: who, what is on standard input, and the command.
fn session(task: &str, folder: &Path) -> Vec<(&'static str, &'static str, Vec<String>)> {
    let calls = [
        ("/operator", WORKLOADS, "workload apply -f - --dry-run"),
        ("/operator", WORKLOADS, "workload diff -f -"),
        ("/operator", WORKLOADS, "workload apply -f -"),
        ("/operator", WORKLOADS, "workload apply -f -"),
        ("/operator", "", "workload list"),
        (
            "/operator",
            "",
            "workload list --prefix spiffe://test.example/two",
        ),
        ("/operator", "", "workload export"),
        ("/operator", "", "workload show spiffe://test.example/agent"),
        ("/operator", "", "workload show spiffe://test.example/none"),
        ("/responder", "", "workload list"),
        ("/stranger", "", "workload list"),
        ("/operator", "s3cret", "secret put app/key"),
        ("/operator", "", "secret list"),
        ("/operator", "", "secret engine list"),
        ("/operator", "", "bounds show"),
        ("/operator", "", "task list"),
        (
            "/operator",
            "",
            "task list --scope exec:git --claim oidc.sub=/agent",
        ),
        ("/operator", "", "task list --state suspended"),
        ("/operator", "", "task list --claim oidc.sub=/other"),
        ("/operator", "", "task list --scope exec:rm"),
        (
            "/operator",
            "",
            "task list --spiffe-prefix spiffe://test.example/two",
        ),
        ("/operator", "", "task list --older-than 1h"),
        ("/operator", "", "task list --younger-than 1h --limit 1"),
        (
            "/operator",
            "",
            "task list --state alive --workload spiffe://test.example/agent",
        ),
        ("/operator", "", "task show TASK"),
        (
            "/operator",
            "",
            "task show task-00000000000000000000000000000000",
        ),
        ("/operator", "", "revoke --task TASK --preview"),
        (
            "/operator",
            "",
            "quarantine --workload spiffe://test.example/two --reason why",
        ),
        ("/operator", "", "revoke list"),
        ("/operator", "", "lease list"),
        ("/operator", "", "trust list"),
        ("/operator", "", "trust status"),
        ("/operator", "", "attest explain"),
        ("/operator", "", "keyring rotate"),
        ("/agent", "", "task complete TASK"),
        ("/operator", "", "task list --state ended"),
        ("/operator", "", "secret delete app/none"),
        ("/operator", "", "secret delete app/key"),
        ("/operator", "", "config check --config FOLDER/none.toml"),
        ("/operator", "", "journal verify FOLDER"),
        ("/operator", "", "workload delete spiffe://test.example/two"),
    ];
    let words = |line: &str| {
        let line = line
            .replace("TASK", task)
            .replace("FOLDER", &folder.display().to_string());
        line.split(' ').map(str::to_owned).collect()
    };
    calls
        .into_iter()
        .map(|(who, input, line)| (who, input, words(line)))
        .collect()
}

/// What a whole session prints.
async fn printed(json: bool) -> String {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let begin = [
        "--json",
        "task",
        "begin",
        "look at it",
        "--scope",
        "exec:git",
        "--no-attend",
    ];
    let begin = || run_as(&world, &broker, "/agent", &begin, "");
    assert!(
        begin().status.success(),
        "another one, so that there are two"
    );
    let begun: Value = serde_json::from_slice(&begin().stdout).expect("begun");
    let task = begun["task_id"].as_str().expect("task").to_owned();
    let schemas = schemas();
    let folder = world.folder().join("empty");
    std::fs::create_dir(&folder).expect("folder");
    let mut all = String::new();
    for (who, input, words) in session(&task, &folder) {
        let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
        if json {
            arguments.insert(0, "--json");
        }
        let output = run_as(&world, &broker, who, &arguments, input);
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        if json {
            assert_fits(&schemas, &stdout);
            assert_fits(&schemas, &stderr);
        }
        let code = output.status.code().expect("code");
        let said = format!("$ sundew {}\n{stdout}{stderr}[{code}]\n", words.join(" "));
        all.push_str(&steady(&said, &broker, &world));
    }
    all
}

async fn assert_blessed(json: bool, name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/e2e/cli")
        .join(name);
    let now = printed(json).await;
    if std::env::var_os("SUNDEW_BLESS").is_some() {
        std::fs::write(&path, &now).expect("blessed");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    for (known, now) in known.lines().zip(now.lines()) {
        assert_eq!(known, now, "{name}: run with SUNDEW_BLESS=1");
    }
    assert_eq!(known.lines().count(), now.lines().count(), "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_what_commands_print_for_people_is_what_was_blessed() {
    assert_blessed(false, "printed.txt").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_what_commands_print_in_json_fits_its_schema_and_is_what_was_blessed() {
    assert_blessed(true, "printed.jsonl").await;
}
