//! Ending many tasks at once, and cleaning up after it (L16).

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Commands as _;
use rustix::process::Signal;
use sundew_attestation::spiffe::SpiffeId;
use sundew_broker::records::Records;
use sundew_broker::store::redis::RedisStore;
use sundew_core::store::Reserved;
use sundew_core::{
    Credential, KnownTask, KnownToken, Position, RootKey, ScopeSet, TaskId, TaskRecord,
    TokenBinding, TokenRecord,
};
use sundew_tests::now_ms;
use sundew_tests::pki::DOMAIN;
use sundew_tests::process::CpuTime;
use sundew_tests::redis::settings;
use sundew_tests::selectors::of_workload;
use sundew_tests::world::World;

/// Tasks that are due at the same moment.
const TASKS: u64 = 4000;
/// How long all of them may take. While another broker stood still, 256 of them ended in each of its
/// freshness bounds, which is 3 s here: 47 s for all.
const WITHIN: Duration = Duration::from_secs(20);
/// The most commands that the clean-up after a revocation takes for each task with one token: it reads
/// the task twice and its tokens once, and leaves what remains of the task.
const MAX_COMMANDS: u64 = 14;
/// The list of due tasks.
const DUE: &str = "sundew:due";

/// Writes a task that is over at `deadline_ms`, past all brokers.
async fn write_task(records: &Records, root: &RootKey, number: u64, deadline_ms: i64) {
    let id = TaskId::from_bytes(root.derive_name(&[b"sweep", &number.to_be_bytes()]));
    let record = TaskRecord {
        id,
        workload: SpiffeId::parse(&format!("spiffe://{DOMAIN}/swept")).expect("id"),
        purpose: "x".to_owned(),
        instruction: "x".to_owned(),
        scopes: ScopeSet::parse(&["exec:git"]).expect("scopes"),
        audience: vec![],
        created_at_ms: now_ms(),
        deadline_ms,
        certificate: [1; 32],
        svid_serial: vec![7; 16],
        position: Position(0),
        grace_ms: 60_000,
        registration: "0123456789abcdef".to_owned(),
        request: [3; 32],
        evidence: vec![],
        claims: vec![],
        ancestors: vec![],
        depth_left: 0,
        order: None,
    };
    let workload = record.workload.to_string();
    let store = records.store();
    let reserved = store.reserve_task(&workload, id, deadline_ms, deadline_ms, u32::MAX, now_ms());
    assert_eq!(reserved.await, Ok(Reserved::Taken));
    let credential = Credential::new(id, root.derive(&[b"sweep", &number.to_be_bytes()]));
    let hash = credential.hash();
    let token = TokenRecord {
        task: id,
        scopes: record.scopes.clone(),
        audience: vec![],
        issued_at_ms: record.created_at_ms,
        expires_at_ms: deadline_ms,
        binding: TokenBinding::Certificate,
        certificate: record.certificate,
        svid_serial: record.svid_serial.clone(),
        position: record.position,
        registration: record.registration.clone(),
        request: [4; 16],
    };
    let task = Arc::new(KnownTask::new(record, vec![], root.active()));
    let token = KnownToken::new(token, hash.token_id(), Arc::clone(&task));
    let created = records.create_task(task, token, &hash).await;
    assert!(created.is_ok(), "a task is written");
}

/// Writes tasks with a token each that are over at `deadline_ms`.
async fn write_tasks(world: &World, tasks: u64, deadline_ms: i64) {
    let url = world.redis.as_ref().expect("redis").url();
    let root = Arc::new(RootKey::new(&[0x7a; 32]).expect("key"));
    let store = RedisStore::new(settings(&url, Duration::from_secs(5)));
    let records = Arc::new(Records::new(store, Arc::clone(&root)));
    let writers = (0..16).map(|first| {
        let (records, root) = (Arc::clone(&records), Arc::clone(&root));
        tokio::spawn(async move {
            for number in (first..tasks).step_by(16) {
                write_task(&records, &root, number, deadline_ms).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l16_thousands_of_tasks_end_together_while_another_broker_stands_still() {
    let world = World::redis();
    let redis = world.redis.as_ref().expect("redis");
    let slow = ("freshness = \"400ms\"", "freshness = \"3s\"");
    let sweeping = world.broker_by_with(&redis.url(), slow).await;
    let frozen = world.broker_by_with(&redis.url(), slow).await;
    let due_ms = now_ms() + 15_000;
    write_tasks(&world, TASKS, due_ms).await;
    let until_due = u64::try_from(due_ms - now_ms()).expect("written before they are due");
    frozen.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_millis(until_due)).await;
    let began = Instant::now();
    let mut connection = redis.connection();
    let mut left = TASKS;
    while left > 0 {
        let took = began.elapsed();
        assert!(took < WITHIN, "{left} tasks are left after {took:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        left = connection.zcard(DUE).expect("list");
    }
    println!("{TASKS} tasks ended in {:?}", began.elapsed());
    frozen.signal(Signal::CONT);
    let journal = sweeping.journal();
    let ended = journal.iter().filter(|r| r.event == "task_ended").count();
    assert_eq!(u64::try_from(ended), Ok(TASKS));
}

/// The number of commands that a Redis has run for clients and in scripts.
fn commands(world: &World) -> u64 {
    let mut connection = world.redis.as_ref().expect("redis").connection();
    let info: redis::InfoDict = redis::cmd("INFO")
        .arg("stats")
        .query(&mut connection)
        .expect("info");
    info.get("total_commands_processed").expect("commands")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_up_takes_a_bounded_number_of_commands_for_each_task() {
    let world = World::redis();
    let broker = world.broker().await;
    write_tasks(&world, TASKS, now_ms() + 600_000).await;
    let operator = world.operator(&broker);
    let (before, began) = (commands(&world), Instant::now());
    let cpu = CpuTime::of(broker.pid());
    let answer = operator
        .revoke(of_workload("/swept"))
        .await
        .expect("revoked");
    let cleaned = operator.cleaned_up(&answer.revocation_id).await;
    let cleaned = cleaned.expect("cleaned up");
    assert_eq!((cleaned.tasks, cleaned.reaped_tasks), (TASKS, TASKS));
    let spent = commands(&world) - before;
    println!(
        "{TASKS} tasks cleaned up in {:?}, {:?} of CPU, {spent} commands",
        began.elapsed(),
        CpuTime::of(broker.pid()).since(&cpu)
    );
    assert!(spent <= TASKS * MAX_COMMANDS, "{spent} commands");
}
