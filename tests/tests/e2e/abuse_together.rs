//! Everybody who can reach a broker abuses it at once (AC-C2).

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bounded::{garbage, hold};
use crate::enrollment::with_own_ca;

/// The time in which whoever does no harm is served, on a machine that is busy with the abuse.
const SERVED_WITHIN: Duration = Duration::from_secs(10);

/// Runs something again and again on a thread of its own until told to stop, and counts how often.
fn again_and_again(
    stop: &Arc<AtomicBool>,
    count: &Arc<AtomicUsize>,
    mut work: impl FnMut() + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let (stop, count) = (Arc::clone(stop), Arc::clone(count));
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            work();
            count.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// AC-C2: an anonymous host on both listeners, a local user at the socket and one workload together
/// cannot keep an ending from being taken, or another workload from beginning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ac_c2_all_abuse_together_keeps_no_ending_and_no_other_workload_out() {
    let (world, broker, enrollment) = with_own_ca().await;
    for path in ["/agent", "/loud"] {
        world
            .register(&broker, path, json!({ "max_tasks": 1000 }))
            .await;
    }
    let (stop, count) = (Arc::default(), Arc::default());
    let mut abuse = Vec::new();
    for address in [broker.address(), format!("127.0.0.1:{enrollment}")] {
        abuse.push(again_and_again(&stop, &count, move || garbage(&address)));
    }
    let socket = world.folder().join("api.sock");
    let mut open = Vec::new();
    abuse.push(again_and_again(&stop, &count, move || {
        open.extend(UnixStream::connect(&socket));
        if open.len() > 300 {
            open.clear();
        }
    }));
    // The workload has a certificate: it holds connections, and calls as fast as it can.
    let held = hold(&world, &broker, "/loud", 100).await;
    let loud = world.caller(&broker, "/loud");
    let calling = tokio::spawn(async move {
        loop {
            let _ = loud.nonce().await;
            let _ = loud.mint("task-00000000000000000000000000000000").await;
        }
    });

    for _ in 0..5 {
        let began = Instant::now();
        let caller = world.caller(&broker, "/agent");
        let begun = caller.begin(&world.issuer, "/agent", &["exec:git"]).await;
        let begun = begun.expect("another workload begins");
        let operator = world.operator(&broker);
        let ended = operator.revoke(sundew_tests::selectors::of_task(&begun.task));
        let ended = ended.await.expect("an ending is taken");
        assert!(!ended.pending);
        let active = operator.active(&begun.token, &caller.thumbprint()).await;
        assert_eq!(active.ok(), Some(false));
        assert!(began.elapsed() < SERVED_WITHIN, "{:?}", began.elapsed());
    }
    assert!(count.load(Ordering::Relaxed) > 100, "there was abuse");
    assert!(!calling.is_finished());
    calling.abort();
    stop.store(true, Ordering::Relaxed);
    drop(held);
    for thread in abuse {
        thread.join().expect("abuse");
    }
}
