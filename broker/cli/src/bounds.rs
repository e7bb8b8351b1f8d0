//! `sundew bounds`: the bounds on which all brokers of a store agree.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use sundew_proto::v1::{Bounds, SetBoundsRequest, ShowBoundsRequest, ShowBoundsResponse};
use sundew_sdk::Ttl;

use crate::args::{BoundsCommand, Connect};
use crate::client::{registry, status_error};
use crate::output::{Output, escape, table};

pub(crate) async fn bounds(
    connect: &Connect,
    output: &Output,
    command: BoundsCommand,
) -> Result<ExitCode> {
    match command {
        BoundsCommand::Show => show(connect, output).await,
        BoundsCommand::Set {
            freshness,
            max_clock_skew,
            max_task_ttl,
            replicas,
        } => {
            let request = SetBoundsRequest {
                freshness_ms: freshness.map(Ttl::as_ms),
                max_clock_skew_ms: max_clock_skew.map(Ttl::as_ms),
                max_task_ttl_ms: max_task_ttl.map(Ttl::as_ms),
                replicas,
            };
            set(connect, output, request).await
        }
    }
}

async fn show(connect: &Connect, output: &Output) -> Result<ExitCode> {
    let answer = registry(connect)
        .await?
        .show_bounds(ShowBoundsRequest {})
        .await
        .map_err(status_error)?
        .into_inner();
    let brokers = answer.brokers.iter().map(|broker| {
        json!({
            "broker": broker.broker, "version": broker.version,
            "allowed": broker.allowed.as_ref().map(bounds_json),
        })
    });
    let value = json!({
        "version": answer.version,
        "bounds": answer.bounds.as_ref().map(bounds_json),
        "longest_alive_ms": answer.longest_alive_ms,
        "brokers": brokers.collect::<Vec<_>>(),
    });
    output.result(&value, || lines(&answer));
    Ok(ExitCode::SUCCESS)
}

async fn set(connect: &Connect, output: &Output, request: SetBoundsRequest) -> Result<ExitCode> {
    let answer = registry(connect)
        .await?
        .set_bounds(request)
        .await
        .map_err(status_error)?
        .into_inner();
    let bounds = answer.bounds.unwrap_or_default();
    let value = json!({ "version": answer.version, "bounds": bounds_json(&bounds) });
    output.result(&value, || {
        let row = row("agreed".to_owned(), answer.version, Some(&bounds));
        table(&HEADING, &[row])
    });
    Ok(ExitCode::SUCCESS)
}

fn bounds_json(bounds: &Bounds) -> Value {
    json!({
        "freshness_ms": bounds.freshness_ms, "max_clock_skew_ms": bounds.max_clock_skew_ms,
        "max_task_ttl_ms": bounds.max_task_ttl_ms, "replicas": bounds.replicas,
    })
}

const HEADING: [&str; 6] = [
    "BROKER",
    "VERSION",
    "FRESHNESS",
    "MAX_CLOCK_SKEW",
    "MAX_TASK_TTL",
    "REPLICAS",
];

/// A row of the table: the agreement, or what the file of a broker allows.
fn row(name: String, version: u64, bounds: Option<&Bounds>) -> Vec<String> {
    let ttl = |ms| Ttl::from_ms(ms).map_or_else(|_| format!("{ms}ms"), |ttl| ttl.to_string());
    let cells = match bounds {
        None => vec!["(older version)".to_owned()],
        Some(bounds) => vec![
            ttl(bounds.freshness_ms),
            ttl(bounds.max_clock_skew_ms),
            ttl(bounds.max_task_ttl_ms),
            bounds.replicas.to_string(),
        ],
    };
    [vec![name, version.to_string()], cells].concat()
}

fn lines(answer: &ShowBoundsResponse) -> Vec<String> {
    let mut rows = vec![row(
        "agreed".to_owned(),
        answer.version,
        answer.bounds.as_ref(),
    )];
    for broker in &answer.brokers {
        let name = format!("allowed by {}", escape(&broker.broker, 64));
        rows.push(row(name, broker.version, broker.allowed.as_ref()));
    }
    let mut lines = table(&HEADING, &rows);
    let now = answer.bounds.as_ref().map(|bounds| bounds.max_task_ttl_ms);
    if now.is_some_and(|now| now < answer.longest_alive_ms) {
        let longest = Ttl::from_ms(answer.longest_alive_ms).map(|ttl| ttl.to_string());
        lines.push(format!(
            "tasks that were begun before max_task_ttl was shortened may live for {}",
            longest.unwrap_or_default()
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use sundew_proto::v1::BrokerBounds;

    use super::*;

    #[test]
    fn the_agreement_stands_above_what_each_broker_allows() {
        let bounds = |freshness_ms| Bounds {
            freshness_ms,
            max_clock_skew_ms: 500,
            max_task_ttl_ms: 3_600_000,
            replicas: 1,
        };
        let answer = ShowBoundsResponse {
            version: 3,
            bounds: Some(bounds(1000)),
            longest_alive_ms: 86_400_000,
            brokers: vec![
                BrokerBounds {
                    broker: "a".to_owned(),
                    allowed: Some(bounds(2500)),
                    version: 2,
                },
                BrokerBounds {
                    broker: "b".to_owned(),
                    ..BrokerBounds::default()
                },
            ],
        };
        assert_eq!(
            lines(&answer),
            [
                "BROKER        VERSION  FRESHNESS        MAX_CLOCK_SKEW  MAX_TASK_TTL  REPLICAS",
                "agreed        3        1s               500ms           1h            1",
                "allowed by a  2        2500ms           500ms           1h            1",
                "allowed by b  0        (older version)",
                "tasks that were begun before max_task_ttl was shortened may live for 1d",
            ]
        );
    }
}
