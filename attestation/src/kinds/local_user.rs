//! `local_user`: the statement of a broker about the user that asked at the broker's own socket, as
//! the kernel names that user. It is signed with the broker's SVID key.
//!
//! The evidence proves that a process of this user, on the machine of a broker, asked for it with
//! this binding. It says nothing of the program: everything that runs as the user can ask. So it is
//! worth no more than a claim, and never gives a first SVID.

use serde::{Deserialize, Serialize};

use super::process::NOBODY;
use crate::challenge::Binding;
use crate::claims::{Assurance, Claims, Values};
use crate::json;
use crate::spiffe::{BundleSet, SpiffeId};
pub use crate::statement::SignedStatement as Evidence;
use crate::statement::{self, MAX_STATEMENT, StatementError};

/// The label before the statement in what is signed.
const LABEL: &[u8] = b"sundew/v1/local-user-evidence";

/// A broker's statement about a user.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The binding that the process asked for, in lower-case hexadecimal.
    pub binding: String,
    /// The effective user id of the process.
    pub uid: u32,
}

/// The reasons to reject a broker's statement.
#[derive(Debug, thiserror::Error)]
pub enum LocalUserError {
    /// The statement is bound to another challenge or key.
    #[error("not bound to this challenge and key")]
    Binding,
    /// The registration does not name this broker.
    #[error("broker `{0}` is not one of the registered ones")]
    Broker(String),
    /// The statement, its signature or the SVID of its signer was rejected.
    #[error("broker's statement: {0}")]
    Statement(#[from] StatementError),
}

/// Returns the bytes that the broker's key signs: a label and the statement.
#[must_use]
pub fn signed_bytes(statement: &str) -> Vec<u8> {
    [LABEL, statement.as_bytes()].concat()
}

/// Verifies a statement of one of `brokers`, and that it is bound to `binding`. `bundles` verifies
/// the broker's SVID; `now_ms` is in milliseconds since the epoch.
///
/// # Errors
/// Each [`LocalUserError`] names the check that failed.
pub fn verify(
    payload: &[u8],
    brokers: &[SpiffeId],
    bundles: &BundleSet,
    binding: &Binding,
    now_ms: i64,
) -> Result<Claims, LocalUserError> {
    let (broker, text) = statement::verify(payload, LABEL, bundles, now_ms)?;
    if !brokers.contains(broker.id()) {
        return Err(LocalUserError::Broker(broker.id().to_string()));
    }
    let statement: Statement = json::read(text.as_bytes(), MAX_STATEMENT)
        .map_err(|e| StatementError::Malformed(e.to_string()))?;
    // P2: the statement was made for this challenge, key and session.
    if statement.binding != hex::encode(binding.as_bytes()) {
        return Err(LocalUserError::Binding);
    }
    let mut values = Values::default();
    values.text("broker", broker.id());
    // The kernel names every user so that it cannot name: that is nobody in particular.
    if statement.uid != NOBODY {
        values.text("uid", statement.uid);
    }
    Ok(Claims::of(
        "local_user",
        Assurance::Claimed,
        true,
        values,
        payload,
    ))
}
