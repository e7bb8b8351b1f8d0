//! Attending a task: a stream to the broker that is kept open, moved to each new SVID, and listened
//! to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sundew_core::client::BindingPurpose;
use sundew_proto::v1::attend_request::Request;
use sundew_proto::v1::attend_response::Event;
use sundew_proto::v1::{AttendPing, AttendRequest, AttendStart, Prove, RotateBinding};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::Shared;
use crate::agent::Agent;
use crate::call::client;
use crate::ended::Ended;

/// How a stream came to its end.
enum Over {
    /// The task has ended.
    Ended(Ended),
    /// The task was moved to a new SVID; go on with that.
    Moved,
    /// The stream broke.
    Broken,
}

pub(super) async fn attend(agent: Agent, shared: Arc<Shared>) {
    let mut heard = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        match stream(&agent, &shared, &mut heard).await {
            Over::Ended(ended) => {
                shared.ended.send_replace(Some(ended));
                return;
            }
            Over::Moved => pause = Duration::from_millis(50),
            Over::Broken => {
                // Beyond this the broker has ended the task, whether we hear of it or not.
                if heard.elapsed() > shared.grace.saturating_mul(3) {
                    shared.ended.send_replace(Some(Ended::Lost));
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(shared.grace / 4);
            }
        }
    }
}

async fn stream(agent: &Agent, shared: &Shared, heard: &mut Instant) -> Over {
    let connection = shared.connection.load_full();
    let (asked, requests) = mpsc::channel(8);
    let ask = |request: Request| {
        asked.try_send(AttendRequest {
            request: Some(request),
        })
    };
    let _ = ask(Request::Start(AttendStart {
        task_id: shared.id.clone(),
        proof: shared.proof.load().to_vec(),
    }));
    let mut answers = match client(&connection)
        .attend(ReceiverStream::new(requests))
        .await
    {
        Ok(answers) => answers.into_inner(),
        Err(status)
            if matches!(
                status.code(),
                Code::PermissionDenied | Code::Unauthenticated
            ) =>
        {
            return Over::Ended(Ended::Lost);
        }
        Err(_) => return Over::Broken,
    };
    let mut identities = agent.identities();
    let mut next = None;
    loop {
        let current = identities.current();
        if next.is_none() && current.chain() != connection.identity().chain() {
            // Said on the old SVID's connection, before the new one is used.
            let _ = ask(Request::Rotate(RotateBinding {
                certificate_sha256: current.thumbprint().to_vec(),
            }));
            next = Some(current);
        }
        tokio::select! {
            () = identities.changed() => {}
            () = tokio::time::sleep(shared.grace / 3) => {
                if ask(Request::Ping(AttendPing {})).is_err() {
                    return Over::Broken;
                }
            }
            answer = answers.message() => {
                match answer {
                    Ok(Some(answer)) => {
                        *heard = Instant::now();
                        match answer.event {
                            Some(Event::Ended(ended)) => return Over::Ended(Ended::of(ended.outcome())),
                            Some(Event::Rotated(_)) => match agent.connection() {
                                Ok(fresh) => {
                                    // The old token is bound to the old SVID and dies with it.
                                    match super::mint(&fresh, &shared.id, super::MintTokenRequest::default()).await {
                                        Ok(token) => shared.token.store(Arc::new(token)),
                                        Err(error) => tracing::warn!(%error, "no token for the new SVID yet; mint one"),
                                    }
                                    shared.connection.store(fresh);
                                    return Over::Moved;
                                }
                                Err(error) => tracing::warn!(%error, "no connection with the new SVID"),
                            },
                            Some(Event::ProofWanted(wanted)) => {
                                // Beside the stream: collecting takes its time, and pings must go on.
                                let (agent, connection, asked) = (agent.clone(), Arc::clone(&connection), asked.clone());
                                tokio::spawn(async move {
                                    let purpose = BindingPurpose::Prove;
                                    match agent.answer(&connection, purpose, &wanted.nonce, &wanted.evidence_sets, &wanted.audience).await {
                                        Ok(evidence) => {
                                            let prove = Prove { nonce: wanted.nonce, evidence };
                                            let _ = asked.send(AttendRequest { request: Some(Request::Prove(prove)) }).await;
                                        }
                                        Err(error) => tracing::warn!(%error, "the broker wants fresh evidence; without it the task is suspended"),
                                    }
                                });
                            }
                            Some(Event::Proven(proven)) => shared.proof.store(Arc::new(proven.proof)),
                            Some(Event::Accepted(_) | Event::Suspended(_)) | None => {}
                        }
                    }
                    Err(status) if status.code() == Code::PermissionDenied => return Over::Ended(Ended::Lost),
                    Ok(None) | Err(_) => return Over::Broken,
                }
            }
        }
    }
}
