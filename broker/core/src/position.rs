//! The places of the revocation log and the names of its entries.

use serde::{Deserialize, Serialize};

/// A position in the revocation log.
///
/// The first entry has position 1; position 0 is before it, so it stands for "nothing applied".
#[derive(
    Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize,
)]
pub struct Position(pub u64);

/// The name of a log entry, the same at all brokers and at whatever position the entry gets.
///
/// A store recognises a repeated append by this name.
#[derive(
    Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize,
)]
pub struct EntryId(pub [u8; 16]);
