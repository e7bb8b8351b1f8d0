//! The SDK against a real broker: every way out ends the task, SVIDs rotate, nothing prints.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use sundew_proto::v1::SuspendTaskRequest;
use sundew_proto::v1::agent_service_client::AgentServiceClient;
use sundew_sdk::{
    Agent, Collected, Collector, Context, Ended, Error, Scope, Settings, minutes, seconds,
};
use sundew_tests::broker::Broker;
use sundew_tests::until;
use sundew_tests::world::World;

/// A collector of the program's own: fresh tokens of the test issuer.
struct Tokens(std::sync::Mutex<Vec<Vec<u8>>>);

impl Collector for Tokens {
    fn kind(&self) -> &'static str {
        "oidc"
    }
    fn collect<'a>(&'a self, _: &'a Context<'a>) -> Collected<'a> {
        let token = self
            .0
            .lock()
            .expect("tokens")
            .pop()
            .ok_or_else(|| "used up".into());
        Box::pin(async move { token })
    }
}

/// Returns the folder with the SVID of the agent.
pub(super) fn folder(world: &World) -> PathBuf {
    world.folder().join("agent")
}

async fn ready() -> (World, Broker, Agent) {
    ready_with(json!({ "attendance_grace": "1s" })).await
}

/// Starts a broker with an agent that is registered so, and with one secret.
pub(super) async fn ready_with(registration: Value) -> (World, Broker, Agent) {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", registration).await;
    world
        .operator(&broker)
        .put_secret("app/key", "canary-sdk")
        .await;
    world
        .ca
        .svid("/agent")
        .write(&folder(&world), std::slice::from_ref(&world.ca.certificate));
    let agent = agent(&world, &broker).await;
    (world, broker, agent)
}

async fn agent(world: &World, broker: &Broker) -> Agent {
    agent_of(world, settings(world, broker)).await
}

/// Returns what an agent of this world needs to find this broker.
pub(super) fn settings(world: &World, broker: &Broker) -> Settings {
    Settings {
        broker: Some(broker.address()),
        svid_dir: Some(folder(world)),
        ..Settings::default()
    }
}

/// Makes an agent on the current runtime.
pub(super) async fn agent_of(world: &World, settings: Settings) -> Agent {
    let tokens = (0..50).map(|_| world.issuer.token("/agent")).collect();
    Agent::builder(settings)
        .collector(Tokens(std::sync::Mutex::new(tokens)))
        .build()
        .await
        .expect("agent")
}

/// Returns the outcomes of all tasks that have ended.
pub(super) fn outcomes(broker: &Broker) -> Vec<String> {
    broker
        .journal()
        .iter()
        .filter(|r| r.event == "task_ended")
        .filter_map(|r| r.field("outcome").map(str::to_owned))
        .collect()
}

pub(super) async fn begin(agent: &Agent) -> sundew_sdk::Task {
    agent
        .task("sdk")
        .instruction("test it")
        .scope("secret:app/key")
        .scope("exec:git")
        .ttl(minutes(5))
        .begin()
        .await
        .expect("task")
}

#[tokio::test]
async fn two_lines_to_a_secret_and_every_way_out_ends_the_task() {
    let (_world, broker, agent) = ready().await;
    let task = begin(&agent).await;
    let key = task.secret("app/key").await.expect("secret");
    assert_eq!(key.expose_str(), Some("canary-sdk"));
    // P9: neither shows in Debug.
    let shown = format!("{key:?} {task:?} {:?} {agent:?}", task.token());
    assert!(
        !shown.contains("canary") && !shown.contains(&task.token().expose()[4..]),
        "{shown}"
    );
    let narrow = task
        .mint(&["exec:git"], &["api"], Some(seconds(30)))
        .await
        .expect("token");
    assert_eq!(narrow.scopes(), ["exec:git"]);
    assert_eq!(task.complete().await.expect("completed"), Ended::Completed);
    assert_eq!(
        begin(&agent).await.fail().await.expect("failed"),
        Ended::Failed
    );
    drop(begin(&agent).await);
    until("a dropped task is canceled", || async {
        outcomes(&broker) == ["completed", "failed", "canceled"]
    })
    .await;
    let panicking = tokio::spawn({
        let agent = agent.clone();
        async move {
            let _task = begin(&agent).await;
            panic!("the agent panics");
        }
    });
    assert!(panicking.await.is_err());
    until("a panicking agent's task is canceled", || async {
        outcomes(&broker).len() == 4
    })
    .await;
}

/// The SDK keeps a task attended far beyond its grace, and tells when it is ended from outside.
#[tokio::test]
async fn a_task_is_attended_and_the_program_hears_when_it_is_ended_from_outside() {
    let (world, broker, agent) = ready().await;
    let task = begin(&agent).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(outcomes(&broker).is_empty());
    world
        .operator(&broker)
        .revoke(sundew_tests::selectors::of_task(task.id()))
        .await
        .expect("revoked");
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(2), task.ended())
            .await
            .expect("told"),
        Ended::Revoked
    );
    assert!(matches!(
        task.secret("app/key").await,
        Err(Error::Ended(Ended::Revoked))
    ));
}

/// Suspended and resumed by the SDK, with fresh evidence.
#[tokio::test]
async fn a_task_is_suspended_and_resumed() {
    let (_world, _broker, agent) = ready().await;
    let task = begin(&agent).await;
    let before = task.token().id().to_owned();
    task.suspend().await.expect("suspended");
    assert!(task.is_suspended());
    let refused = task.secret("app/key").await;
    assert!(
        matches!(refused, Err(Error::Suspended { .. })),
        "{refused:?}"
    );
    task.resume().await.expect("resumed");
    assert!(!task.is_suspended());
    assert_ne!(task.token().id(), before);
    task.secret("app/key").await.expect("alive again");
    task.complete().await.expect("completed");
}

/// Somebody else suspends the task, and the program hears of it.
#[tokio::test]
async fn a_program_hears_when_its_task_is_suspended_from_outside() {
    let (world, broker, agent) = ready().await;
    let task = begin(&agent).await;
    assert!(!task.is_suspended());
    // Another process of the same workload, with the same SVID.
    let other = agent_of(&world, settings(&world, &broker)).await;
    let channel = other.connection().expect("connection").channel();
    let task_id = task.id().to_owned();
    AgentServiceClient::new(channel)
        .suspend_task(SuspendTaskRequest { task_id })
        .await
        .expect("suspended");
    tokio::time::timeout(Duration::from_secs(2), task.suspended())
        .await
        .expect("told");
    let refused = task.secret("app/key").await;
    assert!(
        matches!(refused, Err(Error::Suspended { .. })),
        "{refused:?}"
    );
}

/// AC-26: the SVID files are replaced while a task runs; the SDK moves over, with a token for the
/// new SVID.
#[tokio::test]
async fn ac_26_the_sdk_moves_a_task_to_a_rotated_svid() {
    let (world, broker, agent) = ready().await;
    let task = begin(&agent).await;
    let (before, old) = (task.token(), *task.token().certificate_sha256());
    world
        .ca
        .svid("/agent")
        .write(&folder(&world), std::slice::from_ref(&world.ca.certificate));
    until("moved", || async {
        *task.token().certificate_sha256() != old
    })
    .await;
    task.secret("app/key").await.expect("work goes on");
    let server = world.operator(&broker);
    let token = task.token();
    assert_eq!(
        server
            .active(token.expose(), token.certificate_sha256())
            .await
            .ok(),
        Some(true)
    );
    assert_ne!(token.id(), before.id());
    assert!(
        broker
            .journal()
            .iter()
            .any(|r| r.event == "binding_rotated")
    );
    task.complete().await.expect("completed");
}

/// A broker that restarts under a running task: the SDK comes back to it.
#[tokio::test]
async fn a_task_outlives_a_restart_of_its_broker() {
    let (_world, mut broker, agent) = ready().await;
    let task = begin(&agent).await;
    broker.restart().await;
    task.secret("app/key").await.expect("secret");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(outcomes(&broker).is_empty(), "attended again");
    task.complete().await.expect("completed");
}

/// What is wrong is said so that one knows what to do; AC-11: scopes are refused here as they are
/// there.
#[tokio::test]
async fn errors_say_what_to_do() {
    let (world, broker, agent) = ready().await;
    for scope in ["*", "Secret:a", "secret:a/../b", "secret:\u{430}"] {
        assert!(Scope::parse(scope).is_err());
        assert!(
            matches!(
                agent.task("x").scope(scope).begin().await,
                Err(Error::Invalid(_))
            ),
            "{scope}"
        );
    }
    assert!(
        matches!(agent.task("x").scope("secret:other/x").begin().await, Err(Error::NotPermitted { correlation }) if !correlation.is_empty())
    );
    let settings = || Settings {
        broker: Some(broker.address()),
        svid_dir: Some(folder(&world)),
        ..Settings::default()
    };
    let without = Agent::builder(settings()).build().await.expect("agent");
    let error = without
        .task("x")
        .scope("exec:git")
        .begin()
        .await
        .expect_err("no collector");
    assert!(error.to_string().contains("oidc"), "{error}");
    let nowhere = Agent::builder(Settings {
        svid_dir: None,
        ..settings()
    })
    .build()
    .await
    .expect_err("no identity");
    assert!(
        nowhere.to_string().contains("SPIFFE_ENDPOINT_SOCKET"),
        "{nowhere}"
    );
    let elsewhere = Agent::builder(Settings {
        broker: Some("127.0.0.1:1".to_owned()),
        ..settings()
    })
    .build()
    .await
    .expect("lazy");
    let error = elsewhere
        .task("x")
        .scope("exec:git")
        .begin()
        .await
        .expect_err("nobody there");
    assert!(
        matches!(error, Error::Unavailable(_)) && error.to_string().contains("SUNDEW_BROKER"),
        "{error}"
    );
    let another = Agent::builder(Settings {
        broker_id: Some("spiffe://test.example/another".to_owned()),
        ..settings()
    })
    .build()
    .await
    .expect("lazy");
    assert!(
        another.task("x").scope("exec:git").begin().await.is_err(),
        "another broker than the one that was meant"
    );
}
