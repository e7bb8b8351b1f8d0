//! A broker's start after a long history: `SUNDEW_JOURNAL_GB` GiB of journal, 2 if it is not set.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sundew_broker::journal::{Journal, JournalSettings, Record, SegmentRules, Upkeep, read_all};
use sundew_core::{EntryId, Event, LogEntry, Outcome, TaskId};
use sundew_tests::broker::Broker;
use sundew_tests::now_ms;
use sundew_tests::process::resident;
use sundew_tests::world::World;

use crate::timed;

/// The length of a segment, in bytes: the default.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Endings that still matter at the start.
const LIVE: u64 = 100_000;
/// Tasks whose records are on their way at a time.
const TASKS_AT_A_TIME: u64 = 2_000;
/// An ending is kept for so long after a task has begun, in milliseconds.
const KEPT_MS: i64 = 3_600_000;

/// The records of a task with three secrets and an instruction of 800 bytes.
fn records(n: u64, at_ms: i64) -> [Record; 5] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    let task = TaskId::from_bytes(id);
    let entry = LogEntry {
        id: EntryId(id),
        event: Event::Ended {
            task,
            outcome: Outcome::Completed,
        },
        retain_until_ms: at_ms + KEPT_MS,
        document: None,
    };
    let record = |event: &str| {
        Record::new(event, at_ms)
            .with("task", task)
            .with("workload", "spiffe://test.example/agent")
    };
    let read = || {
        record("secret_read")
            .with("secret", "db/reporting/readonly")
            .with("version", 7)
            .with("registration", "0123456789abcdef")
    };
    [
        record("task_begun").with("instruction", "i".repeat(800)),
        read(),
        read(),
        read(),
        record("task_ended").with("entry", String::from_utf8_lossy(&entry.encode())),
    ]
}

/// Writes so many bytes of tasks, of which the last [`LIVE`] still matter; with upkeep as in a
/// broker, or as older versions wrote it, in one segment.
async fn fill(folder: &Path, bytes: u64, with_upkeep: bool) -> u64 {
    let journal = Journal::open_with(folder, JournalSettings::default(), |_| {});
    let journal = Arc::new(journal.expect("journal"));
    let upkeep = Upkeep::new(
        Arc::clone(&journal),
        SegmentRules {
            segment_bytes: SEGMENT_BYTES,
            segment_age: Duration::from_secs(86_400),
            keep_for: None,
            keep_bytes: None,
            archive: None,
        },
    );
    let each: usize = records(0, 0).iter().map(|r| r.encode().len() + 36).sum();
    let tasks = bytes / u64::try_from(each).expect("few");
    let now_ms = now_ms();
    let mut n = 0;
    while n < tasks {
        let mut ends = Vec::new();
        for _ in 0..TASKS_AT_A_TIME {
            let is_live = n + LIVE >= tasks;
            let at_ms = if is_live {
                now_ms
            } else {
                now_ms - 2 * KEPT_MS
            };
            let [begun, a, b, c, ended] = records(n, at_ms);
            [begun, a, b, c].into_iter().for_each(|r| journal.note(r));
            let journal = Arc::clone(&journal);
            ends.push(tokio::spawn(async move { journal.write(ended).await }));
            n += 1;
        }
        for end in ends {
            end.await.expect("task").expect("durable");
        }
        if with_upkeep {
            upkeep.look(now_ms).await.expect("upkeep");
        }
    }
    tasks
}

async fn start(broker: &mut Broker, what: &str) {
    let ((), took) = timed(async {
        broker.up();
        broker.ready().await;
    })
    .await;
    println!(
        "{what}: ready after {took:?}, {} MB resident",
        resident(broker.pid()) >> 20
    );
    broker.kill();
}

pub(crate) async fn run() {
    let gib: f64 = std::env::var("SUNDEW_JOURNAL_GB").ok().map_or(2.0, |text| {
        text.parse().expect("SUNDEW_JOURNAL_GB: a number")
    });
    println!("\n## A broker's start with {gib} GiB of journal\n");
    start(&mut World::redis().prepare(""), "no journal").await;
    let bytes = |gib: f64| (gib * f64::from(1 << 30)) as u64;
    for (gib, with_upkeep) in [(gib, true), (gib.min(1.0), false)] {
        let world = World::redis();
        let mut broker = world.prepare("");
        let folder = broker.folder().join("journal");
        let (tasks, took) = timed(fill(&folder, bytes(gib), with_upkeep)).await;
        let how = if with_upkeep {
            ""
        } else {
            ", by an older version"
        };
        println!("{gib} GiB of {tasks} tasks written in {took:?}{how}");
        // The store knows nothing of the endings at first: they are put back.
        for what in ["first start", "second start", "third start"] {
            start(&mut broker, what).await;
        }
        let (extent, took) = timed(async { read_all(&[folder], drop).expect("verifies") }).await;
        println!("verified in {took:?}: {extent:?}");
    }
}
