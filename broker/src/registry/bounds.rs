//! The bounds on which all brokers of a store agree, as operators see and change them (L3, L6).

use std::sync::Arc;
use std::time::Duration;

use sundew_core::{Agreement, SharedBounds, Ttl};
use sundew_proto::v1;

use super::Registry;
use crate::clock;
use crate::journal;
use crate::liveness::AgreementError;
use crate::refusal::Refusal;
use crate::role::{Registrar, Unbounded};

/// How often it is looked whether this broker has taken a new agreement.
const TAKEN_INTERVAL: Duration = Duration::from_millis(5);
/// How long it is waited for that.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

impl Registry {
    /// Shows the agreement, and what the file of each broker allows.
    pub(crate) async fn show_bounds(
        self: Arc<Self>,
        _: Unbounded<Registrar>,
        _: v1::ShowBoundsRequest,
    ) -> Result<v1::ShowBoundsResponse, Refusal> {
        let log = &self.ledger.log;
        let agreement = log.agreement();
        let brokers = log.about_all().await?;
        Ok(v1::ShowBoundsResponse {
            version: agreement.version,
            bounds: Some(message(&agreement.bounds)),
            longest_alive_ms: agreement.longest_alive(clock::now_ms()).as_ms(),
            brokers: brokers
                .into_iter()
                .map(|(broker, about)| v1::BrokerBounds {
                    broker,
                    version: about.as_ref().map_or(0, |about| about.version),
                    allowed: about.map(|about| message(&about.allowed)),
                })
                .collect(),
        })
    }

    /// Changes the agreement for all brokers, and answers once this broker has taken it.
    pub(crate) async fn set_bounds(
        self: Arc<Self>,
        operator: Unbounded<Registrar>,
        request: v1::SetBoundsRequest,
    ) -> Result<v1::SetBoundsResponse, Refusal> {
        let log = &self.ledger.log;
        let before = log.agreement();
        let bounds = asked(&request, &before)?;
        if bounds == before.bounds {
            return Ok(answer(&before));
        }
        for (broker, about) in log.about_all().await? {
            let Some(about) = about else {
                return Err(Refusal::invalid(
                    "bounds",
                    format!("broker {broker} is of a version that knows no agreement: upgrade it"),
                ));
            };
            let beyond = Agreement::first(bounds).beyond(&about.allowed);
            if let Some(beyond) = beyond.first() {
                return Err(Refusal::invalid(
                    beyond.key,
                    format!(
                        "the file of broker {broker} allows {}: change that first, and restart it",
                        beyond.allowed
                    ),
                ));
            }
        }
        let record = journal::record("bounds_set")
            .with("actor", operator.id())
            .with("freshness", bounds.freshness)
            .with("max_clock_skew", bounds.max_clock_skew)
            .with("max_task_ttl", bounds.max_task_ttl)
            .with("replicas", bounds.replicas);
        self.ledger.journal.write(record).await?;
        let changed = log.change_agreement(bounds).await?;
        let taken = async {
            while log.agreement().version < changed.version {
                tokio::time::sleep(TAKEN_INTERVAL).await;
            }
        };
        // The change holds whether or not this broker can hear of it now.
        let _ = tokio::time::timeout(TAKEN_WITHIN, taken).await;
        Ok(answer(&changed))
    }
}

/// Reads the bounds that are asked for. What is not asked for stays as it is.
fn asked(request: &v1::SetBoundsRequest, before: &Agreement) -> Result<SharedBounds, Refusal> {
    let ttl = |field: &'static str, asked: Option<i64>, before: Ttl| {
        asked.map_or(Ok(before), |ms| {
            Ttl::from_ms(ms).map_err(|error| Refusal::invalid(field, error.to_string()))
        })
    };
    let now = &before.bounds;
    let bounds = SharedBounds {
        freshness: ttl("freshness_ms", request.freshness_ms, now.freshness)?,
        max_clock_skew: ttl(
            "max_clock_skew_ms",
            request.max_clock_skew_ms,
            now.max_clock_skew,
        )?,
        max_task_ttl: ttl("max_task_ttl_ms", request.max_task_ttl_ms, now.max_task_ttl)?,
        replicas: request.replicas.unwrap_or(now.replicas),
    };
    match bounds.problems().first() {
        Some(problem) => Err(Refusal::invalid("bounds", (*problem).to_owned())),
        None => Ok(bounds),
    }
}

fn answer(agreement: &Agreement) -> v1::SetBoundsResponse {
    v1::SetBoundsResponse {
        version: agreement.version,
        bounds: Some(message(&agreement.bounds)),
    }
}

fn message(bounds: &SharedBounds) -> v1::Bounds {
    v1::Bounds {
        freshness_ms: bounds.freshness.as_ms(),
        max_clock_skew_ms: bounds.max_clock_skew.as_ms(),
        max_task_ttl_ms: bounds.max_task_ttl.as_ms(),
        replicas: bounds.replicas,
    }
}

impl From<AgreementError> for Refusal {
    fn from(error: AgreementError) -> Self {
        match error {
            AgreementError::Store(error) => error.into(),
            AgreementError::RootKey => sundew_core::store::StoreError::from(error).into(),
            AgreementError::Raced => Self::Conflict("agreement on bounds"),
            AgreementError::Beyond(text) => Self::invalid("bounds", text),
        }
    }
}
