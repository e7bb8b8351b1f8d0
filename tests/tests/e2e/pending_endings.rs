//! Endings while the store is away: a fault that the field showed (L7).

use std::time::Duration;

use serde_json::{Value, json};
use sundew_proto::v1::{
    Effect, ListRulesRequest, ListRulesResponse, RevokeRequest, RevokeResponse, Selector,
    SuspendTaskRequest,
};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::proxy::Proxy;
use sundew_tests::selectors::{of_task, of_workload};
use sundew_tests::until;
use sundew_tests::world::World;
use tonic::{Code, Status};

use crate::cli::{run_as, text};

/// A broker beside Redis, and one that reaches Redis through a proxy that can be cut.
struct Brokers {
    world: World,
    near: Broker,
    far: Broker,
    proxy: Proxy,
}

impl Brokers {
    async fn start() -> Self {
        let world = World::redis();
        let near = world.broker().await;
        let proxy = Proxy::start(world.redis.as_ref().expect("redis").port()).await;
        let far = world
            .broker_by(&format!("redis://127.0.0.1:{}", proxy.port()))
            .await;
        Self {
            world,
            near,
            far,
            proxy,
        }
    }

    /// Somebody of `/path` with a task that was begun at the broker that will be cut off, and that
    /// is active at both.
    async fn begin(&self, path: &str) -> (Caller, Begun) {
        let grace = json!({ "attendance_grace": "10m" });
        self.world.register(&self.far, path, grace).await;
        let caller = self.world.caller(&self.far, path);
        let begun = caller.begin(&self.world.issuer, path, &["exec:git"]);
        let begun = begun.await.expect("task");
        for broker in [&self.near, &self.far] {
            let operator = self.world.operator(broker);
            until("active", || async {
                operator
                    .active(&begun.token, &caller.thumbprint())
                    .await
                    .ok()
                    == Some(true)
            })
            .await;
        }
        (caller, begun)
    }

    /// Cuts the broker off until its view is not fresh any more.
    async fn cut_off(&self, (caller, begun): &(Caller, Begun)) {
        self.proxy.cut(true);
        let operator = self.world.operator(&self.far);
        until("the view is stale", || async {
            operator
                .active(&begun.token, &caller.thumbprint())
                .await
                .is_err_and(|error| error.code() == Code::Unavailable)
        })
        .await;
    }

    async fn rules(&self, broker: &Broker) -> ListRulesResponse {
        let mut response = self.world.operator(broker).response();
        let rules = response.list_rules(ListRulesRequest {}).await;
        rules.expect("rules").into_inner()
    }
}

/// Asks for a rule, and answers what the broker says of it.
async fn respond(operator: &Caller, selector: Selector, effect: Effect) -> RevokeResponse {
    let request = RevokeRequest {
        selector: Some(selector),
        effect: effect.into(),
        reason: "test".to_owned(),
        ..RevokeRequest::default()
    };
    let answer = operator.response().revoke(request).await;
    answer.expect("it did happen").into_inner()
}

/// Whether an answer says that the ending is pending, with the reason that a client looks at.
fn is_pending<T>(answer: Result<T, Status>) -> bool {
    let status = answer.err().expect("an error");
    let details = String::from_utf8_lossy(status.details());
    status.code() == Code::Unavailable && details.contains("ENDING_PENDING")
}

/// L7: endings need no fresh view. Each says that it is pending, outlives a crash of the broker, and
/// is in force everywhere once the store is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l7_an_ending_with_a_stale_view_is_pending_outlives_a_crash_and_is_appended() {
    let mut brokers = Brokers::start().await;
    let mut tasks = Vec::new();
    for path in ["/a", "/b", "/c", "/d", "/e", "/quiet"] {
        tasks.push(brokers.begin(path).await);
    }
    brokers.cut_off(&tasks[0]).await;
    let operator = brokers.world.operator(&brokers.far);
    let mut owner = tasks[4].0.agent();
    let suspend = SuspendTaskRequest {
        task_id: tasks[4].1.task.clone(),
    };
    let (revoked, contained, single, quarantined, completed, suspended) = tokio::join!(
        respond(&operator, of_workload("/a"), Effect::Revoke),
        respond(&operator, of_workload("/b"), Effect::Contain),
        respond(&operator, of_task(&tasks[2].1.task), Effect::Revoke),
        respond(&operator, of_workload("/quiet"), Effect::Quarantine),
        tasks[3].0.complete(&tasks[3].1.task),
        owner.suspend_task(suspend),
    );
    for answer in [revoked, contained, single, quarantined] {
        assert!(answer.pending && answer.position == 0, "{answer:?}");
    }
    assert!(is_pending(completed));
    assert!(is_pending(suspended));
    let (_, metrics) = brokers.far.http("/metrics").await.expect("metrics");
    assert!(metrics.contains("sundew_endings_pending 6"), "{metrics}");
    let (_, ready) = brokers.far.http("/readyz").await.expect("readiness");
    assert!(ready.contains("6 endings hold here"), "{ready}");
    let listed = brokers.rules(&brokers.far).await;
    assert!(listed.stale && listed.pending_endings == 6, "{listed:?}");
    assert_eq!(listed.rules.iter().filter(|rule| rule.pending).count(), 5);

    // What is on its way to Redis is lost with the broker, so that only the journal has the endings.
    brokers.far.kill();
    let mut redis = brokers.world.redis.as_ref().expect("redis").connection();
    let _: u64 = redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
        .query(&mut redis)
        .expect("connections");
    tokio::time::sleep(Duration::from_millis(100)).await;
    brokers.proxy.cut(false);
    brokers.far.up();
    brokers.far.ready().await;
    for broker in [&brokers.near, &brokers.far] {
        let operator = brokers.world.operator(broker);
        for (caller, begun) in &tasks[..5] {
            until("dead", || async {
                operator
                    .active(&begun.token, &caller.thumbprint())
                    .await
                    .ok()
                    == Some(false)
            })
            .await;
        }
    }
    let again = brokers.world.caller(&brokers.near, "/quiet");
    let again = again.begin(&brokers.world.issuer, "/quiet", &["exec:git"]);
    assert_eq!(
        again.await.expect_err("quarantined").code(),
        Code::PermissionDenied
    );
    until("nothing is pending", || async {
        let listed = brokers.rules(&brokers.far).await;
        listed.pending_endings == 0 && listed.rules.iter().all(|rule| !rule.pending)
    })
    .await;
}

/// L7: the command line says in words, in JSON and by its exit code that an ending is pending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l7_the_command_line_says_that_an_ending_is_pending() {
    let brokers = Brokers::start().await;
    let task = brokers.begin("/agent").await;
    brokers.cut_off(&task).await;
    let run = |arguments: &[&str]| run_as(&brokers.world, &brokers.far, "/operator", arguments, "");
    let id = format!("spiffe://{}/agent", sundew_tests::pki::DOMAIN);
    let contained = run(&["contain", "--reason", "r", "--workload", &id]);
    assert_eq!(contained.status.code(), Some(4), "{}", text(&contained));
    assert!(text(&contained).contains("PENDING"), "{}", text(&contained));
    let arguments = ["--json", "revoke", "--reason", "r", "--task", &task.1.task];
    let revoked = run(&arguments);
    assert_eq!(revoked.status.code(), Some(4), "{}", text(&revoked));
    let value: Value = serde_json::from_slice(&revoked.stdout).expect("JSON");
    assert_eq!(value["pending"], json!(true));
    let listed = run(&["revoke", "list"]);
    assert!(
        text(&listed).contains("pending: here only"),
        "{}",
        text(&listed)
    );
    let help = run(&["contain", "--help"]);
    assert!(text(&help).contains("Exit codes:"), "{}", text(&help));
}
