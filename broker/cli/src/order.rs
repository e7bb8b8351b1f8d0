//! `sundew order`: tasks that are ordered for others.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde::Serialize;
use sundew_proto::v1::{
    CancelOrderRequest, CreateOrderRequest, ListOrdersRequest, Order, OrderState,
    WatchOrdersRequest,
};
use sundew_sdk::Ttl;

use crate::args::{Connect, CreateOrder, OrderCommand};
use crate::client::{dispatch, status_error};
use crate::output::{List, Output, Row, View, escape};
use crate::timestamp::format_timestamp;

pub(crate) async fn order(
    connect: &Connect,
    output: &Output,
    command: OrderCommand,
) -> Result<ExitCode> {
    match command {
        OrderCommand::Create(order) => create(connect, output, *order).await,
        OrderCommand::List { all, limit } => list(connect, output, all, limit).await,
        OrderCommand::Show { order_id, watch } => show(connect, output, order_id, watch).await,
        OrderCommand::Cancel { order_id, end_task } => {
            cancel(connect, output, order_id, end_task).await
        }
    }
}

async fn create(connect: &Connect, output: &Output, order: CreateOrder) -> Result<ExitCode> {
    let request = CreateOrderRequest {
        idempotency_key: order.idempotency_key,
        spiffe_id: order.workload,
        scopes: order.scopes,
        audience: order.audiences,
        ttl_ms: order.ttl.map_or(0, Ttl::as_ms),
        claimable_ms: order.claimable.as_ms(),
        purpose: order.task,
        instruction: order.instruction,
        labels: order.labels,
        depth: order.depth,
        reuse_only_alarms: order.reuse_only_alarms,
        task_id: order.within.unwrap_or_default(),
    };
    let made = dispatch(connect).await?.create_order(request).await;
    let made = made.map_err(status_error)?.into_inner();
    let order = made.order.context("the broker sent no order")?;
    output.show(&OrderedView {
        order_id: order.order_id,
        ticket: made.ticket,
        claimable_until_ms: order.claimable_until_ms,
        deadline_ms: order.deadline_ms,
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn list(connect: &Connect, output: &Output, all: bool, limit: u32) -> Result<ExitCode> {
    let request = ListOrdersRequest { all, limit };
    let answer = dispatch(connect).await?.list_orders(request).await;
    let answer = answer.map_err(status_error)?.into_inner();
    let orders = answer.orders.into_iter().map(OrderRow::from).collect();
    output.show(&List::page(orders, answer.more))?;
    Ok(ExitCode::SUCCESS)
}

async fn show(
    connect: &Connect,
    output: &Output,
    order_id: String,
    follow: bool,
) -> Result<ExitCode> {
    let request = WatchOrdersRequest {
        order_ids: vec![order_id],
        follow,
    };
    let watch = dispatch(connect).await?.watch_orders(request).await;
    let mut watch = watch.map_err(status_error)?.into_inner();
    while let Some(answer) = watch.message().await.map_err(status_error)? {
        let order = answer.order.context("the broker sent no order")?;
        output.show(&OrderView(order.into()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn cancel(
    connect: &Connect,
    output: &Output,
    order_id: String,
    end_task: bool,
) -> Result<ExitCode> {
    let request = CancelOrderRequest { order_id, end_task };
    let answer = dispatch(connect).await?.cancel_order(request).await;
    let answer = answer.map_err(status_error)?.into_inner();
    let order = answer.order.context("the broker sent no order")?;
    output.show(&OrderView(order.into()))?;
    Ok(ExitCode::SUCCESS)
}

/// An order that was made, with its ticket.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OrderedView {
    order_id: String,
    /// Good once, for the workload that the order names. It is not shown again.
    ticket: String,
    claimable_until_ms: i64,
    deadline_ms: i64,
}

impl View for OrderedView {
    const KIND: &'static str = "ordered";

    fn lines(&self) -> Vec<String> {
        vec![
            format!("order  {}", self.order_id),
            format!("ticket {}", self.ticket),
            format!(
                "to be claimed before {}",
                format_timestamp(self.claimable_until_ms)
            ),
        ]
    }
}

/// An order in a list.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OrderRow {
    order_id: String,
    /// `open`, `claimed`, `ended`, `canceled`, `expired` or `revoked`.
    state: String,
    dispatcher: String,
    spiffe_id: String,
    purpose: String,
    scopes: Vec<String>,
    audience: Vec<String>,
    labels: Vec<String>,
    created_at_ms: i64,
    claimable_until_ms: i64,
    deadline_ms: i64,
    /// The task that came of it; empty while nobody has claimed it.
    task_id: String,
    /// How the task ended; empty while it lives.
    outcome: String,
    claimed_at_ms: i64,
    /// The task from within which it was made.
    parent_task_id: String,
}

impl From<Order> for OrderRow {
    fn from(order: Order) -> Self {
        Self {
            state: state_label(order.state()).to_owned(),
            outcome: crate::task::outcome_of(order.outcome()).to_owned(),
            order_id: order.order_id,
            dispatcher: order.dispatcher,
            spiffe_id: order.spiffe_id,
            purpose: order.purpose,
            scopes: order.scopes,
            audience: order.audience,
            labels: order.labels,
            created_at_ms: order.created_at_ms,
            claimable_until_ms: order.claimable_until_ms,
            deadline_ms: order.deadline_ms,
            task_id: order.task_id,
            claimed_at_ms: order.claimed_at_ms,
            parent_task_id: order.parent_task_id,
        }
    }
}

impl Row for OrderRow {
    const KIND: &'static str = "orders";
    const HEADING: &'static [&'static str] = &["ORDER", "STATE", "FOR", "UNTIL", "PURPOSE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.order_id.clone(),
            self.stands(),
            self.spiffe_id.clone(),
            format_timestamp(self.claimable_until_ms),
            escape(&self.purpose, 60),
        ]
    }
}

impl OrderRow {
    /// How the order stands, with how its task ended.
    fn stands(&self) -> String {
        if self.outcome.is_empty() {
            self.state.clone()
        } else {
            format!("{} ({})", self.state, self.outcome)
        }
    }
}

/// One order.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
struct OrderView(OrderRow);

impl View for OrderView {
    const KIND: &'static str = "order";

    fn lines(&self) -> Vec<String> {
        let order = &self.0;
        let mut lines = vec![
            format!("{} is {}", order.order_id, order.stands()),
            format!("  ordered by {} for {}", order.dispatcher, order.spiffe_id),
            format!("  purpose: {}", escape(&order.purpose, 120)),
            format!("  scopes: {}", order.scopes.join(" ")),
            format!(
                "  to be claimed before {}, to end before {}",
                format_timestamp(order.claimable_until_ms),
                format_timestamp(order.deadline_ms)
            ),
        ];
        if !order.labels.is_empty() {
            lines.push(format!("  labels: {}", order.labels.join(" ")));
        }
        if !order.task_id.is_empty() {
            lines.push(format!("  task: {}", order.task_id));
        }
        lines
    }
}

fn state_label(state: OrderState) -> &'static str {
    match state {
        OrderState::Canceled => "canceled",
        OrderState::Claimed => "claimed",
        OrderState::Ended => "ended",
        OrderState::Expired => "expired",
        OrderState::Open => "open",
        OrderState::Revoked => "revoked",
        OrderState::Unspecified => "unknown",
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<List<OrderRow>>(),
        crate::shapes::of::<OrderView>(),
        crate::shapes::of::<OrderedView>(),
    ]
}
