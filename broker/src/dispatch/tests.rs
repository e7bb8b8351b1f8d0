//! Orders, from the dispatcher to the task and back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{Cause, Denial, Limit, RoleBounds};
use sundew_proto::v1;

use crate::clock;
use crate::refusal::Refusal;
use crate::role::{Reach, Role, Roles};
use crate::testing::{Agent, Begun, DOMAIN, TestBroker, assert_refused};

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{DOMAIN}{path}")).unwrap()
}

fn dispatcher(prefixes: &[&str]) -> Roles {
    let prefixes: Vec<_> = prefixes.iter().map(|path| id(path).to_string()).collect();
    let bounds = RoleBounds {
        path_prefixes: Limit::parse(&prefixes).unwrap(),
        scopes: Limit::parse(&["exec:*", "tool:github.create_pr"]).unwrap(),
        ..RoleBounds::default()
    };
    Roles::from([(Role::Dispatcher, Reach::Within(Arc::new(bounds)))])
}

/// A broker where `/ci` may order for `/agent`, which begins nothing by itself.
async fn broker() -> (TestBroker, Agent, Agent) {
    let broker = TestBroker::start().await;
    let ordered = json!({ "begin": "ordered", "max_delegation_depth": 2 });
    broker.register("/agent", ordered).await;
    let mut roles: BTreeMap<_, _> = BTreeMap::from([(id("/ci"), dispatcher(&["/agent"]))]);
    let all = [Role::Registrar, Role::Responder];
    let operator = all.map(|role| (role, Reach::Unbounded)).into();
    roles.insert(id("/operator"), operator);
    broker.operators.replace(roles);
    let (ci, agent) = (broker.agent("/ci"), broker.agent("/agent"));
    (broker, ci, agent)
}

fn request(path: &str, scopes: &[&str]) -> v1::CreateOrderRequest {
    v1::CreateOrderRequest {
        spiffe_id: id(path).to_string(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        purpose: "triage".to_owned(),
        instruction: "look at issue 4".to_owned(),
        labels: vec!["untrusted-input".to_owned()],
        ..v1::CreateOrderRequest::default()
    }
}

async fn order(
    broker: &TestBroker,
    by: &Agent,
    request: v1::CreateOrderRequest,
) -> Result<v1::CreateOrderResponse, Refusal> {
    let dispatch = Arc::clone(&broker.rooms.dispatch);
    dispatch.create_order(by.peer.clone(), request).await
}

/// Orders `exec:git` for `/agent`.
async fn ordered(broker: &TestBroker, by: &Agent) -> (v1::Order, String) {
    let made = order(broker, by, request("/agent", &["exec:git"])).await;
    let made = made.unwrap();
    (made.order.unwrap(), made.ticket)
}

async fn claim(broker: &TestBroker, agent: &Agent, ticket: &str) -> Result<Begun, Refusal> {
    let request = v1::BeginTaskRequest {
        order_ticket: ticket.to_owned(),
        ..agent.request(&[])
    };
    broker.begin(request, agent).await
}

/// What the journal has of an event, as one text.
fn said(broker: &TestBroker, event: &str) -> String {
    let records = broker.journal(event).into_iter();
    records.map(|record| format!("{record:?}")).collect()
}

async fn cancel(broker: &TestBroker, by: &Agent, order: &str, end_task: bool) -> v1::Order {
    let request = v1::CancelOrderRequest {
        order_id: order.to_owned(),
        end_task,
    };
    let dispatch = Arc::clone(&broker.rooms.dispatch);
    let canceled = dispatch.cancel_order(by.peer.clone(), request).await;
    canceled.unwrap().order.unwrap()
}

#[tokio::test]
async fn ac_90_without_an_order_nothing_begins_and_with_one_what_was_ordered() {
    let (broker, ci, agent) = broker().await;
    assert_refused!(
        broker.begin(agent.request(&["exec:git"]), &agent).await,
        Refusal::Denied(Denial::NoOrder)
    );
    let (made, ticket) = ordered(&broker, &ci).await;
    assert_eq!(made.state(), v1::OrderState::Open);
    let begun = claim(&broker, &agent, &ticket).await.unwrap();
    let task = &begun.task;
    assert_eq!(task.purpose, "triage");
    assert_eq!(task.instruction, "look at issue 4");
    assert_eq!(task.scopes, ["exec:git"]);
    assert_eq!(task.order_id, made.order_id);
    assert_eq!(task.dispatcher, id("/ci").to_string());
    assert_eq!(task.labels, ["untrusted-input"]);
    assert!(task.deadline_ms <= made.deadline_ms);
    let written = said(&broker, "task_begun") + &said(&broker, "order_created");
    assert!(written.contains("look at issue 4") && !written.contains("do the test"));
    assert!(!written.contains(&ticket), "P8");
}

#[tokio::test]
async fn ac_90_another_ones_forged_widened_expired_and_canceled_orders_are_refused() {
    let (broker, ci, agent) = broker().await;
    broker.register("/other", json!({})).await;
    let (made, ticket) = ordered(&broker, &ci).await;
    let other = broker.agent("/other");
    let refused = claim(&broker, &other, &ticket).await;
    assert_refused!(refused, Refusal::Denied(Denial::Order));
    let mut forged = ticket.clone().into_bytes();
    let last = forged.last_mut().unwrap();
    *last = if *last == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    let refused = claim(&broker, &agent, &forged).await;
    assert_refused!(refused, Refusal::Denied(Denial::Order));
    let wider = v1::BeginTaskRequest {
        order_ticket: ticket.clone(),
        ..agent.request(&["exec:git", "tool:github.create_pr"])
    };
    let refused = broker.begin(wider, &agent).await;
    assert_refused!(refused, Refusal::Denied(Denial::Scope));
    let canceled = cancel(&broker, &ci, &made.order_id, false).await;
    assert_eq!(canceled.state(), v1::OrderState::Canceled);
    let refused = claim(&broker, &agent, &ticket).await;
    assert_refused!(refused, Refusal::TaskDead(Cause::TaskEnded(_)));
    let (_, late) = ordered(&broker, &ci).await;
    clock::testing::advance(Duration::from_secs(16 * 60));
    let refused = claim(&broker, &agent, &late).await;
    assert_refused!(refused, Refusal::TaskDead(Cause::Expired));
}

#[tokio::test]
async fn ac_9d_a_used_ticket_is_an_alarm_and_ends_the_task() {
    let (broker, ci, agent) = broker().await;
    let (made, ticket) = ordered(&broker, &ci).await;
    let begun = claim(&broker, &agent, &ticket).await.unwrap();
    let thief = broker.agent("/agent");
    let refused = claim(&broker, &thief, &ticket).await;
    assert_refused!(refused, Refusal::TicketUsed { .. });
    assert!(said(&broker, "ticket_reused").contains(&made.order_id));
    assert!(
        broker.mint(begun.mint(), &agent).await.is_err(),
        "the task has ended"
    );
    let seen = cancel(&broker, &ci, &made.order_id, false).await;
    assert_eq!(seen.state(), v1::OrderState::Ended);
    assert_eq!(seen.outcome(), v1::Outcome::Revoked);
}

#[tokio::test]
async fn a_retry_of_a_claim_gets_the_same_task_and_no_alarm() {
    let (broker, ci, agent) = broker().await;
    let (_, ticket) = ordered(&broker, &ci).await;
    let again = || v1::BeginTaskRequest {
        order_ticket: ticket.clone(),
        idempotency_key: "k".to_owned(),
        ..agent.request(&[])
    };
    let first = broker.begin(again(), &agent).await.unwrap();
    let second = broker.begin(again(), &agent).await.unwrap();
    assert_eq!(
        (first.id, first.token.token),
        (second.id, second.token.token)
    );
    assert_eq!(said(&broker, "ticket_reused"), "");
}

#[tokio::test]
async fn a_retry_of_an_order_gets_the_same_ticket() {
    let (broker, ci, _) = broker().await;
    let keyed = |purpose: &str| v1::CreateOrderRequest {
        idempotency_key: "k".to_owned(),
        purpose: purpose.to_owned(),
        ..request("/agent", &["exec:git"])
    };
    let first = order(&broker, &ci, keyed("a")).await.unwrap();
    clock::testing::advance(Duration::from_secs(1));
    let second = order(&broker, &ci, keyed("a")).await.unwrap();
    assert_eq!(first.ticket, second.ticket);
    let refused = order(&broker, &ci, keyed("b")).await;
    assert_refused!(refused, Refusal::Idempotency);
}

#[tokio::test]
async fn ac_9d_a_dispatcher_orders_within_its_bounds_and_in_no_circle() {
    let (broker, ci, agent) = broker().await;
    broker.register("/other", json!({})).await;
    let beyond = [("/other", "exec:git"), ("/agent", "secret:app/x")];
    for (path, scope) in beyond {
        let refused = order(&broker, &ci, request(path, &[scope])).await;
        assert_refused!(refused, Refusal::BeyondBounds { .. });
    }
    let refused = order(&broker, &agent, request("/other", &["exec:git"])).await;
    assert_refused!(refused, Refusal::Role("dispatcher"));
    // /ci orders for /agent, /agent for /second, and /second for /ci.
    let circle = BTreeMap::from([
        (id("/ci"), dispatcher(&["/agent"])),
        (id("/agent"), dispatcher(&["/second"])),
        (id("/second"), dispatcher(&["/ci"])),
    ]);
    broker.operators.replace(circle);
    let refused = order(&broker, &ci, request("/agent", &["exec:git"])).await;
    assert_refused!(refused, Refusal::Denied(Denial::OrderCircle));
}

#[tokio::test]
async fn ac_9d_an_agent_orders_only_from_within_a_live_task_and_ends_with_it() {
    let (broker, ci, agent) = broker().await;
    let child = json!({ "begin": "ordered" });
    broker.register("/child", child).await;
    broker.register("/ci", json!({})).await;
    let deep = v1::CreateOrderRequest {
        depth: 1,
        ..request("/agent", &["exec:git"])
    };
    let made = order(&broker, &ci, deep).await.unwrap();
    let begun = claim(&broker, &agent, &made.ticket).await.unwrap();
    let within = |path: &str, scopes: &[&str]| v1::CreateOrderRequest {
        task_id: begun.id.clone(),
        ..request(path, scopes)
    };
    for path in ["/agent", "/ci"] {
        let refused = order(&broker, &agent, within(path, &["exec:git"])).await;
        assert_refused!(refused, Refusal::Denied(Denial::OrderCircle));
    }
    let refused = order(
        &broker,
        &agent,
        within("/child", &["tool:github.create_pr"]),
    )
    .await;
    assert_refused!(refused, Refusal::Denied(Denial::Scope));
    let first = order(&broker, &agent, within("/child", &["exec:git"])).await;
    let second = order(&broker, &agent, within("/child", &["exec:git"])).await;
    let (first, second) = (first.unwrap(), second.unwrap());
    let of_child = broker.agent("/child");
    let below = claim(&broker, &of_child, &first.ticket).await.unwrap();
    assert_eq!(below.task.ancestors, std::slice::from_ref(&begun.id));
    assert!(below.task.deadline_ms <= begun.task.deadline_ms);
    let complete = v1::CompleteTaskRequest {
        task_id: begun.id.clone(),
        ..v1::CompleteTaskRequest::default()
    };
    let tasks = Arc::clone(&broker.rooms.tasks);
    tasks.complete(agent.peer.clone(), complete).await.unwrap();
    assert!(broker.mint(below.mint(), &of_child).await.is_err());
    let refused = claim(&broker, &of_child, &second.ticket).await;
    assert_refused!(refused, Refusal::TaskDead(_));
}

#[tokio::test]
async fn ac_94_a_dispatcher_hears_how_its_order_ended_and_may_end_the_task() {
    let (broker, ci, agent) = broker().await;
    let (made, ticket) = ordered(&broker, &ci).await;
    claim(&broker, &agent, &ticket).await.unwrap();
    let request = v1::WatchOrdersRequest {
        order_ids: vec![made.order_id.clone()],
        follow: false,
    };
    let dispatch = Arc::clone(&broker.rooms.dispatch);
    let mut watch = dispatch
        .watch_orders(ci.peer.clone(), request)
        .await
        .unwrap();
    let seen = watch.recv().await.unwrap().unwrap().order.unwrap();
    assert_eq!(seen.state(), v1::OrderState::Claimed);
    let ended = cancel(&broker, &ci, &made.order_id, true).await;
    assert_eq!(ended.state(), v1::OrderState::Ended);
    assert_eq!(ended.outcome(), v1::Outcome::Canceled);
    // P11: what is somebody else's is not there.
    let request = v1::CancelOrderRequest {
        order_id: made.order_id,
        end_task: true,
    };
    let dispatch = Arc::clone(&broker.rooms.dispatch);
    let refused = dispatch.cancel_order(agent.peer.clone(), request).await;
    assert_refused!(refused, Refusal::NotFound("order"));
}
