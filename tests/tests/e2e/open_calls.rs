//! Calls that are open: what they hold is bounded for each workload.

use std::time::Duration;

use serde_json::json;
use sundew_proto::v1::AttendRequest;
use sundew_tests::broker::World;
use sundew_tests::calls::Caller;
use sundew_tests::until;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

/// A call of which nothing but the header is sent.
async fn half_sent(caller: Caller) -> Code {
    let (_held, requests) = tokio::sync::mpsc::channel::<AttendRequest>(1);
    let answer = caller.agent().attend(ReceiverStream::new(requests)).await;
    answer.expect_err("no start").code()
}

/// A1: one workload sends calls by half, over several connections, and holds no more than it may; it
/// can still end what it has, and others are served.
#[tokio::test]
async fn a1_calls_that_are_sent_by_half_are_bounded_for_each_workload() {
    let world = World::embedded();
    let limits = "[limits]\nstreams_per_workload = 32\n";
    let broker = world.broker_with(limits).await;
    for path in ["/agent", "/other"] {
        world.register(&broker, path, json!({})).await;
    }
    let svid = world.ca.svid("/agent");
    let caller = |_| world.caller_with(&broker, svid.clone());
    let callers: Vec<_> = (0..4).map(caller).collect();
    let begun = callers[0].begin(&world.issuer, "/agent", &["exec:git"]);
    let begun = begun.await.expect("task");
    let mut open: JoinSet<Code> = (0..40).map(|n| half_sent(callers[n % 4].clone())).collect();
    for _ in 0..8 {
        let refused = tokio::time::timeout(Duration::from_secs(5), open.join_next());
        let refused = refused.await.expect("at once").expect("a call");
        assert_eq!(refused.expect("call"), Code::ResourceExhausted);
    }
    let minted = callers[1].mint(&begun.task).await.expect_err("no place");
    assert_eq!(minted.code(), Code::ResourceExhausted);
    let ended = callers[2].complete(&begun.task).await;
    ended.expect("endings have places of their own");
    let other = world.caller(&broker, "/other");
    let others = other.begin(&world.issuer, "/other", &["exec:git"]);
    others.await.expect("others are served");
    assert!(!broker.refusals("any").is_empty(), "it is on the record");
    open.abort_all();
    until("places come back", || async {
        let again = callers[3].begin(&world.issuer, "/agent", &["exec:git"]);
        again.await.is_ok()
    })
    .await;
}
