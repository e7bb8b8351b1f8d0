//! Attend: a stream that keeps a task alive, moves it to a rotated SVID, and tells of its ending.

use std::sync::Arc;
use std::time::Duration;

use sundew_core::{Cause, Liveness};
use sundew_proto::v1;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use v1::attend_request::Request as Asked;
use v1::attend_response::Event as Told;

use super::Tasks;
use super::attendance::Attending;
use super::pace::Pace;
use super::prove::Proof;
use crate::clock;
use crate::journal;
use crate::peer::Peer;
use crate::records::Task;
use crate::refusal::Refusal;
use crate::wire;

/// The name of the RPC, for refusals.
const RPC: &str = "Attend";
/// Longest time between the opening of a stream and its first message, which names the task.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time between two looks at deadlines, which are not in the log.
const DEADLINE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The messages to the caller, the last of which may be a status that says why the stream ended.
pub(crate) type Answers = mpsc::Receiver<Result<v1::AttendResponse, Status>>;

/// Whether what an SVID rests on has ended for good.
fn is_end(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::NodeGone | Refusal::GroundsWithdrawn)
        || matches!(refusal, Refusal::TaskDead(cause) if *cause != Cause::Suspended)
}

impl Tasks {
    /// Serves one stream; answers once the task is known to be the caller's.
    pub(crate) async fn attend(
        self: Arc<Self>,
        peer: Arc<Peer>,
        mut asked: Streaming<v1::AttendRequest>,
    ) -> Result<Answers, Refusal> {
        let first = tokio::time::timeout(START_TIMEOUT, asked.message()).await;
        let Ok(Ok(Some(v1::AttendRequest {
            request: Some(Asked::Start(start)),
        }))) = first
        else {
            return Err(Refusal::invalid(
                "request",
                "the first message must be `start`",
            ));
        };
        let task = self.own_task(&peer, &start.task_id).await?;
        let attending = self.attendance.attend(&task);
        let mut proof = self.proof(&task, &start.proof)?;
        let (answers, receiver) = mpsc::channel(8);
        let accepted = v1::AttendAccepted {
            grace_ms: task.grace_ms,
        };
        let _ = answers.send(Ok(told(Told::Accepted(accepted)))).await;
        tokio::spawn(async move {
            if let Err(refusal) = self
                .follow(&peer, &task, &attending, &mut proof, &mut asked, &answers)
                .await
            {
                let status = self.refusals.refuse(RPC, Some(&peer), &refusal);
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(receiver)
    }

    /// Serves a stream until the task has ended, the caller is gone, or the caller is refused.
    async fn follow(
        &self,
        peer: &Peer,
        task: &Task,
        attending: &Attending,
        proof: &mut Proof,
        asked: &mut Streaming<v1::AttendRequest>,
        answers: &mpsc::Sender<Result<v1::AttendResponse, Status>>,
    ) -> Result<(), Refusal> {
        let grace = Duration::from_millis(u64::try_from(task.grace_ms).unwrap_or(0));
        let mut heard = clock::monotonic();
        let mut pace = Pace::new(heard);
        let mut told_suspended = false;
        let mut told_unreported = heard;
        // In half a grace there is time for several attempts elsewhere.
        let look_again = DEADLINE_CHECK_INTERVAL.min(grace / 8);
        loop {
            // Waited for before the look: an entry that comes between the two is not missed.
            let news = attending.news.notified();
            match self.news_of(task) {
                News::Ended(outcome) => {
                    let _ = answers
                        .send(Ok(told(Told::Ended(v1::TaskEnded {
                            outcome: outcome.into(),
                        }))))
                        .await;
                    return Ok(());
                }
                News::Suspended if !told_suspended => {
                    told_suspended = true;
                    let _ = answers
                        .send(Ok(told(Told::Suspended(v1::TaskSuspended {}))))
                        .await;
                }
                News::Suspended | News::Unknown => {}
                News::Alive => {
                    if std::mem::take(&mut told_suspended) {
                        // It was resumed, on fresh evidence.
                        proof.renew();
                    }
                }
            }
            match self.look_at_proof(task, proof, told_suspended).await {
                Ok(None) => {}
                Ok(Some(wanted)) => drop(answers.send(Ok(told(Told::ProofWanted(wanted)))).await),
                // Looked at again at the next turn.
                Err(error) => {
                    tracing::debug!(%error, task = %task.id, "evidence could not be asked for")
                }
            }
            // L12: again and again, since the caller may be led back to this broker.
            if attending.is_unreported() && clock::since(told_unreported) >= grace / 8 {
                told_unreported = clock::monotonic();
                let unreported = Told::Unreported(v1::AttendUnreported {});
                let _ = answers.send(Ok(told(unreported))).await;
            }
            // What the store has lost lives for nobody.
            if attending.is_in_question() && self.ledger.log.view().is_ok() {
                match self.own_task(peer, &task.id.to_string()).await {
                    Ok(_) => attending.is_there(),
                    Err(Refusal::NotFound(what)) => return Err(Refusal::NotFound(what)),
                    // Looked at again at the next turn.
                    Err(error) => tracing::debug!(%error, task = %task.id, "could not be read"),
                }
            }
            // P7: a stream is looked at like a call. An agent that is silent for its grace is not
            // there (T81).
            peer.check(&self.trust, clock::now_ms())?;
            // An outage and a suspension end nothing here (L12).
            let grounds = self.ledger.require_grounds(peer.id(), peer.grounds());
            if let Err(refusal) = grounds.await
                && is_end(&refusal)
            {
                return Err(refusal);
            }
            if clock::since(heard) > grace {
                return Ok(());
            }
            let wait = pace.wait(clock::monotonic());
            tokio::select! {
                () = news => {}
                () = tokio::time::sleep(if wait.is_zero() { look_again } else { wait }) => {}
                () = answers.closed() => return Ok(()),
                message = asked.message(), if wait.is_zero() => match message {
                    Ok(Some(message)) => {
                        heard = clock::monotonic();
                        pace.count(heard);
                        self.hear(peer, task, proof, message, answers).await?;
                    }
                    Ok(None) | Err(_) => return Ok(()),
                },
            }
        }
    }

    /// Says what the log has of a task, for its stream.
    fn news_of(&self, task: &Task) -> News {
        // An agent that is told of an end stops for good.
        let now_ms = self.ledger.log.ending_time_ms();
        // L7: what is in force here is, also on a view that is stale and while it is pending.
        let latest = self.ledger.log.latest_view();
        if let Liveness::Dead(cause) = latest.task_liveness(task, now_ms) {
            return News::Ended(wire::outcome_message(cause.outcome()));
        }
        if latest.is_suspended(task) {
            return News::Suspended;
        }
        drop(latest);
        // A view that is stale for a moment is no reason to drop the stream; nothing else is said
        // from it.
        match self.ledger.log.view() {
            Ok(_) => News::Alive,
            Err(_) => News::Unknown,
        }
    }

    /// Takes a message of the caller.
    async fn hear(
        &self,
        peer: &Peer,
        task: &Task,
        proof: &mut Proof,
        message: v1::AttendRequest,
        answers: &mpsc::Sender<Result<v1::AttendResponse, Status>>,
    ) -> Result<(), Refusal> {
        match message.request {
            Some(Asked::Ping(_)) => Ok(()),
            Some(Asked::Start(_)) | None => Err(Refusal::invalid(
                "request",
                "must be `ping`, `rotate` or `prove`",
            )),
            Some(Asked::Prove(prove)) => {
                // A5: what costs as much as a call counts as one.
                peer.require_rate()?;
                if self.prove(peer, task, proof, prove).await? {
                    proof.renew();
                    let _ = answers
                        .send(Ok(told(Told::Proven(v1::Proven {
                            proof: self.proof_ticket(task),
                        }))))
                        .await;
                }
                Ok(())
            }
            Some(Asked::Rotate(rotate)) => {
                peer.require_rate()?;
                // AC-26: the holder of the old SVID says which one comes next; nobody else can.
                let certificate: [u8; 32] = rotate
                    .certificate_sha256
                    .as_slice()
                    .try_into()
                    .map_err(|_| Refusal::invalid("certificate_sha256", "must be 32 bytes"))?;
                self.ledger.require_usable(task)?;
                let record = journal::record("binding_rotated")
                    .with("task", task.id)
                    .with("workload", peer.id());
                self.ledger
                    .journal
                    .write(record.with("certificate_sha256", sundew_attestation::hex(&certificate)))
                    .await?;
                self.ledger.records.bind_task(task, certificate).await?;
                let _ = answers
                    .send(Ok(told(Told::Rotated(v1::BindingRotated {
                        certificate_sha256: rotate.certificate_sha256,
                    }))))
                    .await;
                Ok(())
            }
        }
    }
}

/// The state of a task, as its stream tells it.
enum News {
    Alive,
    Ended(v1::Outcome),
    Suspended,
    /// The view is not fresh: what was known stays known. L9: a task that is suspended does not count
    /// as resumed, and renews no proof.
    Unknown,
}

/// An event as a message of the stream.
fn told(event: Told) -> v1::AttendResponse {
    v1::AttendResponse { event: Some(event) }
}
