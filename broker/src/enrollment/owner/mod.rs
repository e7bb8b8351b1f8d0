//! SVIDs of operators for whoever owns the broker's state: the first one, and one for an emergency.
//!
//! P1: each is given once, to the user who owns the folder of the journal, at a socket in that folder,
//! for an operator whom the configuration names. The store holds that the first one was given, and
//! every broker of the store knows. P10: both are on the record, and are alarms.

mod break_glass;
mod error;
mod first;
mod service;
#[cfg(test)]
mod tests;

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use prometheus_client::metrics::counter::Counter;
use sundew_attestation::spiffe::SpiffeId;
use sundew_proto::v1;

use super::Enrollment;
use crate::ca::IssuedSvid;
use crate::role::Operators;
use break_glass::Asked;
pub use break_glass::{BreakGlass, Person};
use error::OwnerError;
pub(crate) use service::OwnerSocket;

/// How often the owner was given an SVID of an operator.
#[derive(Clone, Default)]
pub(crate) struct OwnerSvids {
    /// The first one.
    pub(crate) bootstrap: Counter,
    /// One for an emergency.
    pub(crate) break_glass: Counter,
}

/// The room of the owner of the broker's state.
pub(crate) struct Owner {
    enrollment: Arc<Enrollment>,
    operators: Arc<Operators>,
    /// The folder whose owner may ask.
    state: PathBuf,
    break_glass: Option<BreakGlass>,
    /// What was asked for in an emergency, and waits for signatures.
    asked: Mutex<Option<Asked>>,
    given: OwnerSvids,
}

impl Owner {
    /// The room for the owner of this folder.
    pub(crate) fn new(
        enrollment: Arc<Enrollment>,
        operators: Arc<Operators>,
        state: PathBuf,
        break_glass: Option<BreakGlass>,
        given: OwnerSvids,
    ) -> Self {
        Self {
            enrollment,
            operators,
            state,
            break_glass,
            asked: Mutex::default(),
            given,
        }
    }

    /// Refuses everybody but the user who owns the state, as the kernel says.
    fn require_owner(&self, asks: u32) -> Result<(), OwnerError> {
        let owner = std::fs::metadata(&self.state).map_err(OwnerError::State)?;
        let owner = owner.uid();
        match owner == asks {
            true => Ok(()),
            false => Err(OwnerError::NotOwner { owner, asks }),
        }
    }

    /// The operators of the configuration to whom the CA can give an SVID, and who can go on from
    /// there: registrars, and not the one of emergencies.
    fn registrars(&self) -> Result<Vec<SpiffeId>, OwnerError> {
        let domain = self.enrollment.own_ca()?.trust_domain().clone();
        let emergency = self.break_glass.as_ref().map(|named| &named.spiffe_id);
        let mut registrars = self.operators.registrars();
        registrars.retain(|id| *id.trust_domain() == domain && Some(id) != emergency);
        Ok(registrars)
    }

    /// The operator who is meant: the one that was asked for, or the only one.
    fn operator(&self, asked: &str) -> Result<SpiffeId, OwnerError> {
        let registrars = self.registrars()?;
        if asked.is_empty() {
            return match registrars.as_slice() {
                [] => Err(OwnerError::NoOperator),
                [one] => Ok(one.clone()),
                several => {
                    let names: Vec<_> = several.iter().map(SpiffeId::as_str).collect();
                    Err(OwnerError::Several(names.join(", ")))
                }
            };
        }
        let found = registrars.into_iter().find(|id| id.as_str() == asked);
        found.ok_or_else(|| OwnerError::NotOperator(asked.chars().take(256).collect()))
    }
}

/// An SVID as a message.
fn message(id: &SpiffeId, svid: &IssuedSvid) -> v1::Svid {
    v1::Svid {
        spiffe_id: id.to_string(),
        certificates: svid.chain.iter().map(|c| c.to_vec()).collect(),
        bundle: svid.bundle.iter().map(|c| c.to_vec()).collect(),
        not_after_ms: svid.not_after_ms,
    }
}
