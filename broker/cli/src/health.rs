//! `sundew health`: whether a broker is ready, as an exit code, for the health checks of containers
//! and for scripts.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;

use crate::doctor;
use crate::output::{Output, success_if};

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
    output.result(&json!({ "ready": ready, "problems": problems }), || {
        vec![text.clone()]
    });
    Ok(success_if(ready))
}
