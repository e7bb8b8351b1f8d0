//! An SVID of an operator for an emergency: on the word of two persons, who sign the same statement.
//!
//! P2: the statement is of this moment and about one key; it is good once, for a while, and at the
//! broker that made it.

use std::sync::PoisonError;

use serde_json::json;
use sundew_attestation::dsse::{Envelope, VerifyingKey};
use sundew_attestation::json;
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::Ttl;
use sundew_proto::v1;

use super::{Owner, OwnerError, message};
use crate::ca::Ca;
use crate::clock;
use crate::journal;
use crate::peer::new_nonce;

/// The payload type of the envelope that two persons sign.
pub(super) const PAYLOAD_TYPE: &str = "application/vnd.sundew.break-glass.v1+json";
/// How many persons have to sign.
const PERSONS: usize = 2;
/// How long a statement waits for its signatures.
const WAIT: Ttl = Ttl::QUARTER_HOUR;
/// The longest life of an SVID for an emergency.
const LONGEST: Ttl = Ttl::HOUR;
/// The largest envelope, and the longest reason, in bytes.
const MAX_ENVELOPE: usize = 64 << 10;
const MAX_REASON: usize = 1024;

/// Who may give an SVID in an emergency, and whose it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BreakGlass {
    /// An operator of the configuration, who is no workload.
    pub spiffe_id: SpiffeId,
    /// At least two persons, with different names and different keys.
    pub persons: Vec<Person>,
}

/// A person who may sign.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// The name, for the record.
    pub name: String,
    /// The public key in PEM: Ed25519, ECDSA on P-256 or P-384, or RSA.
    pub key: String,
}

/// What was asked for, and waits for signatures.
pub(super) struct Asked {
    /// Exactly these bytes have to be signed.
    statement: Vec<u8>,
    csr: Vec<u8>,
    reason: String,
    expires_ms: i64,
}

impl Owner {
    /// Makes the statement that has to be signed. A later one takes its place.
    pub(super) async fn ask_break_glass(
        &self,
        uid: u32,
        request: v1::AskBreakGlassRequest,
    ) -> Result<v1::AskBreakGlassResponse, OwnerError> {
        self.require_owner(uid)?;
        let id = self.emergency(&request.spiffe_id).await?.spiffe_id.clone();
        let reason = request.reason;
        let is_line = !reason.trim().is_empty() && !reason.contains(char::is_control);
        if !is_line || reason.len() > MAX_REASON {
            return Err(OwnerError::Reason);
        }
        let public_key = Ca::public_key_of(&request.csr)?;
        let key = ring::digest::digest(&ring::digest::SHA256, &public_key);
        let expires_ms = clock::now_ms().saturating_add(WAIT.as_ms());
        let statement = json!({
            "type": PAYLOAD_TYPE,
            "spiffe_id": id,
            "reason": reason,
            "nonce": sundew_attestation::hex(&new_nonce()?),
            "key": sundew_attestation::hex(key.as_ref()),
            "expires_ms": expires_ms,
        });
        let statement = statement.to_string().into_bytes();
        let record = journal::record("break_glass_asked")
            .with("operator", &id)
            .with("reason", &reason);
        self.enrollment
            .ledger
            .journal
            .write(record)
            .await
            .map_err(crate::refusal::Refusal::from)?;
        tracing::error!(operator = %id, uid, reason, "ALARM: an emergency's SVID is asked for");
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Asked {
            statement: statement.clone(),
            csr: request.csr,
            reason,
            expires_ms,
        });
        Ok(v1::AskBreakGlassResponse {
            statement,
            payload_type: PAYLOAD_TYPE.to_owned(),
            expires_at_ms: expires_ms,
        })
    }

    /// Issues what was asked for, if two persons have signed it.
    pub(super) async fn break_glass(
        &self,
        uid: u32,
        request: v1::BreakGlassRequest,
    ) -> Result<v1::Svid, OwnerError> {
        self.require_owner(uid)?;
        let break_glass = self.emergency("").await?;
        let id = &break_glass.spiffe_id;
        let malformed = |e: &dyn std::fmt::Display| OwnerError::Malformed(e.to_string());
        let envelope: Envelope =
            json::read(&request.envelope, MAX_ENVELOPE).map_err(|e| malformed(&e))?;
        let payload = envelope.unverified_payload().map_err(|e| malformed(&e))?;
        let persons = signers(&break_glass.persons, &envelope);
        let asked = self.take_asked(&payload, &persons)?;
        let persons = persons.join(", ");
        let ends_ms = clock::now_ms().saturating_add(LONGEST.as_ms());
        let ca = self.enrollment.own_ca()?;
        let record = journal::record("break_glass")
            .with("operator", id)
            .with("persons", &persons)
            .with("reason", &asked.reason);
        self.enrollment
            .ledger
            .journal
            .write(record)
            .await
            .map_err(crate::refusal::Refusal::from)?;
        let svid = ca.issue_operator(id, &asked.csr, ends_ms)?;
        let grounds = format!("break glass: {persons}");
        self.enrollment
            .record_operator_svid(id, &svid, &grounds)
            .await?;
        self.given.break_glass.inc();
        tracing::error!(operator = %id, persons, reason = asked.reason, "ALARM: an emergency's SVID was given");
        Ok(message(id, &svid))
    }

    /// Takes what was asked for, so that it is given once, if this is that and enough have signed it.
    fn take_asked(&self, payload: &[u8], persons: &[&str]) -> Result<Asked, OwnerError> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = clock::now_ms();
        let is_it = |asked: &Asked| asked.statement == payload && now_ms < asked.expires_ms;
        if !asked.as_ref().is_some_and(is_it) {
            return Err(OwnerError::NotAsked);
        }
        if persons.len() < PERSONS {
            let so_far = match persons {
                [] => "nobody".to_owned(),
                some => some.join(", "),
            };
            return Err(OwnerError::Signatures(so_far));
        }
        asked.take().ok_or(OwnerError::NotAsked)
    }

    /// Who is named for emergencies; refuses another ID, and one that is also a workload's, whose
    /// SVIDs would be renewed.
    async fn emergency(&self, asked: &str) -> Result<&BreakGlass, OwnerError> {
        let break_glass = self.break_glass.as_ref().ok_or(OwnerError::BreakGlassOff)?;
        let id = &break_glass.spiffe_id;
        let is_other = !asked.is_empty() && asked != id.as_str();
        let domain = self.enrollment.own_ca()?.trust_domain();
        if is_other || !self.operators.is_operator(id) || id.trust_domain() != domain {
            return Err(OwnerError::NotOperator(asked.chars().take(256).collect()));
        }
        match self.enrollment.ledger.records.workload(id).await? {
            Some(_) => Err(OwnerError::Registered(id.clone())),
            None => Ok(break_glass),
        }
    }
}

/// The persons who have signed. T33: a key counts once, however often it signed, and no two persons
/// have one key.
fn signers<'a>(persons: &'a [Person], envelope: &Envelope) -> Vec<&'a str> {
    let has_signed = |person: &&Person| {
        VerifyingKey::from_pem(&person.key)
            .is_ok_and(|key| envelope.verify(PAYLOAD_TYPE, &[key], 1).is_ok())
    };
    let signed = persons.iter().filter(has_signed);
    signed.map(|person| person.name.as_str()).collect()
}
