//! SVIDs from the embedded CA: for a join token, for the SVID before, or for a local process that
//! the kernel vouches for.
//!
//! P1: only registered workloads get one, and a join token is good once, for a short time, for one
//! SPIFFE ID.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use sundew_attestation::BindingPurpose;
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{RootKey, SealError};
use sundew_proto::v1;

use crate::broker::Broker;
use crate::ca::{Ca, CaError, IssuedSvid};
use crate::clock;
use crate::evidence::Showing;
use crate::journal;
use crate::peer::{Channel, Peer};
use crate::refusal::Refusal;

const PREFIX: &str = "sdj_";

impl Broker {
    /// A join token says whose it is and until when, in the clear, and is tagged under the root
    /// key; 128 bits make it unique.
    pub(crate) fn join_token(&self, id: &SpiffeId, expires_at_ms: i64) -> Result<String, Refusal> {
        let text = format!("{expires_at_ms} {} {id}", crate::broker::random_name()?);
        Ok(format!(
            "{PREFIX}{}",
            URL_SAFE_NO_PAD.encode(self.root().tag(&[b"join"], text.into_bytes()))
        ))
    }

    async fn redeem(&self, token: &str) -> Result<SpiffeId, Refusal> {
        let parsed = parse_join_token(self.root(), token).ok_or(Refusal::JoinToken)?;
        let mut name = [0; 32];
        name.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        if clock::now_ms() >= parsed.1 || !self.records.store().consume(&name, parsed.1).await? {
            return Err(Refusal::JoinToken);
        }
        Ok(parsed.0)
    }

    pub(crate) fn own_ca(&self) -> Result<&Ca, Refusal> {
        self.ca.as_ref().ok_or(Refusal::Unsupported("embedded CA"))
    }

    /// A nonce for evidence, on the connection of somebody who has no SVID yet. P11: it says
    /// nothing of who may enroll with what.
    pub(crate) fn enroll_challenge(
        &self,
        channel: &Channel,
    ) -> Result<v1::EnrollChallengeResponse, Refusal> {
        self.own_ca()?;
        let (nonce, expires_at_ms) = channel.challenge()?;
        Ok(v1::EnrollChallengeResponse {
            nonce: nonce.to_vec(),
            expires_at_ms,
            audience: self.audience.clone(),
        })
    }

    /// The first SVID, for a join token or for evidence.
    pub(crate) async fn enroll(
        self: Arc<Self>,
        channel: &Channel,
        request: v1::EnrollRequest,
    ) -> Result<v1::EnrollResponse, Refusal> {
        let ca = self.own_ca()?;
        // P2: the nonce is gone from here on, whatever else is wrong.
        let challenged = !request.nonce.is_empty() && channel.consume(&request.nonce);
        if !request.join_token.is_empty() || request.spiffe_id.is_empty() {
            let id = self.redeem(&request.join_token).await?;
            return Ok(v1::EnrollResponse {
                svid: Some(self.issue(&id, &request.csr, "join_token").await?),
            });
        }
        let id =
            SpiffeId::parse(&request.spiffe_id).map_err(|e| Refusal::invalid("spiffe_id", e))?;
        if !challenged {
            return Err(Refusal::Challenge);
        }
        // P12: anybody may come here, so what they cost is bounded apart from what workloads cost.
        let _place = self
            .enrolling
            .try_acquire()
            .map_err(|_| Refusal::Overload)?;
        let workload = self
            .records
            .workload(&id)
            .await?
            .ok_or(Refusal::Unregistered)?;
        let public_key = Ca::public_key_of(&request.csr).map_err(ca_refusal)?;
        self.registered_here(&id, ca).await?;
        let showing = Showing {
            workload: &workload,
            public_key: &public_key,
            channel,
            nonce: &request.nonce,
            evidence: &request.evidence,
            purpose: BindingPurpose::Enroll,
        };
        let attested = self.attest(showing).await?;
        let grounds = format!(
            "evidence: {}",
            crate::task::evidence_of(&attested).join(" ")
        );
        Ok(v1::EnrollResponse {
            svid: Some(self.issue(&id, &request.csr, &grounds).await?),
        })
    }

    /// The next SVID of a workload that has one.
    pub(crate) async fn renew(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: v1::RenewRequest,
    ) -> Result<v1::RenewResponse, Refusal> {
        Ok(v1::RenewResponse {
            svid: Some(self.issue(peer.id(), &request.csr, "renewal").await?),
        })
    }

    pub(crate) async fn issue(
        &self,
        id: &SpiffeId,
        csr: &[u8],
        grounds: &str,
    ) -> Result<v1::Svid, Refusal> {
        let ca = self.own_ca()?;
        self.registered_here(id, ca).await?;
        let svid = ca.issue_for_csr(id, csr).map_err(ca_refusal)?;
        self.record_svid(id, &svid, grounds).await?;
        Ok(v1::Svid {
            spiffe_id: id.to_string(),
            certificates: svid.chain.iter().map(|c| c.to_vec()).collect(),
            bundle: svid.bundle.iter().map(|c| c.to_vec()).collect(),
            not_after_ms: svid.not_after_ms,
        })
    }

    pub(crate) async fn registered_here(&self, id: &SpiffeId, ca: &Ca) -> Result<(), Refusal> {
        if id.trust_domain() != ca.trust_domain() || self.records.workload(id).await?.is_none() {
            return Err(Refusal::Unregistered);
        }
        Ok(())
    }

    pub(crate) async fn record_svid(
        &self,
        id: &SpiffeId,
        svid: &IssuedSvid,
        grounds: &str,
    ) -> Result<(), Refusal> {
        let thumbprint = svid
            .chain
            .first()
            .map(|leaf| sundew_attestation::spiffe::thumbprint(leaf))
            .unwrap_or_default();
        let record = journal::record("svid_issued")
            .with("workload", id)
            .with("grounds", grounds)
            .with("not_after_ms", svid.not_after_ms);
        Ok(self
            .journal
            .write(record.with("certificate_sha256", sundew_attestation::hex(&thumbprint)))
            .await?)
    }
}

pub(crate) fn ca_refusal(error: CaError) -> Refusal {
    match error {
        CaError::Csr => Refusal::invalid("csr", error),
        CaError::Store(error) => error.into(),
        CaError::Seal(cause) => Refusal::Seal {
            what: "CA key",
            cause,
        },
        CaError::Certificate(_) | CaError::Jwt(_) | CaError::Own(_) => {
            tracing::error!(%error, "the embedded CA could not issue");
            Refusal::Seal {
                what: "SVID",
                cause: SealError::Opening,
            }
        }
    }
}

fn parse_join_token(root: &RootKey, token: &str) -> Option<(SpiffeId, i64)> {
    if token.len() > 4096 {
        return None;
    }
    let tagged = URL_SAFE_NO_PAD.decode(token.strip_prefix(PREFIX)?).ok()?;
    let text = std::str::from_utf8(root.untag(&[b"join"], &tagged).ok()?).ok()?;
    let mut parts = text.splitn(3, ' ');
    let expires_at_ms = parts.next()?.parse().ok()?;
    let id = SpiffeId::parse(parts.nth(1)?).ok()?;
    Some((id, expires_at_ms))
}
