//! The command line, as its users call it.

mod operate;
mod run;

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
    assert_eq!(kinds(writer.into()), (Some(141), String::new()));
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
scopes = ["secret:app/*"]
[[workload.evidence]]
kind = "oidc"
issuer = "https://issuer.test"
claims = { sub = ["/agent"] }
[[workload]]
spiffe_id = "spiffe://test.example/second"
owner = "team"
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
            "[[workload]]\nspiffe_id = \"x\"\nowner=\"o\"\nscopes=[\"exec:git\"]\nevidence=[]",
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
    assert!(dry.status.success() && said.contains("dry run"), "{said}");
    let operator = |arguments: &[&str]| run_as(&world, &broker, "/operator", arguments, "");
    let list = || text(&operator(&["workload", "list"]));
    assert!(!list().contains("/second"));
    let created = text(&apply(toml, &[]));
    assert!(
        created.contains("/agent created")
            && created.contains("/second created")
            && created.contains("+ owner: \"team\""),
        "{created}"
    );
    assert!(text(&apply(toml, &[])).contains("/agent unchanged"));
    let changed = text(&apply(
        &toml.replacen("secret:app/*", "secret:app/x", 1),
        &[],
    ));
    assert!(
        changed.contains("/agent changed")
            && changed.contains("- scopes.0: \"secret:app/*\"")
            && changed.contains("+ scopes.0: \"secret:app/x\""),
        "{changed}"
    );
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
