//! What it costs to clean up after many tokens were revoked at once.

use std::time::Duration;

use sundew_tests::process::CpuTime;

use crate::timed;
use crate::tokens::{Two, prefix};
use crate::writer::fill;

/// Revokes 100,000 tokens in tasks of so many each, and waits until nothing is left to be done.
async fn revoked(each: usize) {
    let two = Two::start().await;
    two.first_entry().await;
    fill(&two.writer, 10, 100_000 / each, each, &two.svid).await;
    // What was written is on disk.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let cpu = || two.brokers.each_ref().map(|b| CpuTime::of(b.pid()));
    let before = cpu();
    let (done, took) = timed(async {
        let answer = two.servers[0].revoke(prefix("/fleet")).await;
        let id = answer.expect("revoked").revocation_id;
        two.servers[0].cleaned_up(&id).await.expect("status")
    })
    .await;
    let after = cpu();
    let spent = after.iter().zip(&before).map(|(now, then)| now.since(then));
    println!(
        "{each} tokens to a task: {took:?}, {:?} of CPU of both brokers; it counted {} tasks and {} tokens",
        spent.sum::<Duration>(),
        done.tasks,
        done.tokens
    );
}

pub(crate) async fn run() {
    println!("\n## Clean-up after revoking 100 000 tokens, two brokers on one Redis\n");
    revoked(10).await;
    revoked(1).await;
}
