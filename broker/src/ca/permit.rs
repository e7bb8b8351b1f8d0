//! Leave to give an identity.
//!
//! P1, P4: the CA issues for a permit and for nothing else, and a permit exists only after everything
//! was looked at that may forbid it: quarantines, rules about the certificate before, the
//! registration, and the grounds of the identity.

use std::sync::Arc;

use rustls_pki_types::DnsName;
use sundew_attestation::spiffe::{SpiffeId, VerifiedSvid};
use sundew_core::{
    AskedIdentity, GivenFor, Grounds, KnownTask, TaskId, WorkloadRecord, svid_marks,
};

use super::Ca;
use crate::clock;
use crate::refusal::Refusal;

/// What is shown for an identity.
pub(crate) enum Shown<'a> {
    /// The SVID before, and what that rests on.
    Before(&'a VerifiedSvid, &'a Grounds),
    /// Evidence of this moment.
    Fresh,
    /// A join token, which was made at this time, in milliseconds since the epoch.
    JoinToken(i64),
    /// A process on this machine, for which the kernel vouches.
    LocalProcess,
    /// The word of a node, which has this task.
    Node(&'a KnownTask),
}

/// Leave to give an identity at this moment, for these audiences if it is a JWT-SVID.
pub(crate) struct IdentityPermit {
    pub(super) id: SpiffeId,
    pub(super) audience: Vec<String>,
    /// The DNS names beside the identity: none but in the SVID of a broker.
    pub(super) dns_names: Vec<DnsName<'static>>,
    pub(super) grounds: Grounds,
    /// What rules find the identity by: the claims of the evidence that was shown, or what the SVID
    /// before says of its grounds.
    pub(super) claims: Vec<String>,
    /// The serial number of the SVID before, if that was shown.
    pub(super) serial: Option<Vec<u8>>,
    /// When what is shown counts no longer, in milliseconds since the epoch. No SVID outlives that.
    pub(super) ends_ms: i64,
}

impl IdentityPermit {
    /// For the program itself that has the CA.
    pub(super) fn own(id: &SpiffeId, dns_names: &[DnsName<'static>]) -> Self {
        Self {
            id: id.clone(),
            audience: Vec::new(),
            dns_names: dns_names.to_vec(),
            grounds: Grounds {
                since_ms: clock::now_ms(),
                node: None,
                marks: Vec::new(),
            },
            claims: Vec::new(),
            serial: None,
            ends_ms: i64::MAX,
        }
    }

    /// The identity.
    pub(crate) fn id(&self) -> &SpiffeId {
        &self.id
    }
}

impl Ca {
    /// Looks at everything that may forbid an identity.
    pub(crate) async fn permit(
        &self,
        id: &SpiffeId,
        shown: Shown<'_>,
        audience: &[String],
    ) -> Result<IdentityPermit, Refusal> {
        self.registration(id).await?;
        let now_ms = clock::now_ms();
        let (grounds, serial) = match shown {
            Shown::Before(svid, grounds) => (grounds.clone(), Some(svid.serial().to_vec())),
            Shown::Fresh => (given_for(GivenFor::Anything, None), None),
            Shown::JoinToken(made_ms) => {
                self.require_made_since(id, made_ms)?;
                (given_for(GivenFor::Anything, None), None)
            }
            Shown::LocalProcess => (given_for(GivenFor::LocalProcess, None), None),
            Shown::Node(task) => (given_for(GivenFor::NodeProcess, Some(task.id)), None),
        };
        let counts_until_ms = grounds.since_ms.saturating_add(self.renew_within.as_ms());
        if now_ms >= counts_until_ms {
            return Err(Refusal::GroundsTooOld);
        }
        let node_ends_ms = self.ledger.require_node(grounds.node).await?;
        let permit = IdentityPermit {
            id: id.clone(),
            audience: audience.to_vec(),
            dns_names: Vec::new(),
            claims: grounds.claims(),
            grounds,
            serial,
            ends_ms: counts_until_ms.min(node_ends_ms),
        };
        self.require_not_forbidden(&permit)?;
        Ok(permit)
    }

    /// Lets an identity rest on evidence with these claims, `named` among them, which a withdrawal can
    /// name (E9). A rule about any of them may forbid the identity (I1).
    pub(crate) fn rest_on<'a>(
        &self,
        mut permit: IdentityPermit,
        claims: Vec<String>,
        named: impl IntoIterator<Item = &'a str>,
    ) -> Result<IdentityPermit, Refusal> {
        permit.grounds.marks = svid_marks(named);
        permit.claims = claims;
        self.require_not_forbidden(&permit)?;
        Ok(permit)
    }

    /// AC-4A: looks again, after something was issued and before it is answered.
    pub(crate) async fn confirm(&self, permit: &IdentityPermit) -> Result<(), Refusal> {
        self.ledger.require_node(permit.grounds.node).await?;
        self.require_not_forbidden(permit)
    }

    /// The registration of an identity of this CA; refuses one that is not registered.
    pub(crate) async fn registration(&self, id: &SpiffeId) -> Result<Arc<WorkloadRecord>, Refusal> {
        let workload = self.ledger.records.workload(id).await?;
        workload
            .filter(|_| id.trust_domain() == &self.trust_domain)
            .ok_or(Refusal::Unregistered)
    }

    /// E9: refuses a join token that was made, at this time in milliseconds since the epoch, before the
    /// registration of its identity was deleted.
    pub(crate) fn require_made_since(&self, id: &SpiffeId, made_ms: i64) -> Result<(), Refusal> {
        let grounds = Grounds {
            since_ms: made_ms,
            ..given_for(GivenFor::Anything, None)
        };
        self.ledger.require_not_taken_back(id, &grounds)
    }

    fn require_not_forbidden(&self, permit: &IdentityPermit) -> Result<(), Refusal> {
        self.ledger
            .require_not_taken_back(&permit.id, &permit.grounds)?;
        self.ledger.require_not_forbidden(&AskedIdentity {
            id: Some(&permit.id),
            audience: &permit.audience,
            svid_serial: permit.serial.as_deref(),
            claims: &permit.claims,
        })
    }
}

/// The grounds of an identity that is given at this moment.
fn given_for(what: GivenFor<'_>, node: Option<TaskId>) -> Grounds {
    Grounds {
        since_ms: clock::now_ms(),
        node,
        marks: what.marks(),
    }
}
