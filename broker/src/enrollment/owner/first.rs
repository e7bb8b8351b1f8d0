//! The first operator of a store.

use serde::{Deserialize, Serialize};
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::store::DocumentKind;
use sundew_proto::v1;

use super::{Owner, OwnerError, message};
use crate::ca::Ca;
use crate::clock;
use crate::journal;
use crate::ledger::{Change, Ledger};
use crate::records::{Before, DocumentPlace, FIRST_OPERATOR};
use crate::refusal::Refusal;

/// How often a change is tried while other brokers give the first operator.
const ATTEMPTS: usize = 8;

/// What the store holds of the first operator.
#[derive(Debug, Deserialize, Serialize)]
struct First {
    spiffe_id: SpiffeId,
    /// The SHA-256 of the key that got the SVID, in hexadecimal. Only this key gets an answer once
    /// more that was lost on its way.
    key: String,
    given_ms: i64,
    /// When the SVID ends. An answer that is given once more ends no later.
    ends_ms: i64,
}

impl Owner {
    /// Issues the first SVID of an operator, once for each store.
    pub(super) async fn bootstrap(
        &self,
        uid: u32,
        request: v1::BootstrapRequest,
    ) -> Result<v1::Svid, OwnerError> {
        self.require_owner(uid)?;
        let id = self.operator(&request.spiffe_id)?;
        let ca = self.enrollment.own_ca()?;
        let public_key = Ca::public_key_of(&request.csr)?;
        let key = ring::digest::digest(&ring::digest::SHA256, &public_key);
        let key = sundew_attestation::hex(key.as_ref());
        let first = self.claim(&id, key, ca.ttl().as_ms()).await?;
        let svid = ca.issue_operator(&id, &request.csr, first.ends_ms)?;
        self.enrollment
            .record_operator_svid(&id, &svid, "bootstrap")
            .await?;
        self.given.bootstrap.inc();
        tracing::error!(operator = %id, uid, "ALARM: the first operator of this store was given");
        Ok(message(&id, &svid))
    }

    /// Makes the store hold that this operator was the first, and returns once every broker knows. A
    /// repetition with the same key finds what it has made.
    async fn claim(&self, id: &SpiffeId, key: String, ttl_ms: i64) -> Result<First, OwnerError> {
        let ledger = &self.enrollment.ledger;
        let place = DocumentPlace::new(DocumentKind::Meta, FIRST_OPERATOR);
        for _ in 0..ATTEMPTS {
            let before = ledger.before_change(place).await?;
            let now_ms = clock::now_ms();
            let (first, change) = match known(ledger, &before) {
                Some(first)
                    if first.key == key && first.spiffe_id == *id && now_ms < first.ends_ms =>
                {
                    (first, Change::Keep)
                }
                Some(first) => {
                    let words = format!("to {}", first.spiffe_id);
                    return Err(OwnerError::Bootstrapped(words));
                }
                // L22: it was there, and somebody has taken it away or changed it.
                None if before.is_known() => {
                    let words = "what the store says of it was altered".to_owned();
                    return Err(OwnerError::Bootstrapped(words));
                }
                None => {
                    let first = First {
                        spiffe_id: id.clone(),
                        key: key.clone(),
                        given_ms: now_ms,
                        ends_ms: now_ms.saturating_add(ttl_ms),
                    };
                    let body = serde_json::to_vec(&first);
                    let body = body.map_err(|_| Refusal::Internal("first operator"))?;
                    let sealed = ledger.root().wrap(FIRST_OPERATOR, &body);
                    let sealed = sealed.map_err(|cause| Refusal::Seal {
                        what: "first operator",
                        cause,
                    })?;
                    let record = journal::record("operator_bootstrapped")
                        .with("operator", id)
                        .with("key", &first.key);
                    (first, Change::Write(sealed, record))
                }
            };
            let put = ledger.put_document(place, &before, change, first);
            if let Some(first) = put.await? {
                return Ok(first);
            }
        }
        Err(Refusal::Conflict("first operator").into())
    }
}

/// What the store holds, if that opens.
fn known(ledger: &Ledger, before: &Before) -> Option<First> {
    let document = before.document.as_ref()?;
    let body = ledger.root().unwrap(FIRST_OPERATOR, document.body()).ok()?;
    serde_json::from_slice(body.expose()).ok()
}
