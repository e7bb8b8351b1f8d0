//! Secret bytes in memory, and the record of a stored secret.
//!
//! P9: [`SecretBytes`] cannot be printed, compared in variable time or serialised, and its memory
//! is wiped when it is dropped.

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use zeroize::ZeroizeOnDrop;

use crate::record::RecordError;

/// Bytes that must not be shown.
///
/// The type has no `Debug`, `Display`, `Serialize` or `PartialEq`. A secret cannot be printed:
///
/// ```compile_fail,E0277
/// let secret = sundew_core::SecretBytes::new(vec![1]);
/// println!("{secret:?}");
/// ```
///
/// Nor can two secrets be compared by `==`, which would take time that depends on their content:
///
/// ```compile_fail,E0369
/// let secret = sundew_core::SecretBytes::new(vec![1]);
/// assert!(secret == secret.clone());
/// ```
///
/// A comparison goes through [`SecretBytes::matches`]:
///
/// ```
/// let secret = sundew_core::SecretBytes::new(vec![1]);
/// assert!(secret.matches(&[1]));
/// ```
#[derive(Clone, ZeroizeOnDrop)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes ownership of the bytes, so that they are wiped when the value is dropped.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Returns the bytes. There is no other way to them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Returns whether `other` holds the same bytes, in time that does not depend on their values.
    #[must_use]
    pub fn matches(&self, other: &[u8]) -> bool {
        self.0.ct_eq(other).into()
    }
}

/// The stored form of a secret: the sealed value and its history.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SecretRecord {
    /// The number of values that this name has had, counted from 1.
    pub version: u64,
    /// The time at which this value was written, in milliseconds since the epoch.
    pub updated_at_ms: i64,
    /// The sealed value, in base64.
    pub sealed: String,
    /// The digest of the idempotency key that wrote this value.
    pub request: String,
}

impl SecretRecord {
    /// Returns the bytes that the store keeps.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the bytes that [`SecretRecord::encode`] returned.
    ///
    /// # Errors
    ///
    /// [`RecordError::Json`] if the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}
