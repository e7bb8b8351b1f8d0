//! `sundew doctor`: names the broken thing. Each check rests on the ones before it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use sundew_proto::v1::ChallengeRequest;
use sundew_proto::v1::agent_service_client::AgentServiceClient;
use sundew_sdk::{Connection, IdentitySource, handshake};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::args::Connect;
use crate::client::{broker_id, settings, status_error};
use crate::output::Output;
use crate::timestamp::now_ms;

#[derive(Serialize)]
struct Check {
    check: &'static str,
    ok: bool,
    found: String,
}

pub(crate) async fn doctor(
    connect: &Connect,
    output: &Output,
    operations: Option<String>,
) -> Result<ExitCode> {
    let mut checks = Vec::new();
    if let Err(error) = examine(connect, &mut checks).await {
        // What failed is the last check that was begun.
        if let Some(last) = checks.last_mut() {
            (last.ok, last.found) = (false, format!("{error:#}"));
        }
    }
    if let Some(place) = operations {
        let health = health(&place).await;
        let (ok, found) = match health {
            Ok((ok, text)) => (ok, text),
            Err(error) => (false, format!("{place}: {error:#}")),
        };
        checks.push(Check {
            check: "broker health",
            ok,
            found,
        });
    }
    let healthy = checks.iter().all(|check| check.ok);
    output.result(&checks, || {
        checks
            .iter()
            .map(|c| {
                format!(
                    "{} {:<14} {}",
                    if c.ok { "ok  " } else { "FAIL" },
                    c.check,
                    c.found
                )
            })
            .collect()
    });
    Ok(if healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn examine(connect: &Connect, checks: &mut Vec<Check>) -> Result<()> {
    let begin = |checks: &mut Vec<Check>, check| {
        checks.push(Check {
            check,
            ok: false,
            found: String::new(),
        })
    };
    let found = |checks: &mut Vec<Check>, text: String| {
        if let Some(last) = checks.last_mut() {
            (last.ok, last.found) = (true, text);
        }
    };
    begin(checks, "settings");
    let settings = settings(connect);
    let broker = settings
        .broker
        .clone()
        .context("SUNDEW_BROKER is not set: the broker's host:port")?;
    found(checks, format!("broker {broker}"));

    begin(checks, "SVID source");
    let identity = IdentitySource::open(&settings).await?.current();
    found(
        checks,
        format!(
            "{} from {}",
            identity.id(),
            settings.svid_dir.as_ref().map_or_else(
                || settings.endpoint_socket.clone().unwrap_or_default(),
                |d| d.display().to_string()
            )
        ),
    );

    begin(checks, "network");
    tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(&broker))
        .await
        .context("no answer within 5 seconds")?
        .with_context(|| format!("{broker}: is the broker running, and is this its address?"))?;
    found(checks, format!("{broker} answers"));

    begin(checks, "handshake");
    let expected = broker_id(connect, &identity)?;
    handshake(&broker, expected.clone(), &identity)
        .await
        .context(
            "the broker's trust bundle may not have our trust domain, or ours not the broker's",
        )?;
    found(checks, format!("mutual TLS 1.3 with {expected}"));

    begin(checks, "registration");
    let connection = Connection::open(&broker, expected, identity)?;
    let challenge = AgentServiceClient::new(connection.channel())
        .challenge(ChallengeRequest {})
        .await;
    let challenge = challenge
        .map_err(status_error)
        .context("is this SPIFFE ID registered? Operators are not and need not be")?
        .into_inner();
    let wanted: Vec<_> = challenge
        .evidence_sets
        .iter()
        .map(|set| set.kinds.join(" and "))
        .collect();
    found(
        checks,
        format!("registered; evidence wanted: {}", wanted.join(", or ")),
    );

    begin(checks, "clock");
    // A challenge lives 60 seconds from the broker's now.
    let skew_ms = challenge
        .expires_at_ms
        .saturating_sub(60_000)
        .saturating_sub(now_ms());
    if skew_ms.abs() > 5000 {
        anyhow::bail!(
            "this machine's clock is {} seconds {} the broker's",
            skew_ms.abs() / 1000,
            if skew_ms > 0 { "behind" } else { "ahead of" }
        );
    }
    found(checks, "within 5 seconds of the broker's".to_owned());

    begin(checks, "evidence");
    let collected = sundew_sdk::kinds(&settings)?;
    if !challenge
        .evidence_sets
        .iter()
        .any(|set| set.kinds.iter().all(|kind| collected.contains(kind)))
    {
        anyhow::bail!(
            "nothing here collects {}: set SUNDEW_MANIFEST, SUNDEW_OIDC_TOKEN_FILE, SUNDEW_OIDC_TOKEN_COMMAND, SUNDEW_TPM2 or SUNDEW_EVIDENCE_COMMAND_<KIND>",
            wanted.join(", or ")
        );
    }
    found(checks, "everything wanted can be collected".to_owned());
    Ok(())
}

/// `GET /readyz`, by hand: one request to one known server.
async fn health(place: &str) -> Result<(bool, String)> {
    let mut stream = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(place))
        .await
        .context("no answer")??;
    stream
        .write_all(
            format!("GET /readyz HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not HTTP")?;
    Ok((
        head.starts_with("HTTP/1.1 200"),
        body.trim().replace('\n', "; "),
    ))
}
