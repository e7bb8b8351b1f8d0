//! `deploy/quickstart/github-actions.md`: its registration is applied, and its steps are run as they
//! stand there, beside an endpoint that gives tokens as GitHub's does (D5).

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sundew_tests::issuer::TestIssuer;
use sundew_tests::process::run;
use sundew_tests::world::World;

use crate::cli::text;
use crate::enrollment::own_root;

const ISSUER: &str = "https://token.actions.githubusercontent.com";
const AUDIENCE: &str = "sundew.example.org";

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart/github-actions.md");
    let page = std::fs::read_to_string(path).expect("quick start");
    page.lines()
        .map(|line| format!("{}\n", line.strip_prefix("   ").unwrap_or(line)))
        .collect()
}

/// The block of this language with this in it.
fn block(language: &str, part: &str) -> String {
    let page = page();
    let fence = format!("```{language}\n");
    let mut blocks = page.split(&fence).skip(1);
    let found = blocks.find_map(|rest| rest.split("```").next().filter(|b| b.contains(part)));
    found.expect("block").to_owned()
}

/// Gives a new token at each request, as the endpoint of a job does. Returns its URL, and the tokens.
fn endpoint(issuer: Arc<TestIssuer>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let url = format!(
        "http://{}/token?api-version=2.0",
        listener.local_addr().expect("port")
    );
    let given = Arc::new(Mutex::new(Vec::new()));
    let tokens = Arc::clone(&given);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("connection");
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).expect("request");
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            assert!(
                request.contains(&format!("&audience={AUDIENCE} ")),
                "{request}"
            );
            assert!(
                request.contains("Authorization: Bearer of-the-job\r\n"),
                "{request}"
            );
            let mut claims = TestIssuer::claims("repo:org/repo:environment:release");
            for (name, value) in [
                ("iss", ISSUER),
                ("aud", AUDIENCE),
                ("repository", "org/repo"),
                ("repository_id", "123456789"),
                ("event_name", "push"),
                ("ref", "refs/heads/main"),
                ("environment", "release"),
            ] {
                claims[name] = json!(value);
            }
            let token = String::from_utf8(issuer.token_of(&claims)).expect("token");
            let body = json!({ "count": 1, "value": token }).to_string();
            tokens.lock().expect("tokens").push(token);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).expect("answer");
        }
    });
    (url, given)
}

/// The job of the workflow, read by our tool in Go.
fn job(places: &dyn Fn(&str) -> String) -> Value {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/toolchains/bin/objects");
    assert!(tool.exists(), "our tools are missing: run ./tests/run");
    let output = run(Command::new(tool), &places(&block("yaml", "jobs:")));
    let workflow: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(workflow["permissions"]["id-token"], "write");
    workflow["jobs"]["release"].clone()
}

/// Runs a step in a shell, as a runner does.
fn step(job: &Value, name: &str, folder: &Path, url: &str) -> Output {
    let steps = job["steps"].as_array().expect("steps");
    let step = steps
        .iter()
        .find(|step| step["name"] == name)
        .expect("step");
    let binary = sundew_tests::sundew();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("bash");
    shell
        .args(["-e", "-c", step["run"].as_str().expect("run")])
        .current_dir(folder)
        .env_clear()
        .env(
            "PATH",
            format!("{}:{path}", binary.parent().expect("folder").display()),
        )
        .env("RUNNER_TEMP", folder)
        .env("GITHUB_SHA", "4301318")
        .env("ACTIONS_ID_TOKEN_REQUEST_URL", url)
        .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of-the-job");
    for (name, value) in job["env"].as_object().expect("env") {
        shell.env(name, value.as_str().expect("text"));
    }
    shell.output().expect("bash")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_a_job_of_github_gets_from_nothing_to_its_tasks_by_the_quick_start() {
    let world = World::embedded();
    let (mut broker, port) = world.prepare_with_own_ca("");
    let issuers = format!(
        "{}jwks_file = \"{}\"\n",
        block("toml", "[[issuers]]"),
        world.folder().join("jwks.json").display()
    );
    let config = std::fs::read_to_string(broker.config_file()).expect("config");
    std::fs::write(broker.config_file(), format!("{config}{issuers}")).expect("config");
    broker.up();
    broker.ready().await;
    let places = |text: &str| {
        text.replace("sundew.example.org:8443", &broker.address())
            .replace("sundew.example.org:8444", &format!("127.0.0.1:{port}"))
            .replace("spiffe://example.org/", "spiffe://own.example/")
            .replace("--trust-domain example.org", "--trust-domain own.example")
    };
    let operator = world.operator(&broker);
    let registration: Value =
        toml::from_str(&places(&block("toml", "[[workload]]"))).expect("registration");
    operator
        .apply(registration["workload"].as_array().expect("list"))
        .await
        .expect("registered");
    operator
        .put_secret("registry/push", "of the registry")
        .await;
    let token = operator.join_token("spiffe://own.example/ci/release").await;
    let root = own_root(&token, port).await;
    // What the repository has.
    let folder = tempfile::tempdir().expect("folder");
    std::fs::create_dir(folder.path().join(".sundew")).expect("folder");
    std::fs::write(
        folder.path().join(".sundew/bundle.pem"),
        sundew_tests::pki::pem("CERTIFICATE", &root),
    )
    .expect("bundle");
    let script = folder.path().join("publish.sh");
    std::fs::write(&script, "#!/bin/sh\necho \"published with $TOKEN\"\n").expect("script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("mode");

    let (url, given) = endpoint(Arc::clone(&world.issuer));
    let job = job(&places);
    let enrolled = step(&job, "Who this job is", folder.path(), &url);
    assert!(enrolled.status.success(), "{}", text(&enrolled));
    for _ in 0..2 {
        let released = step(&job, "The release", folder.path(), &url);
        let printed = text(&released);
        assert!(
            released.status.success() && printed.contains("published with of the registry"),
            "{printed}\n{:?}",
            broker.refusals("BeginTask")
        );
    }
    let given = given.lock().expect("tokens");
    let different: BTreeSet<&String> = given.iter().collect();
    assert!(
        given.len() >= 3 && different.len() == given.len(),
        "each task had its own token"
    );
}
