//! `sundew bounds`: the bounds on which all brokers of a store agree.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use sundew_proto::v1::{Bounds, SetBoundsRequest, ShowBoundsRequest, ShowBoundsResponse};
use sundew_sdk::Ttl;

use crate::args::{BoundsCommand, Connect};
use crate::client::{registry, status_error};
use crate::output::{Output, View, escape, table};

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
    output.show(&BoundsView::from(answer))?;
    Ok(ExitCode::SUCCESS)
}

async fn set(connect: &Connect, output: &Output, request: SetBoundsRequest) -> Result<ExitCode> {
    let answer = registry(connect)
        .await?
        .set_bounds(request)
        .await
        .map_err(status_error)?
        .into_inner();
    output.show(&BoundsView {
        version: answer.version,
        bounds: answer.bounds.map(BoundsFields::from),
        longest_alive_ms: 0,
        brokers: Vec::new(),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Bounds.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct BoundsFields {
    freshness_ms: i64,
    max_clock_skew_ms: i64,
    max_task_ttl_ms: i64,
    replicas: u32,
}

impl From<Bounds> for BoundsFields {
    fn from(bounds: Bounds) -> Self {
        Self {
            freshness_ms: bounds.freshness_ms,
            max_clock_skew_ms: bounds.max_clock_skew_ms,
            max_task_ttl_ms: bounds.max_task_ttl_ms,
            replicas: bounds.replicas,
        }
    }
}

/// What the file of a broker allows.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct AllowedRow {
    broker: String,
    version: u64,
    /// Absent for a broker of a version before bounds.
    allowed: Option<BoundsFields>,
}

/// The agreement of all brokers, and what the file of each allows.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct BoundsView {
    version: u64,
    bounds: Option<BoundsFields>,
    /// How long a task may live that was begun before the longest task was shortened; 0 if that is
    /// not told.
    longest_alive_ms: i64,
    brokers: Vec<AllowedRow>,
}

impl From<ShowBoundsResponse> for BoundsView {
    fn from(answer: ShowBoundsResponse) -> Self {
        let brokers = answer.brokers.into_iter().map(|broker| AllowedRow {
            broker: broker.broker,
            version: broker.version,
            allowed: broker.allowed.map(BoundsFields::from),
        });
        Self {
            version: answer.version,
            bounds: answer.bounds.map(BoundsFields::from),
            longest_alive_ms: answer.longest_alive_ms,
            brokers: brokers.collect(),
        }
    }
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
fn row(name: String, version: u64, bounds: Option<&BoundsFields>) -> Vec<String> {
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

impl View for BoundsView {
    const KIND: &'static str = "bounds";

    fn lines(&self) -> Vec<String> {
        let agreed = self.bounds.as_ref();
        let mut rows = vec![row("agreed".to_owned(), self.version, agreed)];
        for broker in &self.brokers {
            let name = format!("allowed by {}", escape(&broker.broker, 64));
            rows.push(row(name, broker.version, broker.allowed.as_ref()));
        }
        let mut lines = table(&HEADING, &rows);
        if agreed.is_some_and(|now| now.max_task_ttl_ms < self.longest_alive_ms) {
            let longest = Ttl::from_ms(self.longest_alive_ms).map(|ttl| ttl.to_string());
            lines.push(format!(
                "tasks that were begun before max_task_ttl was shortened may live for {}",
                longest.unwrap_or_default()
            ));
        }
        lines
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![crate::shapes::of::<BoundsView>()]
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
            BoundsView::from(answer).lines(),
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
