//! Orders: AC-90, AC-91, AC-94, AC-9D and C4.

use std::time::Duration;

use serde_json::json;
use sundew_proto::v1::{
    BeginTaskRequest, CancelOrderRequest, CreateOrderRequest, OrderState, Outcome, Selector,
    WatchOrdersRequest,
};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::pki::DOMAIN;
use sundew_tests::until;
use sundew_tests::world::World;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::cli::{command_as, run_as};

/// The line of the configuration by which `/ci` may order for what is below `/agents`.
const DISPATCHER: &str = r#"
[[operators]]
spiffe_id = "spiffe://test.example/ci"
[[operators.roles]]
role = "dispatcher"
path_prefixes = ["spiffe://test.example/agents"]
scopes = ["exec:*", "tool:*"]
secrets = ["app/*"]
runs_no_model = true
"#;

const AGENT: &str = "/agents/triage";

fn id(path: &str) -> String {
    format!("spiffe://{DOMAIN}{path}")
}

/// Registers an agent that begins tasks by orders only.
async fn registered(world: &World, broker: &Broker) {
    let ordered = json!({
        "begin": "ordered", "max_tasks": 1000, "max_delegation_depth": 2, "attendance_grace": "60s",
    });
    world.register(broker, AGENT, ordered).await;
}

fn wanted(path: &str, scopes: &[&str]) -> CreateOrderRequest {
    CreateOrderRequest {
        spiffe_id: id(path),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        purpose: "triage".to_owned(),
        instruction: "look at issue 4".to_owned(),
        ..CreateOrderRequest::default()
    }
}

async fn ordered(ci: &Caller, scopes: &[&str]) -> (String, String) {
    let made = ci.dispatch().create_order(wanted(AGENT, scopes)).await;
    let made = made.expect("ordered").into_inner();
    (made.order.expect("order").order_id, made.ticket)
}

async fn claim(world: &World, caller: &Caller, ticket: &str) -> Result<Begun, Status> {
    let request = caller.request(&world.issuer, AGENT, &["exec:git"]).await?;
    let request = BeginTaskRequest {
        order_ticket: ticket.to_owned(),
        ..request
    };
    caller.send(request).await
}

async fn state(ci: &Caller, order: &str) -> (OrderState, Outcome) {
    let request = WatchOrdersRequest {
        order_ids: vec![order.to_owned()],
        follow: false,
    };
    let watch = ci.dispatch().watch_orders(request).await.expect("watch");
    let answer = watch.into_inner().message().await.expect("answer");
    let order = answer.expect("one").order.expect("order");
    (order.state(), order.outcome())
}

/// AC-90, C4: whoever has taken over an agent, with its SVID and all of its evidence, gives itself
/// nothing; with an order it gets what somebody else has ordered, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ac_90_ac_9d_c4_a_hijacked_agent_gains_nothing_by_begin_task() {
    let world = World::embedded();
    let broker = world.broker_with(DISPATCHER).await;
    registered(&world, &broker).await;
    let (ci, agent) = (world.caller(&broker, "/ci"), world.caller(&broker, AGENT));
    let refused = agent.begin(&world.issuer, AGENT, &["exec:git"]).await;
    let refused = refused.expect_err("without an order");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(refused.message(), "not permitted");
    // It cannot order for itself either, with or without a task.
    let own = wanted(AGENT, &["exec:git"]);
    assert!(agent.dispatch().create_order(own).await.is_err());
    let (order, ticket) = ordered(&ci, &["exec:git"]).await;
    let begun = claim(&world, &agent, &ticket).await.expect("claimed");
    let task = begun.answer.task.clone().expect("task");
    assert_eq!(task.instruction, "look at issue 4");
    assert_eq!(task.dispatcher, id("/ci"));
    let within = CreateOrderRequest {
        task_id: begun.task.clone(),
        ..wanted(AGENT, &["exec:git"])
    };
    assert!(agent.dispatch().create_order(within).await.is_err());
    let wider = agent.request(&world.issuer, AGENT, &["tool:github.create_pr"]);
    let wider = wider.await.expect("request");
    assert!(agent.send(wider).await.is_err(), "a second task");
    assert_eq!(state(&ci, &order).await.0, OrderState::Claimed);
    // The ticket once more: an alarm that names both, and the end of the task.
    let thief = world.caller(&broker, AGENT);
    assert!(claim(&world, &thief, &ticket).await.is_err());
    assert_eq!(
        state(&ci, &order).await,
        (OrderState::Ended, Outcome::Revoked)
    );
    assert!(agent.mint(&begun.task).await.is_err());
    let journal = broker.journal();
    let alarm = journal
        .iter()
        .find(|record| record.event == "ticket_reused");
    let alarm = format!("{:?}", alarm.expect("an alarm"));
    assert!(alarm.contains("claimed_by") && alarm.contains("shown_by"));
    let all = format!("{journal:?}");
    assert!(!all.contains(&ticket), "AC-91: no ticket is on the record");
}

/// AC-91: one ticket, 50 who claim it at once, two brokers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ac_91_fifty_claims_at_two_brokers_begin_one_task() {
    let world = World::redis();
    let brokers = [
        world.broker_with(DISPATCHER).await,
        world.broker_with(DISPATCHER).await,
    ];
    registered(&world, &brokers[0]).await;
    let ci = world.caller(&brokers[0], "/ci");
    let request = CreateOrderRequest {
        reuse_only_alarms: true,
        ..wanted(AGENT, &["exec:git"])
    };
    let made = ci.dispatch().create_order(request).await.expect("ordered");
    let ticket = made.into_inner().ticket;
    let callers: Vec<_> = (0..50)
        .map(|n| world.caller(&brokers[n % 2], AGENT))
        .collect();
    let mut claims = JoinSet::new();
    for caller in callers {
        let request = caller.request(&world.issuer, AGENT, &["exec:git"]);
        let request = BeginTaskRequest {
            order_ticket: ticket.clone(),
            ..request.await.expect("request")
        };
        claims.spawn(async move { caller.send(request).await });
    }
    let answers = claims.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    // AC-9D: everybody else has shown a used ticket, also who came while the first one was attested.
    for late in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(late.message(), "not permitted", "{late:?}");
    }
}

/// A claim is durable before it is answered: after a crash nobody claims the order again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ac_91_a_ticket_that_was_used_before_a_crash_is_used_after_it() {
    let world = World::embedded();
    let mut broker = world.broker_with(DISPATCHER).await;
    registered(&world, &broker).await;
    let (ci, agent) = (world.caller(&broker, "/ci"), world.caller(&broker, AGENT));
    let (_, ticket) = ordered(&ci, &["exec:git"]).await;
    claim(&world, &agent, &ticket).await.expect("claimed");
    broker.kill();
    broker.up();
    broker.ready().await;
    let again = world.caller(&broker, AGENT);
    assert!(claim(&world, &again, &ticket).await.is_err());
}

/// AC-94: a responder ends what a dispatcher has ordered, and the dispatcher its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ac_94_revoking_a_dispatcher_ends_its_orders_and_if_asked_its_tasks() {
    let world = World::embedded();
    let broker = world.broker_with(DISPATCHER).await;
    registered(&world, &broker).await;
    let (ci, agent) = (world.caller(&broker, "/ci"), world.caller(&broker, AGENT));
    let operator = world.operator(&broker);
    let (_, claimed) = ordered(&ci, &["exec:git"]).await;
    let begun = claim(&world, &agent, &claimed).await.expect("claimed");
    let (open, ticket) = ordered(&ci, &["exec:git"]).await;
    let selector = |ordered_tasks| Selector {
        dispatcher: id("/ci"),
        ordered_tasks,
        ..Selector::default()
    };
    operator.revoke(selector(false)).await.expect("revoked");
    assert_eq!(state(&ci, &open).await.0, OrderState::Revoked);
    assert!(claim(&world, &agent, &ticket).await.is_err());
    agent.mint(&begun.task).await.expect("the task goes on");
    operator.revoke(selector(true)).await.expect("revoked");
    assert!(agent.mint(&begun.task).await.is_err());
    // What is ordered after the rule stands, until it is canceled.
    let (later, ticket) = ordered(&ci, &["exec:git"]).await;
    let cancel = CancelOrderRequest {
        order_id: later.clone(),
        end_task: false,
    };
    ci.dispatch().cancel_order(cancel).await.expect("canceled");
    assert_eq!(state(&ci, &later).await.0, OrderState::Canceled);
    assert!(claim(&world, &agent, &ticket).await.is_err());
}

/// The command line: an order, its ticket in `sundew run`, and a command that has no ticket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_a_command_runs_by_an_order_and_inherits_no_ticket() {
    let world = World::embedded();
    let broker = world.broker_with(DISPATCHER).await;
    registered(&world, &broker).await;
    let agents = id(AGENT);
    let create = [
        "order", "create", "--for", &agents, "--task", "triage", "--scope", "exec:git", "--json",
    ];
    let made = run_as(&world, &broker, "/ci", &create, "");
    assert!(made.status.success(), "{made:?}");
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).expect("order");
    let ticket = made["ticket"].as_str().expect("ticket").to_owned();
    let token = world.folder().join("token.jwt");
    std::fs::write(&token, world.issuer.token(AGENT)).expect("token");
    let mut command = command_as(&world, &broker, AGENT);
    command
        .env("SUNDEW_ORDER", &ticket)
        .env("SUNDEW_OIDC_TOKEN_FILE", &token)
        .args([
            "run",
            "--",
            "sh",
            "-c",
            "echo \"[$SUNDEW_ORDER] $SUNDEW_TASK_ID\"",
        ]);
    let output = command.output().expect("run");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.starts_with("[] task-"), "{output:?}");
    let order = made["order_id"].as_str().expect("order");
    until("the end is known", || async {
        let show = run_as(&world, &broker, "/ci", &["order", "show", order], "");
        String::from_utf8_lossy(&show.stdout).contains("ended (completed)")
    })
    .await;
    tokio::time::timeout(Duration::from_secs(10), async {
        let list = run_as(&world, &broker, "/ci", &["order", "list"], "");
        assert!(String::from_utf8_lossy(&list.stdout).contains(order));
    })
    .await
    .expect("a list");
}
