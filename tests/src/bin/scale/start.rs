//! A broker's start with a long log.

use std::sync::Arc;
use std::time::Duration;

use sundew_core::{Event, Outcome, TaskId};
use sundew_tests::world::World;

use crate::writer::{Writer, append};
use crate::{LIMITS, timed};

pub(crate) async fn run() {
    println!("\n## A broker's start with 100 000 live endings in the log\n");
    let world = World::redis();
    let mut broker = world.broker_with(LIMITS).await;
    let writer = Arc::new(Writer::new(&world));
    let work: Vec<_> = (0..32_u64)
        .map(|worker| {
            let writer = Arc::clone(&writer);
            tokio::spawn(async move {
                for n in (worker..100_000).step_by(32) {
                    let task =
                        TaskId::from_bytes(writer.root.derive_name(&[b"ended", &n.to_be_bytes()]));
                    append(
                        &writer,
                        n,
                        Event::Ended {
                            task,
                            outcome: Outcome::Completed,
                        },
                    )
                    .await;
                }
            })
        })
        .collect();
    for each in work {
        each.await.expect("append");
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    for what in ["with the endings in its journal too", "again"] {
        broker.kill();
        let ((), took) = timed(async {
            broker.up();
            broker.ready().await;
        })
        .await;
        println!("ready after {took:?}, {what}");
    }
    let ((), took) = timed(async {
        drop(world.broker_with(LIMITS).await);
    })
    .await;
    println!("a new broker, which reads them from the log and keeps them: ready after {took:?}");
}
