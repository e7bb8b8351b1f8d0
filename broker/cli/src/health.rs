//! `sundew health`: whether a broker is ready, as an exit code, for the health checks of containers
//! and for scripts.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::doctor;
use crate::output::{Output, View, escape_prose, success_if};

/// Asks the operations listener of a broker, and fails if the broker is not ready or does not answer
/// in time.
pub(crate) async fn health(output: &Output, place: &str, within: Duration) -> Result<ExitCode> {
    let Ok(answer) = tokio::time::timeout(within, doctor::health(place)).await else {
        bail!("{place}: no answer within {} s", within.as_secs());
    };
    let (ready, text) = answer.map_err(|error| error.context(place.to_owned()))?;
    let problems: Vec<&str> = if ready && text == "ready" {
        Vec::new()
    } else {
        text.split("; ").collect()
    };
    let problems = problems.into_iter().map(str::to_owned).collect();
    output.show(&HealthView { ready, problems })?;
    Ok(success_if(ready))
}

/// Whether a broker is ready.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct HealthView {
    ready: bool,
    /// What is wrong with a broker, also with one that is ready.
    problems: Vec<String>,
}

impl View for HealthView {
    const KIND: &'static str = "health";

    fn lines(&self) -> Vec<String> {
        match self.problems.as_slice() {
            [] => vec!["ready".to_owned()],
            problems => vec![escape_prose(&problems.join("; "), 8192)],
        }
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![crate::shapes::of::<HealthView>()]
}
