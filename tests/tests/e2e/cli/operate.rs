//! Operators look at tasks, tokens, credentials and what is broken, and put an end to it.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use sundew_tests::broker::Broker;
use sundew_tests::postgres::{PASSWORD, Postgres};
use sundew_tests::world::World;
use sundew_tests::{sundew, until};

use super::{command_as, run_as, text};

/// The journal verifies, and each of its lines is JSON.
fn the_journal_can_be_read(broker: &Broker) {
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
    the_journal_can_be_read(&broker);
}

/// A file that describes a PostgreSQL as an engine, with its password beside it.
fn engine_file(world: &World, postgres: &Postgres) -> PathBuf {
    let engine = world.folder().join("engine.toml");
    let password = world.folder().join("admin.password");
    sundew_tests::pki::write_private(&password, PASSWORD);
    let toml = format!(
        "name = \"db/app\"\npassword_file = \"{}\"\n[target]\nkind = \"postgres\"\nhost = \"127.0.0.1\"\nport = {}\ndatabase = \"app\"\nusername = \"admin\"\n\
         [roles.readonly]\ngrants = [\"GRANT reader TO {{{{name}}}}\"]\n",
        password.display(),
        postgres.port()
    );
    std::fs::write(&engine, toml).expect("engine");
    engine
}

/// Runs a report with a database credential: the command, and the URL that it was given.
fn start_report(world: &World, broker: &Broker) -> (Child, String) {
    let mut running = command_as(world, broker, "/agents/one")
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
    (running, url)
}

/// Asks for a task of the database's scope.
fn begin_report(world: &World, broker: &Broker) -> Output {
    run_as(
        world,
        broker,
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
    )
}

/// The command line tells of a containment while it is in force and as it is lifted.
fn contained_until_lifted(world: &World, broker: &Broker, id: &str) {
    let operator = |arguments: &[&str]| run_as(world, broker, "/operator", arguments, "");
    let status: Value =
        serde_json::from_slice(&operator(&["--json", "revoke", "status", id, "--watch"]).stdout)
            .expect("JSON");
    assert_eq!(
        (&status["done"], &status["reason"], &status["effect"]),
        (&json!(true), &json!("incident 12"), &json!("contain"))
    );
    let list = text(&operator(&["revoke", "list"]));
    assert!(
        list.contains(id) && list.contains("contain") && list.contains("lifted"),
        "{list}"
    );
    assert!(!begin_report(world, broker).status.success());
    let lifted = operator(&["lift", id, "--reason", "fixed"]);
    assert!(
        text(&lifted).contains("what died stays dead"),
        "{}",
        text(&lifted)
    );
    let again = begin_report(world, broker);
    assert!(again.status.success(), "{}", text(&again));
}

/// A responder's first five minutes, as the README has them, with a database behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_responder_previews_contains_watches_and_lifts_from_the_command_line() {
    let postgres = Postgres::start().await;
    let world = World::embedded();
    let broker = world.broker().await;
    world
        .register(
            &broker,
            "/agents/one",
            json!({ "scopes": ["secret:db/*"], "evidence": [{ "kind": "oidc", "issuer": "https://issuer.test", "claims": { "sub": ["/agent"] } }] }),
        )
        .await;
    let engine = engine_file(&world, &postgres);
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
    let (mut running, url) = start_report(&world, &broker);
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
    contained_until_lifted(&world, &broker, &id);
    for nothing in [
        &["revoke", "--reason", "x"][..],
        &["contain", "--workload", "spiffe://test.example/a"],
    ] {
        assert_eq!(operator(nothing).status.code(), Some(2), "{nothing:?}");
    }
}

/// L7: a responder who is not sure yet suspends, and takes only that back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l7_a_responder_suspends_and_lifts_from_the_command_line() {
    let world = World::embedded();
    let (broker, caller) = world.broker_and_agent().await;
    let begun = caller
        .begin(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("task");
    let operator = |arguments: &[&str]| run_as(&world, &broker, "/operator", arguments, "");
    let agent = ["--workload", "spiffe://test.example/agent"];
    let suspended = operator(&["suspend", agent[0], agent[1], "--reason", "look at it"]);
    let told = text(&suspended);
    assert!(suspended.status.success(), "{told}");
    assert!(told.contains("suspended everywhere from now on"), "{told}");
    let id = told.split(':').next().expect("id").to_owned();
    let listed = text(&operator(&["revoke", "list"]));
    assert!(
        listed.contains(&id) && listed.contains("suspend"),
        "{listed}"
    );
    let lifted = operator(&["lift", &id, "--reason", "it was nothing"]);
    assert!(lifted.status.success(), "{}", text(&lifted));
    let server = world.operator(&broker);
    let active = server.active(&begun.token, &caller.thumbprint()).await;
    assert_eq!(active.ok(), Some(false), "the token stays dead");
    let tasks = text(&operator(&["--json", "task", "list"]));
    assert!(tasks.contains("\"state\":\"suspended\""), "{tasks}");
}

/// What a broker cannot answer while its store is away says nothing of an operator's roles.
#[tokio::test]
async fn the_doctor_names_an_outage_and_no_role_in_it() {
    let mut world = World::redis();
    let broker = world.broker().await;
    world.redis.as_mut().expect("redis").kill();
    until("the doctor names it", || async {
        let output = run_as(&world, &broker, "/operator", &["doctor"], "");
        let said = text(&output);
        assert!(!said.contains("who is a registrar\n"), "{said}");
        !output.status.success() && said.contains("FAIL registration") && said.contains("store")
    })
    .await;
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
    let operator = doctor("/responder");
    assert!(
        operator.status.success() && text(&operator).contains("an operator, who is a responder"),
        "{}",
        text(&operator)
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
