//! The first workload of a broker for development: whoever started it.

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use sundew_proto::v1::{ApplyWorkloadsRequest, ListWorkloadsRequest};

use super::{DOMAIN, shell_word};
use crate::client::{registry, status_error};
use crate::local::Local;
use crate::manifest::program_of;

/// Registers the user who runs this, unless that is done already: a registration that somebody has
/// changed stays. Returns the SPIFFE ID.
pub(super) async fn register(local: &Local) -> Result<String> {
    let id = format!("spiffe://{DOMAIN}/me");
    let mut registry = registry(&local.connect_with(local.operator_dir())).await?;
    let known = registry.list_workloads(ListWorkloadsRequest {}).await;
    let known = known.map_err(status_error)?.into_inner().workloads;
    if known.iter().any(|workload| workload.spiffe_id == id) {
        return Ok(id);
    }
    let request = ApplyWorkloadsRequest {
        documents: vec![document(&id, rustix::process::geteuid().as_raw())],
        dry_run: false,
    };
    registry
        .apply_workloads(request)
        .await
        .map_err(status_error)?;
    Ok(id)
}

/// The registration of a user.
///
/// P1: evidence is wanted as from everybody. What a laptop can really show is the kernel's word on
/// whose the process is, and that is worth no more than a claim.
fn document(id: &str, uid: u32) -> String {
    let document = json!({
        "spiffe_id": id, "owner": "you", "begin": "self",
        "scopes": ["secret:*", "tool:*"],
        "local": [{ "uid": uid }],
        "evidence": [{
            "kind": "local_user",
            "brokers": [format!("spiffe://{DOMAIN}/sundew/broker")],
            "claims": { "uid": [uid.to_string()] },
        }],
    });
    document.to_string()
}

/// Three commands that work once the shell has the environment: put a secret, run an agent with it,
/// and see that nothing is left.
pub(super) fn commands(local: &Local) -> Vec<String> {
    let sundew = sundew();
    let operator = shell_word(&local.operator_dir());
    vec![
        format!("printf %s hello | {sundew} --svid-dir {operator} secret put app/greeting"),
        format!(
            "{sundew} run --task 'say hello' --scope secret:app/greeting \
             --secret GREETING=app/greeting -- sh -c 'echo \"the secret: $GREETING\"'"
        ),
        format!("{sundew} --svid-dir {operator} task list"),
    ]
}

/// How a shell starts this program.
fn sundew() -> String {
    let Ok(own) = std::env::current_exe() else {
        return "sundew".to_owned();
    };
    let found = program_of(&["sundew".to_owned()]).and_then(|path| path.canonicalize().ok());
    match found == own.canonicalize().ok() {
        true => "sundew".to_owned(),
        false => shell_word(Path::new(&own)),
    }
}
