//! Running it: configuration, health, reload, drain, the journal under failure (T74, T75, T77,
//! T85).

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use sundew_tests::broker::World;
use sundew_tests::{sundew, until};
use tonic::Code;

/// T85, AC-87: what is wrong keeps a broker from starting, and says what to do.
#[tokio::test]
async fn t85_a_broker_does_not_start_on_a_bad_configuration() {
    let world = World::embedded();
    let broker = world.prepare("");
    let good = std::fs::read_to_string(broker.config_file()).expect("config");
    let key = world.folder().join("root.key");
    type Case<'a> = (&'a str, Box<dyn Fn(&str) -> String>, &'a str);
    let cases: Vec<Case<'_>> = vec![
        (
            "unknown key",
            Box::new(|c| c.replace("[keys]", "[keys]\nverify = false")),
            "keys",
        ),
        (
            "unknown section",
            Box::new(|c| format!("{c}\n[insecure]\n")),
            "insecure: unknown section",
        ),
        (
            "no trust",
            Box::new(|c| c.replace("[[trust]]", "[[trust2]]")),
            "trust: at least one bundle",
        ),
        (
            "missing bundle",
            Box::new(|c| c.replace("bundle.pem", "none.pem")),
            "none.pem",
        ),
        (
            "missing key",
            Box::new(|c| c.replace("root.key", "none.key")),
            "none.key",
        ),
        (
            "empty audience",
            Box::new(|c| c.replace("audience = \"sundew-test\"", "audience = \"\"")),
            "audience",
        ),
        (
            "unknown role",
            Box::new(|c| c.replace("\"introspector\"]", "\"root\"]")),
            "operators",
        ),
        (
            "plain Redis elsewhere",
            Box::new(|c| c.replace("url = \"embedded:", "url = \"redis://redis.example/\"\n#")),
            "TLS",
        ),
        (
            "not TOML",
            Box::new(|_| "= 1".to_owned()),
            "TOML parse error",
        ),
    ];
    let run = |name: &str, text: &str, command: &[&str]| {
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
        (
            output.status.success(),
            format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
        )
    };
    for (name, change, part) in cases {
        let (success, text) = run(name, &change(&good), &["serve"]);
        assert!(!success && text.contains(part), "{name}: {text}");
    }
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .expect("mode");
    let (success, text) = run("readable key", &good, &["serve"]);
    assert!(!success && text.contains("chmod 600"), "{text}");
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

/// T74: the journal's disk is full: nothing is issued, no secret is sent; when there is room again,
/// it goes on.
#[tokio::test]
async fn t74_a_full_disk_under_the_journal_stops_issuing() {
    let world = World::embedded();
    let mount = tempfile::tempdir().expect("folder");
    let tmpfs = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(mount.path())
        .status()
        .expect("mount");
    assert!(
        tmpfs.success(),
        "tests run as root, so that they can mount a small disk"
    );
    let unmount = Unmount(mount.path().to_owned());
    let mut broker = world.prepare("");
    let text = std::fs::read_to_string(broker.config_file()).expect("config");
    let at = text.find("[journal]").expect("section");
    let line = text[at..].lines().nth(1).expect("directory").to_owned();
    std::fs::write(
        broker.config_file(),
        text.replace(
            &line,
            &format!("directory = \"{}/journal\"", mount.path().display()),
        ),
    )
    .expect("config");
    broker.up();
    broker.ready().await;
    world.register(&broker, "/agent", json!({})).await;
    world
        .operator(&broker)
        .put_secret("app/key", "canary")
        .await;
    let caller = world.caller(&broker, "/agent");
    let begun = caller
        .begin(&world.issuer, "/agent", &["secret:app/key"])
        .await
        .expect("task");
    let filler = mount.path().join("filler");
    let mut size = 1 << 20;
    let file = std::fs::File::create(&filler).expect("filler");
    while size > 0 {
        if std::io::Write::write_all(&mut &file, &vec![1; size]).is_err() {
            size /= 2;
        }
    }
    drop(file);
    // The page that the journal is on may have room for some records yet.
    let mut refused = 0;
    for _ in 0..200 {
        refused += usize::from(
            caller
                .mint(&begun.task)
                .await
                .is_err_and(|s| s.code() == Code::Unavailable),
        );
    }
    assert!(refused > 100, "{refused}");
    assert_eq!(
        caller
            .secret(&begun.task, "app/key")
            .await
            .expect_err("P10")
            .code(),
        Code::Unavailable
    );
    assert_eq!(
        caller
            .begin(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect_err("P10")
            .code(),
        Code::Unavailable
    );
    std::fs::remove_file(&filler).expect("room");
    assert_eq!(
        caller.secret(&begun.task, "app/key").await.as_deref().ok(),
        Some("canary")
    );
    let mut count = 0;
    sundew_broker::journal::read(&mount.path().join("journal"), |_| count += 1)
        .expect("the chain holds");
    assert!(count > 3);
    drop(broker);
    drop(unmount);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// T74: `fdatasync` fails with EIO: what was not durable is never acknowledged, and nothing is
/// issued until a restart. T45: and no token remains.
#[tokio::test]
async fn t74_t45_an_io_error_of_fdatasync_poisons_the_journal() {
    let world = World::redis();
    let mut broker = world.prepare("");
    let mut strace = Command::new("strace");
    strace
        .args([
            "-f",
            "-qq",
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:error=EIO:when=6+",
            "-o",
            "/dev/null",
        ])
        .arg(sundew());
    broker.up_as(strace);
    broker.ready().await;
    world.register(&broker, "/agent", json!({})).await;
    let caller = world.caller(&broker, "/agent");
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for _ in 0..12 {
        match caller.begin(&world.issuer, "/agent", &["exec:git"]).await {
            Ok(begun) => acknowledged.push(begun.task),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable);
                refused += 1;
            }
        }
    }
    assert!(
        !acknowledged.is_empty() && refused > 0,
        "{} acknowledged, {refused} refused",
        acknowledged.len()
    );
    caller.mint(&acknowledged[0]).await.expect_err("P10");
    let mut connection = world.redis.as_ref().expect("redis").connection();
    let lists: Vec<String> = redis::cmd("KEYS")
        .arg("sundew:*:tokens")
        .query(&mut connection)
        .expect("keys");
    let tokens: usize = lists
        .iter()
        .map(|key| {
            redis::cmd("HLEN")
                .arg(key)
                .query::<usize>(&mut connection)
                .expect("length")
        })
        .sum();
    assert_eq!(
        (lists.len(), tokens),
        (acknowledged.len(), acknowledged.len()),
        "tokens that nobody was told of"
    );
    broker.kill();
    let journal = broker.journal();
    for task in &acknowledged {
        assert!(
            journal
                .iter()
                .any(|r| r.event == "task_begun" && r.field("task") == Some(task)),
            "{task} is not on the record"
        );
    }
}

/// T75: a disk that does not answer: callers hear so within their time, nothing is sent, and who
/// needs no record is served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t75_a_journal_that_blocks_holds_up_only_what_must_be_on_it() {
    let world = World::redis();
    let mut broker = world.prepare("");
    let mut strace = Command::new("strace");
    strace
        .args([
            "-f",
            "-qq",
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:delay_enter=20000000:when=7+",
            "-o",
            "/dev/null",
        ])
        .arg(sundew());
    broker.up_as(strace);
    broker.ready().await;
    world.register(&broker, "/agent", json!({})).await;
    world
        .operator(&broker)
        .put_secret("app/key", "canary")
        .await;
    let caller = world.caller(&broker, "/agent");
    let mut last = None;
    let blocked = loop {
        let began = std::time::Instant::now();
        match caller
            .begin(&world.issuer, "/agent", &["secret:app/key"])
            .await
        {
            Ok(begun) => last = Some(begun),
            Err(status) => break (status, began.elapsed()),
        }
    };
    assert_eq!(blocked.0.code(), Code::Unavailable);
    assert!(blocked.1 < Duration::from_secs(10), "{:?}", blocked.1);
    let begun = last.expect("one before the disk stood still");
    let secrets: Vec<_> = (0..8)
        .map(|_| {
            let (caller, task) = (caller.clone(), begun.task.clone());
            tokio::spawn(async move { caller.secret(&task, "app/key").await })
        })
        .collect();
    for _ in 0..20 {
        let began = std::time::Instant::now();
        assert_eq!(
            caller.active(&begun.token, &[]).await.ok(),
            Some(true),
            "introspection needs no record"
        );
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
    }
    for secret in secrets {
        assert_eq!(
            secret.await.expect("call").expect_err("P10").code(),
            Code::Unavailable
        );
    }
}

/// AC-88: ten times more is asked to be issued than the broker takes: what is too much is refused
/// at once, and no ending ever is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ac_88_endings_and_introspection_are_served_under_ten_fold_load() {
    let world = World::redis();
    let broker = world
        .broker_with("[limits]\nissuing = 8\ncalls_per_second = 100000\n")
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
            .revoke(sundew_tests::calls::of_task(&task.task))
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

/// T77: kill -9 at random moments: what clients saw is on the record, the chain verifies, and no
/// acknowledged task is lost.
#[tokio::test]
async fn t77_what_clients_saw_is_on_the_record_whenever_the_broker_is_killed() {
    for world in World::both() {
        let mut broker = world.broker().await;
        world
            .register(&broker, "/agent", json!({ "max_tasks": 10_000 }))
            .await;
        let svid = world.ca.svid("/agent");
        let mut seen: Vec<sundew_tests::calls::Begun> = Vec::new();
        for round in 0..15_u64 {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    let caller = world.caller_with(&broker, svid.clone());
                    let tokens: Vec<_> = (0..200).map(|_| world.issuer.token("/agent")).collect();
                    tokio::spawn(async move {
                        let mut begun = Vec::new();
                        for token in tokens {
                            let Ok(nonce) = caller.nonce().await else {
                                break;
                            };
                            let request = sundew_proto::v1::BeginTaskRequest {
                                nonce,
                                purpose: "x".to_owned(),
                                scopes: vec!["exec:git".to_owned()],
                                evidence: vec![sundew_tests::calls::oidc(token)],
                                ..Default::default()
                            };
                            match caller.send(request).await {
                                Ok(task) => begun.push(task),
                                Err(_) => break,
                            }
                        }
                        begun
                    })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(20 + (round * 37) % 90)).await;
            broker.kill();
            for worker in workers {
                seen.extend(worker.await.expect("worker"));
            }
            broker.up();
            broker.ready().await;
        }
        let journal = broker.journal();
        let recorded: std::collections::HashSet<_> = journal
            .iter()
            .filter(|r| r.event == "task_begun")
            .filter_map(|r| r.field("task"))
            .collect();
        assert!(seen.len() > 20, "only {} tasks were begun", seen.len());
        let server = world.operator(&broker);
        for begun in &seen {
            assert!(
                recorded.contains(begun.task.as_str()),
                "{} is not on the record",
                begun.task
            );
            let presenter = svid.thumbprint();
            assert_eq!(
                server.active(&begun.token, &presenter).await.ok(),
                Some(true),
                "{} was acknowledged and lost",
                begun.task
            );
        }
    }
}
