//! The files that `deploy/` ships are accepted by the programs that read them.

use std::path::{Path, PathBuf};
use std::process::Command;

use sundew_broker::serve::config::Config;
use sundew_broker::store::redis::{RedisSettings, RedisStore};
use sundew_core::store::{
    Created, CreatedToken, DocumentKind, NewTask, NewToken, Reserved, Store, StoredLease,
};
use sundew_core::{EntryId, LeaseId, Position, SecretBytes, TaskId, TokenHash};
use sundew_tests::now_ms;
use sundew_tests::pki::{Ca, leaf};
use sundew_tests::redis::Redis;
use tempfile::TempDir;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).expect(name)
}

#[test]
fn the_example_configuration_is_valid_and_its_commented_defaults_are_the_defaults() {
    let example = text("sundew.toml");
    let config = Config::parse(&example).expect("valid");
    // With every commented setting of [revocation] and [limits] taken in, nothing changes.
    let from = example.find("# [revocation]").expect("section");
    let uncommented: String = example[from..]
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|l| l.starts_with('[') || l.contains(" = "))
                .unwrap_or("#")
                .to_owned()
                + "\n"
        })
        .collect();
    let full = Config::parse(&format!("{}{uncommented}", &example[..from]))
        .expect("valid with everything taken in");
    assert_eq!(format!("{config:?}"), format!("{full:?}"));
    assert!(uncommented.matches(" = ").count() >= 13, "{uncommented}");
}

#[test]
fn every_setting_is_in_the_example() {
    let example = text("sundew.toml");
    for setting in [
        "enrollment",
        "operations",
        "workload_api",
        "reflection",
        "svid_ttl",
        "trust_domain",
        "socket",
        "certificate_file",
        "key_file",
        "timeout",
        "jwks_file",
        "jwks_url",
        "ca_file",
        "max_age",
        "freshness",
        "max_clock_skew",
        "calls_per_second",
        "bundle_age",
    ] {
        assert!(
            example.contains(&format!("{setting} = ")),
            "{setting} is not in the example"
        );
    }
}

/// The password of the broker's user.
const PASSWORD: &str = "correct horse";

/// A Redis with the shipped ACL, which speaks TLS.
struct Guarded {
    _redis: Redis,
    folder: TempDir,
    port: u16,
}

impl Guarded {
    async fn start() -> Self {
        let (folder, port) = (
            tempfile::tempdir().expect("folder"),
            sundew_tests::free_port(),
        );
        let acl = shipped_acl(folder.path());
        let ca = Ca::new("redis.example");
        let mut params = leaf(&[]);
        params.subject_alt_names = vec![rcgen::SanType::IpAddress(std::net::IpAddr::from([
            127, 0, 0, 1,
        ]))];
        ca.sign(params).write(
            &folder.path().join("tls"),
            std::slice::from_ref(&ca.certificate),
        );
        let tls = |name: &str| folder.path().join("tls").join(name).display().to_string();
        let redis = Redis::with(&[
            "--aclfile",
            &acl.display().to_string(),
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &tls("svid.pem"),
            "--tls-key-file",
            &tls("key.pem"),
            "--tls-ca-cert-file",
            &tls("bundle.pem"),
            "--tls-auth-clients",
            "no",
        ]);
        sundew_tests::until("the TLS port listens", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
        })
        .await;
        Self {
            _redis: redis,
            folder,
            port,
        }
    }

    fn ca(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("tls/bundle.pem")).expect("CA")
    }

    fn settings(&self, password: &str) -> RedisSettings {
        RedisSettings {
            password: Some(SecretBytes::new(password.as_bytes().to_vec())),
            ca: Some(self.ca()),
            ..sundew_tests::redis::settings(
                &format!("rediss://sundew@127.0.0.1:{}", self.port),
                std::time::Duration::from_secs(1),
            )
        }
    }

    /// A plain connection as the broker's user.
    fn connection(&self) -> redis::Connection {
        let url = format!(
            "rediss://sundew:{}@127.0.0.1:{}",
            PASSWORD.replace(' ', "%20"),
            self.port
        );
        let certificates = redis::TlsCertificates {
            client_tls: None,
            root_cert: Some(self.ca()),
        };
        redis::Client::build_with_tls(url, certificates)
            .expect("client")
            .get_connection()
            .expect("connection")
    }
}

/// Writes the shipped ACL, with the hash of the password in its place, into a folder.
fn shipped_acl(folder: &Path) -> PathBuf {
    let hash: String = ring::digest::digest(&ring::digest::SHA256, PASSWORD.as_bytes())
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    // Redis reads nothing but users from an ACL file.
    let acl: String = text("redis.acl")
        .replace(&"0".repeat(64), &hash)
        .lines()
        .filter(|l| l.starts_with("user "))
        .map(|l| format!("{l}\n"))
        .collect();
    let acl_file = folder.join("users.acl");
    std::fs::write(&acl_file, acl).expect("acl");
    acl_file
}

/// Documents, a task with its token, and the log.
async fn documents_tasks_and_the_log_work(store: &RedisStore) {
    let (now, task, hash) = (
        now_ms(),
        TaskId::from_bytes([1; 16]),
        TokenHash::from_bytes([1; 32]),
    );
    let token = || NewToken {
        hash: &hash,
        record: b"t".to_vec(),
        retain_until_ms: now + 60_000,
    };
    assert_eq!(
        store
            .replace_document(DocumentKind::Meta, "a", None, Some(b"1"))
            .await,
        Ok(true)
    );
    assert_eq!(
        store.documents(DocumentKind::Meta).await.map(|d| d.len()),
        Ok(1)
    );
    assert_eq!(store.consume(&[1; 32], now + 60_000).await, Ok(true));
    assert_eq!(
        store
            .reserve_task("w", task, now + 60_000, now, 5, now)
            .await,
        Ok(Reserved::Taken)
    );
    assert_eq!(
        store
            .create_task(NewTask {
                id: task,
                record: b"r".to_vec(),
                retain_until_ms: now + 60_000,
                token: token()
            })
            .await,
        Ok(Created::New)
    );
    assert_eq!(
        store.create_token(task, token(), 9).await,
        Ok(Some(CreatedToken::Existing(b"t".to_vec())))
    );
    store.bind_task(task, b"b".to_vec(), 8).await.expect("bind");
    assert!(store.task(task).await.expect("task").is_some());
    store.attend(vec![(task, now)]).await.expect("attend");
    assert_eq!(store.due(now, 9).await.map(|d| d.len()), Ok(1));
    assert_eq!(store.tasks(None, 9).await.map(|d| d.len()), Ok(1));
    store
        .append(EntryId([1; 16]), b"e", now, Position(0).into())
        .await
        .expect("append");
    store.await_log(Position(1), 5).await.expect("await");
    store.trim_log(now, &[]).await.expect("trim");
    assert!(store.token(task, &hash).await.expect("token").is_some());
    assert_eq!(
        store.tokens(task, 0).await.map(|page| page.tokens.len()),
        Ok(1)
    );
    assert_eq!(
        store.scan_tasks(0).await.map(|page| page.tasks.len()),
        Ok(1)
    );
    let ended = store.end_task(task, b"remains".to_vec(), now + 60_000);
    assert_eq!(ended.await, Ok(()));
    store.release_task("w", task).await.expect("release");
}

async fn leases_work(store: &RedisStore) {
    let (now, task) = (now_ms(), TaskId::from_bytes([1; 16]));
    let lease = StoredLease {
        id: LeaseId::from_bytes([1; 16]),
        record: b"l".to_vec(),
        due_ms: now + 1000,
    };
    store
        .put_lease("db/x", task, lease.clone())
        .await
        .expect("lease");
    assert_eq!(store.lease("db/x", lease.id).await, Ok(Some(lease.clone())));
    assert_eq!(
        store.leases("db/x", 0).await.map(|(page, _)| page.len()),
        Ok(1)
    );
    store
        .lease_due("db/x", &[lease.id], now)
        .await
        .expect("due");
    assert_eq!(store.lease_counts("db/x", now).await, Ok((1, 1)));
    assert_eq!(
        store
            .claim_leases("db/x", now, now + 1000, 9)
            .await
            .map(|claimed| claimed.len()),
        Ok(1)
    );
    store
        .retry_lease("db/x", lease.clone())
        .await
        .expect("retry");
    store
        .remove_leases("db/x", &[lease.id])
        .await
        .expect("removed");
}

/// T73: with the shipped ACL, over TLS, the store works and its user can do nothing else.
#[tokio::test]
async fn t73_the_shipped_acl_lets_the_store_work_and_nothing_else() {
    sundew_tests::init();
    let redis = Guarded::start().await;
    let wrong = RedisStore::new(redis.settings("wrong"));
    assert!(wrong.check().await.is_err());
    let store = RedisStore::new(redis.settings(PASSWORD));
    store.check().await.expect("usable");
    documents_tasks_and_the_log_work(&store).await;
    leases_work(&store).await;
    let mut connection = redis.connection();
    for command in [
        &["CONFIG", "GET", "*"][..],
        &["CLIENT", "KILL", "TYPE", "normal"],
        &["FLUSHALL"],
        &["KEYS", "*"],
        &["MODULE", "LIST"],
        &["GET", "other"],
        &["ACL", "LIST"],
        &["SHUTDOWN"],
    ] {
        let result = redis::cmd(command[0])
            .arg(&command[1..])
            .query::<redis::Value>(&mut connection);
        assert_eq!(
            result.expect_err(command[0]).code(),
            Some("NOPERM"),
            "{command:?}"
        );
    }
}

#[test]
fn units_and_manifests_name_what_there_is() {
    let unit = text("systemd/sundew.service");
    for line in unit.lines().filter_map(|l| {
        l.strip_prefix("ExecStart=")
            .or(l.strip_prefix("ExecStartPre="))
    }) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let end = words
            .iter()
            .position(|w| *w == "--config")
            .expect("--config");
        let help = Command::new(sundew_tests::sundew())
            .args(&words[1..end])
            .arg("--help")
            .output()
            .expect("run");
        assert!(
            help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--config"),
            "{line}"
        );
    }
    assert!(unit.contains("Type=notify-reload") && unit.contains("LimitCORE=0"));
    for name in ["broker.yaml", "redis.yaml", "network-policy.yaml"] {
        let manifest = text(&format!("kubernetes/{name}"));
        assert!(!manifest.contains('\t'), "{name}: YAML has no tabs");
        for document in manifest.split("\n---\n") {
            for member in ["apiVersion: ", "kind: ", "metadata:", "spec:"] {
                assert!(
                    document.lines().any(|l| l.starts_with(member)),
                    "{name}: {member} is missing in\n{document}"
                );
            }
        }
    }
    // L7: with a stale view a broker is not ready, and takes endings all the same.
    let brokers = text("kubernetes/broker.yaml");
    let for_responders = brokers.split("\n---\n").find(|document| {
        document.contains("\nkind: Service\n") && document.contains("name: sundew-responders")
    });
    assert!(for_responders.is_some_and(|s| s.contains("\n  publishNotReadyAddresses: true\n")));
    let redis = text("kubernetes/redis.yaml") + &text("container/compose.yaml");
    assert_eq!(redis.matches("noeviction").count(), 2);
    let policy = text("kubernetes/network-policy.yaml");
    assert!(policy.contains("app: sundew-redis") && policy.contains("egress: []"));
}

/// systemd hears when the broker is ready, and when it stops.
#[tokio::test]
async fn systemd_is_told() {
    use sundew_tests::world::World;
    let world = World::embedded();
    let path = world.folder().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("socket");
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .expect("timeout");
    let mut broker = world.prepare("");
    let mut command = Command::new(sundew_tests::sundew());
    command.env("NOTIFY_SOCKET", &path);
    broker.up_as(command);
    let hear = || {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).expect("told");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(hear(), "READY=1");
    broker.signal(rustix::process::Signal::TERM);
    assert_eq!(hear(), "STOPPING=1");
    assert!(broker.wait().success());
}

/// Every registration and issuer that the documents show is one that the program reads.
#[test]
fn what_the_quick_starts_show_is_what_the_program_reads() {
    use sundew_attestation::Rule;
    use sundew_broker::serve::config::IssuerConfig;
    use sundew_core::Registration;
    let mut files: Vec<PathBuf> = std::fs::read_dir(deploy("quickstart"))
        .expect("folder")
        .map(|entry| entry.expect("entry").path())
        .collect();
    files.push(deploy("../README.md"));
    let mut seen = 0;
    for file in files {
        let document = std::fs::read_to_string(&file).expect("document");
        // Blocks in lists are indented.
        let lines: Vec<&str> = document.lines().map(str::trim_start).collect();
        for block in lines.split(|line| *line == "```toml").skip(1) {
            let text: String = block
                .iter()
                .take_while(|line| **line != "```")
                .map(|line| format!("{line}\n"))
                .collect();
            let table: serde_json::Value =
                toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}\n{text}", file.display()));
            let read = |what: &str, result: Result<(), serde_json::Error>| {
                result.unwrap_or_else(|e| panic!("{}: {what}: {e}\n{text}", file.display()))
            };
            let workloads = table.get("workload").map(|workloads| {
                workloads
                    .as_array()
                    .cloned()
                    .unwrap_or_else(|| vec![workloads.clone()])
            });
            for workload in workloads.into_iter().flatten() {
                seen += 1;
                if workload.get("spiffe_id").is_some() {
                    read(
                        "workload",
                        serde_json::from_value::<Registration>(workload.clone()).map(drop),
                    );
                } else {
                    read(
                        "evidence",
                        serde_json::from_value::<Vec<Rule>>(workload["evidence"].clone()).map(drop),
                    );
                }
            }
            for issuer in table["issuers"].as_array().into_iter().flatten() {
                seen += 1;
                read(
                    "issuer",
                    serde_json::from_value::<IssuerConfig>(issuer.clone()).map(drop),
                );
            }
        }
    }
    assert!(seen >= 10, "{seen} were read");
}
