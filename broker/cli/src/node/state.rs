//! The node's task, and the identities that the broker delegates to the node while the task lives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use sundew_broker::enrollment::workload_api::Candidate;
use sundew_core::LocalSelector;
use sundew_core::client::{JwtBundle, SpiffeId};
use sundew_proto::v1::ListEntriesRequest;
use sundew_proto::v1::enrollment_service_client::EnrollmentServiceClient;
use sundew_sdk::{Agent, Task, Ttl};
use tokio::sync::watch;

use crate::client::status_error;

/// Time between two questions to the broker about what is delegated.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// Pause after the first failure to begin the node's task; each further failure doubles the pause.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// Longest pause between attempts to begin the node's task.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The node's task and entries at this moment. Without a task the node may do nothing.
#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) task: Option<Arc<Task>>,
    pub(super) entries: Entries,
}

/// The identities that the broker delegates to the node, and the keys of JWT-SVIDs by trust domain.
#[derive(Clone, Default)]
pub(super) struct Entries {
    pub(super) candidates: Vec<Candidate>,
    pub(super) jwt: HashMap<String, Arc<JwtBundle>>,
}

/// Holds a task for ever, and publishes the node's state whenever it changes.
pub(super) async fn hold_task(agent: &Agent, ttl: Ttl, publisher: &watch::Sender<State>) {
    let mut backoff = MIN_BACKOFF;
    loop {
        let begun = agent
            .task("serve local processes")
            .scope("node:serve")
            .ttl(ttl.to_std())
            .begin()
            .await;
        match begun {
            Ok(task) => {
                backoff = MIN_BACKOFF;
                tracing::info!(task = task.id(), "the node has proven its host");
                publish_until_ended(agent, Arc::new(task), publisher).await;
                // Nobody gets anything before the host is proven again.
                publisher.send_replace(State::default());
            }
            Err(error) => {
                tracing::error!(%error, "the node could not prove its host");
                tokio::time::sleep(backoff).await;
                backoff = backoff.saturating_mul(2).min(MAX_BACKOFF);
            }
        }
    }
}

/// Publishes the entries again and again until the task ends.
async fn publish_until_ended(agent: &Agent, task: Arc<Task>, publisher: &watch::Sender<State>) {
    let mut logged = String::new();
    loop {
        match list_entries(agent, task.id()).await {
            Ok(entries) => drop(publisher.send_replace(State {
                task: Some(Arc::clone(&task)),
                entries,
            })),
            // What was given stands until it ends; nothing new is given without the broker anyway.
            Err(error) if error.to_string() != logged => {
                logged = error.to_string();
                tracing::warn!(error = logged, "entries could not be read");
            }
            Err(_) => {}
        }
        tokio::select! {
            ended = task.ended() => {
                tracing::warn!(?ended, "the node's task has ended");
                return;
            }
            () = tokio::time::sleep(REFRESH_INTERVAL) => {}
        }
    }
}

/// Asks the broker for the entries of the node's task.
async fn list_entries(agent: &Agent, task: &str) -> Result<Entries> {
    let request = ListEntriesRequest {
        task_id: task.to_owned(),
    };
    let answer = EnrollmentServiceClient::new(agent.connection()?.channel())
        .list_entries(request)
        .await
        .map_err(status_error)?
        .into_inner();
    let mut candidates = Vec::new();
    for entry in answer.entries {
        let local = entry
            .selectors
            .iter()
            .map(|text| serde_json::from_str::<LocalSelector>(text))
            .collect::<Result<_, _>>()?;
        candidates.push(Candidate {
            id: SpiffeId::parse(&entry.spiffe_id)?,
            local,
            applied_at_ms: entry.applied_at_ms,
            // The broker lists what it gives.
            is_withheld: false,
        });
    }
    let jwt = answer.jwt_bundles.into_iter();
    let jwt = jwt.filter_map(|(domain, document)| match JwtBundle::parse(&document) {
        Ok(bundle) => Some((domain, Arc::new(bundle))),
        // I5: one trust domain's keys cost no other.
        Err(error) => {
            tracing::warn!(domain, %error, "keys for JWT-SVIDs cannot be used");
            None
        }
    });
    Ok(Entries {
        candidates,
        jwt: jwt.collect(),
    })
}
