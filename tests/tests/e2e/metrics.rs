//! What a broker's metrics tell (O3).

use std::collections::BTreeSet;

use sundew_proto::v1::{ChallengeRequest, ChallengeResponse};
use sundew_tests::pki::Ca;
use sundew_tests::world::World;
use sundew_tests::{now_ms, until};

/// The value of one series, which is named with its labels as the broker writes them.
fn value(metrics: &str, series: &str) -> Option<f64> {
    let lines = metrics.lines();
    let mut values = lines.filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    values.next()?.parse().ok()
}

/// O3: what a team runs on: calls with their time, what lives, what was issued and how it ended, the
/// view, the store, the sweep, and when certificates end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o3_metrics_tell_what_lives_what_was_issued_and_how_long_it_took() {
    for world in World::both() {
        let (broker, agent) = world.broker_and_agent().await;
        let begun = agent.begin(&world.issuer, "/agent", &["exec:git"]).await;
        let task = begun.expect("task").task;
        agent.mint(&task).await.expect("token");
        let read = || async { broker.http("/metrics").await.expect("metrics").1 };
        until("the task is counted", || async {
            value(&read().await, "sundew_tasks") == Some(1.0)
        })
        .await;
        let metrics = read().await;
        let of =
            |series: &str| value(&metrics, series).unwrap_or_else(|| panic!("{series}: {metrics}"));
        assert_eq!(of("sundew_issued_total{what=\"task\"}"), 1.0);
        assert_eq!(of("sundew_issued_total{what=\"token\"}"), 2.0);
        assert_eq!(of("sundew_tokens_unexpired"), 2.0);
        assert_eq!(
            of("sundew_call_duration_seconds_count{rpc=\"BeginTask\"}"),
            1.0
        );
        let took = of("sundew_call_duration_seconds_sum{rpc=\"BeginTask\"}");
        assert!(took > 0.0 && took < 10.0, "{took}");
        assert!(of("sundew_store_duration_seconds_count{operation=\"create_task\"}") >= 1.0);
        assert!(of("sundew_view_age_seconds") < 10.0 && of("sundew_sweep_age_seconds") < 10.0);
        let now = now_ms() as f64 / 1000.0;
        assert!(of("sundew_svid_expiry_timestamp_seconds") > now);
        let bundle = "sundew_bundle_expiry_timestamp_seconds{trust_domain=\"test.example\"}";
        assert!(of(bundle) > now);
        assert_eq!((of("sundew_ready"), of("sundew_problems")), (1.0, 0.0));
        agent.complete(&task).await.expect("completed");
        until("its end is counted", || async {
            let metrics = read().await;
            let of = |series: &str| value(&metrics, series);
            of("sundew_tasks") == Some(0.0)
                && of("sundew_tasks_ended_total{outcome=\"completed\"}") == Some(1.0)
                && of("sundew_ending_settle_seconds_count") >= Some(1.0)
        })
        .await;
    }
}

/// The names of all series, without their values.
fn series(metrics: &str) -> BTreeSet<String> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
        .collect()
}

/// T84, O3: whatever somebody says who is let in, or who is not, no label has a value of his.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t84_o3_a_hostile_caller_makes_no_new_label_values() {
    let world = World::embedded();
    let (broker, agent) = world.broker_and_agent().await;
    let begun = agent
        .begin(&world.issuer, "/agent", &["secret:app/*"])
        .await;
    let task = begun.expect("task").task;
    let attack = |marker: String| {
        let (world, broker, agent, task) = (&world, &broker, &agent, &task);
        async move {
            let stranger = world.caller(broker, &format!("/{marker}"));
            stranger.nonce().await.expect_err("not registered");
            let alien = Ca::new(&format!("{marker}.example")).svid("/agent");
            let alien = world.caller_with(broker, alien);
            alien.nonce().await.expect_err("not trusted");
            let named = format!("app/{marker}");
            agent
                .secret(task, &named)
                .await
                .expect_err("no such secret");
            let scope = format!("tool:{marker}");
            let begun = agent.begin(&world.issuer, "/agent", &[&scope]).await;
            begun.expect_err("not allowed");
            agent.complete(&marker).await.expect_err("no task");
            let path = format!("/{marker}/{marker}").parse().expect("path");
            let mut any = tonic::client::Grpc::new(agent.channel.clone());
            any.ready().await.expect("ready");
            let codec = tonic_prost::ProstCodec::<ChallengeRequest, ChallengeResponse>::default();
            let call = any.unary(tonic::Request::new(ChallengeRequest {}), path, codec);
            call.await.expect_err("no such RPC");
            broker.http_for(&marker, &format!("/{marker}")).await;
        }
    };
    attack("hostile-first".to_owned()).await;
    let metrics = broker.http("/metrics").await.expect("metrics").1;
    let known = series(&metrics);
    for number in 0..20 {
        attack(format!("hostile-{number}")).await;
    }
    let metrics = broker.http("/metrics").await.expect("metrics").1;
    assert!(!metrics.contains("hostile"), "{metrics}");
    let new: Vec<_> = series(&metrics).difference(&known).cloned().collect();
    // The broker may have done something of its own for the first time meanwhile.
    let of_calls = new
        .iter()
        .filter(|name| !name.starts_with("sundew_store_duration"));
    assert_eq!(of_calls.collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(
        known
            .iter()
            .any(|name| name.starts_with("sundew_refusals_total{reason=\"policy\""))
    );
}
