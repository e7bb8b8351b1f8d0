//! `sundew doctor`: names the broken thing. Each check rests on the ones before it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use sundew_proto::v1::access_service_client::AccessServiceClient;
use sundew_proto::v1::agent_service_client::AgentServiceClient;
use sundew_proto::v1::{ChallengeRequest, ChallengeResponse, OperatorRole, ShowOperatorRequest};
use sundew_sdk::{Connection, handshake};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Channel;

use crate::args::Connect;
use crate::client::{broker_id, open_identity, settings, status_error};
use crate::manifest::with_manifest;
use crate::output::{Output, View, escape_prose, success_if};
use crate::timestamp::now_ms;

/// Largest difference between this machine's clock and the broker's, in milliseconds.
const MAX_SKEW_MS: i64 = 5000;
/// How long a challenge lives from the broker's now, in milliseconds.
const CHALLENGE_LIFE_MS: i64 = 60_000;

/// What was looked at, and what was found.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct DoctorView {
    healthy: bool,
    items: Vec<Check>,
}

impl View for DoctorView {
    const KIND: &'static str = "doctor";

    fn lines(&self) -> Vec<String> {
        self.items.iter().map(Check::line).collect()
    }
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Check {
    check: &'static str,
    ok: bool,
    found: String,
}

impl Check {
    fn line(&self) -> String {
        let verdict = if self.ok { "ok  " } else { "FAIL" };
        format!(
            "{verdict} {:<14} {}",
            self.check,
            escape_prose(&self.found, 1000)
        )
    }
}

/// The checks so far. One that was begun and did not pass has failed.
#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn begin(&mut self, check: &'static str) {
        self.0.push(Check {
            check,
            ok: false,
            found: String::new(),
        });
    }

    fn pass(&mut self, found: String) {
        self.end(true, found);
    }

    fn fail(&mut self, found: String) {
        self.end(false, found);
    }

    fn end(&mut self, ok: bool, found: String) {
        if let Some(last) = self.0.last_mut() {
            (last.ok, last.found) = (ok, found);
        }
    }
}

pub(crate) async fn doctor(
    connect: &Connect,
    output: &Output,
    operations: Option<String>,
    manifest: Option<PathBuf>,
) -> Result<ExitCode> {
    let mut checks = Checks::default();
    if let Err(error) = examine(connect, manifest, &mut checks).await {
        checks.fail(format!("{error:#}"));
    }
    if let Some(place) = operations {
        checks.begin("broker health");
        match health(&place).await {
            Ok((true, text)) => checks.pass(text),
            Ok((false, text)) => checks.fail(text),
            Err(error) => checks.fail(format!("{place}: {error:#}")),
        }
    }
    let healthy = checks.0.iter().all(|check| check.ok);
    output.show(&DoctorView {
        healthy,
        items: checks.0,
    })?;
    Ok(success_if(healthy))
}

/// Makes one check after the other. The error of the first that does not pass is returned, and the
/// checks that rest on it are not made.
async fn examine(connect: &Connect, manifest: Option<PathBuf>, checks: &mut Checks) -> Result<()> {
    checks.begin("settings");
    let settings = with_manifest(settings(connect), manifest.as_deref(), &[])?;
    let broker = settings
        .broker
        .clone()
        .context("SUNDEW_BROKER is not set: the broker's host:port")?;
    checks.pass(format!("broker {broker}"));

    checks.begin("SVID source");
    let identity = open_identity(&settings).await?;
    let source = match &settings.svid_dir {
        Some(folder) => folder.display().to_string(),
        None => settings.endpoint_socket.clone().unwrap_or_default(),
    };
    checks.pass(format!("{} from {source}", identity.id()));

    checks.begin("network");
    tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(&broker))
        .await
        .context("no answer within 5 seconds")?
        .with_context(|| format!("{broker}: is the broker running, and is this its address?"))?;
    checks.pass(format!("{broker} answers"));

    checks.begin("handshake");
    let expected = broker_id(connect, &identity)?;
    handshake(&broker, expected.clone(), &identity)
        .await
        .context(
            "the broker's trust bundle may not have our trust domain, or ours not the broker's",
        )?;
    checks.pass(format!("mutual TLS 1.3 with {expected}"));

    checks.begin("registration");
    let channel = Connection::open(&broker, expected.clone(), identity)?.channel();
    let challenge = AgentServiceClient::new(channel.clone())
        .challenge(ChallengeRequest {})
        .await;
    let challenge = match challenge {
        Ok(challenge) => challenge.into_inner(),
        Err(refused) => {
            // An operator is not registered, and shows no evidence. While the broker cannot answer,
            // nobody is told to be one: that would look as if all were well.
            let roles = if refused.code() == Code::PermissionDenied {
                roles(channel).await?
            } else {
                Vec::new()
            };
            if roles.is_empty() {
                let refused = status_error(refused);
                return Err(refused.context("is this SPIFFE ID registered, or an operator's?"));
            }
            checks.pass(format!("an operator, who is {}", roles.join(" and ")));
            return Ok(());
        }
    };
    let wanted = wanted(&challenge);
    checks.pass(format!("registered; evidence wanted: {wanted}"));

    checks.begin("clock");
    check_skew(&challenge, now_ms())?;
    checks.pass("within 5 seconds of the broker's".to_owned());

    checks.begin("evidence");
    check_evidence(&challenge, &sundew_sdk::kinds(&settings)?)?;
    checks.pass("everything wanted can be collected".to_owned());

    if wants(&challenge, "oidc") {
        checks.begin("tokens");
        let trust_domain = expected.trust_domain().as_str().to_owned();
        let place = (broker.as_str(), trust_domain.as_str());
        let same = sundew_sdk::examine_tokens(&settings, &challenge.audience, place).await?;
        checks.pass(same.unwrap_or_else(|| "each one that is asked for is a new one".to_owned()));
    }
    Ok(())
}

/// Returns whether a kind of evidence is in one of the sets of which the broker wants one.
fn wants(challenge: &ChallengeResponse, kind: &str) -> bool {
    let mut sets = challenge.evidence_sets.iter();
    sets.any(|set| set.kinds.iter().any(|wanted| wanted == kind))
}

/// Returns the roles of this SPIFFE ID, each with its bounds; none for who is no operator.
async fn roles(channel: Channel) -> Result<Vec<String>> {
    let mut access = AccessServiceClient::new(channel);
    match access.show_operator(ShowOperatorRequest {}).await {
        Ok(answer) => Ok(answer.into_inner().roles.iter().map(role).collect()),
        Err(status) if status.code() == Code::PermissionDenied => Ok(Vec::new()),
        Err(status) => Err(status_error(status)),
    }
}

/// Returns a role in words, with what it is bounded to.
fn role(role: &OperatorRole) -> String {
    let article = if role.role.starts_with(['a', 'i']) {
        "an"
    } else {
        "a"
    };
    let Some(bounds) = &role.bounds else {
        return format!("{article} {}", role.role);
    };
    let lists = [
        ("SPIFFE prefixes", &bounds.path_prefixes),
        ("scopes", &bounds.scopes),
        ("audiences", &bounds.audiences),
        ("secrets", &bounds.secrets),
    ];
    let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
    let told: Vec<_> = lists
        .map(|(what, list)| format!("{what} {}", list.join(", ")))
        .collect();
    format!("{article} {} within {}", role.role, told.join("; "))
}

/// Returns the sets of kinds of evidence of which the broker wants one.
fn wanted(challenge: &ChallengeResponse) -> String {
    let sets: Vec<_> = challenge
        .evidence_sets
        .iter()
        .map(|set| set.kinds.join(" and "))
        .collect();
    sets.join(", or ")
}

/// Fails if this machine's clock is too far from the broker's, which the end of a challenge shows.
fn check_skew(challenge: &ChallengeResponse, now_ms: i64) -> Result<()> {
    let skew_ms = challenge
        .expires_at_ms
        .saturating_sub(CHALLENGE_LIFE_MS)
        .saturating_sub(now_ms);
    if skew_ms.abs() > MAX_SKEW_MS {
        bail!(
            "this machine's clock is {} seconds {} the broker's",
            skew_ms.abs() / 1000,
            if skew_ms > 0 { "behind" } else { "ahead of" }
        );
    }
    Ok(())
}

/// Fails if the kinds that can be collected here are not enough for any set that is wanted.
fn check_evidence(challenge: &ChallengeResponse, collected: &[String]) -> Result<()> {
    let enough = challenge
        .evidence_sets
        .iter()
        .any(|set| set.kinds.iter().all(|kind| collected.contains(kind)));
    if !enough {
        bail!(
            "nothing here collects {}: set SUNDEW_MANIFEST (or --manifest), \
             SUNDEW_OIDC_TOKEN_FILE, SUNDEW_OIDC_TOKEN_COMMAND, SUNDEW_TPM2 or \
             SUNDEW_EVIDENCE_COMMAND_<KIND>",
            wanted(challenge)
        );
    }
    Ok(())
}

/// Asks the operations listener at `place` for `/readyz`, and returns whether the broker is ready,
/// with the text of the answer. One request to one known server needs no HTTP client.
pub(crate) async fn health(place: &str) -> Result<(bool, String)> {
    let mut stream = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(place))
        .await
        .context("no answer")??;
    // By address, since the listener answers for few names (I12).
    let host = stream.peer_addr()?;
    stream
        .write_all(
            format!("GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
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

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![crate::shapes::of::<DoctorView>()]
}

#[cfg(test)]
mod tests {
    use sundew_proto::v1::{ChallengeResponse, EvidenceSet, OperatorRole, RoleBounds};

    use super::{Check, check_evidence, check_skew, role, wanted};

    fn challenge(sets: &[&[&str]]) -> ChallengeResponse {
        ChallengeResponse {
            evidence_sets: sets
                .iter()
                .map(|kinds| EvidenceSet {
                    kinds: kinds.iter().map(ToString::to_string).collect(),
                })
                .collect(),
            expires_at_ms: 60_000,
            ..ChallengeResponse::default()
        }
    }

    #[test]
    fn a_clock_may_be_five_seconds_away() {
        let challenge = challenge(&[]);
        assert!(check_skew(&challenge, 5000).is_ok());
        assert!(check_skew(&challenge, -5000).is_ok());
        assert_eq!(
            check_skew(&challenge, 6001).unwrap_err().to_string(),
            "this machine's clock is 6 seconds ahead of the broker's"
        );
        assert_eq!(
            check_skew(&challenge, -9000).unwrap_err().to_string(),
            "this machine's clock is 9 seconds behind the broker's"
        );
    }

    #[test]
    fn one_set_of_kinds_is_enough() {
        let challenge = challenge(&[&["tpm2", "manifest"], &["oidc"]]);
        assert_eq!(wanted(&challenge), "tpm2 and manifest, or oidc");
        assert!(check_evidence(&challenge, &["oidc".to_owned()]).is_ok());
        let error = check_evidence(&challenge, &["tpm2".to_owned()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "nothing here collects tpm2 and manifest, or oidc: set SUNDEW_MANIFEST (or --manifest), \
             SUNDEW_OIDC_TOKEN_FILE, SUNDEW_OIDC_TOKEN_COMMAND, SUNDEW_TPM2 or \
             SUNDEW_EVIDENCE_COMMAND_<KIND>"
        );
    }

    #[test]
    fn a_check_is_one_line() {
        let mut check = Check {
            check: "network",
            ok: true,
            found: "answers".to_owned(),
        };
        assert_eq!(check.line(), "ok   network        answers");
        check.ok = false;
        assert_eq!(check.line(), "FAIL network        answers");
    }

    #[test]
    fn o4_a_role_is_told_with_its_bounds() {
        let mut told = OperatorRole {
            role: "registrar".to_owned(),
            bounds: None,
        };
        assert_eq!(role(&told), "a registrar");
        let list = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        told.bounds = Some(RoleBounds {
            path_prefixes: list(&["spiffe://a.test/x", "spiffe://b.test"]),
            scopes: list(&["tool:*"]),
            ..RoleBounds::default()
        });
        assert_eq!(
            role(&told),
            "a registrar within SPIFFE prefixes spiffe://a.test/x, spiffe://b.test; scopes tool:*"
        );
    }
}
