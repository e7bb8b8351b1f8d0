//! Running it: configuration, health, reload, drain, load, skewed clocks (AC-87, AC-88, T50, T85).

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use sundew_tests::pki::{Ca, pem};
use sundew_tests::world::World;
use sundew_tests::{sundew, until};
use tonic::Code;

/// The name of a bad configuration, its difference from a good one, and a part of what is printed.
type Case = (&'static str, fn(&str) -> String, &'static str);

const BAD: [Case; 9] = [
    (
        "unknown key",
        |c| c.replace("[keys]", "[keys]\nverify = false"),
        "keys",
    ),
    (
        "unknown section",
        |c| format!("{c}\n[insecure]\n"),
        "insecure: unknown section",
    ),
    (
        "no trust",
        |c| c.replace("[[trust]]", "[[trust2]]"),
        "trust: at least one bundle",
    ),
    (
        "missing bundle",
        |c| c.replace("bundle.pem", "none.pem"),
        "none.pem",
    ),
    (
        "missing key",
        |c| c.replace("root.key", "none.key"),
        "none.key",
    ),
    (
        "empty audience",
        |c| c.replace("audience = \"sundew-test\"", "audience = \"\""),
        "audience",
    ),
    (
        "unknown role",
        |c| c.replace("\"introspector\"]", "\"root\"]"),
        "operators",
    ),
    (
        "plain Redis elsewhere",
        |c| c.replace("url = \"embedded:", "url = \"redis://redis.example/\"\n#"),
        "TLS",
    ),
    ("not TOML", |_| "= 1".to_owned(), "TOML parse error"),
];

/// Runs `sundew` with a configuration: whether it succeeds, and what it prints.
fn run_with(world: &World, name: &str, text: &str, command: &[&str]) -> (bool, String) {
    let path = world
        .folder()
        .join(format!("{}.toml", name.replace(' ', "-")));
    std::fs::write(&path, text).expect("config");
    let output = Command::new(sundew())
        .args(command)
        .arg("--config")
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .expect("run");
    (output.status.success(), crate::cli::text(&output))
}

/// T85, AC-87: what is wrong keeps a broker from starting, and says what to do.
#[tokio::test]
async fn t85_a_broker_does_not_start_on_a_bad_configuration() {
    let world = World::embedded();
    let broker = world.prepare("");
    let good = std::fs::read_to_string(broker.config_file()).expect("config");
    let key = world.folder().join("root.key");

    let run = |name: &str, text: &str, command: &[&str]| run_with(&world, name, text, command);
    for (name, change, part) in BAD {
        let (success, text) = run(name, &change(&good), &["serve"]);
        assert!(!success && text.contains(part), "{name}: {text}");
    }
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .expect("mode");
    for command in [&["serve"][..], &["config", "check"]] {
        let (success, text) = run("readable key", &good, command);
        assert!(!success && text.contains("chmod 600"), "{text}");
    }
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("mode");
    let (success, text) = run("fine", &good, &["config", "check"]);
    assert!(success && text.contains("valid"), "{text}");
}

/// SIGHUP takes over operators, and keeps the old state when the file is broken.
#[tokio::test]
async fn a_reload_takes_operators_over_and_a_broken_file_changes_nothing() {
    let world = World::embedded();
    let broker = world.broker().await;
    let text = std::fs::read_to_string(broker.config_file()).expect("config");
    std::fs::write(broker.config_file(), "broken").expect("config");
    broker.signal(Signal::HUP);
    until("health says so", || async {
        broker
            .http("/readyz")
            .await
            .is_some_and(|(code, text)| code == 200 && text.contains("configuration: "))
    })
    .await;
    world.register(&broker, "/agent", json!({})).await;
    std::fs::write(
        broker.config_file(),
        text.replace("/operator\"", "/successor\""),
    )
    .expect("config");
    broker.signal(Signal::HUP);
    let old = world.operator(&broker);
    until("the operator has changed", || async {
        old.apply(&[World::registration("/agent", json!({}))])
            .await
            .is_err_and(|s| s.code() == Code::PermissionDenied)
    })
    .await;
    world
        .caller(&broker, "/successor")
        .apply(&[World::registration("/agent", json!({}))])
        .await
        .expect("the successor may");
}

/// I8: SIGHUP takes the trust domains of the file too, and says what it does not take.
#[tokio::test]
async fn i8_a_reload_withdraws_a_trust_domain_and_names_what_needs_a_restart() {
    let world = World::embedded();
    let partner = Ca::new("partner.example");
    let bundle = world.folder().join("partner.pem");
    std::fs::write(&bundle, pem("CERTIFICATE", &partner.certificate)).expect("bundle");
    let section = format!(
        "[[trust]]\ntrust_domain = \"partner.example\"\nbundle = \"{}\"\n",
        bundle.display()
    );
    let broker = world.broker_with(&section).await;
    let id = json!({ "spiffe_id": "spiffe://partner.example/agent" });
    world.register(&broker, "/agent", id).await;
    let theirs = world.caller_with(&broker, partner.svid("/agent"));
    theirs.nonce().await.expect("the partner's");
    let with = std::fs::read_to_string(broker.config_file()).expect("config");
    let without = with.replace(&section, "[limits]\nstreams = 100\n");
    std::fs::write(broker.config_file(), without).expect("config");
    broker.signal(Signal::HUP);
    until("the partner is out", || async {
        let refused = theirs.nonce().await;
        refused.is_err_and(|status| status.code() == Code::Unauthenticated)
    })
    .await;
    let (status, health) = broker.http("/readyz").await.expect("health");
    let told = "configuration: changed, and taken at a restart only: limits";
    assert!(status == 200 && health.contains(told), "{health}");
    std::fs::write(broker.config_file(), with).expect("config");
    broker.signal(Signal::HUP);
    until("the partner is back", || async {
        let health = broker.http("/readyz").await;
        theirs.nonce().await.is_ok() && health.is_some_and(|(_, text)| text == "ready\n")
    })
    .await;
}

/// SIGTERM drains: it ends by itself, with success, and soon.
#[tokio::test]
async fn a_broker_ends_by_itself_when_told() {
    for world in World::both() {
        let mut broker = world.broker().await;
        world.register(&broker, "/agent", json!({})).await;
        let caller = world.caller(&broker, "/agent");
        let begun = caller
            .begin(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("task");
        broker.signal(Signal::TERM);
        let began = Instant::now();
        let status = tokio::task::spawn_blocking(move || (broker.wait(), broker))
            .await
            .expect("wait");
        assert!(
            status.0.success() && began.elapsed() < Duration::from_secs(12),
            "{:?} after {:?}",
            status.0,
            began.elapsed()
        );
        let mut broker = status.1;
        broker.up();
        broker.ready().await;
        assert_eq!(
            world
                .operator(&broker)
                .active(&begun.token, &caller.thumbprint())
                .await
                .ok(),
            Some(true),
            "a restart ends no task"
        );
    }
}

/// Metrics and health are on their own listener, with closed sets of labels (T84).
#[tokio::test]
async fn health_and_metrics_tell_what_happens() {
    let world = World::embedded();
    let broker = world.broker().await;
    world
        .caller(&broker, "/stranger-with-a-name")
        .nonce()
        .await
        .expect_err("refused");
    assert_eq!(
        broker.http("/healthz").await.map(|(code, _)| code),
        Some(200)
    );
    assert_eq!(
        broker.http("/readyz").await,
        Some((200, "ready\n".to_owned()))
    );
    let metrics = broker.http("/metrics").await.expect("metrics").1;
    assert!(
        metrics.contains("sundew_calls_total{rpc=\"Challenge\",code=\"PermissionDenied\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("sundew_view_fresh 1") && !metrics.contains("stranger-with-a-name"));
}

/// I12: a page whose name leads to the operations listener reads nothing there; probes and scrapers
/// come by address.
#[tokio::test]
async fn i12_the_operations_listener_answers_for_its_own_hosts_only() {
    let world = World::embedded();
    let broker = world.broker().await;
    for path in ["/healthz", "/readyz", "/metrics", "/"] {
        let (status, text) = broker.http_for("evil.example", path).await.expect("answer");
        assert_eq!(status, 421, "{path}");
        assert!(text.contains("listen.operations_hosts"), "{text}");
    }
    for host in ["localhost:9090", "[::1]:9090", "10.42.0.7:9090"] {
        let (status, _) = broker.http_for(host, "/readyz").await.expect("answer");
        assert_eq!(status, 200, "{host}");
    }
}

/// AC-88: ten times more is asked to be issued than the broker takes: what is too much is refused
/// at once, and no ending ever is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ac_88_endings_and_introspection_are_served_under_ten_fold_load() {
    let world = World::redis();
    let broker = world
        .broker_with(
            "[limits]\nissuing = 8\ncalls_per_second = 100000\ntokens_per_task = 1000000\n",
        )
        .await;
    world
        .register(&broker, "/agent", json!({ "max_tasks": 10_000 }))
        .await;
    let caller = world.caller(&broker, "/agent");
    let begun = caller
        .begin(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("task");
    let mut doomed = Vec::new();
    for _ in 0..30 {
        doomed.push(
            caller
                .begin(&world.issuer, "/agent", &["exec:git"])
                .await
                .expect("task"),
        );
    }
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood: Vec<_> = (0..80)
        .map(|_| {
            let (caller, task, stop) = (
                caller.clone(),
                begun.task.clone(),
                std::sync::Arc::clone(&stop),
            );
            tokio::spawn(async move {
                let (mut minted, mut shed) = (0, 0);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    match caller.mint(&task).await {
                        Ok(_) => minted += 1,
                        // On a machine that stands still the view may be stale for a moment.
                        Err(status) if status.code() == Code::Unavailable => {}
                        Err(status) => {
                            assert_eq!(
                                (status.code(), status.message()),
                                (Code::ResourceExhausted, "too much is being issued now")
                            );
                            shed += 1;
                        }
                    }
                }
                (minted, shed)
            })
        })
        .collect();
    let operator = world.operator(&broker);
    for task in &doomed {
        operator
            .revoke(sundew_tests::selectors::of_task(&task.task))
            .await
            .expect("no ending is refused");
        assert_eq!(
            operator
                .active(&task.token, &caller.thumbprint())
                .await
                .ok(),
            Some(false),
            "nor introspection"
        );
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (mut minted, mut shed) = (0, 0);
    for agent in flood {
        let counts = agent.await.expect("agent");
        (minted, shed) = (minted + counts.0, shed + counts.1);
    }
    assert!(
        minted > 0 && shed > minted / 4,
        "{minted} minted, {shed} refused"
    );
}

/// T50: two brokers whose clocks are apart: within the allowed skew they agree but for that skew,
/// beyond it the wrong one answers nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t50_brokers_with_skewed_clocks_agree_or_do_not_answer() {
    let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
        .map(|d| format!("{d}/faketime/libfaketime.so.1"));
    let library = library
        .iter()
        .find(|p| std::path::Path::new(p).exists())
        .expect("libfaketime is not installed: run ./tests/run");
    let world = World::redis();
    let right = world.broker().await;
    world.register(&right, "/agent", json!({})).await;
    let caller = world.caller(&right, "/agent");
    let begun = caller
        .begin(&world.issuer, "/agent", &["exec:git"])
        .await
        .expect("task");
    for (offset, answers) in [
        ("+0.3", true),
        ("-0.3", true),
        ("+30", false),
        ("-30", false),
    ] {
        let mut skewed = world.prepare("");
        let mut command = Command::new(sundew());
        command
            .env("LD_PRELOAD", library)
            .env("FAKETIME", offset)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        skewed.up_as(command);
        let server = world.operator(&skewed);
        if answers {
            skewed.ready().await;
            assert_eq!(
                server.active(&begun.token, &caller.thumbprint()).await.ok(),
                Some(true),
                "{offset}"
            );
        } else {
            until("says why", || async {
                skewed
                    .http("/readyz")
                    .await
                    .is_some_and(|(status, text)| status == 503 && text.contains("clock"))
            })
            .await;
            for _ in 0..10 {
                assert!(
                    server
                        .active(&begun.token, &caller.thumbprint())
                        .await
                        .is_err(),
                    "{offset}"
                );
            }
        }
    }
}

/// O2: a broker that waits for its store is seen by the alarm of one that answers nothing.
#[tokio::test]
async fn o2_a_broker_that_waits_for_its_store_shows_it() {
    let nobody = sundew_tests::free_port();
    let world = World::with_store(&format!("redis://127.0.0.1:{nobody}"), 0);
    let mut broker = world.prepare("");
    broker.up();
    until("the operations listener answers", || async {
        let (ready, metrics) = (broker.http("/readyz").await, broker.http("/metrics").await);
        let (Some((code, text)), Some((_, metrics))) = (ready, metrics) else {
            return false;
        };
        assert_eq!(
            (code, text.as_str()),
            (503, "starting: waiting for the store\n")
        );
        assert!(metrics.contains("\nsundew_view_fresh 0\n"), "{metrics}");
        true
    })
    .await;
}
