//! SVIDs from the embedded CA: for a join token, for evidence, for the SVID before, or for a local
//! process that the kernel vouches for.
//!
//! P1: only registered workloads get an SVID, and a join token is good once, for a short time, for
//! one SPIFFE ID.

mod ca_keys;
mod executable;
mod grpc_c_authority;
mod join_token;
mod local_places;
pub mod local_process;
#[cfg(test)]
mod local_process_tests;
mod local_user;
mod own_identities;
mod owner;
mod program;
mod sender;
#[cfg(test)]
mod tests;
pub mod workload_api;

use std::sync::Arc;

use sundew_attestation::spiffe::SpiffeId;
use sundew_attestation::{BindingPurpose, Claims};
use sundew_proto::v1;
use tokio::sync::Semaphore;

use crate::ca::{Ca, IdentityPermit, IssuedSvid, Shown};
use crate::evidence::{Evidence, Presentation, attested_digests};
use crate::journal;
use crate::ledger::Ledger;
use crate::peer::{Channel, Peer, Trust};
use crate::refusal::Refusal;
use crate::refusal_recorder::RefusalRecorder;
use crate::task::Tasks;
pub(crate) use local_user::LocalUsers;
pub(crate) use own_identities::OwnIdentities;
pub use owner::{BreakGlass, Person};
pub(crate) use owner::{Owner, OwnerSocket, OwnerSvids};

/// The room of those who have no SVID yet, and of those who renew theirs.
pub(crate) struct Enrollment {
    ledger: Ledger,
    ca: Option<Arc<Ca>>,
    /// P12: anybody may come here, so their work is bounded apart from that of workloads.
    enroll_permits: Arc<Semaphore>,
    evidence: Arc<Evidence>,
    issue_permits: Arc<Semaphore>,
    refusals: RefusalRecorder,
    tasks: Arc<Tasks>,
    trust: Arc<Trust>,
}

/// The rooms and bounds that [`Enrollment`] uses.
pub(crate) struct EnrollmentUse {
    pub(crate) enroll_permits: Arc<Semaphore>,
    pub(crate) evidence: Arc<Evidence>,
    pub(crate) issue_permits: Arc<Semaphore>,
    pub(crate) refusals: RefusalRecorder,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) trust: Arc<Trust>,
}

impl Enrollment {
    /// A room that issues by this CA; without a CA it refuses every call.
    pub(crate) fn new(ledger: Ledger, ca: Option<Arc<Ca>>, uses: EnrollmentUse) -> Self {
        let EnrollmentUse {
            enroll_permits,
            evidence,
            issue_permits,
            refusals,
            tasks,
            trust,
        } = uses;
        Self {
            ledger,
            ca,
            enroll_permits,
            evidence,
            issue_permits,
            refusals,
            tasks,
            trust,
        }
    }

    /// The embedded CA; refuses where there is none.
    pub(crate) fn own_ca(&self) -> Result<&Ca, Refusal> {
        self.ca
            .as_deref()
            .ok_or(Refusal::Unsupported("embedded CA"))
    }

    /// Answers a nonce for evidence, on the connection of a caller without an SVID. P11: the answer
    /// says nothing of who may enroll with which evidence.
    pub(crate) fn enroll_challenge(
        &self,
        channel: &Channel,
    ) -> Result<v1::EnrollChallengeResponse, Refusal> {
        self.own_ca()?;
        let (nonce, expires_at_ms) = channel.challenge()?;
        Ok(v1::EnrollChallengeResponse {
            nonce: nonce.to_vec(),
            expires_at_ms,
            audience: self.evidence.audience().to_owned(),
        })
    }

    /// Issues the first SVID, for a join token or for evidence.
    pub(crate) async fn enroll(
        self: Arc<Self>,
        channel: &Channel,
        request: v1::EnrollRequest,
    ) -> Result<v1::EnrollResponse, Refusal> {
        let ca = self.own_ca()?;
        // P2: the nonce is gone from here on, whatever else is wrong.
        let challenged = !request.nonce.is_empty() && channel.consume(&request.nonce);
        if !request.join_token.is_empty() || request.spiffe_id.is_empty() {
            let permit = self.redeem(&request.join_token).await?;
            return Ok(v1::EnrollResponse {
                svid: Some(self.issue(&permit, &request.csr, "join_token").await?),
            });
        }
        let id =
            SpiffeId::parse(&request.spiffe_id).map_err(|e| Refusal::invalid("spiffe_id", e))?;
        if !challenged {
            return Err(Refusal::Challenge);
        }
        // P12: a caller without an SVID costs the verification of evidence, so a few come in at a
        // time.
        let _permit = self
            .enroll_permits
            .try_acquire()
            .map_err(|_| Refusal::Overload)?;
        // A9: what is wrong with the request itself is told before anything that depends on who is
        // registered.
        let public_key = Ca::public_key_of(&request.csr)?;
        let workload = ca.registration(&id).await?;
        // E8: also where the registration is from a time that took more.
        let registration = &workload.registration;
        let policy = registration.enrollment_policy();
        if !registration.enrollment.is_empty() && !policy.identifies() {
            return Err(sundew_core::Denial::NotFresh.into());
        }
        // Before evidence is used up that is good once.
        let permit = ca.permit(&id, Shown::Fresh, &[]).await?;
        let presentation = Presentation {
            workload: &workload,
            public_key: &public_key,
            channel,
            nonce: &request.nonce,
            evidence: &request.evidence,
            purpose: BindingPurpose::Enroll,
        };
        let attested = self.evidence.attest(presentation).await?;
        let named = policy.withdrawable(attested.claims());
        let claims = attested.claims().iter().flat_map(Claims::texts).collect();
        let permit = ca.rest_on(permit, claims, named.iter().map(String::as_str))?;
        let grounds = format!("evidence: {}", attested_digests(&attested).join(" "));
        Ok(v1::EnrollResponse {
            svid: Some(self.issue(&permit, &request.csr, &grounds).await?),
        })
    }

    /// Issues the next SVID of a workload that has one. I1: what was shown for the first one counts
    /// for a while, and a rule about the SVID before is not shaken off.
    pub(crate) async fn renew(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::RenewRequest,
    ) -> Result<v1::RenewResponse, Refusal> {
        let grounds = peer.grounds().ok_or(Refusal::GroundsTooOld)?;
        let shown = Shown::Before(peer.svid(), grounds);
        let permit = self.own_ca()?.permit(peer.id(), shown, &[]).await?;
        Ok(v1::RenewResponse {
            svid: Some(self.issue(&permit, &request.csr, "renewal").await?),
        })
    }

    /// Issues an SVID for the key of a CSR, and puts it on the record. `grounds` says why the ID is
    /// the caller's.
    pub(crate) async fn issue(
        &self,
        permit: &IdentityPermit,
        csr: &[u8],
        grounds: &str,
    ) -> Result<v1::Svid, Refusal> {
        let (ca, id) = (self.own_ca()?, permit.id());
        let svid = ca.issue_for_csr(permit, csr)?;
        self.record_svid(id, &svid, grounds).await?;
        ca.confirm(permit).await?;
        Ok(v1::Svid {
            spiffe_id: id.to_string(),
            certificates: svid.chain.iter().map(|c| c.to_vec()).collect(),
            bundle: svid.bundle.iter().map(|c| c.to_vec()).collect(),
            not_after_ms: svid.not_after_ms,
        })
    }

    /// Puts an SVID on the record (P10).
    pub(crate) async fn record_svid(
        &self,
        id: &SpiffeId,
        svid: &IssuedSvid,
        grounds: &str,
    ) -> Result<(), Refusal> {
        self.record_as("svid_issued", id, svid, grounds).await
    }

    /// Puts an SVID of an operator on the record, also where the journal's disk has nothing left but
    /// the reserve (P12): whoever gets it makes room, and ends what has to end.
    pub(super) async fn record_operator_svid(
        &self,
        id: &SpiffeId,
        svid: &IssuedSvid,
        grounds: &str,
    ) -> Result<(), Refusal> {
        self.record_as("operator_svid_issued", id, svid, grounds)
            .await
    }

    async fn record_as(
        &self,
        event: &str,
        id: &SpiffeId,
        svid: &IssuedSvid,
        grounds: &str,
    ) -> Result<(), Refusal> {
        let thumbprint = svid
            .chain
            .first()
            .map(|leaf| sundew_attestation::spiffe::thumbprint(leaf))
            .unwrap_or_default();
        let record = journal::record(event)
            .with("workload", id)
            .with("grounds", grounds)
            .with("not_after_ms", svid.not_after_ms);
        Ok(self
            .ledger
            .journal
            .write(record.with("certificate_sha256", sundew_attestation::hex(&thumbprint)))
            .await?)
    }
}
