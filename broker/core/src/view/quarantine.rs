//! The part of the view that says what a quarantine forbids.

use sundew_attestation::spiffe::SpiffeId;

use super::View;
use crate::selector::{
    Attribute, Grounds, Subject, audience_attributes, serial_attribute, workload_attributes,
};
use crate::subject::{KnownTask, KnownToken};

/// An identity that somebody asks for, as rules see it.
#[derive(Clone, Copy, Debug, Default)]
pub struct AskedIdentity<'a> {
    /// The SPIFFE ID; none where the caller has none and asks for something else.
    pub id: Option<&'a SpiffeId>,
    /// The audiences, if it is given as a JWT-SVID.
    pub audience: &'a [String],
    /// The big-endian serial number of the SVID that is shown, if one is.
    pub svid_serial: Option<&'a [u8]>,
    /// What it rests on: the claims of evidence of this moment, each as `<kind>.<claim>=<value>`, or
    /// those of the SVID that is shown, as [`svid_claim`](crate::svid_claim) writes them.
    pub claims: &'a [String],
}

impl View {
    /// Returns whether a quarantine forbids to begin this task or to issue anything in it. A
    /// quarantine of a task that it was delegated from counts too.
    #[must_use]
    pub fn is_quarantined(&self, task: &KnownTask) -> bool {
        self.rules.any_quarantine()
            && task
                .chain()
                .any(|each| self.rules.is_quarantined(&each.subject()))
    }

    /// Returns whether a quarantine forbids to mint this token.
    #[must_use]
    pub fn is_token_quarantined(&self, token: &KnownToken) -> bool {
        self.rules.any_quarantine()
            && (self.rules.is_quarantined(&token.subject()) || self.is_quarantined(token.task()))
    }

    /// Returns whether a rule forbids to give an identity at `now_ms`, in milliseconds since the
    /// epoch.
    ///
    /// A quarantine forbids that. A suspension forbids JWT-SVIDs; whoever is suspended keeps an
    /// X.509-SVID, without which no task could be resumed, and which gives nothing else meanwhile.
    /// Where an SVID is shown, each rule forbids it that names its serial number, or that of another
    /// renewal of it, and kills something: otherwise its holder would shake the rule off by a renewal
    /// (I1).
    #[must_use]
    pub fn forbids_identity(&self, asked: &AskedIdentity<'_>, now_ms: i64) -> bool {
        let serial = asked.svid_serial.map(serial_attribute);
        if !self.rules.any_quarantine() && serial.is_none() {
            return false;
        }
        let mut identity = asked.id.map(workload_attributes).unwrap_or_default();
        identity.extend(serial.clone());
        let claims = asked.claims.iter();
        identity.extend(claims.map(|claim| Attribute::Claim(claim.as_str().into())));
        let audience = audience_attributes(asked.audience);
        let subject = Subject {
            position: self.applied,
            issued_at_ms: now_ms,
            task: &identity,
            own: &audience,
        };
        let is_quarantined = match audience.is_empty() {
            true => self.rules.is_quarantined_for_good(&subject),
            false => self.rules.is_quarantined(&subject),
        };
        is_quarantined || serial.is_some_and(|serial| self.rules.revokes_for(&serial, &subject))
    }

    /// Returns whether a rule takes back what an identity rests on.
    #[must_use]
    pub fn takes_grounds_back(&self, id: &SpiffeId, grounds: &Grounds) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let claims = grounds.claims().into_iter();
        let claims: Vec<_> = claims.map(|claim| Attribute::Claim(claim.into())).collect();
        let mut identity = workload_attributes(id);
        identity.extend(claims.iter().cloned());
        let subject = Subject {
            position: self.applied,
            issued_at_ms: grounds.since_ms,
            task: &identity,
            own: &[],
        };
        claims
            .iter()
            .any(|claim| self.rules.takes_back(claim, &subject))
    }
}
