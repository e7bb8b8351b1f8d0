//! The command line, as its users call it.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use sundew_tests::broker::{Broker, World};
use sundew_tests::{sundew, until};

pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs `sundew` as somebody, with something on standard input.
fn run_as(world: &World, broker: &Broker, path: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = command_as(world, broker, path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    child
        .stdin
        .take()
        .expect("pipe")
        .write_all(input.as_bytes())
        .expect("input");
    child.wait_with_output().expect("run")
}

fn command_as(world: &World, broker: &Broker, path: &str) -> Command {
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

#[tokio::test]
async fn workloads_are_applied_from_toml_and_json_with_a_diff() {
    let world = World::embedded();
    let broker = world.broker().await;
    let toml = r#"
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
    assert!(
        dry.status.success() && text(&dry).contains("dry run"),
        "{}",
        text(&dry)
    );
    let list = || {
        text(&run_as(
            &world,
            &broker,
            "/operator",
            &["workload", "list"],
            "",
        ))
    };
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
    for (bad, part) in [
        ("", "no workload"),
        ("[[workload]]\nowner = 1", "owner"),
        ("{", "EOF"),
        (
            "[[workload]]\nspiffe_id = \"x\"\nowner=\"o\"\nscopes=[\"exec:git\"]\nevidence=[]",
            "spiffe_id",
        ),
    ] {
        let output = apply(bad, &[]);
        assert!(
            !output.status.success() && text(&output).contains(part),
            "{bad:?}: {}",
            text(&output)
        );
    }
    assert!(
        run_as(
            &world,
            &broker,
            "/operator",
            &["workload", "delete", "spiffe://test.example/second"],
            ""
        )
        .status
        .success()
    );
    assert!(!list().contains("/second"));
    let refused = run_as(&world, &broker, "/agent", &["workload", "list"], "");
    assert!(
        !refused.status.success() && text(&refused).contains("correlation id"),
        "{}",
        text(&refused)
    );
}

#[tokio::test]
async fn run_gives_the_command_its_secrets_and_token_and_passes_its_exit_code_on() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let put = run_as(
        &world,
        &broker,
        "/operator",
        &["secret", "put", "app/key"],
        "s3cr3t",
    );
    assert!(text(&put).contains("app/key version 1"), "{}", text(&put));
    let base = [
        "run",
        "--task",
        "triage",
        "--scope",
        "secret:app/key",
        "--secret",
        "KEY=app/key",
    ];
    let run = |more: &[&str]| run_as(&world, &broker, "/agent", &[&base[..], more].concat(), "");
    let output = run(&[
        "--",
        "sh",
        "-c",
        "printf '%s %s' \"$KEY\" \"${SUNDEW_TOKEN%%_*}\"; exit 7",
    ]);
    assert_eq!(
        (output.status.code(), text(&output).as_str()),
        (Some(7), "s3cr3t sdw")
    );
    let output = run(&[
        "--token",
        "fd",
        "--",
        "sh",
        "-c",
        "test -z \"$SUNDEW_TOKEN\" && cat /dev/fd/$SUNDEW_TOKEN_FD",
    ]);
    assert!(
        text(&output).starts_with("sdw_") && output.status.success(),
        "{}",
        text(&output)
    );
    assert_eq!(run(&["--", "/no/such/command"]).status.code(), Some(127));
    assert_eq!(
        run(&["--", "sh", "-c", "kill -9 $$"]).status.code(),
        Some(137)
    );
    assert_eq!(
        run(&["--secret", "OTHER=app/none", "--", "true"])
            .status
            .code(),
        Some(125)
    );
    assert_eq!(
        run(&["--scope", "secret:other/x", "--", "true"])
            .status
            .code(),
        Some(125)
    );
    let outcomes: Vec<_> = broker
        .journal()
        .iter()
        .filter(|r| r.event == "task_ended")
        .filter_map(|r| r.field("outcome").map(str::to_owned))
        .collect();
    assert_eq!(outcomes[..4], ["failed", "completed", "canceled", "failed"]);
    assert!(!text(&run(&["--", "true"])).contains("s3cr3t"));
}

#[tokio::test]
async fn run_forwards_signals_and_stops_the_command_when_the_task_is_revoked() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let start = |script: &str| {
        let mut command = command_as(&world, &broker, "/agent");
        command
            .args([
                "run",
                "--task",
                "t",
                "--scope",
                "exec:git",
                "--kill-after",
                "500ms",
                "--",
                "sh",
                "-c",
                script,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("run")
    };
    let begun = |count: usize| {
        let broker = &broker;
        until("the task has begun", move || async move {
            broker
                .journal()
                .iter()
                .filter(|r| r.event == "task_begun")
                .count()
                >= count
        })
    };
    let child = start("trap 'exit 33' TERM; echo up; while :; do sleep 0.05; done");
    begun(1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    sundew_tests::process::signal(child.id(), Signal::TERM);
    assert_eq!(
        child.wait_with_output().expect("wait").status.code(),
        Some(33)
    );
    assert!(
        broker
            .journal()
            .iter()
            .any(|r| r.event == "task_ended" && r.field("outcome") == Some("canceled"))
    );

    let child = start("trap '' TERM; while :; do sleep 0.05; done");
    begun(2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let revoke = run_as(
        &world,
        &broker,
        "/operator",
        &[
            "revoke",
            "--workload",
            "spiffe://test.example/agent",
            "--reason",
            "test",
        ],
        "",
    );
    assert!(
        revoke.status.success() && text(&revoke).contains("1 live tasks"),
        "{}",
        text(&revoke)
    );
    let began = Instant::now();
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(137), "SIGKILL after the grace");
    assert!(
        text(&output).contains("the task was ended: revoked")
            && began.elapsed() < Duration::from_secs(5),
        "{}",
        text(&output)
    );
}

/// AC-36: `sundew run` is killed with SIGKILL; its task ends all the same.
#[tokio::test]
async fn a_killed_run_leaves_no_task_behind() {
    let world = World::embedded();
    let broker = world.broker().await;
    world
        .register(&broker, "/agent", json!({ "attendance_grace": "1s" }))
        .await;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let mut child = command_as(&world, &broker, "/agent")
        .args([
            "run", "--task", "t", "--scope", "exec:git", "--", "sleep", "20",
        ])
        .stdin(Stdio::null())
        .spawn()
        .expect("run");
    until("begun", || async {
        broker.journal().iter().any(|r| r.event == "task_begun")
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(
        !broker.journal().iter().any(|r| r.event == "task_ended"),
        "attended while it runs"
    );
    child.kill().expect("kill");
    child.wait().expect("wait");
    until("abandoned", || async {
        broker
            .journal()
            .iter()
            .any(|r| r.event == "task_ended" && r.field("outcome") == Some("abandoned"))
    })
    .await;
}

#[tokio::test]
async fn tasks_and_tokens_can_be_looked_at_and_ended() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let output = run_as(
        &world,
        &broker,
        "/agent",
        &[
            "--json",
            "task",
            "begin",
            "look \u{1b}[31m at it",
            "--scope",
            "exec:git",
            "--no-attend",
        ],
        "",
    );
    let begun: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    let (task, token) = (
        begun["task_id"].as_str().expect("task"),
        begun["token"].as_str().expect("token"),
    );
    let introspect = |who: &str| run_as(&world, &broker, who, &["token", "introspect"], token);
    assert!(introspect("/agent").status.success() && text(&introspect("/agent")).contains(task));
    assert!(
        !introspect("/operator").status.success(),
        "without the presenter's certificate it is not active"
    );
    let list = text(&run_as(&world, &broker, "/operator", &["task", "list"], ""));
    assert!(
        list.contains(task) && list.contains("alive") && !list.contains('\u{1b}'),
        "{list}"
    );
    let show = text(&run_as(
        &world,
        &broker,
        "/operator",
        &["task", "show", task],
        "",
    ));
    assert!(show.contains("scopes        exec:git"), "{show}");
    let done = run_as(
        &world,
        &broker,
        "/agent",
        &["task", "complete", task, "--outcome", "failed"],
        "",
    );
    assert!(text(&done).contains("failed"), "{}", text(&done));
    assert_eq!(introspect("/agent").status.code(), Some(1));
    assert!(
        text(&run_as(
            &world,
            &broker,
            "/operator",
            &["task", "show", task],
            ""
        ))
        .contains("failed")
    );
    let verify = Command::new(sundew())
        .args(["journal", "verify"])
        .arg(broker.folder().join("journal"))
        .output()
        .expect("verify");
    assert!(
        verify.status.success() && text(&verify).contains("the chain holds"),
        "{}",
        text(&verify)
    );
    let show = Command::new(sundew())
        .args(["--json", "journal", "show"])
        .arg(broker.folder().join("journal"))
        .output()
        .expect("show");
    assert!(
        text(&show)
            .lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok())
    );
}

/// A responder's first five minutes, as the README has them, with a database behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_responder_previews_contains_watches_and_lifts_from_the_command_line() {
    let postgres = sundew_tests::postgres::Postgres::start().await;
    let world = World::embedded();
    let broker = world.broker().await;
    world
        .register(
            &broker,
            "/agents/one",
            json!({ "scopes": ["secret:db/*"], "evidence": [{ "kind": "oidc", "issuer": "https://issuer.test", "claims": { "sub": ["/agent"] } }] }),
        )
        .await;
    let engine = world.folder().join("engine.toml");
    let password = world.folder().join("admin.password");
    std::fs::write(&password, sundew_tests::postgres::PASSWORD).expect("password");
    let toml = format!(
        "name = \"db/app\"\npassword_file = \"{}\"\n[target]\nkind = \"postgres\"\nhost = \"127.0.0.1\"\nport = {}\ndatabase = \"app\"\nusername = \"admin\"\n\
         [roles.readonly]\ngrants = [\"GRANT reader TO {{{{name}}}}\"]\n",
        password.display(),
        postgres.port()
    );
    std::fs::write(&engine, toml).expect("engine");
    let operator = |arguments: &[&str]| run_as(&world, &broker, "/operator", arguments, "");
    let put = operator(&[
        "secret",
        "engine",
        "put",
        "-f",
        &engine.display().to_string(),
    ]);
    assert!(
        put.status.success() && text(&put).contains("db/app created"),
        "{}",
        text(&put)
    );
    let mut running = command_as(&world, &broker, "/agents/one")
        .args([
            "run",
            "--task",
            "report",
            "--scope",
            "secret:db/app/readonly",
            "--secret",
            "DATABASE_URL=db/app/readonly",
            "--kill-after",
            "1s",
        ])
        .args(["--", "sh", "-c", "echo $DATABASE_URL; exec sleep 60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    let mut url = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(running.stdout.take().expect("pipe")),
        &mut url,
    )
    .expect("URL");
    assert!(url.starts_with("postgresql://sdw_"), "{url}");
    let prefix = ["--spiffe-prefix", "spiffe://test.example/agents"];
    let preview = operator(&["revoke", prefix[0], prefix[1], "--preview"]);
    assert!(
        text(&preview).contains("would hit 1 live tasks with 1 live tokens, and 1 credentials"),
        "{}",
        text(&preview)
    );
    let engines = text(&operator(&["secret", "engine", "list"]));
    assert!(
        engines.contains("db/app") && engines.contains("postgres"),
        "{engines}"
    );
    assert!(text(&operator(&["lease", "list"])).contains("1 leases, 0 of them due"));
    let contain = operator(&["contain", prefix[0], prefix[1], "--reason", "incident 12"]);
    let told = text(&contain);
    assert!(
        contain.status.success()
            && told.contains("1 live tasks with 1 live tokens were killed")
            && told.contains("1 of 1 credentials"),
        "{told}"
    );
    let id = told.split(':').next().expect("id").to_owned();
    assert!(
        !running.wait().expect("run").success(),
        "the agent was stopped"
    );
    assert!(postgres.roles().await.is_empty());
    let status: Value =
        serde_json::from_slice(&operator(&["--json", "revoke", "status", &id, "--watch"]).stdout)
            .expect("JSON");
    assert_eq!(
        (&status["done"], &status["reason"], &status["effect"]),
        (&json!(true), &json!("incident 12"), &json!("contain"))
    );
    let list = text(&operator(&["revoke", "list"]));
    assert!(
        list.contains(&id) && list.contains("contain") && list.contains("lifted"),
        "{list}"
    );
    let refused = run_as(
        &world,
        &broker,
        "/agents/one",
        &[
            "task",
            "begin",
            "again",
            "--scope",
            "secret:db/app/readonly",
            "--no-attend",
        ],
        "",
    );
    assert!(!refused.status.success());
    let lifted = operator(&["lift", &id, "--reason", "fixed"]);
    assert!(
        text(&lifted).contains("what died stays dead"),
        "{}",
        text(&lifted)
    );
    let again = run_as(
        &world,
        &broker,
        "/agents/one",
        &[
            "task",
            "begin",
            "again",
            "--scope",
            "secret:db/app/readonly",
            "--no-attend",
        ],
        "",
    );
    assert!(again.status.success(), "{}", text(&again));
    for nothing in [
        &["revoke", "--reason", "x"][..],
        &["contain", "--workload", "spiffe://test.example/a"],
    ] {
        assert_eq!(operator(nothing).status.code(), Some(2), "{nothing:?}");
    }
}

#[tokio::test]
async fn the_doctor_names_the_broken_thing() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let doctor = |path: &str| run_as(&world, &broker, path, &["doctor"], "");
    let fine = doctor("/agent");
    assert!(
        fine.status.success() && !text(&fine).contains("FAIL"),
        "{}",
        text(&fine)
    );
    let stranger = doctor("/stranger");
    assert!(
        !stranger.status.success() && text(&stranger).contains("FAIL registration"),
        "{}",
        text(&stranger)
    );
    let folder = world.folder().join("foreign");
    let foreign = sundew_tests::pki::Ca::new("test.example");
    foreign.svid("/agent").write(
        &folder,
        &[foreign.certificate.clone(), world.ca.certificate.clone()],
    );
    let output = command_as(&world, &broker, "/agent")
        .env("SUNDEW_SVID_DIR", &folder)
        .arg("doctor")
        .output()
        .expect("doctor");
    assert!(
        text(&output).contains("FAIL handshake") && text(&output).contains("UnknownCA"),
        "{}",
        text(&output)
    );
    let output = command_as(&world, &broker, "/agent")
        .env("SUNDEW_SVID_DIR", "/nowhere")
        .arg("doctor")
        .output()
        .expect("doctor");
    assert!(
        text(&output).contains("FAIL SVID source"),
        "{}",
        text(&output)
    );
    let output = command_as(&world, &broker, "/agent")
        .env("SUNDEW_BROKER", "127.0.0.1:1")
        .arg("doctor")
        .output()
        .expect("doctor");
    assert!(text(&output).contains("FAIL network"), "{}", text(&output));
    let output = command_as(&world, &broker, "/agent")
        .env("SUNDEW_BROKER_ID", "spiffe://test.example/another")
        .arg("doctor")
        .output()
        .expect("doctor");
    assert!(
        text(&output).contains("FAIL handshake"),
        "{}",
        text(&output)
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
