//! What brokers do while nobody calls them (A6).

use std::time::Duration;

use redis::Commands as _;
use sundew_tests::selectors::of_workload;
use sundew_tests::world::World;

/// Revocations whose documents alone were more than the bound, each second and broker.
const REVOCATIONS: usize = 200;
/// The most bytes that two idle brokers and their Redis may exchange each second.
const MAX_BYTES_A_SECOND: u64 = 20_000;
/// How long traffic is counted.
const COUNTED: Duration = Duration::from_secs(5);

/// The bytes that a Redis has received and sent.
fn traffic(world: &World) -> u64 {
    let mut connection = world.redis.as_ref().expect("redis").connection();
    let info: redis::InfoDict = redis::cmd("INFO")
        .arg("stats")
        .query(&mut connection)
        .expect("info");
    let bytes = |name| info.get::<u64>(name).expect(name);
    bytes("total_net_input_bytes") + bytes("total_net_output_bytes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a6_standing_revocations_cost_no_traffic() {
    let world = World::redis();
    let brokers = (world.broker().await, world.broker().await);
    let operator = world.operator(&brokers.0);
    let mut revoked = Vec::new();
    for number in 0..REVOCATIONS {
        let answer = operator.revoke(of_workload(&format!("/nobody/{number}")));
        revoked.push(answer.await.expect("revoked").revocation_id);
    }
    for id in &revoked {
        assert!(operator.cleaned_up(id).await.expect("status").done);
    }
    let mut connection = world.redis.as_ref().expect("redis").connection();
    let kept: usize = connection
        .hlen("sundew:documents:response")
        .expect("actions");
    assert_eq!(kept, REVOCATIONS);
    // A broker that heard of them looks once more whether they are done.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = traffic(&world);
    tokio::time::sleep(COUNTED).await;
    let a_second = (traffic(&world) - before) / COUNTED.as_secs();
    assert!(a_second <= MAX_BYTES_A_SECOND, "{a_second} bytes a second");
    println!("{a_second} bytes a second");
}
