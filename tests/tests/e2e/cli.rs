//! The command line, as its users call it.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sundew_tests::broker::{Broker, World};
use sundew_tests::{sundew, until};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs `sundew` as somebody, with something on standard input.
fn run_as(world: &World, broker: &Broker, path: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = command_as(world, broker, path).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
    child.stdin.take().expect("pipe").write_all(input.as_bytes()).expect("input");
    child.wait_with_output().expect("run")
}

fn command_as(world: &World, broker: &Broker, path: &str) -> Command {
    let folder = world.folder().join(format!("svid{}", path.replace('/', "-")));
    if !folder.exists() {
        world.ca.svid(path).write(&folder, std::slice::from_ref(&world.ca.certificate));
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
    Command::new(sundew()).arg("demo").args(arguments).stdin(Stdio::null()).output().expect("demo")
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
    let output = demo(&["--", "sh", "-c", "test -n \"$DEMO_API_KEY\" && test -n \"$SUNDEW_TOKEN\""]);
    assert!(output.status.success(), "{}", text(&output));
    let output = demo(&["--", "false"]);
    assert!(!output.status.success() && text(&output).contains("NOT everything held"), "{}", text(&output));
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
    let apply = |text: &str, more: &[&str]| run_as(&world, &broker, "/operator", &[&["workload", "apply", "-f", "-"], more].concat(), text);
    let dry = apply(toml, &["--dry-run"]);
    assert!(dry.status.success() && text(&dry).contains("dry run"), "{}", text(&dry));
    let list = || text(&run_as(&world, &broker, "/operator", &["workload", "list"], ""));
    assert!(!list().contains("/second"));
    let created = text(&apply(toml, &[]));
    assert!(created.contains("/agent created") && created.contains("/second created") && created.contains("+ owner: \"team\""), "{created}");
    assert!(text(&apply(toml, &[])).contains("/agent unchanged"));
    let changed = text(&apply(&toml.replacen("secret:app/*", "secret:app/x", 1), &[]));
    assert!(
        changed.contains("/agent changed") && changed.contains("- scopes.0: \"secret:app/*\"") && changed.contains("+ scopes.0: \"secret:app/x\""),
        "{changed}"
    );
    let shown: Value =
        serde_json::from_slice(&run_as(&world, &broker, "/operator", &["--json", "workload", "show", "spiffe://test.example/agent"], "").stdout).expect("JSON");
    let back = apply(&shown.to_string(), &[]);
    assert!(text(&back).contains("unchanged"), "what is shown can be applied: {}", text(&back));
    for (bad, part) in [
        ("", "no workload"),
        ("[[workload]]\nowner = 1", "owner"),
        ("{", "EOF"),
        ("[[workload]]\nspiffe_id = \"x\"\nowner=\"o\"\nscopes=[\"exec:git\"]\nevidence=[]", "spiffe_id"),
    ] {
        let output = apply(bad, &[]);
        assert!(!output.status.success() && text(&output).contains(part), "{bad:?}: {}", text(&output));
    }
    assert!(run_as(&world, &broker, "/operator", &["workload", "delete", "spiffe://test.example/second"], "").status.success());
    assert!(!list().contains("/second"));
    let refused = run_as(&world, &broker, "/agent", &["workload", "list"], "");
    assert!(!refused.status.success() && text(&refused).contains("correlation id"), "{}", text(&refused));
}

#[tokio::test]
async fn run_gives_the_command_its_secrets_and_token_and_passes_its_exit_code_on() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let put = run_as(&world, &broker, "/operator", &["secret", "put", "app/key"], "s3cr3t");
    assert!(text(&put).contains("app/key version 1"), "{}", text(&put));
    let base = ["run", "--task", "triage", "--scope", "secret:app/key", "--secret", "KEY=app/key"];
    let run = |more: &[&str]| run_as(&world, &broker, "/agent", &[&base[..], more].concat(), "");
    let output = run(&["--", "sh", "-c", "printf '%s %s' \"$KEY\" \"${SUNDEW_TOKEN%%_*}\"; exit 7"]);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(7), "s3cr3t sdw"));
    let output = run(&["--token", "fd", "--", "sh", "-c", "test -z \"$SUNDEW_TOKEN\" && cat /dev/fd/$SUNDEW_TOKEN_FD"]);
    assert!(text(&output).starts_with("sdw_") && output.status.success(), "{}", text(&output));
    assert_eq!(run(&["--", "/no/such/command"]).status.code(), Some(127));
    assert_eq!(run(&["--", "sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    assert_eq!(run(&["--secret", "OTHER=app/none", "--", "true"]).status.code(), Some(125));
    assert_eq!(run(&["--scope", "secret:other/x", "--", "true"]).status.code(), Some(125));
    let outcomes: Vec<_> = broker.journal().iter().filter(|r| r.event == "task_ended").filter_map(|r| r.field("outcome").map(str::to_owned)).collect();
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
            .args(["run", "--task", "t", "--scope", "exec:git", "--kill-after", "500ms", "--", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("run")
    };
    let begun = |count: usize| {
        let broker = &broker;
        until("the task has begun", move || async move { broker.journal().iter().filter(|r| r.event == "task_begun").count() >= count })
    };
    let child = start("trap 'exit 33' TERM; echo up; while :; do sleep 0.05; done");
    begun(1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    kill_process(Pid::from_raw(i32::try_from(child.id()).expect("pid")).expect("pid"), Signal::TERM).expect("signal");
    assert_eq!(child.wait_with_output().expect("wait").status.code(), Some(33));
    assert!(broker.journal().iter().any(|r| r.event == "task_ended" && r.field("outcome") == Some("canceled")));

    let child = start("trap '' TERM; while :; do sleep 0.05; done");
    begun(2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let revoke = run_as(&world, &broker, "/operator", &["revoke", "--workload", "spiffe://test.example/agent", "--reason", "test"], "");
    assert!(revoke.status.success() && text(&revoke).contains("1 live tasks"), "{}", text(&revoke));
    let began = Instant::now();
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(137), "SIGKILL after the grace");
    assert!(text(&output).contains("the task was ended: revoked") && began.elapsed() < Duration::from_secs(5), "{}", text(&output));
}

/// AC-36: `sundew run` is killed with SIGKILL; its task ends all the same.
#[tokio::test]
async fn a_killed_run_leaves_no_task_behind() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({ "attendance_grace": "1s" })).await;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let mut child = command_as(&world, &broker, "/agent")
        .args(["run", "--task", "t", "--scope", "exec:git", "--", "sleep", "20"])
        .stdin(Stdio::null())
        .spawn()
        .expect("run");
    until("begun", || async { broker.journal().iter().any(|r| r.event == "task_begun") }).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!broker.journal().iter().any(|r| r.event == "task_ended"), "attended while it runs");
    child.kill().expect("kill");
    child.wait().expect("wait");
    until("abandoned", || async { broker.journal().iter().any(|r| r.event == "task_ended" && r.field("outcome") == Some("abandoned")) }).await;
}

#[tokio::test]
async fn tasks_and_tokens_can_be_looked_at_and_ended() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let output = run_as(&world, &broker, "/agent", &["--json", "task", "begin", "look \u{1b}[31m at it", "--scope", "exec:git", "--no-attend"], "");
    let begun: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    let (task, token) = (begun["task_id"].as_str().expect("task"), begun["token"].as_str().expect("token"));
    let introspect = |who: &str| run_as(&world, &broker, who, &["token", "introspect"], token);
    assert!(introspect("/agent").status.success() && text(&introspect("/agent")).contains(task));
    assert!(!introspect("/operator").status.success(), "without the presenter's certificate it is not active");
    let list = text(&run_as(&world, &broker, "/operator", &["task", "list"], ""));
    assert!(list.contains(task) && list.contains("alive") && !list.contains('\u{1b}'), "{list}");
    let show = text(&run_as(&world, &broker, "/operator", &["task", "show", task], ""));
    assert!(show.contains("scopes        exec:git"), "{show}");
    let done = run_as(&world, &broker, "/agent", &["task", "complete", task, "--outcome", "failed"], "");
    assert!(text(&done).contains("failed"), "{}", text(&done));
    assert_eq!(introspect("/agent").status.code(), Some(1));
    assert!(text(&run_as(&world, &broker, "/operator", &["task", "show", task], "")).contains("failed"));
    let verify = Command::new(sundew()).args(["journal", "verify"]).arg(broker.folder().join("journal")).output().expect("verify");
    assert!(verify.status.success() && text(&verify).contains("the chain holds"), "{}", text(&verify));
    let show = Command::new(sundew()).args(["--json", "journal", "show"]).arg(broker.folder().join("journal")).output().expect("show");
    assert!(text(&show).lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
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
    let put = operator(&["secret", "engine", "put", "-f", &engine.display().to_string()]);
    assert!(put.status.success() && text(&put).contains("db/app created"), "{}", text(&put));
    let mut running = command_as(&world, &broker, "/agents/one")
        .args(["run", "--task", "report", "--scope", "secret:db/app/readonly", "--secret", "DATABASE_URL=db/app/readonly", "--kill-after", "1s"])
        .args(["--", "sh", "-c", "echo $DATABASE_URL; exec sleep 60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    let mut url = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(running.stdout.take().expect("pipe")), &mut url).expect("URL");
    assert!(url.starts_with("postgresql://sdw_"), "{url}");
    let prefix = ["--spiffe-prefix", "spiffe://test.example/agents"];
    let preview = operator(&["revoke", prefix[0], prefix[1], "--preview"]);
    assert!(text(&preview).contains("would hit 1 live tasks with 1 live tokens, and 1 credentials"), "{}", text(&preview));
    let engines = text(&operator(&["secret", "engine", "list"]));
    assert!(engines.contains("db/app") && engines.contains("postgres"), "{engines}");
    assert!(text(&operator(&["lease", "list"])).contains("1 leases, 0 of them due"));
    let contain = operator(&["contain", prefix[0], prefix[1], "--reason", "incident 12"]);
    let told = text(&contain);
    assert!(contain.status.success() && told.contains("1 live tasks with 1 live tokens were killed") && told.contains("1 of 1 credentials"), "{told}");
    let id = told.split(':').next().expect("id").to_owned();
    assert!(!running.wait().expect("run").success(), "the agent was stopped");
    assert!(postgres.roles().await.is_empty());
    let status: Value = serde_json::from_slice(&operator(&["--json", "revoke", "status", &id, "--watch"]).stdout).expect("JSON");
    assert_eq!((&status["done"], &status["reason"], &status["effect"]), (&json!(true), &json!("incident 12"), &json!("contain")));
    let list = text(&operator(&["revoke", "list"]));
    assert!(list.contains(&id) && list.contains("contain") && list.contains("lifted"), "{list}");
    let refused = run_as(&world, &broker, "/agents/one", &["task", "begin", "again", "--scope", "secret:db/app/readonly", "--no-attend"], "");
    assert!(!refused.status.success());
    let lifted = operator(&["lift", &id, "--reason", "fixed"]);
    assert!(text(&lifted).contains("what died stays dead"), "{}", text(&lifted));
    let again = run_as(&world, &broker, "/agents/one", &["task", "begin", "again", "--scope", "secret:db/app/readonly", "--no-attend"], "");
    assert!(again.status.success(), "{}", text(&again));
    for nothing in [&["revoke", "--reason", "x"][..], &["contain", "--workload", "spiffe://test.example/a"]] {
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
    assert!(fine.status.success() && !text(&fine).contains("FAIL"), "{}", text(&fine));
    let stranger = doctor("/stranger");
    assert!(!stranger.status.success() && text(&stranger).contains("FAIL registration"), "{}", text(&stranger));
    let folder = world.folder().join("foreign");
    let foreign = sundew_tests::pki::Ca::new("test.example");
    foreign.svid("/agent").write(&folder, &[foreign.certificate.clone(), world.ca.certificate.clone()]);
    let output = command_as(&world, &broker, "/agent").env("SUNDEW_SVID_DIR", &folder).arg("doctor").output().expect("doctor");
    assert!(text(&output).contains("FAIL handshake") && text(&output).contains("UnknownCA"), "{}", text(&output));
    let output = command_as(&world, &broker, "/agent").env("SUNDEW_SVID_DIR", "/nowhere").arg("doctor").output().expect("doctor");
    assert!(text(&output).contains("FAIL SVID source"), "{}", text(&output));
    let output = command_as(&world, &broker, "/agent").env("SUNDEW_BROKER", "127.0.0.1:1").arg("doctor").output().expect("doctor");
    assert!(text(&output).contains("FAIL network"), "{}", text(&output));
    let output = command_as(&world, &broker, "/agent").env("SUNDEW_BROKER_ID", "spiffe://test.example/another").arg("doctor").output().expect("doctor");
    assert!(text(&output).contains("FAIL handshake"), "{}", text(&output));
}

#[test]
fn help_version_completion_and_usage_errors_are_as_everywhere() {
    let run = |arguments: &[&str]| Command::new(sundew()).args(arguments).env_remove("SUNDEW_BROKER").stdin(Stdio::null()).output().expect("run");
    for arguments in [&["--help"][..], &["run", "--help"], &["workload", "apply", "--help"], &["--version"], &["completion", "bash"], &["completion", "fish"]] {
        let output = run(arguments);
        assert!(output.status.success() && !output.stdout.is_empty(), "{arguments:?}");
    }
    for arguments in [&[][..], &["nonsense"], &["run", "--task", "x"], &["revoke", "--reason", "x"], &["revoke", "--task", "a"]] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let output = run(&["workload", "list"]);
    assert!(!output.status.success() && text(&output).contains("SUNDEW_BROKER"), "{}", text(&output));
}

/// The development broker, its Workload API, and an unmodified SPIFFE client.
#[tokio::test]
async fn an_unmodified_spiffe_client_gets_an_identity_and_loses_it_with_the_registration() {
    let folder = tempfile::tempdir().expect("folder");
    let mut dev = Command::new(sundew())
        .args(["--json", "dev", "--listen", "127.0.0.1:0", "--state"])
        .arg(folder.path().join("state"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("dev");
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(dev.stdout.take().expect("pipe")), &mut line).expect("line");
    let place: Value = serde_json::from_str(&line).expect("JSON");
    let field = |name: &str| place[name].as_str().expect("field").to_owned();
    let operator = |arguments: &[&str], input: &str| {
        let mut command = Command::new(sundew());
        command.args(arguments).env("SUNDEW_BROKER", field("broker")).env("SUNDEW_SVID_DIR", field("operator_svid_dir"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
        child.stdin.take().expect("pipe").write_all(input.as_bytes()).expect("input");
        child.wait_with_output().expect("run")
    };
    let exe = std::env::current_exe().expect("own path").canonicalize().expect("own path");
    let digest: String =
        ring::digest::digest(&ring::digest::SHA256, &std::fs::read(&exe).expect("own code")).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let key = rcgen::KeyPair::generate().expect("key").public_key_pem();
    let workload = |path: &str, local: Value| json!({ "spiffe_id": format!("spiffe://dev.local{path}"), "owner": "t", "scopes": ["exec:git"], "local": [local], "evidence": [{ "kind": "manifest", "keys": [key] }] });
    let uid = rustix::process::geteuid().as_raw();
    let documents = json!([
        workload("/mine", json!({ "uid": uid, "exe": exe, "exe_sha256": digest })),
        workload("/other-user", json!({ "uid": uid + 1 })),
        workload("/other-code", json!({ "uid": uid, "exe_sha256": "00".repeat(32) })),
    ]);
    let applied = operator(&["workload", "apply", "-f", "-"], &documents.to_string());
    assert!(applied.status.success(), "{}", text(&applied));
    let endpoint = field("endpoint_socket").replacen("unix:///", "unix:/", 1);
    let source = spiffe::X509Source::builder().endpoint(&endpoint).build().await.expect("the spiffe crate gets an identity");
    assert_eq!(source.svid().expect("SVID").spiffe_id().to_string(), "spiffe://dev.local/mine");
    assert_eq!(source.bundle_set().expect("bundles").len(), 1);

    // Without the header, the call may come from a confused deputy.
    let channel =
        tonic::transport::Endpoint::from_shared(field("endpoint_socket").replacen("unix://", "unix:", 1)).expect("uri").connect().await.expect("connect");
    let mut bare = sundew_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient::new(channel);
    let refused = bare.fetch_x509svid(sundew_proto::spiffe::X509svidRequest {}).await;
    assert_eq!(refused.expect_err("no header").code(), tonic::Code::InvalidArgument);

    operator(&["workload", "delete", "spiffe://dev.local/mine"], "");
    until("withdrawn", || {
        let mut bare = bare.clone();
        async move {
            let mut request = tonic::Request::new(sundew_proto::spiffe::X509svidRequest {});
            request.metadata_mut().insert("workload.spiffe.io", "true".parse().expect("value"));
            match bare.fetch_x509svid(request).await {
                Ok(stream) => stream.into_inner().message().await.is_err_and(|s| s.code() == tonic::Code::PermissionDenied),
                Err(status) => status.code() == tonic::Code::PermissionDenied,
            }
        }
    })
    .await;
    kill_process(Pid::from_raw(i32::try_from(dev.id()).expect("pid")).expect("pid"), Signal::TERM).expect("signal");
    assert!(dev.wait().expect("wait").success());
}

/// A join token gives one SVID, once; the SVID renews itself.
#[tokio::test]
async fn a_join_token_is_good_once_and_gives_an_svid_that_can_be_renewed() {
    let world = World::embedded();
    let port = sundew_tests::free_port();
    let mut broker = world.prepare("");
    let text_of = std::fs::read_to_string(broker.config_file()).expect("config");
    let from = text_of.find("[identity]").expect("section");
    let to = text_of.find("[store]").expect("section");
    let own = format!(
        "[identity]\nsource = \"embedded_ca\"\ntrust_domain = \"own.example\"\n[[trust]]\ntrust_domain = \"test.example\"\nbundle = \"{}/bundle.pem\"\n",
        world.folder().display()
    );
    let config = format!("{}{own}{}", &text_of[..from], &text_of[to..]).replace("[identity]", &format!("enrollment = \"127.0.0.1:{port}\"\n[identity]"));
    std::fs::write(broker.config_file(), config).expect("config");
    broker.up();
    broker.ready().await;
    let operator = world.operator(&broker);
    let mut document = World::registration("/agent", json!({}));
    document["spiffe_id"] = json!("spiffe://own.example/agent");
    operator.apply(&[document]).await.expect("registered");
    let create = |id: &str| sundew_proto::v1::CreateJoinTokenRequest { spiffe_id: id.to_owned(), ttl_ms: 0 };
    assert!(operator.registry().create_join_token(create("spiffe://own.example/unknown")).await.is_err());
    let token = operator.registry().create_join_token(create("spiffe://own.example/agent")).await.expect("token").into_inner().join_token;
    // The roots come out of band; here from the broker's own handshake.
    let bundle = world.folder().join("own-root.pem");
    let chain = server_chain(&world, &broker).await;
    assert_eq!(chain.len(), 1, "the CA's certificate is not in the handshake");
    let root = own_root(&world, &broker, &token, port).await;
    std::fs::write(&bundle, sundew_tests::pki::pem("CERTIFICATE", &root)).expect("bundle");
    let second = operator.registry().create_join_token(create("spiffe://own.example/agent")).await.expect("token").into_inner().join_token;
    let out = world.folder().join("enrolled");
    let enroll = |token: &str| {
        let mut command = Command::new(sundew());
        command
            .args(["svid", "enroll", "--enrollment", &format!("127.0.0.1:{port}"), "--trust-domain", "own.example", "--bundle"])
            .arg(&bundle)
            .arg("--out")
            .arg(&out);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
        child.stdin.take().expect("pipe").write_all(token.as_bytes()).expect("input");
        child.wait_with_output().expect("run")
    };
    let first = enroll(&second);
    assert!(first.status.success(), "{}", text(&first));
    for bad in [second.as_str(), "sdj_AAAA", "", &second[..second.len() - 2]] {
        let output = enroll(bad);
        assert!(!output.status.success() && text(&output).contains("not permitted"), "{bad:?}: {}", text(&output));
    }
    let before = std::fs::read(out.join("svid.pem")).expect("svid");
    let renew = Command::new(sundew())
        .args(["svid", "renew"])
        .env("SUNDEW_BROKER", broker.address())
        .env("SUNDEW_SVID_DIR", &out)
        .stdin(Stdio::null())
        .output()
        .expect("renew");
    assert!(renew.status.success(), "{}", text(&renew));
    assert_ne!(before, std::fs::read(out.join("svid.pem")).expect("svid"));
    let doctor = Command::new(sundew())
        .arg("doctor")
        .env("SUNDEW_BROKER", broker.address())
        .env("SUNDEW_SVID_DIR", &out)
        .env("SUNDEW_OIDC_TOKEN_FILE", "/dev/null")
        .stdin(Stdio::null())
        .output()
        .expect("doctor");
    assert!(doctor.status.success(), "{}", text(&doctor));
}

async fn server_chain(world: &World, broker: &Broker) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    let config = std::sync::Arc::new(sundew_tests::calls::client_config(Some(&world.ca.svid("/operator"))));
    let socket = tokio::net::TcpStream::connect(broker.address()).await.expect("connect");
    let stream = tokio_rustls::TlsConnector::from(config).connect(rustls_pki_types::ServerName::try_from("b").expect("name"), socket).await.expect("handshake");
    stream.get_ref().1.peer_certificates().expect("chain").to_vec()
}

/// Enrolls by hand, without looking at the server, to learn the root.
async fn own_root(_world: &World, _broker: &Broker, token: &str, port: u16) -> Vec<u8> {
    let key = rcgen::KeyPair::generate().expect("key");
    let csr = rcgen::CertificateParams::default().serialize_request(&key).expect("csr").der().to_vec();
    let caller = sundew_tests::calls::Caller::new(format!("127.0.0.1:{port}"), None);
    let request = sundew_proto::v1::EnrollRequest { join_token: token.to_owned(), csr };
    caller.enrollment().enroll(request).await.expect("enrolled").into_inner().svid.expect("svid").bundle[0].clone()
}
