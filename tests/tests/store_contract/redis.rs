//! Contracts of Redis alone: its faults, its memory, and reports of brokers in it.

use std::time::Duration;

use rustix::process::Signal;
use sundew_broker::store::redis::RedisStore;
use sundew_core::store::{Created, CreatedToken, DocumentKind, Reserved, Store as _};
use sundew_core::{EntryId, Position, TokenHash};
use sundew_tests::now_ms;
use sundew_tests::redis::{Redis, settings};
use tokio::task::JoinHandle;

use super::{A, hash, redis_store, report, task, token};

/// P12: a long task does not hoard tokens that have expired.
#[tokio::test]
async fn tokens_that_have_expired_are_dropped_from_a_long_task() {
    let redis = Redis::start();
    let store = redis_store(&redis);
    assert_eq!(
        store.create_task(task(A, "one", &hash(1))).await,
        Ok(Created::New)
    );
    for n in 0..2000_u16 {
        let hash = TokenHash::from_bytes(std::array::from_fn(|i| n.to_le_bytes()[i % 2] ^ 0x55));
        assert!(
            store
                .create_token(
                    A,
                    token(&hash, "x", if n == 7 { 60_000 } else { 1 }),
                    u32::MAX
                )
                .await
                .is_ok()
        );
    }
    let page = store.tokens(A, 0).await.expect("page").tokens.len();
    assert!(page < 600, "{page} of 2000 are still there");
}

/// I10: where no broker runs, nobody takes those off the list that have died, and no broker that
/// starts may wait for them.
#[tokio::test]
async fn a_broker_that_died_reports_nothing_though_it_is_on_the_list() {
    let redis = Redis::start();
    let store = redis_store(&redis);
    let applied = (Position(0), EntryId::default());
    store.heartbeat(report(applied)).await.expect("heartbeat");
    let reports = async || store.reports().await.expect("reports");
    assert_eq!(reports().await, [("me".to_owned(), "about me".to_owned())]);
    let long_ago = now_ms() - 601_000;
    let set = redis::cmd("HSET")
        .arg("sundew:{log}:brokers")
        .arg("me")
        .arg(format!("0 {long_ago}"))
        .query(&mut redis.connection());
    let (): () = set.expect("set");
    assert_eq!(reports().await, []);
}

/// A report about a log that was lost counts for nothing: whoever waits for that broker waits on.
#[tokio::test]
async fn a_report_counts_only_for_the_log_that_it_is_about() {
    let redis = Redis::start();
    let store = redis_store(&redis);
    let id = |n: u8| EntryId([n; 16]);
    for n in 1..=3 {
        store
            .append(id(n), b"x", now_ms() + 60_000, Position(0).into())
            .await
            .expect("append");
    }
    let reported = async |applied| {
        store
            .heartbeat(report(applied))
            .await
            .expect("heartbeat")
            .peers[0]
            .1
    };
    assert_eq!(reported((Position(2), id(2))).await, Position(2));
    assert_eq!(
        reported((Position(3), id(9))).await,
        Position(0),
        "another entry is there"
    );
    assert_eq!(
        reported((Position(500), id(3))).await,
        Position(0),
        "nothing is there"
    );
}

/// T47: after every operation, no key that holds a task or a token lives for ever.
#[tokio::test]
async fn t47_every_record_in_redis_has_an_end() {
    let redis = Redis::start();
    let store = redis_store(&redis);
    let now = now_ms();
    assert_eq!(
        store
            .reserve_task("w", A, now + 60_000, now + 500, 5, now)
            .await,
        Ok(Reserved::Taken)
    );
    assert_eq!(
        store.create_task(task(A, "one", &hash(1))).await,
        Ok(Created::New)
    );
    assert_eq!(
        store.create_token(A, token(&hash(2), "x", 60_000), 9).await,
        Ok(Some(CreatedToken::New))
    );
    store.bind_task(A, b"b".to_vec(), 8).await.expect("bind");
    assert_eq!(store.consume(&[1; 32], now + 60_000).await, Ok(true));
    let mut connection = redis.connection();
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("*")
        .query(&mut connection)
        .expect("keys");
    assert_eq!(keys.len(), 7, "{keys:?}");
    for key in keys.iter().filter(|key| *key != "sundew:due") {
        let ttl: i64 = redis::cmd("PTTL")
            .arg(key)
            .query(&mut connection)
            .expect("ttl");
        assert!((1..=60_000).contains(&ttl), "{key} has {ttl}");
    }
}

/// T67: a script cache that was flushed is filled again without a failed call.
#[tokio::test]
async fn t67_flushing_the_scripts_fails_no_call() {
    let redis = Redis::start();
    let store = redis_store(&redis);
    for n in 1..=20 {
        redis::cmd("SCRIPT")
            .arg("FLUSH")
            .exec(&mut redis.connection())
            .expect("flush");
        assert_eq!(
            store
                .append(EntryId([n; 16]), b"x", now_ms() + 1000, Position(0).into())
                .await,
            Ok(Position(u64::from(n)))
        );
    }
}

/// P4: brokers may have stamped what they issue with positions that a former primary gave and that no
/// replica has. What ends it is appended to another primary, and must be above every such stamp.
#[tokio::test]
async fn p4_an_ending_on_another_primary_is_above_every_stamp_of_the_former_one() {
    let redis = Redis::start();
    let store = redis_store(&redis);
    let append = async |n: u8| {
        let until_ms = now_ms() + 60_000;
        let appended = store.append(EntryId([n; 16]), b"x", until_ms, Position(0).into());
        appended.await.expect("appended")
    };
    assert_eq!(
        (append(1).await, append(2).await),
        (Position(1), Position(2))
    );
    for command in [["127.0.0.1", "1"], ["NO", "ONE"]] {
        let mut replica_of = redis::cmd("REPLICAOF");
        replica_of.arg(&command);
        replica_of
            .exec(&mut redis.connection())
            .expect("another primary");
    }
    let above = append(3).await;
    assert!(above > Position(1 << 32), "{above:?}");
    assert_eq!(
        append(4).await,
        Position(above.0 + 1),
        "once for each primary"
    );
}

/// T66: a full Redis refuses tasks and still takes endings.
#[tokio::test]
async fn t66_a_full_redis_takes_endings_and_nothing_else() {
    let redis = Redis::with(&["--maxmemory", "1"]);
    let store = redis_store(&redis);
    assert!(matches!(
        store.create_task(task(A, "one", &hash(1))).await,
        Err(sundew_core::store::StoreError::Full(_))
    ));
    assert!(matches!(
        store.consume(&[1; 32], now_ms() + 1000).await,
        Err(sundew_core::store::StoreError::Full(_))
    ));
    assert_eq!(
        store
            .append(EntryId([1; 16]), b"x", now_ms() + 1000, Position(0).into())
            .await,
        Ok(Position(1))
    );
    store
        .heartbeat(report((Position(1), EntryId([1; 16]))))
        .await
        .expect("heartbeat");
}

/// T65: a Redis that would lose what must stay is refused, with what to do.
#[tokio::test]
async fn t65_an_unfit_redis_is_refused() {
    for (options, part) in [
        (&["--maxmemory-policy", "allkeys-lru"][..], "noeviction"),
        (&["--replicaof", "127.0.0.1", "1"], "replica"),
    ] {
        let redis = Redis::with(options);
        let error = redis_store(&redis)
            .check()
            .await
            .expect_err("refused")
            .to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// T68: a Redis that stands still costs each call its deadline and no more.
#[tokio::test]
async fn t68_a_stall_ends_at_the_deadline_and_what_comes_after_works() {
    let redis = Redis::start();
    let store = redis_store(&redis);
    store.check().await.expect("usable");
    redis.signal(Signal::STOP);
    let began = std::time::Instant::now();
    assert!(store.document(DocumentKind::Meta, "a").await.is_err());
    assert!(began.elapsed().as_millis() < 3000, "{:?}", began.elapsed());
    redis.signal(Signal::CONT);
    sundew_tests::until("the store works again", || async {
        store.document(DocumentKind::Meta, "a").await.is_ok()
    })
    .await;
}

/// Listens as a server that takes kindly what a client says of itself, and answers everything else
/// with this.
async fn answering(reply: &'static str) -> (u16, JoinHandle<()>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("listen");
    let port = listener.local_addr().expect("address").port();
    let server = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("accept");
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = socket.read(&mut buffer).await {
                    // What a client says of itself when it connects is taken kindly.
                    let asked = String::from_utf8_lossy(&buffer[..count]).to_uppercase();
                    let greeting = asked.matches("CLIENT").count();
                    let kind = if greeting > 0 {
                        "+OK\r\n".repeat(greeting)
                    } else {
                        reply.to_owned()
                    };
                    if socket.write_all(kind.as_bytes()).await.is_err() || kind.is_empty() {
                        return;
                    }
                }
            });
        }
    });
    (port, server)
}

/// No question of the store is answered.
async fn nothing_is_answered(store: &RedisStore, reply: &str) {
    let now = now_ms();
    // One number is a good answer to some questions; a record, a list or a heartbeat it is not.
    assert!(
        store.heartbeat(report(Default::default())).await.is_err(),
        "{reply:?}"
    );
    assert!(store.read_log(Position(0), 10).await.is_err(), "{reply:?}");
    assert!(store.task(A).await.is_err(), "{reply:?}");
    assert!(store.check().await.is_err(), "{reply:?}");
    if !reply.starts_with([':', '+']) {
        assert!(store.token(A, &hash(1)).await.is_err(), "{reply:?}");
        assert!(
            store.document(DocumentKind::Secret, "a").await.is_err(),
            "{reply:?}"
        );
        assert!(
            store
                .append(EntryId([1; 16]), b"x", now, Position(0).into())
                .await
                .is_err(),
            "{reply:?}"
        );
        assert!(
            store.create_task(task(A, "one", &hash(1))).await.is_err(),
            "{reply:?}"
        );
        assert!(
            store.consume(&[1; 32], now_ms() + 60_000).await.is_err(),
            "{reply:?}"
        );
    }
}

/// T64: whatever a server answers instead of what was asked for, it is an error, and never "not
/// there".
#[tokio::test]
async fn t64_no_error_of_a_server_is_taken_for_an_answer() {
    let replies = [
        "-READONLY You can't write against a read only replica.\r\n",
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-MISCONF Errors writing to the AOF file\r\n",
        "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        "-NOREPLICAS Not enough good replicas to write.\r\n",
        "-CLUSTERDOWN The cluster is down\r\n",
        "-MOVED 3999 127.0.0.1:1\r\n",
        "-ASK 3999 127.0.0.1:1\r\n",
        "-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
        "-NOSCRIPT No matching script.\r\n",
        "-NOAUTH Authentication required.\r\n",
        "-NOPERM this user has no permissions\r\n",
        "-ERR unknown\r\n",
        "$100000\r\nhalf",
        "*2\r\n:1\r\n",
        ":7\r\n",
        "+QUEUED\r\n",
        "noise\r\n",
        "",
    ];
    for reply in replies {
        let (port, server) = answering(reply).await;
        let store = RedisStore::new(settings(
            &format!("redis://127.0.0.1:{port}"),
            Duration::from_millis(200),
        ));
        nothing_is_answered(&store, reply).await;
        server.abort();
    }
}
