//! The shipped ACL of Redis, by a Redis.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use sundew_broker::store::redis::{RedisSettings, RedisStore};
use sundew_core::store::{
    Created, CreatedToken, DocumentKind, NewTask, NewToken, Reserved, Store, StoredLease,
};
use sundew_core::{EntryId, LeaseId, Position, SecretBytes, TaskId, TokenHash};
use sundew_tests::now_ms;
use sundew_tests::pki::{Ca, leaf};
use sundew_tests::redis::Redis;
use sundew_tests::until;
use tempfile::TempDir;

use super::text;

/// The password of the broker's user.
const PASSWORD: &str = "correct horse";

/// A Redis with the shipped ACL, which speaks TLS.
struct Guarded {
    redis: Redis,
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
        until("the TLS port listens", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
        })
        .await;
        Self {
            redis,
            folder,
            port,
        }
    }

    /// Kills Redis, starts it again, and waits until it answers.
    async fn restart(&mut self) {
        self.redis.kill();
        self.redis.up();
        until("Redis answers", || async {
            let store = RedisStore::new(self.settings(PASSWORD));
            store.check().await.is_ok()
        })
        .await;
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
    let acl = text("redis.acl").replace(&"0".repeat(64), &hash);
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

/// The user of Redis that replays the append-only file is `default`. Where it may do nothing, Redis
/// leaves out each transaction and each script that writes twice.
#[tokio::test]
async fn d1_the_shipped_acl_keeps_transactions_and_scripts_over_a_restart() {
    sundew_tests::init();
    let mut redis = Guarded::start().await;
    let mut connection = redis.connection();
    redis::pipe()
        .atomic()
        .hset("sundew:t", "f", 1)
        .hset("sundew:t", "g", 2)
        .query::<()>(&mut connection)
        .expect("transaction");
    let script = "redis.call('hset', KEYS[1], 'f', 1) redis.call('hset', KEYS[1], 'g', 2)";
    redis::Script::new(script)
        .key("sundew:s")
        .invoke::<()>(&mut connection)
        .expect("script");
    redis.restart().await;
    let mut connection = redis.connection();
    for key in ["sundew:t", "sundew:s"] {
        for (field, value) in [("f", 1), ("g", 2)] {
            let found = redis::cmd("HGET")
                .arg(key)
                .arg(field)
                .query::<Option<i64>>(&mut connection);
            assert_eq!(found, Ok(Some(value)), "{key} {field}");
        }
    }
    // Nobody can be that user.
    let mut stranger = TcpStream::connect(("127.0.0.1", redis.redis.port())).expect("connect");
    stranger.write_all(b"PING\r\n").expect("asked");
    let mut answer = [0; 7];
    stranger.read_exact(&mut answer).expect("answer");
    assert_eq!(&answer, b"-NOAUTH");
}

/// Each command that the store's sources and scripts name is one that the shipped user may give.
#[test]
fn d1_the_shipped_acl_allows_each_command_that_the_sources_name() {
    let acl = text("redis.acl");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker/src/store/redis");
    let mut named = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(root).expect("sources") {
        let path = entry.expect("entry").path();
        let Ok(source) = std::fs::read_to_string(&path) else {
            continue;
        };
        for before in ["cmd(\"", "redis.call(\"", "redis.call('"] {
            for part in source.split(before).skip(1) {
                let name: String = part.chars().take_while(char::is_ascii_alphabetic).collect();
                named.insert(name.to_ascii_lowercase());
            }
        }
    }
    assert!(named.len() > 30, "{named:?}");
    for command in named {
        let allowed = acl
            .split_whitespace()
            .any(|rule| rule == format!("+{command}") || rule.starts_with(&format!("+{command}|")));
        assert!(allowed, "{command} is not in deploy/redis.acl");
    }
}

/// Whatever tests say of Redis they say of the version that is run here.
#[test]
fn d2_the_chart_names_the_version_of_redis_that_tests_run() {
    let output = Command::new("redis-server").arg("--version").output();
    let said = String::from_utf8(output.expect("redis-server").stdout).expect("text");
    let version = said
        .split("v=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let version = version.expect("a version");
    assert!(
        text("helm/sundew/values.yaml").contains(&format!("tag: \"{version}\"")),
        "{version}"
    );
    assert!(text("kubernetes/redis.yaml").contains(&format!("image: redis:{version}\n")));
}
