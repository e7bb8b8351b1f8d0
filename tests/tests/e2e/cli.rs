//! The command line, as its users call it.

mod every_command;
mod operate;
mod printed;
mod run;
mod terminal;

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use sundew_tests::broker::Broker;
use sundew_tests::sundew;
use sundew_tests::world::World;

pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// C6: `sundew … | head`, and a full disk.
#[test]
fn c6_output_that_cannot_be_written_ends_a_command_without_a_backtrace() {
    let kinds = |stdout: Stdio| {
        let mut command = Command::new(sundew());
        command.args(["attest", "kinds"]).stdout(stdout);
        let output = command.stderr(Stdio::piped()).output().expect("run");
        (output.status.code(), text(&output))
    };
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    assert_eq!(kinds(writer.into()), (Some(0), String::new()));
    let full = std::fs::File::options().write(true).open("/dev/full");
    let (code, said) = kinds(full.expect("/dev/full").into());
    assert_eq!(code, Some(1));
    assert!(
        said.contains("No space left") && !said.contains("panicked"),
        "{said}"
    );
}

/// Runs `sundew` as somebody, with something on standard input.
pub(crate) fn run_as(
    world: &World,
    broker: &Broker,
    path: &str,
    arguments: &[&str],
    input: &str,
) -> Output {
    let mut command = command_as(world, broker, path);
    command.args(arguments);
    sundew_tests::process::run(command, input)
}

pub(crate) fn command_as(world: &World, broker: &Broker, path: &str) -> Command {
    let folder = world
        .folder()
        .join(format!("svid{}", path.replace('/', "-")));
    if !folder.exists() {
        world
            .ca
            .svid(path)
            .write(&folder, std::slice::from_ref(&world.ca.certificate));
    }
    // Each use gets a fresh OIDC token; this issuer's are good once.
    let token = world.folder().join("token");
    std::fs::write(&token, world.issuer.token("/agent")).expect("token");
    let mut command = Command::new(sundew());
    command
        .env("SUNDEW_BROKER", broker.address())
        .env("SUNDEW_SVID_DIR", folder)
        .env("SUNDEW_OIDC_TOKEN_FILE", token)
        .env("SUNDEW_OPERATIONS", broker.operations());
    command
}

fn demo(arguments: &[&str]) -> Output {
    Command::new(sundew())
        .arg("demo")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("demo")
}

#[test]
fn the_demo_holds_every_promise_it_shows() {
    let output = demo(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("Every promise shown held") && !text(&output).contains('✗'));
    let output = demo(&["--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["held"], json!(true), "{value}");
    assert!(value["steps"].as_array().expect("steps").len() >= 12);
}

#[test]
fn the_demo_takes_the_users_own_command_and_tells_when_it_fails() {
    let output = demo(&[
        "--",
        "sh",
        "-c",
        "test -n \"$DEMO_API_KEY\" && test -n \"$SUNDEW_TOKEN\"",
    ]);
    assert!(output.status.success(), "{}", text(&output));
    let output = demo(&["--", "false"]);
    assert!(
        !output.status.success() && text(&output).contains("NOT everything held"),
        "{}",
        text(&output)
    );
}

const TWO_WORKLOADS: &str = r#"
[[workload]]
spiffe_id = "spiffe://test.example/agent"
owner = "team"
begin = "self"
scopes = ["secret:app/*"]
[[workload.evidence]]
kind = "oidc"
issuer = "https://issuer.test"
claims = { sub = ["/agent"] }
[[workload]]
spiffe_id = "spiffe://test.example/second"
owner = "team"
begin = "self"
scopes = ["exec:git"]
[[workload.evidence]]
kind = "oidc"
issuer = "https://issuer.test"
claims = { sub = ["/second"] }
"#;

/// Each document that is wrong is refused, with a word of what is wrong.
fn assert_bad_workloads_are_refused(apply: impl Fn(&str) -> Output) {
    for (bad, part) in [
        ("", "no workload"),
        ("[[workload]]\nowner = 1", "owner"),
        ("{", "EOF"),
        (
            "[[workload]]\nspiffe_id = \"x\"\nowner=\"o\"\nbegin=\"self\"\nscopes=[\"exec:git\"]\nevidence=[]",
            "spiffe_id",
        ),
    ] {
        let output = apply(bad);
        assert!(
            !output.status.success() && text(&output).contains(part),
            "{bad:?}: {}",
            text(&output)
        );
    }
}

#[tokio::test]
async fn workloads_are_applied_from_toml_and_json_with_a_diff() {
    let world = World::embedded();
    let broker = world.broker().await;
    let toml = TWO_WORKLOADS;
    let apply = |text: &str, more: &[&str]| {
        run_as(
            &world,
            &broker,
            "/operator",
            &[&["workload", "apply", "-f", "-"], more].concat(),
            text,
        )
    };
    let dry = apply(toml, &["--dry-run"]);
    let said = text(&dry);
    assert_eq!(dry.status.code(), Some(1), "something would change: {said}");
    assert!(
        said.contains("2 created (dry run: nothing was changed)"),
        "{said}"
    );
    let operator = |arguments: &[&str]| run_as(&world, &broker, "/operator", arguments, "");
    let list = || text(&operator(&["workload", "list"]));
    assert!(!list().contains("/second"));
    let created = text(&apply(toml, &[]));
    assert!(
        created.contains("/agent created") && created.contains("/second created\n2 created\n"),
        "{created}"
    );
    assert_eq!(text(&apply(toml, &[])), "2 unchanged\n");
    let same = apply(toml, &["--dry-run"]);
    assert!(same.status.success(), "nothing would change");
    let narrower = toml.replacen("secret:app/*", "secret:app/x", 1);
    let differs = run_as(
        &world,
        &broker,
        "/operator",
        &["workload", "diff", "-f", "-"],
        &narrower,
    );
    assert_eq!(differs.status.code(), Some(1));
    let differs = text(&differs);
    assert!(
        differs.contains("/agent changed\n  - scopes.0: \"secret:app/*\"\n")
            && differs.contains("  + scopes.0: \"secret:app/x\""),
        "{differs}"
    );
    let changed = text(&apply(&narrower, &[]));
    assert!(changed.contains("/agent changed (2 lines)"), "{changed}");
    let shown: Value = serde_json::from_slice(
        &run_as(
            &world,
            &broker,
            "/operator",
            &["--json", "workload", "show", "spiffe://test.example/agent"],
            "",
        )
        .stdout,
    )
    .expect("JSON");
    let back = apply(&shown.to_string(), &[]);
    assert!(
        text(&back).contains("unchanged"),
        "what is shown can be applied: {}",
        text(&back)
    );
    assert_bad_workloads_are_refused(|text| apply(text, &[]));
    let deleted = operator(&["workload", "delete", "spiffe://test.example/second"]);
    assert!(deleted.status.success());
    assert!(!list().contains("/second"));
    let refused = run_as(&world, &broker, "/agent", &["workload", "list"], "");
    assert!(
        !refused.status.success() && text(&refused).contains("correlation id"),
        "{}",
        text(&refused)
    );
}

/// C6: registrations are kept in files: folders, many files, what is in none of them, and back.
#[tokio::test]
async fn c6_registrations_come_from_folders_are_pruned_and_exported() {
    let world = World::embedded();
    let broker = world.broker().await;
    let folder = world.folder().join("workloads");
    std::fs::create_dir_all(folder.join("deep")).expect("folder");
    let (first, second) = TWO_WORKLOADS.split_at(TWO_WORKLOADS.rfind("[[workload]]").expect("two"));
    std::fs::write(folder.join("first.toml"), first).expect("file");
    std::fs::write(folder.join("deep/second.toml"), second).expect("file");
    let operator = |arguments: &[&str]| run_as(&world, &broker, "/operator", arguments, "");
    let path = folder.display().to_string();
    let apply = |more: &[&str]| operator(&[&["workload", "apply", "-f", &path][..], more].concat());
    assert!(text(&apply(&[])).ends_with("2 created\n"));
    let mut many = String::new();
    for number in 0..60 {
        many += &first.replace("/agent\"\nowner", &format!("/many/{number}\"\nowner"));
    }
    let many = run_as(
        &world,
        &broker,
        "/operator",
        &["workload", "apply", "-f", "-"],
        &many,
    );
    assert!(text(&many).ends_with("60 created\n"), "{}", text(&many));
    // Only what is chosen is removed, and not without a choice.
    assert_eq!(apply(&["--prune"]).status.code(), Some(2));
    std::fs::remove_file(folder.join("deep/second.toml")).expect("removed");
    let prefix = ["--prune", "--prefix", "spiffe://test.example/second"];
    let dry = apply(&[&prefix[..], &["--dry-run"]].concat());
    assert_eq!(dry.status.code(), Some(1), "{}", text(&dry));
    let pruned = text(&apply(&prefix));
    assert_eq!(
        pruned,
        "spiffe://test.example/second removed\n1 removed, 1 unchanged\n"
    );
    // What is exported is what there is.
    let exported = operator(&["workload", "export"]);
    let again = world.folder().join("exported.toml");
    std::fs::write(&again, &exported.stdout).expect("file");
    let again = again.display().to_string();
    let same = operator(&["workload", "apply", "--dry-run", "-f", &again]);
    assert_eq!(text(&same), "61 unchanged (dry run: nothing was changed)\n");
    let json = operator(&["--json", "workload", "export", "--owner", "team"]);
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["workload"].as_array().map(Vec::len), Some(61));
}

/// C6: whoever has no identity hears that at once, with what to do.
#[tokio::test]
async fn c6_no_identity_is_told_at_once() {
    let world = World::embedded();
    let (mut broker, _) = world.prepare_with_own_ca("");
    broker.up();
    broker.ready().await;
    let socket = format!("unix://{}", world.folder().join("api.sock").display());
    let list = |socket: Option<&str>| {
        let mut command = Command::new(sundew());
        command.args(["workload", "list", "--broker", &broker.address()]);
        for name in ["SUNDEW_SVID_DIR", "SPIFFE_ENDPOINT_SOCKET"] {
            command.env_remove(name);
        }
        command.envs(socket.map(|socket| ("SPIFFE_ENDPOINT_SOCKET", socket)));
        let began = std::time::Instant::now();
        let output = command.output().expect("run");
        (text(&output), began.elapsed())
    };
    for (socket, told) in [
        (None, "set --svid-dir or SUNDEW_SVID_DIR"),
        (
            Some("unix:///nowhere.sock"),
            "nobody serves a Workload API there",
        ),
        (
            Some(socket.as_str()),
            "has no identity for this process, which runs as user",
        ),
    ] {
        let (said, took) = list(socket);
        assert!(said.contains(told), "{socket:?}: {said}");
        // The SDK waits for ten seconds, which is for agents.
        assert!(took < std::time::Duration::from_secs(8), "{took:?}");
    }
}

#[test]
fn help_version_completion_and_usage_errors_are_as_everywhere() {
    let run = |arguments: &[&str]| {
        Command::new(sundew())
            .args(arguments)
            .env_remove("SUNDEW_BROKER")
            .stdin(Stdio::null())
            .output()
            .expect("run")
    };
    for arguments in [
        &["--help"][..],
        &["run", "--help"],
        &["workload", "apply", "--help"],
        &["--version"],
        &["completion", "bash"],
        &["completion", "fish"],
    ] {
        let output = run(arguments);
        assert!(
            output.status.success() && !output.stdout.is_empty(),
            "{arguments:?}"
        );
    }
    for arguments in [
        &[][..],
        &["nonsense"],
        &["run", "--task", "x"],
        &["revoke", "--reason", "x"],
        &["revoke", "--task", "a"],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let output = run(&["workload", "list"]);
    assert!(
        !output.status.success() && text(&output).contains("SUNDEW_BROKER"),
        "{}",
        text(&output)
    );
}
